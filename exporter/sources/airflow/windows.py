"""Reads what ended since the last look, window by window, and has it counted.

A window is asked for whole, in one page. When more matches than fits, the window is made smaller instead of paging on:
pages of a list that changes, or has no order (tasks have none), skip and repeat rows. Every window is counted in a
transaction of its own, so a long look back goes on in the next refresh where this one stopped.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.counted import RUN, DagMark
from exporter.sources.airflow.records import PAGE_ROWS, Page
from exporter.sources.airflow.totals import OVERLAP_SECONDS, Event, Totals

LEAST_WINDOW_SECONDS: Final = 0.001
"""Where even this holds more than a page, pages it is."""
FULLNESS: Final = 0.8
"""How full a page is meant to become, so that an uneven spread rarely means asking again."""
MAX_WINDOWS: Final = 200
"""Windows asked for in one refresh; the rest waits for the next."""


def catch_up(
    api: AirflowApi,
    totals: Totals,
    marks: Mapping[str, DagMark],
    kind: str,
    dag_ids: Collection[str],
    *,
    lookback: float,
    enough: Callable[[], bool],
) -> frozenset[str]:
    """Count what ended since the marks of these DAGs, and move the marks.

    DAGs whose history is counted go together in one question; those that are new first catch up on their own.

    Args:
        kind: RUN or TASK.
        lookback: seconds before now at which a DAG without a mark begins.
        enough: whether to stop for this refresh; what was counted by then stays counted.

    Returns:
        the DAGs that had new events.

    Raises:
        SourceError, StateError: as the API and the totals do; what was counted before stays counted.
    """
    groups: dict[float | None, list[str]] = {}
    counted = [dag_id for dag_id in dag_ids if marks.get(dag_id, DagMark()).complete(kind)]
    for dag_id in dag_ids:
        if dag_id not in counted:
            groups.setdefault(marks.get(dag_id, DagMark()).until(kind), []).append(dag_id)
    new: frozenset[str] = frozenset()
    windows = 0
    work: list[tuple[float, list[str]]] = []
    if counted:
        work.append((min(marks[dag_id].until(kind) or 0.0 for dag_id in counted) - OVERLAP_SECONDS, counted))
    for until, ids in groups.items():
        # Without the overlap, so that the look back comes on however much ended at one time. It ends with a look
        # that is open towards now, and the next one, as every one after it, has the overlap.
        work.append((api.now() - lookback if until is None else until, ids))
    for begin, ids in work:
        since = begin
        span: float | None = None
        while True:
            if windows >= MAX_WINDOWS or (windows and enough()):
                return new
            end = None if span is None or since + span >= api.now() else since + span
            page = _ask(api, kind, ids, since, end)
            windows += 1
            if not page.complete:
                width = (api.now() if end is None else end) - since
                if width > LEAST_WINDOW_SECONDS:
                    span = max(width * FULLNESS * page.listed / page.total, LEAST_WINDOW_SECONDS / 2)
                    continue
                everything = _ask_all(api, kind, ids, since, end)
                page = Page(everything, len(everything), len(everything))
            if end is None:
                new |= totals.fold(kind, ids, page.rows, _mark_after(api, page.rows, since), complete=True)
                break
            new |= totals.fold(kind, ids, page.rows, end, complete=False)
            since = end
            if span is not None:
                span *= min(FULLNESS * PAGE_ROWS / max(page.listed, 1), 10.0)
    return new


def _ask(api: AirflowApi, kind: str, ids: Collection[str], since: float, until: float | None) -> Page[Event]:
    page = api.ended_runs(ids, since, until) if kind == RUN else api.ended_tasks(ids, since, until)
    return Page(tuple(page.rows), page.listed, page.total)


def _ask_all(api: AirflowApi, kind: str, ids: Collection[str], since: float, until: float | None) -> tuple[Event, ...]:
    if kind == RUN:
        return api.all_ended_runs(ids, since, until)
    return api.all_ended_tasks(ids, since, until)


def _mark_after(api: AirflowApi, events: Collection[Event], since: float) -> float:
    """The newest end, but none that lies in Airflow's future: it would hide what ends until then."""
    newest = max((event.end for event in events if event.end is not None), default=since)
    return max(since, min(newest, api.now() + 1.0))
