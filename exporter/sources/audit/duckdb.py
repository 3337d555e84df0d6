"""The audit log in an embedded DuckDB file, or in Parquet, CSV or JSON-lines files.

The query is the one that BigQuery runs; sqlglot translates its dialect. A file is opened read-only, for each query
anew, and only when its inode, size or time of change differ from those of the last answer, so a writer is never kept
out for longer than the query takes.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import sqlglot

from exporter.catalog import Catalog
from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import AuditLocation, Settings
from exporter.snapshot import Reading
from exporter.sources.audit.answer import read_rows, recompute_at
from exporter.sources.audit.columns import Column
from exporter.sources.audit.files import EmbeddedAudit, denied, unreadable
from exporter.sources.audit.query import AuditQuery, audit_table, build_query
from exporter.sources.audit.sample import SAMPLE_COMMENT

CONFIG: Final[Mapping[str, str]] = {
    "threads": "2",
    "memory_limit": "512MB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""A small guest: two threads, bounded memory, and nothing fetched from the network."""
LOCK_WAIT_SECONDS: Final = 0.1
ROWS_AT_ONCE: Final = 50
"""Rows that are turned into Python's values in one go, which lets no other thread run."""
INTERRUPT_AGAIN_SECONDS: Final = 0.05

_INTEGERS: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
    | {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_INTEGERS, "INT64"),
    "DOUBLE": "FLOAT64",
    "FLOAT": "FLOAT64",
    "BOOLEAN": "BOOL",
    "VARCHAR": "STRING",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIMESTAMP": "DATETIME",
    "TIMESTAMP_S": "DATETIME",
    "TIMESTAMP_MS": "DATETIME",
    "TIMESTAMP_NS": "DATETIME",
    "DATE": "DATE",
}
_READERS: Final[Mapping[str, str]] = {
    "parquet": "read_parquet({files}, union_by_name = true)",
    "csv": "read_csv({files}, union_by_name = true, sample_size = -1)",
    "jsonl": (
        "read_json({files}, union_by_name = true, sample_size = -1, format = 'newline_delimited', ignore_errors = true)"
    ),
}
"""How files are read. Types are guessed from all rows, as a text in a late one would otherwise fail them all. A broken
JSON line, such as one that is being written, becomes a row without a timestamp, which is left out and noted."""
JSON_FILES_AT_ONCE: Final = 8
"""DuckDB sets 32 MiB aside for every JSON file that a statement reads, however small the file is."""


class DuckDBAudit(EmbeddedAudit):
    """The audit log, read by DuckDB. See `exporter.sources.Source`.

    Args:
        clock: Unix seconds.
        pause: waits some seconds, or until the event is set, before a locked file is tried again.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        clock: Callable[[], float] = time.time,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        super().__init__(settings, catalog, clock)
        self._pause = pause
        self._location = settings.embedded
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self.schema, self.table = audit_table(settings, catalog).split(".")

    def _query(self, now: float, since: float | None) -> Reading:
        with self._deadline(), errors(self._location, self._stop, self.timeout_seconds):
            self._make_sample()
            files = self._files.found()
            token = self._files.token(files)
            with self._opened(files) as connection:
                query, sample = self._query_for(connection, now, since)
                answer = read_rows(query, _rows(connection, query))
            notes = answer.notes
            if sample:
                notes = ("this is sample history, not your pipeline's: set GOOGLE_CLOUD_PROJECT or AUDIT_URL", *notes)
            return Reading(
                source=self.name,
                identity=self.identity,
                catalog=self._catalog.fingerprint,
                read_at=now,
                queried_at=now,
                token=token,
                observations=answer.observations,
                gaps=answer.gaps,
                notes=notes,
                facts={
                    "engine": "duckdb",
                    "location": str(self._location),
                    "table": f"{self.schema}.{self.table}",
                    **answer.facts(),
                    "sample_data": sample,
                    "missing_columns": ", ".join(query.missing_columns) or None,
                },
                valid_until=recompute_at(answer),
            )

    @contextlib.contextmanager
    def history(self, until: float) -> Iterator[tuple[AuditQuery, Iterator[Mapping[str, Any]]]]:
        """The query of `AuditQuery.history` and its rows, a few at a time. All inside shares the deadline.

        Raises:
            SourceError: as `read`.
        """
        with self._deadline(), errors(self._location, self._stop, self.timeout_seconds):
            self._make_sample()
            with self._opened(self._files.found()) as connection:
                query = self._query_for(connection, until)[0].history(until)
                yield query, _rows(connection, query)

    def interrupt(self) -> None:
        """End a query, or the wait for a lock, that is under way."""
        self._stop.set()
        self._wake.set()

    # -- parts of a refresh ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Have what is inside interrupted when the deadline passes, or when `interrupt` is called.

        A connection forgets an interrupt that comes between two statements, so it is repeated until the block ends.
        """
        self._stop.clear()
        self._wake.clear()
        ended = threading.Event()

        def watch() -> None:
            self._wake.wait(self.timeout_seconds)
            if not ended.is_set():
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
            self._wake.set()
            watchdog.join()

    def _make_sample(self) -> None:
        if self._files.awaits_sample:
            from exporter.sources.audit.duckdb_init import create_sample

            create_sample(Path(self._location.path), self.schema, self.table, self._clock())

    def _query_for(
        self, connection: duckdb.DuckDBPyConnection, now: float, since: float | None = None
    ) -> tuple[AuditQuery, bool]:
        """The query, and whether the table holds the sample history."""
        columns, sample = self._columns(connection)
        query = build_query(
            self._catalog,
            columns,
            table=f"`{self.schema}.{self.table}`",
            env=self._settings.audit_env,
            now=now,
            since=since,
            max_series=self._settings.max_series,
        )
        return query, sample

    @contextlib.contextmanager
    def _opened(self, files: list[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._connect()
        try:
            with self._lock:
                self._connection = connection
            if self._stop.is_set():  # interrupted before there was a connection to interrupt
                raise duckdb.InterruptException
            connection.execute("SET TimeZone = 'UTC'")
            if self._location.kind != "duckdb":
                _view(connection, self._location.kind, files, self.schema, self.table)
            yield connection
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting for a writer that has it locked for as long as the deadline allows."""
        if self._location.kind != "duckdb":
            return duckdb.connect(config=dict(CONFIG))
        while True:
            try:
                return duckdb.connect(self._location.path, read_only=True, config=dict(CONFIG))
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
            [self.schema, self.table],
        ).fetchall()
        if not found:
            raise SourceUnavailable(
                f"{self._location.path} has no table {self.schema}.{self.table}. Correct AUDIT_TABLE, or create the "
                "table with `python -m exporter init-audit`.",
                reason="not_found",
            )
        comment = connection.execute(
            "SELECT comment FROM duckdb_tables() WHERE lower(schema_name) = lower(?) AND lower(table_name) = lower(?)",
            [self.schema, self.table],
        ).fetchone()
        return [Column(name, google_type(kind)) for name, kind in found], comment == (SAMPLE_COMMENT,)


def google_type(kind: str) -> str:
    """The GoogleSQL type that a DuckDB type reads as; others keep their name, which no metric can be read from."""
    if kind.startswith("DECIMAL"):
        return "NUMERIC" if not kind.endswith("]") else kind
    if kind.startswith("ENUM") and not kind.endswith("]"):
        return "STRING"
    return _TYPES.get(kind, kind)


@contextlib.contextmanager
def errors(location: AuditLocation, stop: threading.Event | None = None, seconds: float = 0.0) -> Iterator[None]:
    """The one place where the exceptions of DuckDB become ours, and those of the file system while it is at work.

    Args:
        stop: set when the call was interrupted, which then explains whatever failed.
        seconds: the deadline, for the message.
    """
    try:
        yield
    except SourceError:
        raise
    except (duckdb.Error, OSError) as error:
        said = _said(error)
        if "Could not set lock" in said:
            holder = re.search(r"\(PID (\d+)\)", said)
            raise SourceUnavailable(
                f"{location.path} is locked by a writer{f' (process {holder[1]})' if holder else ''}: let it close its "
                "connection between writes."
            ) from error
        if stop is not None and stop.is_set():
            raise SourceTimeout(f"The audit log was not read within {seconds:g} s.") from error
        raise _translate(location, error, said) from error


def _said(error: Exception) -> str:
    """The part of a driver's message that says what happened, without its advice."""
    lines = str(error).splitlines() or [type(error).__name__]
    # Of a CSV file the first line says only where; the line itself follows, then why.
    why = [line for line in lines[1:4] if line.startswith(("Error when", "Expected", "Value"))]
    return ": ".join([lines[0], *why]) if "CSV Error" in lines[0] else lines[0]


def _translate(location: AuditLocation, error: Exception, said: str) -> SourceError:
    if isinstance(error, OSError):
        return unreadable(location, error)
    if "Permission denied" in said:
        return denied(location)
    if "No files found" in said or ("does not exist" in said and isinstance(error, duckdb.IOException)):
        return SourceUnavailable(
            f"{location.path} does not exist: check AUDIT_URL. DuckDB said: {said}", reason="not_found"
        )
    if "not a valid DuckDB database" in said:
        return BadData(f"{location.path} is not a DuckDB database.")
    if isinstance(error, duckdb.IOException) and "version number" in said:
        return BadData(f"{location.path} was written by another version of DuckDB. DuckDB said: {said}")
    return BadData(f"{location.path} cannot be read: {said[:300]}")


def _view(connection: duckdb.DuckDBPyConnection, kind: str, files: list[Path], schema: str, table: str) -> None:
    """Make the files look like the catalogue's table. Columns may differ between files; absent ones are NULL."""
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)}")
    log_rows = _json_rows(connection, files) if kind == "jsonl" else f"SELECT * FROM {_reader(kind, files)}"  # noqa: S608
    connection.execute(f"CREATE VIEW {identifier(schema)}.{identifier(table)} AS {log_rows}")


def _reader(kind: str, files: list[Path]) -> str:
    return _READERS[kind].format(files="[" + ", ".join(_literal(str(file)) for file in files) + "]")


def _json_rows(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> str:
    """Take the files in, a few at a time, and give a SELECT of all their rows.

    A column that never held a value, or held values of several types, is read as text.
    """
    parts = []
    for start in range(0, len(files), JSON_FILES_AT_ONCE):
        part = f"part{start}"
        reader = _reader("jsonl", files[start : start + JSON_FILES_AT_ONCE])
        connection.execute(f"CREATE TEMP TABLE {part} AS SELECT * FROM {reader}")  # noqa: S608
        parts.append(f"SELECT * FROM {part}")  # noqa: S608
    rows = " UNION ALL BY NAME ".join(parts)
    as_text = [
        (f"{identifier(name)} ->> '$'" if kind == "JSON" else f"CAST({identifier(name)} AS VARCHAR)", identifier(name))
        for name, kind, *_ in connection.execute(f"DESCRIBE {rows}").fetchall()
        if kind in ("JSON", '"NULL"')
    ]
    replaced = ", ".join(f"{expression} AS {name}" for expression, name in as_text)
    return f"SELECT *{f' REPLACE ({replaced})' if replaced else ''} FROM ({rows})"  # noqa: S608


def _rows(connection: duckdb.DuckDBPyConnection, query: AuditQuery) -> Iterator[Mapping[str, Any]]:
    (sql,) = sqlglot.transpile(query.sql, read="bigquery", write="duckdb")
    values = {p.name: p.value for p in query.parameters if f"${p.name}" in sql}
    cursor = connection.execute(sql, values)
    names = [column[0] for column in cursor.description or ()]
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            yield dict(zip(names, row, strict=True))


def identifier(name: str) -> str:
    """A quoted DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
