"""Which source's value a metric shows. Chosen metric by metric, so that one missing column moves one metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from exporter.catalog import AirflowFigure, Catalog, CountRows, MetricSpec, NewestColumn, Origin, XCom
from exporter.snapshot import Observation, Snapshot

AUDIT: Final = "audit"
AIRFLOW: Final = "airflow"


@dataclass(frozen=True, slots=True)
class Choice:
    """The observation that a metric shows, and the source that it came from."""

    source: str
    observation: Observation


def source_of(origin: Origin) -> str:
    """Name of the source that can give this origin."""
    match origin:
        case NewestColumn() | CountRows():
            return AUDIT
        case XCom() | AirflowFigure():
            return AIRFLOW


def sources_of(metric: MetricSpec) -> tuple[str, ...]:
    """Names of the sources that can give this metric, in order of preference."""
    return tuple(dict.fromkeys(source_of(origin) for origin in metric.origins))


def needed_from(source: str, catalog: Catalog, snapshot: Snapshot) -> frozenset[str]:
    """The metrics for which this source has to stand in: every source preferred to it is down or has no value.

    A source that has not been tried yet is waited for.
    """
    status = {status.name: status.up for status in snapshot.statuses}
    needed = set()
    for metric in catalog.metrics:
        names = sources_of(metric)
        if source not in names[1:]:
            continue
        preferred = names[: names.index(source)]
        if all(name not in status or _cannot_say(name, metric.name, status[name], snapshot) for name in preferred):
            needed.add(metric.name)
    return frozenset(needed)


def _cannot_say(source: str, metric: str, up: bool | None, snapshot: Snapshot) -> bool:
    if up is None:
        return False
    reading = snapshot.readings.get(source)
    return not up or reading is None or metric not in reading.observations


def choose(catalog: Catalog, snapshot: Snapshot) -> Mapping[str, Choice]:
    """The choice for every metric that has a value; metrics without one are absent.

    The first source that has a value wins while it is up. While it is down, the value that was observed last wins:
    its own, held from before, or another source's.
    """
    up = {status.name for status in snapshot.statuses if status.up}
    chosen: dict[str, Choice] = {}
    for metric in catalog.metrics:
        candidates = [
            Choice(name, reading.observations[metric.name])
            for name in sources_of(metric)
            if (reading := snapshot.readings.get(name)) is not None and metric.name in reading.observations
        ]
        if not candidates:
            continue
        if candidates[0].source in up:
            chosen[metric.name] = candidates[0]
        else:
            chosen[metric.name] = max(candidates, key=_observed_at)
    for metric in catalog.metrics:
        if metric.alias_of in chosen:
            chosen[metric.name] = chosen[metric.alias_of]
    return chosen


def _observed_at(choice: Choice) -> float:
    at = choice.observation.observed_at
    return float("-inf") if at is None else at
