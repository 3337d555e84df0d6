"""The audit log in an embedded DuckDB file, or in Parquet, CSV or JSON-lines files.

The query is the one that BigQuery runs; sqlglot translates its dialect. A file is opened read-only, for each query
anew, and only when its inode, size or time of change differ from those of the last answer, so a writer is never kept
out for longer than the query takes.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb

from exporter.errors import BadData, SourceUnavailable
from exporter.snapshot import Reading
from exporter.sources.audit.answer import read_rows, recompute_at
from exporter.sources.audit.columns import MAX_COLUMNS, Column
from exporter.sources.audit.duckdb_access import identifier, open_database, open_files
from exporter.sources.audit.duckdb_errors import errors
from exporter.sources.audit.duckdb_files import lines_left_out, make_view
from exporter.sources.audit.duckdb_init import create_sample
from exporter.sources.audit.duckdb_types import google_type
from exporter.sources.audit.file_heads import require_kind
from exporter.sources.audit.files import EmbeddedLog, FoundFiles
from exporter.sources.audit.query import SOURCE_NAME, AuditQuery, build_query
from exporter.sources.audit.sample import SAMPLE_COMMENT
from exporter.sources.audit.spill import spill_folder
from exporter.sources.audit.transpile import to_duckdb

LOCK_WAIT_SECONDS: Final = 0.1
ROWS_AT_ONCE: Final = 50
"""Rows that are turned into Python's values in one go, which lets no other thread run."""
INTERRUPT_AGAIN_SECONDS: Final = 0.05


class DuckDBReader:
    """Reads an embedded log with DuckDB, in the process that calls.

    Args:
        pause: waits some seconds, or until the event is set, before a locked file is tried again.
    """

    def __init__(
        self, log: EmbeddedLog, pause: Callable[[threading.Event, float], object] = threading.Event.wait
    ) -> None:
        self._log = log
        self._pause = pause
        self._location = log.location
        self._stop = threading.Event()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()

    def read(self, found: FoundFiles | None, now: float, since: float | None = None) -> Reading:
        """Query the log, within its deadline.

        Args:
            found: the files, as they were seen; None to look here, after the sample was made where one is awaited.
            now: Unix seconds.
            since: see `build_query`.

        Raises:
            SourceError: it could not be read.
        """
        with self._deadline(), errors(self._location, self._stop, self._log.timeout_seconds):
            found = found or self._look(now)
            with self._opened(found) as (connection, noted):
                query, sample = self._query_for(connection, now, since)
                answer = read_rows(query, _rows(connection, query))
                notes = (*answer.notes, *noted, *self._left_out(connection))
            if sample:
                notes = ("this is sample history, not your pipeline's: set GOOGLE_CLOUD_PROJECT or AUDIT_URL", *notes)
            return Reading(
                source=SOURCE_NAME,
                identity=self._log.identity,
                catalog=self._log.catalog.fingerprint,
                read_at=now,
                queried_at=now,
                token=found.revision,
                observations=answer.observations,
                gaps=answer.gaps,
                notes=notes,
                facts={
                    "engine": "duckdb",
                    "location": str(self._location),
                    "table": f"{self._log.schema}.{self._log.table}",
                    **answer.facts(),
                    "sample_data": sample,
                    "missing_columns": ", ".join(query.missing_columns) or None,
                },
                valid_until=recompute_at(answer),
            )

    @contextlib.contextmanager
    def history(self, until: float) -> Iterator[tuple[AuditQuery, Iterator[Mapping[str, Any]]]]:
        """The query of `AuditQuery.history` and its rows, a few at a time. All inside shares the deadline.

        Args:
            until: Unix seconds.

        Raises:
            SourceError: as `read`.
        """
        with (
            self._deadline(),
            errors(self._location, self._stop, self._log.timeout_seconds),
            self._opened(self._look(time.time())) as (connection, _),
        ):
            query = self._query_for(connection, until)[0].history(until)
            yield query, _rows(connection, query)

    def glance(self, rows: int) -> tuple[list[Column], list[dict[str, Any]]]:
        """The table's columns, and its first rows by column name. For `catalogue`.

        Raises:
            SourceError: as `read`.
        """
        with (
            self._deadline(),
            errors(self._location, self._stop, self._log.timeout_seconds),
            self._opened(self._log.look()) as (connection, _),
        ):
            columns = self._columns(connection)[0]
            name = self._name
            # Times as texts: Python's own need a package more.
            listed = ", ".join(f"CAST({identifier(c.name)} AS VARCHAR) AS {identifier(c.name)}" for c in columns)
            found = connection.execute(f"SELECT {listed} FROM {name} LIMIT {int(rows)}").fetchall()  # noqa: S608
            return columns, [dict(zip((c.name for c in columns), row, strict=True)) for row in found]

    def close(self) -> None:
        """Nothing stays open between reads."""

    # -- parts of a refresh ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Have what is inside interrupted when the deadline passes.

        A connection forgets an interrupt that comes between two statements, so it is repeated until the block ends.
        """
        self._stop.clear()
        ended = threading.Event()

        def watch() -> None:
            if ended.wait(self._log.timeout_seconds):
                return
            self._stop.set()
            while not ended.wait(INTERRUPT_AGAIN_SECONDS):
                with self._lock:
                    if self._connection is not None:
                        self._connection.interrupt()

        watchdog = threading.Thread(target=watch, name="deadline", daemon=True)
        watchdog.start()
        try:
            yield
        finally:
            ended.set()
            watchdog.join()

    def _look(self, now: float) -> FoundFiles:
        """The files, after the sample was made where one is awaited."""
        if self._log.awaits_sample:
            create_sample(Path(self._location.path), self._log.schema, self._log.table, now)
        return self._log.look()

    def _query_for(
        self, connection: duckdb.DuckDBPyConnection, now: float, since: float | None = None
    ) -> tuple[AuditQuery, bool]:
        """The query, and whether the table holds the sample history."""
        columns, sample = self._columns(connection)
        query = build_query(
            self._log.catalog,
            columns,
            table=f"`{self._log.schema}.{self._log.table}`",
            env=self._log.env,
            now=now,
            since=since,
            max_series=self._log.max_series,
        )
        return query, sample

    @property
    def _name(self) -> str:
        """The quoted name of the table, or of the view of files."""
        return f"{identifier(self._log.schema)}.{identifier(self._log.table)}"

    def _left_out(self, connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
        """What the query left out of text files.

        Raises:
            BadData: everything.
        """
        left_out = lines_left_out(connection)
        if left_out and not connection.execute(f"SELECT 1 FROM {self._name} LIMIT 1").fetchone():  # noqa: S608 -- quoted
            raise BadData(f"{self._location.path} has no line that can be read: {'; '.join(left_out)}.")
        return left_out

    @contextlib.contextmanager
    def _opened(self, found: FoundFiles) -> Iterator[tuple[duckdb.DuckDBPyConnection, tuple[str, ...]]]:
        """A connection that has the table, and notes on the files."""
        with spill_folder() as spill, contextlib.closing(self._connect(found, spill)) as connection:
            try:
                with self._lock:
                    self._connection = connection
                if self._stop.is_set():  # the deadline passed before there was a connection to interrupt
                    raise duckdb.InterruptException
                notes: tuple[str, ...] = ()
                if self._location.kind != "duckdb":
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(self._log.schema)}")
                    notes = make_view(connection, self._location.kind, found.paths, self._name)
                yield connection, notes
            finally:
                with self._lock:
                    self._connection = None

    def _connect(self, found: FoundFiles, spill: Path | None) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting for a writer that has it locked for as long as the deadline allows."""
        if self._location.kind != "duckdb":
            return open_files(found.paths, spill)
        require_kind(self._location.kind, found.paths[0])
        while True:
            try:
                return open_database(self._location.path, spill)
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                self._pause(self._stop, LOCK_WAIT_SECONDS)
                if self._stop.is_set():
                    raise

    def _columns(self, connection: duckdb.DuckDBPyConnection) -> tuple[list[Column], bool]:
        """The table's columns in GoogleSQL types, and whether it holds the sample history."""
        found = connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() "
            "WHERE lower(schema_name) = lower(?) AND lower(table_name) = lower(?) "
            "AND database_name = current_database() ORDER BY column_index",
            [self._log.schema, self._log.table],
        ).fetchall()
        if not found:
            raise SourceUnavailable(
                f"{self._location.path} has no table {self._log.schema}.{self._log.table}. Correct AUDIT_TABLE, or "
                "create the table with `python -m exporter init-audit`.",
                reason="not_found",
            )
        if len(found) > MAX_COLUMNS:
            raise BadData(f"{self._location.path} has {len(found)} columns; at most {MAX_COLUMNS} are read.")
        comment = connection.execute(
            "SELECT comment FROM duckdb_tables() WHERE lower(schema_name) = lower(?) AND lower(table_name) = lower(?)",
            [self._log.schema, self._log.table],
        ).fetchone()
        return [Column(name, google_type(kind)) for name, kind in found], comment == (SAMPLE_COMMENT,)


def _rows(connection: duckdb.DuckDBPyConnection, query: AuditQuery) -> Iterator[Mapping[str, Any]]:
    sql = to_duckdb(query.sql)
    values = {p.name: p.value for p in query.parameters if f"${p.name}" in sql}
    cursor = connection.execute(sql, values)
    names = [column[0] for column in cursor.description or ()]
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            yield dict(zip(names, row, strict=True))
