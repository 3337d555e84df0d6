"""What was counted, read back from the ledger's file.

A file is taken as little on trust as an answer: a row that makes no sense is set aside with a warning, so that what it
counted begins anew, and the rest is used.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from sqlite3 import Connection
from typing import Any, Final, NamedTuple

from exporter.sources import boundary
from exporter.sources.airflow.counted import RUN, Counted, DagMark, KeptXCom, Pending, Success, Sum, SumKey, Total

log = logging.getLogger(__name__)

MAX_EVENTS: Final = 2**53
"""Above this, a float does not tell one number of events from the next."""
_OF_A_DAG: Final = ("dag", "total", "seen", "xcom_pending", "xcom_added", "sum", "xcom")
"""The tables with rows of a DAG."""


class _Table(NamedTuple):
    """A table, what identifies its rows within an Airflow, and what else is read of them, in this order."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


_TOTALS: Final = _Table("total", ("kind", "dag_id", "task_id", "state"), ("events", "counts", "sum", "last_end"))
_SUMS: Final = _Table("sum", ("dag_id", "task_id", "key", "field", "take"), ("total", "last_end", "problem"))
_PENDING: Final = _Table("xcom_pending", ("dag_id", "run_id", "task_id", "key"), ("run_end", "backlog"))
_XCOMS: Final = _Table("xcom", ("dag_id", "task_id", "key"), ("run_id", "run_end", "content", "problem"))


def load(connection: Connection, instance: str, buckets: Mapping[str, tuple[float, ...]]) -> Counted:
    """Everything that was counted of one Airflow.

    Args:
        connection: inside a transaction of the ledger.
        instance: the Airflow's base URL.
        buckets: the upper bounds of the histograms' buckets, by kind.
    """
    dags = _usable_marks(connection, instance)

    def total(row: tuple[Any, ...]) -> Total:
        return _total(row[4:], len(buckets[row[0]]) + 1)

    totals = dict(_usable(connection, instance, _TOTALS, total))
    pending = [value for _, value in _usable(connection, instance, _PENDING, _pending)]
    return Counted(
        dags=dags,
        runs={(key[1], key[3]): value for key, value in totals.items() if key[0] == RUN},
        tasks={(key[1], key[2], key[3]): value for key, value in totals.items() if key[0] != RUN},
        sums={_five(key): value for key, value in _usable(connection, instance, _SUMS, _sum)},
        pending=tuple(sorted(pending, key=lambda one: (one.run_end, one.run_id))),
        xcoms={(key[0], key[1], key[2]): value for key, value in _usable(connection, instance, _XCOMS, _xcom)},
    )


def marks(connection: Connection, instance: str) -> dict[str, DagMark]:
    """How far the history of each DAG is counted.

    Raises:
        ValueError: a row makes no sense; `load` sets it aside.
    """
    return {dag_id: _mark(row) for dag_id, row in _mark_rows(connection, instance)}


def _usable_marks(connection: Connection, instance: str) -> dict[str, DagMark]:
    """The same; a DAG with a mark that makes no sense is forgotten altogether, or it would be counted twice."""
    found: dict[str, DagMark] = {}
    for dag_id, row in _mark_rows(connection, instance):
        try:
            found[dag_id] = _mark(row)
        except ValueError as error:
            log.warning("state of DAG %s cannot be used and is set aside, it is counted anew: %s", dag_id, error)
            for table in _OF_A_DAG:
                connection.execute(
                    f"DELETE FROM airflow_{table} WHERE instance = ? AND dag_id = ?",  # noqa: S608 -- our own names
                    (instance, dag_id),
                )
    return found


def _mark_rows(connection: Connection, instance: str) -> list[tuple[str, tuple[Any, ...]]]:
    rows = connection.execute(
        "SELECT dag_id, run_until, run_complete, task_until, task_complete, success_run, success_end "
        "FROM airflow_dag WHERE instance = ?",
        (instance,),
    ).fetchall()
    return [(row[0], row[1:]) for row in rows]


def _mark(row: tuple[Any, ...]) -> DagMark:
    success = Success(row[4], boundary.unix_seconds(row[5])) if row[4] is not None else None
    return DagMark(_time(row[0]), bool(row[1]), _time(row[2]), bool(row[3]), success)


def _usable(
    connection: Connection, instance: str, table: _Table, value_of: Callable[[tuple[Any, ...]], Any]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Key and value of every row that makes sense; the others are set aside."""
    columns = ", ".join((*table.key, *table.columns))
    rows = connection.execute(
        f"SELECT {columns} FROM airflow_{table.name} WHERE instance = ?",  # noqa: S608 -- our own names
        (instance,),
    ).fetchall()
    matches = " AND ".join(f"{name} = ?" for name in table.key)
    for row in rows:
        key = row[: len(table.key)]
        try:
            yield key, value_of(row)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("state of %s (airflow_%s) cannot be used and is set aside: %s", key, table.name, error)
            connection.execute(
                f"DELETE FROM airflow_{table.name} WHERE instance = ? AND {matches}",  # noqa: S608 -- our own names
                (instance, *key),
            )


def _total(row: tuple[Any, ...], buckets: int) -> Total:
    events, content, seconds, last_end = row
    counts = json.loads(content)
    if not isinstance(counts, list) or len(counts) != buckets:
        raise ValueError(f"not {buckets} counts: {boundary.shown(content)}")
    return Total(
        boundary.whole(events, 0, MAX_EVENTS),
        tuple(boundary.whole(count, 0, MAX_EVENTS) for count in counts),
        _amount(seconds),
        _time(last_end),
    )


def _five(key: tuple[Any, ...]) -> SumKey:
    return key[0], key[1], key[2], key[3], key[4]


def _sum(row: tuple[Any, ...]) -> Sum:
    return Sum(_amount(row[5]), _time(row[6]), row[7])


def _xcom(row: tuple[Any, ...]) -> KeptXCom:
    return KeptXCom(row[3], boundary.unix_seconds(row[4]), row[5], row[6])


def _pending(row: tuple[Any, ...]) -> Pending:
    dag_id, run_id, task_id, key, run_end, backlog = row
    return Pending(dag_id, run_id, boundary.unix_seconds(run_end), task_id, key, bool(backlog))


def _amount(value: Any) -> float:
    amount = boundary.finite(value)
    if amount < 0:
        raise ValueError(f"below 0: {amount}")
    return amount


def _time(value: Any) -> float | None:
    return None if value is None else boundary.unix_seconds(value)
