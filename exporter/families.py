"""From a Snapshot and the catalogue to metric families: the pipeline's, the exporter's own and the process's.

Families are built afresh for every snapshot, so no label outlives its value. Names and help of the exporter's own
families stand in OWN_FAMILIES, those of the pipeline's in the catalogue, and nowhere else.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter import __version__
from exporter.catalog import Catalog, MetricSpec
from exporter.choice import AUDIT, Choice, choose
from exporter.errors import FAILURE_REASONS
from exporter.snapshot import Grid, HistogramSample, Sample, Snapshot, SourceStatus

CACHED: Final = "(Cached; its age is in mlops_exporter_source_last_success_timestamp_seconds.)"
"""Ends the help of every metric from a source: most exporters collect while they are scraped, this one does not."""


Values = list[tuple[tuple[str, ...], float]]
"""Label values and value of each sample."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the exporter's own metrics are made from."""

    snapshot: Snapshot
    chosen: Mapping[str, Choice]
    loop_errors: int

    def by_source(self, value: Callable[[SourceStatus], float | None]) -> Values:
        """A value for each source that has one."""
        return [((s.name,), float(found)) for s in self.snapshot.statuses if (found := value(s)) is not None]

    def telemetry(self, name: str, none_yet: tuple[Sample, ...] = ()) -> Values:
        """A source's own counter; `none_yet` while that source is not configured: there was nothing to count."""
        samples = self.snapshot.telemetry.get(name, none_yet)
        return [(tuple(value for _, value in sample.labels), sample.value) for sample in samples]

    def last_record(self) -> Values:
        """The timestamp of the newest audit row."""
        found = (reading.facts.get("last_record_at") for reading in self.snapshot.readings.values())
        return [((), float(at)) for at in found if isinstance(at, int | float)]

    def series_dropped(self) -> Values:
        """How many series the audit log's limit leaves out; none while there is no reading to say it."""
        reading = self.snapshot.readings.get(AUDIT)
        dropped = reading.facts.get("series_dropped", 0) if reading is not None else None
        return [((), float(dropped))] if isinstance(dropped, int) else []


@dataclass(frozen=True, slots=True)
class OwnFamily:
    """One of the exporter's own metrics: what documentation says of it, and how its samples are made."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Facts], Values]


OWN_FAMILIES: Final = (
    OwnFamily(
        "mlops_exporter_build_info",
        "gauge",
        "Always 1; version of the exporter and of Python.",
        ("version", "python"),
        lambda _: [((__version__, platform.python_version()), 1.0)],
    ),
    OwnFamily(
        "mlops_exporter_source_up",
        "gauge",
        "1 if the last refresh of the source succeeded, 0 if it failed; absent before the first one has ended.",
        ("source",),
        lambda facts: facts.by_source(lambda status: status.up),
    ),
    OwnFamily(
        "mlops_exporter_source_last_success_timestamp_seconds",
        "gauge",
        "When the source last confirmed the values that are shown, in Unix seconds.",
        ("source",),
        lambda facts: facts.by_source(lambda status: status.last_success_at),
    ),
    OwnFamily(
        "mlops_exporter_source_refresh_duration_seconds",
        "gauge",
        "How long the last finished refresh of the source took.",
        ("source",),
        lambda facts: facts.by_source(lambda status: status.duration_seconds),
    ),
    OwnFamily(
        "mlops_exporter_source_refreshes_total",
        "counter",
        "Refreshes of the source.",
        ("source",),
        lambda facts: facts.by_source(lambda status: status.refreshes),
    ),
    OwnFamily(
        "mlops_exporter_source_refresh_failures_total",
        "counter",
        "Refreshes of the source that failed, by reason.",
        ("source", "reason"),
        lambda facts: [
            ((status.name, reason), float(status.failures.get(reason, 0)))
            for status in facts.snapshot.statuses
            for reason in FAILURE_REASONS
        ],
    ),
    OwnFamily(
        "mlops_exporter_metric_source_info",
        "gauge",
        "Always 1; the source whose value a metric shows at the moment.",
        ("metric", "source"),
        lambda facts: [((metric, choice.source), 1.0) for metric, choice in facts.chosen.items()],
    ),
    OwnFamily(
        "mlops_exporter_audit_last_record_timestamp_seconds",
        "gauge",
        "Timestamp of the newest audit row, in Unix seconds.",
        (),
        Facts.last_record,
    ),
    OwnFamily(
        "mlops_exporter_series_dropped",
        "gauge",
        "Series from the audit log that EXPORTER_MAX_SERIES leaves out, at most: a column may be empty for some.",
        (),
        Facts.series_dropped,
    ),
    OwnFamily(
        "mlops_exporter_bigquery_queries_total",
        "counter",
        "Audit queries by outcome: executed, answered from BigQuery's cache, or skipped because nothing changed.",
        ("outcome",),
        lambda facts: facts.telemetry(
            "mlops_exporter_bigquery_queries_total",
            tuple(Sample((("outcome", outcome),), 0.0) for outcome in ("executed", "cached", "skipped")),
        ),
    ),
    OwnFamily(
        "mlops_exporter_bigquery_bytes_billed_total",
        "counter",
        "Bytes that BigQuery billed for audit queries.",
        (),
        lambda facts: facts.telemetry("mlops_exporter_bigquery_bytes_billed_total", (Sample((), 0.0),)),
    ),
    OwnFamily(
        "mlops_exporter_airflow_requests_total",
        "counter",
        "Requests to Airflow's REST API by HTTP status code, `error` where there was no answer.",
        ("code",),
        lambda facts: facts.telemetry("mlops_exporter_airflow_requests_total"),
    ),
    OwnFamily(
        "mlops_exporter_state_persistent",
        "gauge",
        "1 if counters and last good readings survive a restart, 0 if the state folder cannot be used.",
        (),
        lambda facts: [((), float(facts.snapshot.state_problem is None))],
    ),
    OwnFamily(
        "mlops_exporter_loop_errors_total",
        "counter",
        "Steps of the refresh loop that failed on a bug of the exporter: what they would have made is missing or old.",
        (),
        lambda facts: [((), float(facts.loop_errors))],
    ),
)

_PROCESS: Final[tuple[Collector, ...]] = (
    ProcessCollector(registry=None),
    PlatformCollector(registry=CollectorRegistry()),
    GCCollector(registry=CollectorRegistry()),
)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric of the catalogue, written out by this module: the library takes ten times as long, and needs an object
    with a dict for each sample."""

    name: str
    type: str
    documentation: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...] | Grid

    def library(self) -> Metric:
        """The same as the library's family, without samples."""
        return _family(self.name, self.type, self.documentation, self.labels)


@dataclass(frozen=True, slots=True)
class FamilyError:
    """A family that could not be made, and what was raised."""

    name: str
    error: Exception


def families(catalog: Catalog, snapshot: Snapshot, loop_errors: int = 0) -> Iterator[Metric | Family | FamilyError]:
    """All families of a snapshot. One that cannot be made becomes a FamilyError and costs no other."""
    try:
        chosen = choose(catalog, snapshot)
    except Exception as error:  # noqa: BLE001 -- it must not cost the others
        yield FamilyError("every metric of the catalogue", error)
        chosen = {}
    for metric in catalog.metrics:
        if metric.name in chosen:
            yield from _guarded(metric.name, partial(_catalogue_family, metric, chosen[metric.name]))
    facts = Facts(snapshot, chosen, loop_errors)
    for own in OWN_FAMILIES:
        yield from _guarded(own.name, partial(_own_family, own, facts))
    for collector in _PROCESS:
        yield from collector.collect()


def _guarded(name: str, make: Callable[[], Metric | Family]) -> Iterator[Metric | Family | FamilyError]:
    try:
        yield make()
    except Exception as error:  # noqa: BLE001 -- it must not cost the others
        yield FamilyError(name, error)


def _catalogue_family(metric: MetricSpec, choice: Choice) -> Metric | Family:
    samples = choice.observation.samples
    documentation = f"{metric.help} {CACHED}"
    if metric.type != "histogram":
        plain = samples if isinstance(samples, Grid) else tuple(s for s in samples if isinstance(s, Sample))
        return Family(metric.name, metric.type, documentation, metric.labels, plain)
    family = HistogramMetricFamily(metric.name, documentation, labels=list(metric.labels))
    for sample in samples:
        assert isinstance(sample, HistogramSample)  # noqa: S101 -- a histogram has no others
        family.add_metric([value for _, value in sample.labels], _cumulative(metric.buckets, sample), sample.sum)
    return family


def _cumulative(bounds: tuple[float, ...], sample: HistogramSample) -> list[tuple[str, float]]:
    total = 0
    buckets = []
    for bound, count in zip((*bounds, float("inf")), sample.counts, strict=True):
        total += count
        buckets.append((floatToGoString(bound), float(total)))  # type: ignore[no-untyped-call]
    return buckets


def _family(name: str, kind: str, help_text: str, labels: Iterable[str]) -> Metric:
    match kind:
        case "counter":
            return CounterMetricFamily(name, help_text, labels=list(labels))
        case "histogram":
            return HistogramMetricFamily(name, help_text, labels=list(labels))
        case "untyped":
            return UnknownMetricFamily(name, help_text, labels=list(labels))
        case _:
            return GaugeMetricFamily(name, help_text, labels=list(labels))


def _own_family(own: OwnFamily, facts: Facts) -> Metric:
    family = _family(own.name, own.type, own.help, own.labels)
    for labels, value in own.values(facts):
        family.add_metric(list(labels), value)  # type: ignore[attr-defined]  # not on the common base
    return family
