"""From a committed row of the audit log to its value on `/metrics`.

The exporter runs with nothing configured but where its log is: a DuckDB file in one case, a table of the BigQuery
emulator in the other, both side by side. A row is committed 0, 2, 4, 6 and 8 s after the one before it was shown, so
that probes, which are 10 s apart, find it as late and as early as can be; then `/metrics` is asked every 50 ms. Billed
queries are the exporter's own count of those that the emulator executed.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import duckdb

from benchmarks.report import Section, Spread, Table, Target, paragraphs
from exporter.settings import Settings
from testbed import install
from testbed.exporter import RunningExporter

if TYPE_CHECKING:
    from testbed.bigquery import BigQueryEmulator

TITLE: Final = "From a row to its value"
SHOWN: Final = "bike_model_r2_champion_current"
TABLE: Final = "monitoring_audit.logs"
GOAL_SECONDS: Final = 12.0
ROWS: Final = 5
"""For one exporter: more changes in a minute are read an interval apart, so that they cost no more than they would."""
POLL_SECONDS: Final = 0.05
LOST_AFTER_SECONDS: Final = 90.0
"""Longer than the refresh interval, which shows every row."""


class AuditLog(Protocol):
    """A log that rows are committed to; `environment` is what leads the exporter to it."""

    @property
    def environment(self) -> dict[str, str]: ...

    def commit(self, r2: float) -> None:
        """Append a row with this R²."""
        ...


@dataclass(frozen=True)
class DuckDBFile:
    """A DuckDB file, made with the first row."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"AUDIT_URL": f"duckdb://{self.path}"}

    def commit(self, r2: float) -> None:
        with contextlib.closing(self._connected()) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS monitoring_audit")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (timestamp TIMESTAMPTZ, r2 DOUBLE)")
            connection.execute(f"INSERT INTO {TABLE} VALUES (now(), ?)", [r2])

    def _connected(self) -> duckdb.DuckDBPyConnection:
        """Wait for the exporter to let go of the file, as a pipeline has to."""
        end = time.monotonic() + 10
        while True:
            try:
                return duckdb.connect(str(self.path))
            except duckdb.IOException:
                if time.monotonic() > end:
                    raise
                time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class EmulatedTable:
    """A table of the BigQuery emulator."""

    emulator: "BigQueryEmulator"
    table: str

    @classmethod
    def made(cls, emulator: "BigQueryEmulator") -> "EmulatedTable":
        """A new table in the emulator."""
        return cls(emulator, emulator.create_table({"timestamp": "TIMESTAMP", "r2": "FLOAT64"}))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GOOGLE_CLOUD_PROJECT": self.emulator.project,
            "BIGQUERY_EMULATOR_HOST": self.emulator.url,
            "AUDIT_TABLE": self.table,
        }

    def commit(self, r2: float) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.emulator.load(self.table, [{"timestamp": at, "r2": r2}])


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from row to value for each row, and the queries that BigQuery would have billed."""

    seconds: tuple[float, ...]
    queries: int


def measure(log: AuditLog, folder: Path, rows: int, **settings: str) -> Measured:
    """Commit rows to a log that an exporter of its own watches.

    Args:
        folder: the exporter's working folder.
        settings: of the exporter, besides where the log is.

    Raises:
        AssertionError: a row was never shown.
    """
    found = []
    values = [(300 + place) / 1000 for place in range(rows + 1)]
    probe = Settings.from_env(settings).audit_probe_seconds or 0.0
    log.commit(values[0])
    with RunningExporter(folder, {**log.environment, **settings}) as exporter:
        exporter.wait_for(SHOWN, values[0])
        for place, value in enumerate(values[1:]):
            time.sleep(place * probe / rows)
            log.commit(value)
            committed = time.monotonic()
            while exporter.exposed().value(SHOWN) != value:
                assert time.monotonic() - committed < LOST_AFTER_SECONDS, exporter.text_of_log()
                time.sleep(POLL_SECONDS)
            found.append(time.monotonic() - committed)
        queries = exporter.exposed().value("mlops_exporter_bigquery_queries_total", outcome="executed")
    return Measured(tuple(found), int(queries or 0))


def run(*, quick: bool) -> Section:
    """Some exporters, one after the other for each kind of log."""
    section = Section("freshness", TITLE, paragraphs(__doc__))
    exporters, rows = (1, 2) if quick else (2, ROWS)
    with tempfile.TemporaryDirectory() as name, _emulators(Path(name)) as emulators, ThreadPoolExecutor(2) as pool:
        cases = {"DuckDB": pool.submit(_duckdb, Path(name), exporters, rows)}
        if emulators:
            cases["BigQuery emulator"] = pool.submit(_bigquery, emulators[0], Path(name), exporters, rows)
        measured = {case: future.result() for case, future in cases.items()}
    table = []
    for case, found in measured.items():
        spread = Spread.of(seconds for one in found for seconds in one.seconds)
        billed = " + ".join(str(one.queries) for one in found) if case != "DuckDB" else ""
        table.append((case, str(len(spread.values)), spread.show("s"), billed))
        worst = max(spread.values)
        section.targets.append(
            Target(f"Row to value, {case}", f"at most {GOAL_SECONDS:g} s", f"{worst:.1f} s", worst <= GOAL_SECONDS)
        )
        section.headlines.append((f"From a committed row to its value, {case}", spread.show("s"), ""))
        if billed:
            exact = all(one.queries == 1 + rows for one in found)
            target = Target(
                "Row to value: billed queries, each exporter", f"{1 + rows}: first + changes", billed, exact
            )
            section.targets.append(target)
    if not emulators:
        section.targets.append(Target("Row to value, BigQuery emulator", f"at most {GOAL_SECONDS:g} s",
                                      install.install_command("bigquery"), None))  # fmt: skip
    section.tables.append(Table(("audit log", "rows", "row to value", "billed queries"), table))
    return section


def _duckdb(folder: Path, exporters: int, rows: int) -> list[Measured]:
    return [
        measure(DuckDBFile(folder / f"audit-{number}.duckdb"), _made(folder / f"duckdb-{number}"), rows)
        for number in range(exporters)
    ]


def _bigquery(emulator: "BigQueryEmulator", folder: Path, exporters: int, rows: int) -> list[Measured]:
    return [
        measure(EmulatedTable.made(emulator), _made(folder / f"bigquery-{number}"), rows) for number in range(exporters)
    ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextlib.contextmanager
def _emulators(folder: Path) -> "Iterator[list[BigQueryEmulator]]":
    """The emulator, if it is installed."""
    if not install.is_installed("bigquery"):
        yield []
        return
    from testbed.bigquery import BigQueryEmulator, running  # noqa: PLC0415 -- needs pytest, as its engines do

    with running(folder / "emulator.log") as url:
        yield [BigQueryEmulator(url)]
