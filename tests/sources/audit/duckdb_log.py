"""A DuckDB audit log that a test fills, and the source that reads it."""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.settings import Settings
from exporter.snapshot import Reading
from exporter.sources.audit.duckdb import DuckDBAudit, Request
from exporter.sources.audit.duckdb_access import literal
from exporter.sources.audit.duckdb_reader import DuckDBReader

NOW = 1_790_000_000.0
DAY = 86400.0
TABLE = "monitoring_audit.logs"
CATALOG = load_catalog()
ROOT = Path(__file__).resolve().parents[3]


_numbers = itertools.count()


@functools.cache
def _engine() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": "1"})


@contextlib.contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an engine that lives on: to start one takes 25 ms of CPU."""
    with contextlib.closing(_engine().cursor()) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@contextlib.contextmanager
def writing(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that writes a DuckDB file, which is made if there is none. The file is closed afterwards.

    Raises:
        duckdb.IOException: somebody else has it open.
    """
    name = f"file_{next(_numbers)}"
    with engine() as connection:
        connection.execute(f"ATTACH {literal(str(path))} AS {name}")
        try:
            connection.execute(f"USE {name}")
            yield connection
        finally:
            connection.execute("USE memory")
            connection.execute(f"DETACH {name}")


class Log:
    """A DuckDB file with the audit table, of the columns given as name: DuckDB type."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.path = path
        self.columns = dict(columns)
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        self.run("CREATE SCHEMA monitoring_audit", f"CREATE TABLE {TABLE} ({listed})")

    def run(self, *statements: str) -> None:
        with writing(self.path) as connection:
            for statement in statements:
                connection.execute(statement)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; `at` is the timestamp in Unix seconds, columns left out are NULL."""
        with writing(self.path) as connection:
            for row in rows:
                values = {name: value for name, value in row.items() if name != "at"}
                marks = ["?" for _ in values]
                names = list(values)
                if "at" in row:
                    names.append("timestamp")
                    marks.append("NULL" if row["at"] is None else f"make_timestamptz({round(row['at'] * 1_000_000)})")
                quoted = ", ".join(f'"{name}"' for name in names)
                connection.execute(f"INSERT INTO {TABLE} ({quoted}) VALUES ({', '.join(marks)})", list(values.values()))


class Here:
    """Reads in this process, and counts its reads."""

    def __init__(self, pause: Callable[[threading.Event, float], object] = threading.Event.wait) -> None:
        self.reads = 0
        self._pause = pause

    def read(self, request: Request) -> Reading:
        self.reads += 1
        return DuckDBReader(request.log, self._pause).read(request.found, request.now, request.since)

    def interrupt(self) -> None:
        """There is nothing to interrupt from outside."""


def settings_for(url: str, **env: str) -> Settings:
    return Settings.from_env({"AUDIT_URL": url, **env})


def source_for(
    path: Path | str, catalog: Catalog = CATALOG, clock: Callable[[], float] = lambda: NOW, **env: str
) -> DuckDBAudit:
    """A source whose queries run in this process, which is quicker than a child."""
    return DuckDBAudit(settings_for(str(path), **env), catalog, clock, Here())


def gauge(reading: Reading, metric: str) -> float | None:
    observation = reading.observations.get(metric)
    return None if observation is None else observation.samples[0].value  # type: ignore[union-attr]


def counts(reading: Reading, metric: str) -> dict[str, float]:
    return {s.labels[0][1]: s.value for s in reading.observations[metric].samples}  # type: ignore[union-attr]
