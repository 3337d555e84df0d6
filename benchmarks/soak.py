"""A day of refreshes in some minutes: does anything grow?

The exporter's refresh loop, ledger and rendering run in a process of their own with a clock that is moved on by 15 s
for each refresh, 5,760 of them. One source is the embedded audit log, which gets a row an hour; the other gives 200
models, of which one goes and a new one comes at every refresh. Memory (RSS; without the process that lives for one read
of the audit log) and the number of exposed series are noted every simulated hour.
"""

import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Section, Spread, Table, Target, paragraphs
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.settings import Settings
from exporter.snapshot import Observation, Reading, Sample
from exporter.sources.audit.duckdb import DuckDBAudit
from testbed.scripted import Clock, turn
from testbed.usage import rss_bytes

TITLE: Final = "Soak: 24 simulated hours"
INTERVAL: Final = 15.0
HOUR: Final = 3600.0
HOURS: Final = 24
MODELS: Final = 200
FAMILY: Final = "airflow_dag_run_active_seconds"
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Hour:
    """What one simulated hour ended with."""

    rss: int
    series: int
    models: int
    """Series of the models that come and go."""


class Coming:
    """A source whose models come and go: at each read the oldest one is gone and a new one is there."""

    name = "airflow"
    identity = "synthetic"
    timeout_seconds = 30.0

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog, self._clock = catalog, clock
        self._reads = 0

    def read(self, _previous: Reading | None, _wanted: frozenset[str] = frozenset()) -> Reading:
        """The models of this moment."""
        self._reads += 1
        now = self._clock.wall()
        samples = tuple(
            Sample((("dag_id", f"model_{number_:06}"),), number_ * 0.5)
            for number_ in range(self._reads, self._reads + MODELS)
        )
        return Reading(
            source=self.name,
            identity=self.identity,
            catalog=self._catalog.fingerprint,
            read_at=now,
            queried_at=now,
            token=None,
            observations={FAMILY: Observation(samples, now)},
        )

    def changed(self, _previous: Reading) -> bool:
        """Never looked at between refreshes."""
        return False

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Nothing to count."""
        return {}

    def interrupt(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def simulate(hours: int) -> list[Hour]:
    """Refresh for some simulated hours, in a folder that is gone afterwards."""
    found: list[Hour] = []
    clock, catalog = Clock(), load_catalog()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "audit.duckdb"
        _add_row(log, clock.wall())
        source = DuckDBAudit(Settings.from_env({"AUDIT_URL": str(log)}), catalog, clock.wall)
        refresher = Refresher(
            catalog,
            [source, Coming(catalog, clock)],
            Ledger.open(Path(folder) / "state"),
            interval=INTERVAL,
            stale_after=HOUR,
            wall=clock.wall,
            monotonic=clock.monotonic,
            jitter=lambda: 0.0,
        )
        with contextlib.closing(_Stopping(refresher)):
            for _ in range(hours):
                for _ in range(int(HOUR / INTERVAL)):
                    state = turn(refresher)
                    clock.advance(INTERVAL)
                if not all(status.up for status in state.snapshot.statuses):
                    raise RuntimeError(f"a source is down: {state.snapshot.statuses}")
                lines = [line for line in bytes(state.exposition.text).splitlines() if not line.startswith(b"#")]
                models = sum(line.startswith(FAMILY.encode()) for line in lines)
                found.append(Hour(rss_bytes(), len(lines), models))
                _add_row(log, clock.wall())
    return found


class _Stopping:
    def __init__(self, refresher: Refresher) -> None:
        self._refresher = refresher

    def close(self) -> None:
        self._refresher.stop()


_ADD_ROW: Final = """\
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE SCHEMA IF NOT EXISTS monitoring_audit")
connection.execute("CREATE TABLE IF NOT EXISTS monitoring_audit.logs (timestamp TIMESTAMPTZ, r2 DOUBLE, rmse DOUBLE)")
connection.execute("INSERT INTO monitoring_audit.logs VALUES (to_timestamp(?), 0.8, 60)", [float(sys.argv[2])])
connection.close()
"""


def _add_row(log: Path, at: float) -> None:
    """By a process of its own, as pipelines do: this one's memory is what is measured."""
    subprocess.run([sys.executable, "-c", _ADD_ROW, str(log), str(at)], check=True, timeout=60)


def run(*, quick: bool) -> Section:
    """Soak, and compare the last hours with those before."""
    section = Section("soak", TITLE, paragraphs(__doc__))
    hours, rounds = (6, 1) if quick else (HOURS, 3)
    soaks = []
    for _ in range(rounds):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            soaks.append(pool.submit(simulate, hours).result())
    growth = Spread.of(100 * _growth(found) for found in soaks)
    series = sorted({hour.series for found in soaks for hour in found})
    rows = [
        (
            f"{number_}",
            Spread.of(found[number_ - 1].rss / MIB for found in soaks).show("MiB"),
            ", ".join(sorted({f"{found[number_ - 1].series}" for found in soaks})),
            ", ".join(sorted({f"{found[number_ - 1].models}" for found in soaks})),
        )
        for number_ in range(1, hours + 1)
        if number_ == 1 or number_ % max(1, hours // 6) == 0
    ]
    section.tables.append(Table(("hour", "RSS", "series", "of models that come and go"), rows))
    section.targets += [
        Target(
            f"Soak: highest RSS, last third of {hours} h against the second",
            "no more than 2 % up",
            growth.show("%"),
            growth.median <= 2,
        ),
        Target(
            "Soak: series",
            "the same every hour",
            ", ".join(map(str, series)),
            len(series) == 1 and {hour.models for found in soaks for hour in found} == {MODELS},
        ),
    ]
    return section


def _growth(found: list[Hour]) -> float:
    """By how much the highest RSS of the last third is above that of the second.

    The first third is warm-up: caches fill, and the allocator finds its size. Now and then the allocator gives memory
    back, so that single hours differ by a few MiB; what leaks raises the highest ones.
    """
    part = len(found) // 3
    middle, last = found[part : 2 * part], found[2 * part :]
    return max(hour.rss for hour in last) / max(hour.rss for hour in middle) - 1
