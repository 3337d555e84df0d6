"""What a refresh asks of Airflow.

The exporter's own Airflow source reads a scripted REST API (v1 and v2) over HTTP, whose history is ten days of hourly
runs for each DAG, 3 or 100 DAGs, with two tasks a run. Every request is counted by the server, after a first refresh
that has caught up: in refreshes in which nothing happened, in refreshes after a run of every DAG ended, and again with
ten times the history. The obvious design asks, at every refresh, for the newest runs of each DAG (one request a DAG),
the tasks of each of the ten newest runs, and each XCom key of the newest run that the catalogue names; it is really
sent to the same server.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from benchmarks.report import Section, Table, Target, number, paragraphs
from exporter.catalog import XCom
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.snapshot import Reading
from exporter.sources.airflow.source import AirflowSource
from testbed.fake_airflow import DAGS, NOW, PASSWORD, USERNAME, FakeAirflow, settings
from testbed.faults import FaultProxy, Reply, Request

TITLE: Final = "Airflow: HTTP requests per refresh"
HOUR: Final = 3600.0
MINUTE: Final = 60.0
HISTORY_RUNS: Final = 10 * 24
SETTLE_WITHIN: Final = 2000
NEWEST: Final = 10
"""Runs of a DAG whose tasks the obvious design looks at."""
TASKS: Final = ("extract", "load")
_ONE_DAG: Final = re.compile(r"/api/v\d/dags/([^/]+)/dagRuns(?:/([^/]+)/taskInstances)?")


class Airflow(FakeAirflow):
    """The scripted API, with the two lists per DAG that the obvious design asks for, and a clock that can be moved."""

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        match = _ONE_DAG.fullmatch(request.path) if request.method == "GET" else None
        if match is None:
            return super().__call__(request)
        dag, run = match.groups()
        if run is None:
            newest = [row for row in reversed(self.runs) if row["dag_id"] == dag][:NEWEST]
            return self._json(200, {"dag_runs": newest, "total_entries": len(newest)})
        found = [row for row in self.tasks if (row["dag_id"], row["dag_run_id"]) == (dag, run)]
        return self._json(200, {"task_instances": found, "total_entries": len(found)})


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests of one refresh: the most that any of the measured refreshes sent, and the mean."""

    most: int
    mean: float

    @classmethod
    def of(cls, counts: list[int]) -> "Counted":
        return cls(max(counts), sum(counts) / len(counts))

    def show(self) -> str:
        return number(self.mean) if self.mean == self.most else f"{number(self.mean)} (at most {self.most})"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one set-up was asked, by the exporter and by the obvious design."""

    catch_up: int
    idle: Counted
    with_runs: Counted
    obvious: int


def dag_names(count: int) -> list[str]:
    """The catalogue's own DAGs, and others up to `count`."""
    return [*DAGS, *(f"team_{number_:03}" for number_ in range(count))][:count]


def measure(api: str, dags: int, runs_each: int, *, refreshes: int) -> Asked:
    """Fill a server, let the exporter catch up, and count."""
    server = Airflow(api, sorted_by_end=True, dags=dag_names(dags))
    clock = _Clock()
    for age in range(runs_each, 0, -1):
        _end_runs(server, NOW - age * HOUR, f"past_{age}")
    with _exporter(server, clock) as (source, proxy):
        reading: Reading | None = None
        reading = source.read(reading)
        catch_up = len(proxy.requests)
        reading = _settle(source, reading, proxy, clock, server)
        idle, with_runs = [], []
        for round_ in range(refreshes):
            proxy.forget()
            clock.advance(server, MINUTE)
            reading = source.read(reading)
            idle.append(len(proxy.requests))
            proxy.forget()
            clock.advance(server, MINUTE)
            _end_runs(server, clock.now - 1.0, f"new_{round_}")
            reading = source.read(reading)
            with_runs.append(len(proxy.requests))
            reading = _settle(source, reading, proxy, clock, server)
        proxy.forget()
        obvious_design(proxy.url, api, server)
        return Asked(catch_up, Counted.of(idle), Counted.of(with_runs), len(proxy.requests))


def obvious_design(url: str, api: str, server: Airflow) -> None:
    """One refresh of the obvious design: runs of each DAG, tasks of each run, one request for each XCom key."""
    with requests.Session() as session:
        session.trust_env = False
        if api == "v1":
            session.auth = (USERNAME, PASSWORD)
        else:
            login = session.post(f"{url}/auth/token", json={"username": USERNAME, "password": PASSWORD}, timeout=10)
            session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        base = f"{url}/api/{api}/dags"
        for dag in server.dags:
            runs = session.get(f"{base}/{dag}/dagRuns", timeout=10).json()["dag_runs"]
            for run in runs:
                session.get(f"{base}/{dag}/dagRuns/{run['dag_run_id']}/taskInstances", timeout=10)
            for task, key in _keys(dag) if runs else ():
                run_id = runs[0]["dag_run_id"]
                session.get(f"{base}/{dag}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/{key}", timeout=10)


def run(*, quick: bool) -> Section:
    """Measure 3 and 100 DAGs, and ten times the history."""
    section = Section("airflow", TITLE, paragraphs(__doc__))
    refreshes, history = (2, 24) if quick else (10, HISTORY_RUNS)
    rows = []
    found: dict[tuple[str, int, int], Asked] = {}
    for api in ("v1", "v2"):
        for dags, runs_each in ((3, history), (3, 10 * history), (100, history)):
            asked = found[api, dags, runs_each] = measure(api, dags, runs_each, refreshes=refreshes)
            rows.append(
                (
                    f"Airflow {'2 (v1)' if api == 'v1' else '3 (v2)'}",
                    f"{dags}",
                    f"{dags * runs_each:,}",
                    asked.idle.show(),
                    asked.with_runs.show(),
                    f"{asked.obvious:,}",
                    f"{asked.catch_up:,}",
                )
            )
    columns = ("API", "DAGs", "past runs", "idle", "a run of every DAG ended", "obvious design", "very first refresh")
    section.tables.append(Table(columns, rows))
    few = max(asked.idle.most for (_, dags, runs), asked in found.items() if (dags, runs) == (3, history))
    many = max(asked.idle.most for (_, dags, runs), asked in found.items() if (dags, runs) == (3, 10 * history))
    section.targets += [
        Target("Airflow: requests in an idle refresh, 3 DAGs", "at most 2", f"{few}", few <= 2),
        Target("Airflow: the same with ten times the past runs", "no more", f"{many}", many <= few),
    ]
    section.headlines += [
        (
            f"Airflow 3, {dags} DAGs: requests in an idle refresh",
            found["v2", dags, history].idle.show(),
            f"{found['v2', dags, history].obvious:,} (per DAG, run and key)",
        )
        for dags in (3, 100)
    ]
    section.notes.append(
        "With Airflow 3 a log-in is one request more, once in the life of a token. The list of DAGs, version and "
        "log-in are part of the very first refresh; the list is asked for again now and then, which is in the mean and "
        "in the highest number where it fell into the measured refreshes."
    )
    return section


def _settle(source: AirflowSource, reading: Reading, proxy: FaultProxy, clock: "_Clock", server: Airflow) -> Reading:
    """Refresh until nothing is left over of the runs so far: XComs are read a bounded number at a time."""
    quiet = 0
    for _ in range(SETTLE_WITHIN):
        proxy.forget()
        clock.advance(server, MINUTE)
        reading = source.read(reading)
        quiet = quiet + 1 if not any("xcomEntries" in request.path for request in proxy.requests) else 0
        if quiet == 3:
            return reading
    raise RuntimeError(f"XComs are still being read after {SETTLE_WITHIN} refreshes")


class _Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now

    def advance(self, server: Airflow, seconds: float) -> None:
        self.now += seconds
        server.now = self.now


@contextlib.contextmanager
def _exporter(server: Airflow, clock: _Clock) -> Iterator[tuple[AirflowSource, FaultProxy]]:
    with tempfile.TemporaryDirectory() as folder, FaultProxy(script=server) as proxy:
        ledger = Ledger.open(Path(folder))
        # All DAGs by name where there are more than the catalogue's: that many have to be followed.
        env = {"AIRFLOW_DAG_IDS": ",".join(server.dags), "AIRFLOW_API": server.api, "AIRFLOW_LOOKBACK_DAYS": "365"}
        source = AirflowSource(settings(proxy.url, **env), load_catalog(), ledger, wall=clock, jitter=lambda: -0.5)
        try:
            yield source, proxy
        finally:
            source.close()
            ledger.close()


def _end_runs(server: Airflow, end: float, name: str) -> None:
    for dag in server.dags:
        pushed: dict[str, Any] = {f"{task}__{key}": 1 for task, key in _keys(dag)}
        server.run(dag, f"{name}", start=end - 60.0, end=end, **pushed)
        for task in TASKS:
            server.task(dag, f"{name}", task, start=end - 50.0, end=end)


def _keys(dag: str) -> list[tuple[str, str]]:
    """The XCom keys of a DAG that the catalogue names."""
    return sorted({(origin.task, origin.key) for origin in _XCOMS if origin.dag == dag})


_XCOMS: Final = tuple(
    origin for metric in load_catalog().metrics for origin in metric.origins if isinstance(origin, XCom)
)
