"""query-exporter, the closest comparable program, as a process over a SQLite database."""

import os
import sqlite3
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from testbed import install
from testbed.process import ServerProcess, free_port, http_ready

QUERY_EXPORTER: Final = "query-exporter"


class PeerMissing(RuntimeError):
    """What is compared with is not installed."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query over one database file: a gauge for each column besides `model`, which is a label."""

    name: str
    database: Path
    columns: tuple[str, ...]
    interval: float
    timeout: float | None = None


def version() -> dict[str, str]:
    """The installed version, for results.md."""
    python = _program().with_name("python")
    program = "import importlib.metadata as m; print(m.version('query-exporter'))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {QUERY_EXPORTER: done.stdout.strip()}


def _program() -> Path:
    program = install.engine_home(QUERY_EXPORTER) / "bin" / "query-exporter"
    if not install.is_installed(QUERY_EXPORTER):
        raise PeerMissing(f"query-exporter is not installed; run: {install.install_command(QUERY_EXPORTER)}")
    return program


def fill(database: Path, columns: tuple[str, ...], models: int) -> None:
    """A SQLite table `models` with one row for each model."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"CREATE TABLE models (model TEXT, {', '.join(f'{name} REAL' for name in columns)})")
        marks = ", ".join("?" * (len(columns) + 1))
        connection.executemany(f"INSERT INTO models VALUES ({marks})", _rows(models, len(columns)))


def _rows(models: int, columns: int) -> Iterable[tuple[str | float, ...]]:
    for number in range(models):
        yield (f"model_{number:05}", *((number * 31 + column * 7) % 1000 / 1000 + 0.001 for column in range(columns)))


class QueryExporter(ServerProcess):
    """The program with a configuration written for some queries.

    Raises:
        PeerMissing: it is not installed.
    """

    def __init__(self, folder: Path, queries: Iterable[Query]) -> None:
        program = _program()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "query-exporter.yaml"
        config.write_text(yaml.safe_dump(configuration(queries)), "utf-8")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            [program, "-H", "127.0.0.1", "-p", str(self.port), "--log-level", "error", "--config", config],
            log=folder / "query-exporter.log",
            ready=http_ready(f"{self.url}/metrics", timeout=30),
            environment={name: "" for name in os.environ if name.startswith("QE_")},
            cwd=folder,
            ready_within=120,
        )


def configuration(queries: Iterable[Query]) -> dict[str, object]:
    """Its configuration file. A lock is waited for ten minutes, as a server that does not answer would be."""
    databases, metrics, asked = {}, {}, {}
    for query in queries:
        databases[query.name] = {"dsn": f"sqlite:///{query.database}?timeout=600"}
        metrics |= {column: {"type": "gauge", "labels": ["model"]} for column in query.columns}
        asked[query.name] = {
            "interval": query.interval,
            "databases": [query.name],
            "metrics": list(query.columns),
            "sql": f"SELECT model, {', '.join(query.columns)} FROM models",
            **({} if query.timeout is None else {"timeout": query.timeout}),
        }
    return {"databases": databases, "metrics": metrics, "queries": asked}
