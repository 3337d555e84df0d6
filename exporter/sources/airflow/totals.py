"""What was counted of Airflow's finished runs, tasks and XComs, each exactly once, kept in the ledger.

What counts as one event:

- A run counts when it ends in `success` or `failed`; its identity is DAG, run id and the moment of its end. A run that
  is cleared and ends again has ended twice and counts twice, under the state of each end, as a counter of events must:
  the first end did happen, and a counter cannot step back. A run that was running and is marked failed by hand ends
  there and counts once as failed. One that had ended already and is then marked otherwise keeps its end, so that it
  is not counted again.
- A task instance counts in the same way when it ends in `success` or `failed`; mapped copies are instances of their
  own. A try that is retried is no end: only the last one counts, with the duration of that last try. Skipped,
  upstream_failed and removed ones never ran and are not counted.
- Durations are end minus start. Without a start (marked by hand while queued), or when that is negative, an event
  counts in `dag_runs` but is in no histogram.
- An XCom sum adds the value of every successful end of a run; a writing of an XCom that was added once is not added
  again when the run is cleared in part and ends again without having written it anew.

How that is made sure of: what is read from Airflow, the totals, the identities and the mark up to which everything
is counted (`until`) change in one transaction. The next look begins OVERLAP_SECONDS before the mark, and what is listed
again is recognised by its identity; identities older than that are dropped. The mark follows the ends that
Airflow gives, never this machine's clock.
"""

import json
import logging
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from sqlite3 import Connection
from typing import Final

from exporter.catalog import XCom
from exporter.ledger import Ledger, make_tables
from exporter.sources.airflow import kept
from exporter.sources.airflow.counted import OVERFLOW, RUN, TASK, Counted, DagMark, KeptXCom, Pending, SumKey
from exporter.sources.airflow.records import FINISHED, DagRun, TaskInstance

log = logging.getLogger(__name__)

OVERLAP_SECONDS: Final = 600.0
"""How late an end may come to light, for example because two workers' clocks disagree, and still be counted."""
REMEMBER_XCOMS_SECONDS: Final = 90 * 86400.0
"""How long after a run's end it is known which of its XComs were added."""
Event = DagRun | TaskInstance
TABLES: Final = (
    (
        # `instance` is the base URL of an Airflow: totals of one say nothing about another. Times are Unix seconds.
        """
        CREATE TABLE IF NOT EXISTS airflow_instance (instance TEXT PRIMARY KEY, buckets TEXT NOT NULL) STRICT
        """,
        # Everything that ended before `*_until` is counted; `*_complete` once the first look back is done.
        """
        CREATE TABLE IF NOT EXISTS airflow_dag (
            instance TEXT, dag_id TEXT,
            run_until REAL, run_complete INTEGER NOT NULL DEFAULT 0,
            task_until REAL, task_complete INTEGER NOT NULL DEFAULT 0,
            success_run TEXT, success_end REAL,
            PRIMARY KEY (instance, dag_id)
        ) STRICT, WITHOUT ROWID
        """,
        # `kind` is run or task (task_id is '' for runs); `counts` is a JSON list, one entry for each bucket alone.
        """
        CREATE TABLE IF NOT EXISTS airflow_total (
            instance TEXT, kind TEXT, dag_id TEXT, task_id TEXT, state TEXT,
            events INTEGER NOT NULL, counts TEXT NOT NULL, sum REAL NOT NULL, last_end REAL,
            PRIMARY KEY (instance, kind, dag_id, task_id, state)
        ) STRICT, WITHOUT ROWID
        """,
        # What was counted lately, to recognise it when it is listed again. `ended` is in microseconds, 0 for no end.
        """
        CREATE TABLE IF NOT EXISTS airflow_seen (
            instance TEXT, kind TEXT, dag_id TEXT, ended INTEGER, run_id TEXT, task_id TEXT, map_index INTEGER,
            PRIMARY KEY (instance, kind, dag_id, ended, run_id, task_id, map_index)
        ) STRICT, WITHOUT ROWID
        """,
        # XComs of counted runs that are still to be fetched and added to airflow_sum.
        """
        CREATE TABLE IF NOT EXISTS airflow_xcom_pending (
            instance TEXT, dag_id TEXT, run_id TEXT, run_end REAL, task_id TEXT, key TEXT, backlog INTEGER NOT NULL,
            PRIMARY KEY (instance, dag_id, run_id, task_id, key)
        ) STRICT, WITHOUT ROWID
        """,
        # Which writing of an XCom was added: a run that is cleared in part ends again with the same XCom.
        """
        CREATE TABLE IF NOT EXISTS airflow_xcom_added (
            instance TEXT, dag_id TEXT, run_id TEXT, task_id TEXT, key TEXT,
            written TEXT NOT NULL, run_end REAL NOT NULL,
            PRIMARY KEY (instance, dag_id, run_id, task_id, key)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS airflow_sum (
            instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, field TEXT, take TEXT,
            total REAL NOT NULL, last_end REAL, problem TEXT,
            PRIMARY KEY (instance, dag_id, task_id, key, field, take)
        ) STRICT, WITHOUT ROWID
        """,
        # XComs of the newest successful run, fetched once. `content` is JSON; NULL with `problem` NULL: there is none.
        """
        CREATE TABLE IF NOT EXISTS airflow_xcom (
            instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, run_id TEXT NOT NULL, run_end REAL NOT NULL,
            content TEXT, problem TEXT,
            PRIMARY KEY (instance, dag_id, task_id, key)
        ) STRICT, WITHOUT ROWID
        """,
    ),
)
"""The tables in the ledger, by version. Version 0.1.0 wrote the same ones without saying so, hence IF NOT EXISTS."""


class Totals:
    """The counted totals of one Airflow.

    Args:
        instance: the Airflow's base URL; another one has totals of its own.
        run_buckets, task_buckets: upper bounds of the histograms' buckets. When they change, nothing that was
            counted fits any more: everything is counted anew from the look back on.
        counters: the XComs that counters sum up.

    All methods raise StateError when the ledger cannot be written.
    """

    def __init__(
        self,
        ledger: Ledger,
        instance: str,
        run_buckets: tuple[float, ...],
        task_buckets: tuple[float, ...],
        counters: Iterable[XCom],
    ) -> None:
        self._ledger = ledger
        self._instance = instance
        self._buckets = {RUN: run_buckets, TASK: task_buckets}
        self._counters = tuple(dict.fromkeys(counters))

    def load(self) -> Counted:
        """Everything that was counted so far."""
        with self._ledger.transaction() as connection:
            make_tables(connection, "airflow", TABLES)
            self._fit_buckets(connection)
            return kept.load(connection, self._instance, self._buckets)

    def fold(
        self, kind: str, dag_ids: Collection[str], events: Iterable[Event], until: float, *, complete: bool
    ) -> frozenset[str]:
        """Count events, each once, and move the marks of these DAGs to `until`, all or nothing.

        Args:
            events: everything of these DAGs that ended from OVERLAP_SECONDS before their marks to `until`.
            complete: nothing that ended later was known when this was asked.

        Returns:
            the DAGs that had events which were not counted before.
        """
        with self._ledger.transaction() as connection:
            marks = kept.marks(connection, self._instance)
            fresh: dict[tuple[str, str, str, str], list[Event]] = {}
            for event in events:
                if event.state not in FINISHED:
                    continue
                mark = marks.get(event.dag_id, DagMark())
                if event.dag_id not in dag_ids or self._was_counted(connection, kind, event, mark):
                    continue
                task = event.task_id if isinstance(event, TaskInstance) else ""
                fresh.setdefault((kind, event.dag_id, task, event.state), []).append(event)
                if isinstance(event, DagRun) and event.state == "success":
                    self._note_success(connection, event, backlog=not mark.run_complete)
            for key, counted in fresh.items():
                self._add(connection, key, counted)
            for dag_id in dag_ids:
                self._move_mark(connection, kind, dag_id, marks.get(dag_id, DagMark()), until, complete=complete)
        return frozenset(dag_id for _, dag_id, _, _ in fresh)

    def add_xcom(
        self, pending: Pending, written: str | None, values: Mapping[SumKey, float], problems: Mapping[SumKey, str]
    ) -> None:
        """Settle a pending XCom: add its values to their sums unless this writing was added before.

        Args:
            written: when the XCom was written, as Airflow says; None when there is none.
            values, problems: by sum, what to add, or why there is nothing to add.
        """
        where = (self._instance, pending.dag_id, pending.run_id, pending.task_id, pending.key)
        with self._ledger.transaction() as connection:
            gone = connection.execute(
                "DELETE FROM airflow_xcom_pending WHERE instance = ? AND dag_id = ? AND run_id = ? AND task_id = ? "
                "AND key = ? AND run_end = ?",
                (*where, pending.run_end),
            )
            if gone.rowcount == 0:
                return
            before = connection.execute(
                "SELECT written FROM airflow_xcom_added WHERE instance = ? AND dag_id = ? AND run_id = ? "
                "AND task_id = ? AND key = ?",
                where,
            ).fetchone()
            if written and before and before[0] == written:
                return
            for key in {*values, *problems}:
                self._add_amount(connection, key, values.get(key, 0.0), pending.run_end, problems.get(key))
            if written and values:
                connection.execute(
                    "INSERT OR REPLACE INTO airflow_xcom_added VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*where, written, pending.run_end),
                )
            connection.execute(
                "DELETE FROM airflow_xcom_added WHERE instance = ? AND run_end < ?",
                (self._instance, pending.run_end - REMEMBER_XCOMS_SECONDS),
            )

    def keep_xcom(self, dag_id: str, task_id: str, key: str, xcom: KeptXCom) -> None:
        """Remember an XCom of the newest successful run, so that it is fetched once."""
        with self._ledger.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO airflow_xcom VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._instance, dag_id, task_id, key, xcom.run_id, xcom.run_end, xcom.content, xcom.problem),
            )

    # -- inside a transaction --------------------------------------------------------------------------------------

    def _fit_buckets(self, connection: Connection) -> None:
        """Make sure that what was counted fits the present buckets."""
        buckets = json.dumps([self._buckets[RUN], self._buckets[TASK]])
        row = connection.execute(
            "SELECT buckets FROM airflow_instance WHERE instance = ?", (self._instance,)
        ).fetchone()
        if row is not None and row[0] != buckets:
            log.warning("the histograms' buckets changed: Airflow's runs and tasks are counted anew")
            for table in ("dag", "total", "seen", "xcom_pending", "xcom_added", "sum", "xcom", "instance"):
                connection.execute(f"DELETE FROM airflow_{table} WHERE instance = ?", (self._instance,))  # noqa: S608
            row = None
        if row is None:
            connection.execute("INSERT INTO airflow_instance VALUES (?, ?)", (self._instance, buckets))

    def _was_counted(self, connection: Connection, kind: str, event: Event, mark: DagMark) -> bool:
        """Whether the event was counted before; if not, its identity is noted."""
        until = mark.until(kind)
        if event.end is not None and until is not None and event.end < until - OVERLAP_SECONDS:
            return True  # older than any identity that is kept
        task, index = (event.task_id, event.map_index) if isinstance(event, TaskInstance) else ("", -1)
        ended = 0 if event.end is None else _microseconds(event.end)
        added = connection.execute(
            "INSERT OR IGNORE INTO airflow_seen VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._instance, kind, event.dag_id, ended, event.run_id, task, index),
        )
        return added.rowcount == 0

    def _note_success(self, connection: Connection, run: DagRun, *, backlog: bool) -> None:
        if run.end is None:
            return
        connection.execute(
            "INSERT INTO airflow_dag (instance, dag_id, success_run, success_end) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET success_run = excluded.success_run, success_end = excluded.success_end "
            "WHERE success_end IS NULL OR success_end < excluded.success_end",
            (self._instance, run.dag_id, run.run_id, run.end),
        )
        for dag, task, key in {(spec.dag, spec.task, spec.key) for spec in self._counters}:
            if dag == run.dag_id:
                connection.execute(
                    "INSERT INTO airflow_xcom_pending VALUES (?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET run_end = excluded.run_end",
                    (self._instance, dag, run.run_id, run.end, task, key, int(backlog)),
                )

    def _add(self, connection: Connection, key: tuple[str, str, str, str], events: Iterable[Event]) -> None:
        bounds = self._buckets[key[0]]
        row = connection.execute(
            "SELECT events, counts, sum, last_end FROM airflow_total "
            "WHERE instance = ? AND kind = ? AND dag_id = ? AND task_id = ? AND state = ?",
            (self._instance, *key),
        ).fetchone()
        count, counts, total, last = (row[0], json.loads(row[1]), row[2], row[3]) if row else (0, [], 0.0, None)
        counts = counts or [0] * (len(bounds) + 1)
        for event in events:
            count += 1
            if event.end is None:
                continue
            last = event.end if last is None else max(last, event.end)
            if event.start is not None and event.end >= event.start:
                duration = event.end - event.start
                counts[bisect_left(bounds, duration)] += 1
                total += duration
        connection.execute(
            "INSERT OR REPLACE INTO airflow_total VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._instance, *key, count, json.dumps(counts), total, last),
        )

    def _add_amount(
        self, connection: Connection, key: SumKey, amount: float, run_end: float, problem: str | None
    ) -> None:
        row = connection.execute(
            "SELECT total, last_end, problem FROM airflow_sum "
            "WHERE instance = ? AND dag_id = ? AND task_id = ? AND key = ? AND field = ? AND take = ?",
            (self._instance, *key),
        ).fetchone()
        total, last_end, before = row or (0.0, None, None)
        if math.isfinite(total + amount):
            total += amount
        else:
            problem = OVERFLOW
        if last_end is not None and run_end < last_end:
            problem, run_end = before, last_end
        connection.execute(
            "INSERT OR REPLACE INTO airflow_sum VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._instance, *key, total, run_end, problem),
        )

    def _move_mark(
        self, connection: Connection, kind: str, dag_id: str, mark: DagMark, until: float, *, complete: bool
    ) -> None:
        before = mark.until(kind)
        until = until if before is None else max(before, until)
        column = {RUN: "run", TASK: "task"}[kind]
        connection.execute(
            f"INSERT INTO airflow_dag (instance, dag_id, {column}_until, {column}_complete) VALUES (?, ?, ?, ?) "  # noqa: S608
            f"ON CONFLICT DO UPDATE SET {column}_until = excluded.{column}_until, "
            f"{column}_complete = max({column}_complete, excluded.{column}_complete)",
            (self._instance, dag_id, until, int(complete)),
        )
        connection.execute(
            "DELETE FROM airflow_seen WHERE instance = ? AND kind = ? AND dag_id = ? AND ended > 0 AND ended < ?",
            (self._instance, kind, dag_id, _microseconds(until - OVERLAP_SECONDS)),
        )


def _microseconds(at: float) -> int:
    return round(at * 1e6)
