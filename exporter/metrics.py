"""From a Snapshot and the catalogue to metric families, and from those to exposition bytes.

Families are built afresh for every snapshot, so no label outlives its value. Names and help of the exporter's own
families stand in OWN_FAMILIES, those of the pipeline's in the catalogue, and nowhere else.
"""

import gzip
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter import __version__
from exporter.catalog import Catalog, MetricSpec
from exporter.choice import Choice, choose
from exporter.errors import FAILURE_REASONS
from exporter.snapshot import HistogramSample, Sample, Snapshot

TEXT: Final = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CACHED: Final = "(Cached; its age is in mlops_exporter_source_last_success_timestamp_seconds.)"
"""Ends the help of every metric from a source: most exporters collect while they are scraped, this one does not."""


@dataclass(frozen=True, slots=True)
class OwnFamily:
    """One of the exporter's own metrics, as documentation and exposition need it."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()


OWN_FAMILIES: Final = (
    OwnFamily(
        "mlops_exporter_build_info", "gauge", "Always 1; version of the exporter and of Python.", ("version", "python")
    ),
    OwnFamily(
        "mlops_exporter_source_up",
        "gauge",
        "1 if the last refresh of the source succeeded, 0 if it failed; absent before the first one has ended.",
        ("source",),
    ),
    OwnFamily(
        "mlops_exporter_source_last_success_timestamp_seconds",
        "gauge",
        "When the source last confirmed the values that are shown, in Unix seconds.",
        ("source",),
    ),
    OwnFamily(
        "mlops_exporter_source_refresh_duration_seconds",
        "gauge",
        "How long the last finished refresh of the source took.",
        ("source",),
    ),
    OwnFamily("mlops_exporter_source_refreshes_total", "counter", "Refreshes of the source.", ("source",)),
    OwnFamily(
        "mlops_exporter_source_refresh_failures_total",
        "counter",
        "Refreshes of the source that failed, by reason.",
        ("source", "reason"),
    ),
    OwnFamily(
        "mlops_exporter_metric_source_info",
        "gauge",
        "Always 1; the source whose value a metric shows at the moment.",
        ("metric", "source"),
    ),
    OwnFamily(
        "mlops_exporter_audit_last_record_timestamp_seconds",
        "gauge",
        "Timestamp of the newest audit row, in Unix seconds.",
    ),
    OwnFamily(
        "mlops_exporter_bigquery_queries_total",
        "counter",
        "Audit queries by outcome: executed, answered from BigQuery's cache, or skipped because nothing changed.",
        ("outcome",),
    ),
    OwnFamily("mlops_exporter_bigquery_bytes_billed_total", "counter", "Bytes that BigQuery billed for audit queries."),
    OwnFamily(
        "mlops_exporter_airflow_requests_total",
        "counter",
        "Requests to Airflow's REST API by HTTP status code, `error` where there was no answer.",
        ("code",),
    ),
    OwnFamily(
        "mlops_exporter_state_persistent",
        "gauge",
        "1 if counters and last good readings survive a restart, 0 if the state folder cannot be used.",
    ),
    OwnFamily(
        "mlops_exporter_loop_errors_total",
        "counter",
        "Passes of the refresh loop that failed on a bug of the exporter; the last good values stay.",
    ),
)
_OWN: Final = {family.name: family for family in OWN_FAMILIES}
ZERO_TELEMETRY: Final = {
    "mlops_exporter_bigquery_queries_total": tuple(
        Sample((("outcome", outcome),), 0.0) for outcome in ("executed", "cached", "skipped")
    ),
    "mlops_exporter_bigquery_bytes_billed_total": (Sample((), 0.0),),
    "mlops_exporter_airflow_requests_total": (),
}
"""Sources' own counters while the source is not configured: there were none."""

_PROCESS: Final[tuple[Collector, ...]] = (
    ProcessCollector(registry=None),
    PlatformCollector(registry=CollectorRegistry()),
    GCCollector(registry=CollectorRegistry()),
)


@dataclass(frozen=True)
class Exposition:
    """What `/metrics` answers, ready to send: both formats, plain and gzip."""

    text: bytes
    text_gzip: bytes
    openmetrics: bytes
    openmetrics_gzip: bytes


class _Static(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(families: Iterable[Metric]) -> Exposition:
    """All four bodies of one set of families."""
    collector = _Static(families)
    text = generate_latest(collector)
    om = openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]
    # Level 1 is nearly as small on exposition text as level 9, and fast. No time stamp: same in, same out.
    return Exposition(text, gzip.compress(text, 1, mtime=0), om, gzip.compress(om, 1, mtime=0))


def families(catalog: Catalog, snapshot: Snapshot, loop_errors: int = 0) -> Iterator[Metric]:
    """All families of a snapshot: the catalogue's, the exporter's own, the process's."""
    chosen = choose(catalog, snapshot)
    for metric in catalog.metrics:
        if metric.name in chosen:
            yield _catalogue_family(metric, chosen[metric.name])
    yield from _own_families(snapshot, chosen, loop_errors)
    for collector in _PROCESS:
        yield from collector.collect()


def _catalogue_family(metric: MetricSpec, choice: Choice) -> Metric:
    family = _family(metric.name, metric.type, f"{metric.help} {CACHED}", metric.labels)
    for sample in choice.observation.samples:
        values = [value for _, value in sample.labels]
        if isinstance(sample, HistogramSample):
            assert isinstance(family, HistogramMetricFamily)  # noqa: S101 -- the catalogue allows no other
            family.add_metric(values, _cumulative(metric.buckets, sample), sample.sum)
        else:
            family.add_metric(values, sample.value)  # type: ignore[attr-defined]  # not on the common base
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


def _own_families(snapshot: Snapshot, chosen: Mapping[str, Choice], loop_errors: int) -> Iterator[Metric]:
    statuses = snapshot.statuses
    yield _own("mlops_exporter_build_info", [((__version__, platform.python_version()), 1.0)])
    yield _own("mlops_exporter_source_up", [((s.name,), float(s.up)) for s in statuses if s.up is not None])
    yield _own(
        "mlops_exporter_source_last_success_timestamp_seconds",
        [((s.name,), s.last_success_at) for s in statuses if s.last_success_at is not None],
    )
    yield _own(
        "mlops_exporter_source_refresh_duration_seconds",
        [((s.name,), s.duration_seconds) for s in statuses if s.duration_seconds is not None],
    )
    yield _own("mlops_exporter_source_refreshes_total", [((s.name,), float(s.refreshes)) for s in statuses])
    yield _own(
        "mlops_exporter_source_refresh_failures_total",
        [((s.name, reason), float(s.failures.get(reason, 0))) for s in statuses for reason in FAILURE_REASONS],
    )
    yield _own(
        "mlops_exporter_metric_source_info",
        [((metric, choice.source), 1.0) for metric, choice in chosen.items()],
    )
    last_record = [
        ((), float(at))
        for reading in snapshot.readings.values()
        if isinstance(at := reading.facts.get("last_record_at"), int | float)
    ]
    yield _own("mlops_exporter_audit_last_record_timestamp_seconds", last_record)
    for name, none_yet in ZERO_TELEMETRY.items():
        samples = snapshot.telemetry.get(name, none_yet)
        yield _own(name, [(tuple(value for _, value in sample.labels), sample.value) for sample in samples])
    yield _own("mlops_exporter_state_persistent", [((), float(snapshot.state_problem is None))])
    yield _own("mlops_exporter_loop_errors_total", [((), float(loop_errors))])


def _own(name: str, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    declared = _OWN[name]
    family = _family(name, declared.type, declared.help, declared.labels)
    for labels, value in values:
        family.add_metric(list(labels), value)  # type: ignore[attr-defined]  # not on the common base
    return family
