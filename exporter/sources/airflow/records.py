"""What Airflow's REST API lists, as frozen records, and Airflow's way to write times.

Facts were seen on Airflow 2.11.2 (v1) and 3.3.2 (v2): both name these fields alike; times end in `+00:00` in v1 and in
`Z` in v2.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from exporter.errors import BadData

PAGE_ROWS: Final = 1000
"""Rows of runs and task instances that are asked for at a time."""
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run. `start` and `end` are Unix seconds by Airflow's clock, None where it has none."""

    dag_id: str
    run_id: str
    state: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task of one run, or one of its mapped copies (`map_index` from 0; -1 when it is not mapped)."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class Dag:
    """One DAG that Airflow knows and this user may see."""

    dag_id: str
    paused: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """The first rows that match, and how many match in all."""

    rows: tuple[Row, ...]
    total: int

    @property
    def complete(self) -> bool:
        """Whether these are all that match. A full page never counts as all: Airflow 3 may stop counting there."""
        return self.total <= len(self.rows) < PAGE_ROWS


@dataclass(frozen=True, slots=True)
class XComValue:
    """An XCom as Airflow gave it (text in v1, JSON in v2), and when it was written, as Airflow writes times."""

    value: Any
    written: str


def dag_of(row: Mapping[str, Any]) -> Dag:
    """The DAG in one row of `/dags`."""
    return Dag(str(row.get("dag_id")), bool(row.get("is_paused")))


def run_of(row: Mapping[str, Any]) -> DagRun:
    """The run in one row of a list of DAG runs."""
    return DagRun(
        str(row.get("dag_id")),
        str(row.get("dag_run_id")),
        str(row.get("state")),
        parse_time(row.get("start_date")),
        parse_time(row.get("end_date")),
    )


def task_of(row: Mapping[str, Any]) -> TaskInstance:
    """The task instance in one row of a list of task instances."""
    index = row.get("map_index")
    return TaskInstance(
        str(row.get("dag_id")),
        str(row.get("dag_run_id")),
        str(row.get("task_id")),
        index if isinstance(index, int) else -1,
        str(row.get("state")),
        parse_time(row.get("start_date")),
        parse_time(row.get("end_date")),
    )


def rows_of(answer: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a list.

    Raises:
        BadData: the answer has no list of this name, or one of something else than objects.
    """
    rows = answer.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadData(f"Airflow's answer has no list {name!r}.")
    return rows


def total_of(answer: Mapping[str, Any], at_least: int) -> int:
    """How many rows match in all, as the answer says; `at_least` the number that were seen."""
    total = answer.get("total_entries")
    return max(total, at_least) if isinstance(total, int) else at_least


def format_time(at: float) -> str:
    """Unix seconds as Airflow reads them, to the microsecond."""
    at = min(max(at, 0.0), 253402300799.0)
    text = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: Any) -> float | None:
    """Airflow's time as Unix seconds; None for null and for anything else that is no time."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
