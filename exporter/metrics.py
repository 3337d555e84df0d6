"""From a Snapshot and the catalogue to metric families, and from those to exposition bytes.

Families are built afresh for every snapshot, so no label outlives its value. Names and help of the exporter's own
families stand in OWN_FAMILIES, those of the pipeline's in the catalogue, and nowhere else.
"""

import platform
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
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
from exporter.choice import AUDIT, Choice, choose
from exporter.errors import FAILURE_REASONS
from exporter.snapshot import Grid, HistogramSample, Labels, Sample, Snapshot

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
        "mlops_exporter_series_dropped",
        "gauge",
        "Series from the audit log that EXPORTER_MAX_SERIES leaves out, at most: a column may be empty for some.",
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


LINES_AT_ONCE: Final = 500
"""Lines that are put together before they are compressed: of a large exposition no text is held beside its bytes."""


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


class _Body:
    """One body, plain and gzip, as it grows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        # Level 1 is nearly as small on exposition text as level 9, and fast. zlib's gzip header holds no time: same
        # in, same out.
        self._gzip = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self._compressed: list[bytes] = []

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._compressed.append(self._gzip.compress(part))

    def whole(self) -> tuple[bytes, bytes]:
        self._compressed.append(self._gzip.flush())
        return b"".join(self._parts), b"".join(self._compressed)


def render(families: Iterable[Metric | Family]) -> Exposition:
    """All four bodies of one set of families, put together and compressed a few lines at a time."""
    text, om = _Body(), _Body()
    escaped = _Escaped()
    for family in families:
        found = _Static([family.library() if isinstance(family, Family) else family])
        text.add(generate_latest(found))
        om.add(openmetrics.generate_latest(found).removesuffix(_EOF))  # type: ignore[no-untyped-call]
        if isinstance(family, Family):
            lines = _lines(family, escaped)
            while some := "".join(islice(lines, LINES_AT_ONCE)):
                part = some.encode()  # samples of these types are the same in both formats
                text.add(part)
                om.add(part)
    om.add(_EOF)
    return Exposition(*text.whole(), *om.whole())


_EOF: Final = b"# EOF\n"


class _Escaped:
    """The label sets' values as they are written, made once for all families that share them."""

    def __init__(self) -> None:
        self._sets: tuple[Labels, ...] = ()
        self._values: list[tuple[str, ...]] = []

    def __call__(self, sets: tuple[Labels, ...]) -> list[tuple[str, ...]]:
        if sets is not self._sets:
            order = sorted(range(len(sets[0])), key=lambda place: sets[0][place][0]) if sets else []
            self._values = [tuple(_escape(labels[place][1]) for place in order) for labels in sets]
            self._sets = sets
        return self._values


def _lines(family: Family, escaped: _Escaped) -> Iterator[str]:
    """The family's samples as both formats write them: labels by name, values as Go writes them."""
    if not isinstance(family.samples, Grid):
        for sample in family.samples:
            pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(sample.labels))
            value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
            yield f"{family.name}{{{pairs}}} {value}\n" if pairs else f"{family.name} {value}\n"
        return
    sets = family.samples.sets
    templates = []
    for own, values in family.samples.columns:
        known = {name: _escape(value).replace("%", "%%") for name, value in own}
        names = sorted([*known, *(name for name, _ in sets[0])]) if sets else []
        pairs = ",".join(f'{name}="{known.get(name, "%s")}"' for name in names)
        templates.append((f"{family.name}{{{pairs}}} ", values))
    for row, written in enumerate(escaped(sets)):
        for template, values in templates:
            number = values[row]
            if number == number:  # noqa: PLR0124 -- not NaN
                yield f"{template % written}{floatToGoString(number)}\n"  # type: ignore[no-untyped-call]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def families(catalog: Catalog, snapshot: Snapshot, loop_errors: int = 0) -> Iterator[Metric | Family]:
    """All families of a snapshot: the catalogue's, the exporter's own, the process's."""
    chosen = choose(catalog, snapshot)
    for metric in catalog.metrics:
        if metric.name in chosen:
            yield _catalogue_family(metric, chosen[metric.name])
    yield from _own_families(snapshot, chosen, loop_errors)
    for collector in _PROCESS:
        yield from collector.collect()


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
    audit = snapshot.readings.get(AUDIT)
    dropped = audit.facts.get("series_dropped", 0) if audit is not None else None
    yield _own("mlops_exporter_series_dropped", [((), float(dropped))] if isinstance(dropped, int) else [])
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
