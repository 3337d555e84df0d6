"""The history of Airflow's finished runs: how many, how long they took, and when the newest success was.

Live totals begin with the look back of the exporter's first start (AIRFLOW_LOOKBACK_DAYS), not with Airflow's first
run, and what they hold cannot be dated. So the history is counted backwards from them: the value at a moment is the
live total less the runs that ended later. Where that would be less than nothing, live counting had not begun, and there
is no sample. What Airflow deleted, and ends that it forgot because a run was cleared, stays in the value throughout.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.utils import floatToGoString

from exporter.backfill.grid import Grid
from exporter.backfill.spool import Spool
from exporter.catalog import AirflowFigure, Catalog, MetricSpec, XCom
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Gap, Labels
from exporter.sources.airflow.counted import DagMark, Total
from exporter.sources.airflow.observations import STATES
from exporter.sources.airflow.records import DagRun
from exporter.sources.airflow.source import AirflowSource

DAY: Final = 86400.0
BEFORE_SECONDS: Final = 31 * DAY
"""How far before the first moment a DAG's newest success is looked for."""
WINDOW_SECONDS: Final = 7 * DAY
"""Runs asked for at a time; each has the deadline AIRFLOW_TIMEOUT_SECONDS."""
DONE: Final = frozenset({"dag_runs", "dag_run_duration", "dag_last_success"})
_REASONS: Final = {
    "task_duration": "Airflow lists tasks in no order and there are many more than runs",
    "dag_run_active": "Airflow's list of finished runs does not say what was running and never finished",
}


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a run; `duration` in seconds, None where there is none."""

    at: float
    dag_id: str
    state: str
    duration: float | None


@dataclass
class _Count:
    """A series' way back: what the live total holds besides the ends that are known."""

    skip: int = 0
    base: Total = field(default_factory=lambda: Total(0, (), 0.0, None))


def gaps(catalog: Catalog, *, configured: bool) -> Iterator[Gap]:
    """The metrics that only Airflow knows and that are left out, with the reason."""
    for metric in catalog.metrics:
        if not metric.origins or not all(isinstance(origin, XCom | AirflowFigure) for origin in metric.origins):
            continue
        figure = _figure(metric)
        if not configured:
            yield Gap(metric.name, "it comes from Airflow, and AIRFLOW_BASE_URL is not set")
        elif figure is None:
            yield Gap(metric.name, "it comes from XComs, which take one request for each run")
        elif figure in _REASONS:
            yield Gap(metric.name, _REASONS[figure])
        else:
            yield Gap(metric.name, "no run of a watched DAG ended in that time")


def record(settings: Settings, catalog: Catalog, ledger: Ledger, spool: Spool, grid: Grid) -> int:
    """Read the finished runs into the spool and give how many there were.

    Args:
        ledger: a copy of the live exporter's state, which is changed.

    Raises:
        SourceError: Airflow could not be asked.
        OutputError: the spool could not be written.
    """
    metrics = [metric for metric in catalog.metrics if _figure(metric) in DONE]
    if not metrics:
        return 0
    source = AirflowSource(settings, catalog, ledger)
    try:
        dags, known, now = source.counted()
        ends = sorted(_ends(source, grid.start - BEFORE_SECONDS, now), key=lambda end: end.at)
    finally:
        source.close()
    bounds = next((metric.buckets for metric in metrics if _figure(metric) == "dag_run_duration"), ())
    live_from = now - settings.airflow_lookback_days * DAY
    counts: dict[tuple[str, str], _Count] = {}
    for dag in dags:
        mark = known.dags.get(dag, DagMark())
        for state in STATES:
            mine = [end for end in ends if (end.dag_id, end.state) == (dag, state)]
            total = known.runs.get((dag, state)) if mark.run_complete else None
            if mark.run_complete:
                counted = [end for end in mine if mark.run_until is None or end.at <= mark.run_until]
                counts[dag, state] = _counted_back(total or Total(0, (), 0.0, None), counted, bounds)
            else:
                counts[dag, state] = _Count(skip=sum(end.at < live_from for end in mine))
    recorder = _Recorder(spool, metrics, bounds, counts)
    recorder.begin(grid.start if all(known.dags.get(dag, DagMark()).run_complete for dag in dags) else live_from)
    for end in ends:
        if (end.dag_id, end.state) in counts and end.at <= grid.last:
            recorder.take(end)
    return sum(grid.start <= end.at <= grid.last for end in ends)


class _Recorder:
    """Writes ends into the spool as the series of the catalogue's metrics."""

    def __init__(
        self,
        spool: Spool,
        metrics: Iterable[MetricSpec],
        bounds: tuple[float, ...],
        counts: dict[tuple[str, str], _Count],
    ) -> None:
        self._spool = spool
        self._metrics = tuple(metrics)
        self._bounds = bounds
        self._counts = counts
        self._begin_us = 0

    def begin(self, at: float) -> None:
        """Show every series that live counting had begun by this time; the others begin when their count is 0."""
        self._begin_us = round(at * 1_000_000)
        self._spool.at(self._begin_us)
        for key, count in self._counts.items():
            if not count.skip:
                self._show(key, count.base)

    def take(self, end: _End) -> None:
        """One more run has ended."""
        key = (end.dag_id, end.state)
        at_us = round(end.at * 1_000_000)
        self._spool.at(max(at_us, self._begin_us))
        labels = (("dag_id", end.dag_id),)
        for metric in self._metrics:
            if _figure(metric) == "dag_last_success" and end.state == "success":
                self._spool.put((metric.name, labels), end.at)
        count = self._counts[key]
        if count.skip:
            count.skip -= 1
            if not count.skip:
                self._show(key, count.base)
            return
        self._show(key, _plus(_padded(count.base, self._bounds), end, self._bounds))

    def _show(self, key: tuple[str, str], total: Total) -> None:
        self._counts[key].base = total = _padded(total, self._bounds)
        labels = (("dag_id", key[0]), ("state", key[1]))
        for metric in self._metrics:
            if _figure(metric) == "dag_runs":
                self._spool.put((metric.name, labels), float(total.events))
            elif _figure(metric) == "dag_run_duration":
                so_far = 0
                for bound, inside in zip((*self._bounds, float("inf")), total.counts, strict=True):
                    so_far += inside
                    le: Labels = (*labels, ("le", floatToGoString(bound)))  # type: ignore[no-untyped-call]
                    self._spool.put((f"{metric.name}_bucket", le), max(0.0, so_far))
                self._spool.put((f"{metric.name}_count", labels), max(0.0, so_far))
                self._spool.put((f"{metric.name}_sum", labels), max(0.0, total.sum))


def _ends(source: AirflowSource, since: float, until: float) -> Iterator[_End]:
    """All ends, window by window. Both borders belong to a window, so the later one is left to the next window."""
    begin = since
    while begin < until:
        end = begin + WINDOW_SECONDS
        last = end >= until
        for run in source.ended_runs(begin, None if last else end):
            if run.end is not None and (last or run.end < end):
                yield _End(run.end, run.dag_id, run.state, _duration(run))
        begin = end


def _duration(run: DagRun) -> float | None:
    if run.start is None or run.end is None or run.end < run.start:
        return None
    return run.end - run.start


def _counted_back(total: Total, ends: list[_End], bounds: tuple[float, ...]) -> _Count:
    """What the live total holds besides these ends; of more ends than it holds, the oldest were not counted."""
    skip = max(0, len(ends) - total.events)
    held = Total(0, (0,) * (len(bounds) + 1), 0.0, None)
    for end in ends[skip:]:
        held = _plus(held, end, bounds)
    # A bucket can be below 0 here, when a run that was counted has another end by now: it is shown from 0 on.
    counts = tuple(have - known for have, known in zip(_padded(total, bounds).counts, held.counts, strict=True))
    return _Count(skip, Total(total.events - held.events, counts, total.sum - held.sum, None))


def _plus(total: Total, end: _End, bounds: tuple[float, ...]) -> Total:
    counts = list(total.counts)
    if end.duration is not None:
        counts[bisect_left(bounds, end.duration)] += 1
    return Total(total.events + 1, tuple(counts), total.sum + (end.duration or 0.0), None)


def _padded(total: Total, bounds: tuple[float, ...]) -> Total:
    return total if total.counts else Total(total.events, (0,) * (len(bounds) + 1), total.sum, None)


def _figure(metric: MetricSpec) -> str | None:
    return next((origin.figure for origin in metric.origins if isinstance(origin, AirflowFigure)), None)
