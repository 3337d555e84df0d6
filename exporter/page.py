"""What the page at `/` shows: every metric of the catalogue and every source, in words for people who look.

Made from one snapshot and the report of `exporter.health` on it; asks nobody. The size of the page does not grow with
the number of series: each metric shows the first few, and how many more there are.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from exporter.catalog import Catalog, MetricSpec
from exporter.choice import AIRFLOW, AUDIT, Choice, choose, sources_of
from exporter.showable import cut
from exporter.snapshot import HistogramSample, Sample, Snapshot

SERIES_SHOWN: Final = 6
"""Series of one metric that the page shows: three DAGs with two end states each."""
LABEL_CHARACTERS: Final = 80
"""Characters of a series' label values that the page shows."""
STATUS: Final[Mapping[str, str]] = {
    "ok": "Every source answers.",
    "degraded": "Something is wrong: what it is stands below.",
    "starting": "The first refresh has not ended yet.",
    "down": "There is nothing to show: why stands below.",
}
"""What each overall status of `exporter.health` means."""
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_EXACT: Final = 2**53
"""Up to here a float holds every whole number."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its label values, its value in words, and the value as it is exposed.

    `labels` is cut at LABEL_CHARACTERS.
    """

    labels: str
    value: str
    exact: str


@dataclass(frozen=True, slots=True)
class Row:
    """One metric.

    Attributes:
        about: type and labels.
        series: the first series; empty where the metric has none.
        more: how many series there are beside these.
        source: where the value comes from, or would come from.
        age: how long ago the newest event behind the value happened.
        observed: that moment, in ISO 8601; None when it is unknown.
        missing: in a word or two, why there is no value; empty where there is one.
        why: the same in detail.
    """

    name: str
    help: str
    about: str
    series: tuple[Series, ...]
    more: int
    source: str
    age: str
    observed: str | None
    missing: str
    why: str


def rows(
    catalog: Catalog, snapshot: Snapshot, report: Mapping[str, Any], *, grown: float, too_old: bool
) -> tuple[Row, ...]:
    """Every metric of the catalogue, in its order.

    Args:
        report: the body of `/health` for this snapshot.
        grown: seconds since the snapshot was made.
        too_old: its values are not served any more.
    """
    chosen = {} if too_old else choose(catalog, snapshot)
    now = snapshot.at + grown
    reasons = report["metrics_without_value"]
    held = {status.name for status in snapshot.statuses if status.held}
    specs = {metric.name: metric for metric in catalog.metrics}
    made = []
    for metric in catalog.metrics:
        choice = chosen.get(metric.name)
        if choice is not None:
            made.append(_with_value(metric, choice, now, held=choice.source in held))
        elif too_old:
            made.append(_without_value(metric, "too old", "The values are too old to be shown."))
        else:
            origin = specs.get(metric.alias_of, metric) if metric.alias_of else metric
            why = reasons.get(metric.name, "")
            made.append(_without_value(metric, _missing(origin, snapshot), why))
    return tuple(made)


def costs(snapshot: Snapshot, report: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """By source, what reading it costs, in sentences: seconds, and what was asked since this process started."""
    found: dict[str, tuple[str, ...]] = {}
    for name, source in report["sources"].items():
        seconds = source.get("last_refresh_seconds")
        lines = [] if seconds is None else [f"The last refresh took {duration(seconds)}."]
        if name == AUDIT:
            lines += _bigquery(snapshot.telemetry)
        elif name == AIRFLOW:
            lines += _requests(snapshot.telemetry.get("mlops_exporter_airflow_requests_total", ()))
        found[name] = tuple(lines)
    return found


def ago(seconds: float) -> str:
    """A time in the past in words, `3 h ago`; a time in the future says so."""
    if seconds < -60:
        return f"dated {_largest(-seconds)} ahead"
    return "just now" if seconds < 1 else f"{_largest(seconds)} ago"


def duration(seconds: float) -> str:
    """A duration in its two largest units: `3 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, unit in _UNITS:
        if whole >= size:
            smaller, below = next(((s, u) for s, u in (*_UNITS, (1, "s")) if s < size))
            rest = whole % size // smaller
            return f"{whole // size:,} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def number(value: float) -> str:
    """A finite number to read: whole ones with separators, others with six significant digits."""
    if value.is_integer() and abs(value) < _EXACT:
        return f"{value:,.0f}"
    return f"{value:.6g}"


def _largest(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size):,} {unit}"
    return f"{int(seconds)} s"


def _moment(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):  # beyond the years 1 to 9999
        return None


def _value(metric: MetricSpec, value: float) -> str:
    """A value in words, by the unit in the metric's name."""
    if metric.name.endswith("_timestamp_seconds"):
        at = _moment(value)
        return number(value) if at is None else f"{at:%Y-%m-%d %H:%M} UTC"
    if metric.name.endswith("_seconds") and 60 <= value < _EXACT:
        return duration(value)
    return number(value) + (" s" if metric.name.endswith("_seconds") else "")


def _series(metric: MetricSpec, sample: Sample | HistogramSample) -> Series:
    labels = cut(" / ".join(value or "(empty)" for _, value in sample.labels), LABEL_CHARACTERS)
    if isinstance(sample, Sample):
        return Series(labels, _value(metric, sample.value), repr(sample.value))
    count = sum(sample.counts)
    if count == 0:
        return Series(labels, "none yet", "count 0")
    return Series(labels, f"{count:,}, mean {_value(metric, sample.sum / count)}", f"count {count}, sum {sample.sum!r}")


def _with_value(metric: MetricSpec, choice: Choice, now: float, *, held: bool) -> Row:
    observation = choice.observation
    shown = tuple(_series(metric, sample) for sample in itertools.islice(observation.samples, SERIES_SHOWN))
    at = observation.observed_at
    moment = None if at is None else _moment(at)
    return Row(
        name=metric.name,
        help=metric.help,
        about=_about(metric),
        series=shown,
        more=len(observation.samples) - len(shown),
        source=f"{choice.source}, held since it went down" if held else choice.source,
        age="" if at is None else ago(now - at),
        observed=None if moment is None else moment.isoformat(timespec="seconds"),
        missing="" if shown else "no series yet",
        why="" if shown else f"{choice.source}: nothing has happened yet that it could show",
    )


def _without_value(metric: MetricSpec, missing: str, why: str) -> Row:
    source = " or ".join(sources_of(metric)) or f"as {metric.alias_of}"
    return Row(metric.name, metric.help, _about(metric), (), 0, source, "", None, missing, why)


def _about(metric: MetricSpec) -> str:
    return f"{metric.type} by {', '.join(metric.labels)}" if metric.labels else metric.type


def _missing(metric: MetricSpec, snapshot: Snapshot) -> str:
    """Why a metric has no value, in a word or two; of several sources, what is worth looking at first."""
    statuses = {status.name: status for status in snapshot.statuses}
    names = [name for name in sources_of(metric) if name in statuses]
    if not names:
        return "not set up"
    if any(statuses[name].up is None for name in names):
        return "not read yet"
    if any(name not in snapshot.readings for name in names):
        return "source down"
    gaps = {gap.metric for name in names for gap in snapshot.readings[name].gaps}
    return "not in the source" if metric.name in gaps else "no value yet"


def _by_label(samples: Iterable[Sample]) -> dict[str, int]:
    """Counts by the value of the one label."""
    return {sample.labels[0][1]: int(sample.value) for sample in samples if sample.labels}


def _bigquery(telemetry: Mapping[str, tuple[Sample, ...]]) -> list[str]:
    queries = _by_label(telemetry.get("mlops_exporter_bigquery_queries_total", ()))
    if not queries:
        return []
    billed = sum(sample.value for sample in telemetry.get("mlops_exporter_bigquery_bytes_billed_total", ()))
    executed, cached, skipped = (queries.get(outcome, 0) for outcome in ("executed", "cached", "skipped"))
    return [
        f"BigQuery ran {_many(executed, 'query', 'queries')} and billed {_bytes(billed)}.",
        f"It answered {cached:,} from its cache; {skipped:,} were not needed.",
    ]


def _requests(samples: Iterable[Sample]) -> list[str]:
    codes = {code: count for code, count in _by_label(samples).items() if count}
    if not codes:
        return []
    bad = [
        f"{count:,} " + ("without an answer" if code == "error" else f"with {code}")
        for code, count in sorted(codes.items())
        if not code.startswith("2")
    ]
    ended = f", of which {', '.join(bad)}" if bad else ""
    return [f"{_many(sum(codes.values()), 'request', 'requests')}{ended}."]


def _many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _bytes(count: float) -> str:
    power = 0 if count < 1 else min(int(math.log2(count) // 10), len(_BYTES) - 1)
    return f"{count / 1024**power:.4g} {_BYTES[power]}"
