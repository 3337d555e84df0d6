"""The questions that an Airflow is asked: version 1 (Airflow 2) and version 2 (Airflow 3) of its REST API alike.

Both have the same lists of runs and task instances, asked by POST so that one request covers all DAGs. Facts about both
were seen on Airflow 2.11.2 and 3.3.2: a missing DAG is an empty list in the POST lists; runs without an end date are
left out of those by end; v1's XCom values are strings, v2's are JSON; an XCom of a mapped task is listed, and is 404
when it is asked for without a map_index.
"""

import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from exporter.errors import BadData
from exporter.showable import escaped
from exporter.sources.airflow.failures import XComUnreadable, is_json
from exporter.sources.airflow.records import (
    FINISHED,
    PAGE_ROWS,
    Dag,
    DagRun,
    Page,
    Row,
    TaskInstance,
    XComValue,
    dag_of,
    format_time,
    rows_of,
    run_of,
    task_of,
    total_of,
)
from exporter.sources.airflow.session import Session
from exporter.sources.boundary import shown

LIST_ROWS: Final = 100
"""The most that GET lists give, whatever is asked for."""
MAX_PAGES: Final = 50
"""Pages of one list that are read before giving up."""
TIME_CHARACTERS: Final = 40
"""Airflow writes a time with 32."""
_RUNS: Final = "/dags/~/dagRuns/list"
_TASKS: Final = "/dags/~/dagRuns/~/taskInstances/list"


class AirflowApi:
    """Asks one Airflow, through a session. Every method raises SourceError when the answer cannot be had or used."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._left_out: dict[str, tuple[int, str]] = {}

    def take_left_out(self) -> tuple[str, ...]:
        """What was left out of the answers since the last call, one sentence for each kind of list."""
        taken, self._left_out = self._left_out, {}
        return tuple(
            f"{count} of Airflow's {what} are left out; of one, {reason}." for what, (count, reason) in taken.items()
        )

    def now(self) -> float:
        """Unix seconds by Airflow's clock."""
        return self.session.now()

    def dags(self) -> tuple[Dag, ...]:
        """All DAGs that this user may see, by name."""
        found: dict[str, Dag] = {}
        active = {"only_active": "true"} if self.session.api() == "v1" else {"exclude_stale": "true"}
        seen = 0
        for _ in range(MAX_PAGES):
            params = {"limit": LIST_ROWS, "offset": seen, "order_by": "dag_id", **active}
            answer = self.session.json_object(self.session.ask("GET", "/dags", params=params), "the list of DAGs")
            rows = rows_of(answer, "dags", LIST_ROWS)
            found.update((dag.dag_id, dag) for dag in self._usable(rows, "DAGs", dag_of))
            seen += len(rows)
            if not rows or seen >= total_of(answer, seen):
                break
        return tuple(found[name] for name in sorted(found))

    def running(self, dag_ids: Collection[str]) -> tuple[DagRun, ...]:
        """The runs of these DAGs that are running now."""
        body = {"dag_ids": sorted(dag_ids), "states": ["running"], "order_by": "start_date"}
        return self._all(_RUNS, body, "dag_runs", "running runs", run_of)

    def ended_runs(self, dag_ids: Collection[str], since: float, until: float | None) -> Page[DagRun]:
        """Runs of these DAGs that ended in success or failure from `since` to `until` (Unix seconds, both included)."""
        return self._page(_RUNS, _ended_runs(dag_ids, since, until), "dag_runs", "finished runs", run_of)

    def ended_tasks(self, dag_ids: Collection[str], since: float, until: float | None) -> Page[TaskInstance]:
        """Task instances of these DAGs that ended in success or failure from `since` to `until`, in no order."""
        return self._page(_TASKS, _ended_tasks(dag_ids, since, until), "task_instances", "finished tasks", task_of)

    def all_ended_runs(self, dag_ids: Collection[str], since: float, until: float | None) -> tuple[DagRun, ...]:
        """The same as `ended_runs`, page after page."""
        return self._all(_RUNS, _ended_runs(dag_ids, since, until), "dag_runs", "finished runs", run_of)

    def all_ended_tasks(self, dag_ids: Collection[str], since: float, until: float | None) -> tuple[TaskInstance, ...]:
        """The same as `ended_tasks`, page after page."""
        return self._all(_TASKS, _ended_tasks(dag_ids, since, until), "task_instances", "finished tasks", task_of)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> XComValue | None:
        """One XCom of one run; None when the task pushed none of this name.

        Raises:
            XComUnreadable: it is longer than MAX_XCOM_BYTES, or Airflow cannot show it.
            SourceError: it could not be asked for, which says nothing about it.
        """
        if "/" in run_id:  # both versions take it for the next part of the path, however it is quoted
            raise XComUnreadable(
                f"Airflow's API cannot be asked about the run {shown(run_id)}: its id holds a /", final=True
            )
        path = f"/dags/{_quoted(dag_id)}/dagRuns/{_quoted(run_id)}/taskInstances/{_quoted(task_id)}/xcomEntries/"
        response = self.session.ask("GET", path + _quoted(key), values=True)
        if response.status_code == 404 and is_json(response):
            return None
        if response.status_code == 500:
            raise XComUnreadable("Airflow answers 500 for it, as it does for values that it cannot show", final=False)
        answer = self.session.json_object(response, f"XCom {key}")
        return XComValue(answer.get("value"), escaped(str(answer.get("timestamp") or ""))[:TIME_CHARACTERS])

    def xcom_keys(self, dag_id: str, run_id: str, task_id: str) -> frozenset[str]:
        """Keys of the XComs that a task pushed in one run, mapped copies of it included: those come first."""
        path = f"/dags/{_quoted(dag_id)}/dagRuns/{_quoted(run_id)}/taskInstances/{_quoted(task_id)}/xcomEntries"
        response = self.session.ask("GET", path, params={"limit": LIST_ROWS})
        if response.status_code == 404 and is_json(response):
            return frozenset()
        answer = self.session.json_object(response, f"the XComs of {dag_id}")
        return frozenset(str(row.get("key")) for row in rows_of(answer, "xcom_entries", LIST_ROWS))

    def _page(
        self, path: str, body: Mapping[str, Any], name: str, what: str, row: Callable[[Mapping[str, Any]], Row]
    ) -> Page[Row]:
        response = self.session.ask("POST", path, body={**body, "page_limit": PAGE_ROWS})
        answer = self.session.json_object(response, what)
        rows = rows_of(answer, name, PAGE_ROWS)
        return Page(tuple(self._usable(rows, what, row)), len(rows), total_of(answer, len(rows)))

    def _usable(
        self, rows: Iterable[Mapping[str, Any]], what: str, row: Callable[[Mapping[str, Any]], Row]
    ) -> Iterator[Row]:
        """The rows as records, without those that cannot be used."""
        for content in rows:
            try:
                yield row(content)
            except ValueError as error:
                count, first = self._left_out.get(what, (0, str(error)))
                self._left_out[what] = (count + 1, first)

    def _all(
        self, path: str, body: Mapping[str, Any], name: str, what: str, row: Callable[[Mapping[str, Any]], Row]
    ) -> tuple[Row, ...]:
        rows: list[Row] = []
        seen = 0
        for _ in range(MAX_PAGES):
            page = self._page(path, {**body, "page_offset": seen}, name, what, row)
            rows += page.rows
            seen += page.listed
            if not page.listed or (page.total <= seen and page.listed < PAGE_ROWS):
                return tuple(rows)
        raise BadData(f"Airflow's list of {what} has more than {MAX_PAGES} pages ({page.total} rows).")


def _ended_runs(dag_ids: Collection[str], since: float, until: float | None) -> dict[str, Any]:
    return {"dag_ids": sorted(dag_ids), "states": list(FINISHED), "order_by": "end_date", **_window(since, until)}


def _ended_tasks(dag_ids: Collection[str], since: float, until: float | None) -> dict[str, Any]:
    return {"dag_ids": sorted(dag_ids), "state": list(FINISHED), **_window(since, until)}


def _window(since: float, until: float | None) -> dict[str, str]:
    window = {"end_date_gte": format_time(since)}
    if until is not None:
        window["end_date_lte"] = format_time(until)
    return window


def _quoted(part: str) -> str:
    """One part of a path: run ids hold `+` and `:`."""
    return urllib.parse.quote(part, safe="")
