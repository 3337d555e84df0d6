"""What Airflow's REST API lists, as frozen records, and Airflow's way to write times.

Ids and times become valid and bounded here; a row that has none that can be used is a ValueError, which names it.
Facts were seen on Airflow 2.11.2 (v1) and 3.3.2 (v2): both name these fields alike; times end in `+00:00` in v1 and in
`Z` in v2.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from exporter.errors import BadData
from exporter.showable import escaped
from exporter.sources import boundary

PAGE_ROWS: Final = 1000
"""Rows of runs and task instances that are asked for at a time."""
FINISHED: Final = ("success", "failed")
"""The states in which a run or a task instance has ended, as far as it is counted."""
ID_CHARACTERS: Final = 250
"""The longest id that Airflow itself accepts."""
MAX_MAP_INDEX: Final = 2**31 - 1
MAX_ENTRIES: Final = 10**12
"""More rows than any Airflow has."""
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
    """The first rows that match.

    Attributes:
        listed: how many rows the page has, those that cannot be used included.
        total: how many match in all.
    """

    rows: tuple[Row, ...]
    listed: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether these are all that match. A full page never counts as all: Airflow 3 may stop counting there."""
        return self.total <= self.listed < PAGE_ROWS


@dataclass(frozen=True, slots=True)
class XComValue:
    """An XCom as Airflow gave it (text in v1, JSON in v2), and when it was written, as Airflow writes times."""

    value: Any
    written: str


def dag_of(row: Mapping[str, Any]) -> Dag:
    """The DAG in one row of `/dags`.

    Raises:
        ValueError: it has no id.
    """
    return Dag(_id(row, "dag_id"), bool(row.get("is_paused")))


def run_of(row: Mapping[str, Any]) -> DagRun:
    """The run in one row of a list of DAG runs.

    Raises:
        ValueError: an id or a time cannot be used.
    """
    return DagRun(
        _id(row, "dag_id"),
        _id(row, "dag_run_id"),
        _id(row, "state"),
        _time(row, "start_date"),
        _time(row, "end_date"),
    )


def task_of(row: Mapping[str, Any]) -> TaskInstance:
    """The task instance in one row of a list of task instances.

    Raises:
        ValueError: an id, a time or the map_index cannot be used.
    """
    index = row.get("map_index")
    return TaskInstance(
        _id(row, "dag_id"),
        _id(row, "dag_run_id"),
        _id(row, "task_id"),
        -1 if index is None else _named("map_index", boundary.whole, index, -1, MAX_MAP_INDEX),
        _id(row, "state"),
        _time(row, "start_date"),
        _time(row, "end_date"),
    )


def rows_of(answer: Mapping[str, Any], name: str, most: int) -> Sequence[Mapping[str, Any]]:
    """The rows of a list of which at most so many were asked for.

    Raises:
        BadData: the answer has no list of this name, one of something else than objects, or a longer one.
    """
    rows = answer.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadData(f"Airflow's answer has no list {name!r}.")
    if len(rows) > most:
        raise BadData(f"Airflow's list {name!r} has {len(rows):,} rows where at most {most:,} were asked for.")
    return rows


def total_of(answer: Mapping[str, Any], at_least: int) -> int:
    """How many rows match in all, as the answer says; `at_least` the number that were seen.

    Raises:
        BadData: it says something that is no number of rows.
    """
    total = answer.get("total_entries")
    if total is None:
        return at_least
    try:
        return max(_named("total_entries", boundary.whole, total, 0, MAX_ENTRIES), at_least)
    except ValueError as error:
        raise BadData(f"Airflow's answer cannot be used: {error}.") from None


def _id(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text: {boundary.shown(value)}")
    return boundary.text(escaped(value), ID_CHARACTERS)


def _time(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    at = parse_time(value)
    if at is None and value is not None:
        raise ValueError(f"{name} is no time: {boundary.shown(value)}")
    return at


def _named(name: str, check: Callable[..., int], *given: Any) -> int:
    try:
        return check(*given)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None


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
        return boundary.unix_seconds((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
