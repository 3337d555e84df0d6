"""What happens when a source fails.

The exporter reads a DuckDB log and a scripted Airflow, every two seconds, and drops series after six. Airflow's server
is cut off (connections are refused), comes back, and then accepts connections and never answers. `/metrics` is asked
every 50 ms for what it says, and scrape latency (one connection, gzip) is measured before and while the source hangs.

query-exporter reads two SQLite files, every two seconds, with a query timeout of two seconds. One of them is cut off
(its table is gone), comes back, and is then locked by another process, so that its query never gets an answer.
"""

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import requests

from benchmarks import peers
from benchmarks.load import load
from benchmarks.report import Section, Spread, Table, Target, paragraphs
from testbed import faults
from testbed.exporter import RunningExporter
from testbed.exposed import Exposed
from testbed.fake_airflow import DAGS, PASSWORD, USERNAME, FakeAirflow

TITLE: Final = "A failing source"
INTERVAL: Final = 2.0
TIMEOUT: Final = 2.0
STALE_AFTER: Final = 6.0
WATCHED_SECONDS: Final = 12.0
"""How long an old value is watched before it counts as never dropped."""
POLL_SECONDS: Final = 0.05
REFRESHES: Final = 5
"""Refreshes of the source that is well, by which it is seen whether it is held up."""
SERIES: Final = "airflow_dag_runs_total"


class Timings:
    """Seconds of every round, by what was waited for; infinite where it did not come about in time."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def spread(self, name: str) -> Spread:
        return Spread.of(self.values[name])

    def show(self, name: str, unit: str = "s", scale: float = 1.0) -> str:
        spread = self.spread(name)
        if max(spread.values) == float("inf"):
            return f"not within {WATCHED_SECONDS:g} s"
        return spread.show(unit, scale)


def run(*, quick: bool) -> Section:
    """Some rounds of the same failures for both."""
    section = Section("failure", TITLE, paragraphs(__doc__), packages=peers.version())
    rounds, seconds = (1, 1.0) if quick else (3, 4.0)
    ours, theirs = Timings(), Timings()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            _exporter_round(Path(folder), ours, seconds)
        with tempfile.TemporaryDirectory() as folder:
            _peer_round(Path(folder), theirs, seconds)
    rows = [
        ("cut off: until it is said", ours.show("down"), theirs.show("down")),
        ("cut off: until the old values are gone", ours.show("dropped"), theirs.show("dropped")),
        ("back: until values are fresh again", ours.show("back"), theirs.show("back")),
        ("hung: until it is said", ours.show("hung"), theirs.show("hung")),
        ("hung: refreshes of the other source, share of those due", ours.show("other", ""), theirs.show("other", "")),
        ("scrape p99, all well", ours.show("p99_well", "ms", 1000), theirs.show("p99_well", "ms", 1000)),
        ("scrape p99, source hung", ours.show("p99_hung", "ms", 1000), theirs.show("p99_hung", "ms", 1000)),
    ]
    section.tables.append(Table(("", "exporter", "query-exporter"), rows))
    section.notes += [
        "What says it: `mlops_exporter_source_up 0`; in query-exporter a rising `queries_total` with another status "
        "than success, which is a sign as well, but none that a value carries or loses.",
        f"Times depend on the interval of {INTERVAL:g} s: a failure is noticed by the next refresh, a hang after the "
        f"source's own timeout ({TIMEOUT:g} s). With the default of 60 s they are as much longer.",
        f"Series are dropped {STALE_AFTER:g} s after the last good reading (`EXPORTER_STALE_AFTER_SECONDS`).",
    ]
    section.headlines.append(
        (
            f"A source that is cut off, at an interval of {INTERVAL:g} s: old values dropped after",
            ours.show("dropped"),
            f"{theirs.show('dropped')} (query-exporter)",
        )
    )
    down, hung = max(ours.spread("down").values), max(ours.spread("hung").values)
    limit = INTERVAL * 1.1 + 0.5
    section.targets += [
        Target("Failure: cut source to `source_up 0`", f"within one interval ({INTERVAL:g} s, + 10 % jitter)",
               ours.show("down"), down <= limit),
        Target("Failure: cut source to dropped series", f"{STALE_AFTER:g} s after the last good reading",
               ours.show("dropped"), max(ours.spread("dropped").values) <= STALE_AFTER + 1.0),
        Target("Failure: hung source to `source_up 0`", "one interval and the timeout", ours.show("hung"),
               hung <= limit + TIMEOUT + 0.5),
        Target("Failure: the other source meanwhile", "all of its refreshes (0.95, for the polling)",
               ours.show("other", ""), min(ours.spread("other").values) >= 0.95),
    ]  # fmt: skip
    return section


def _exporter_round(folder: Path, timings: Timings, seconds: float) -> None:
    server = FakeAirflow("v2", now=time.time())
    for dag in DAGS:
        server.run(dag, "r", start=server.now - 100, end=server.now - 50)
    environment = {
        "AIRFLOW_USERNAME": USERNAME,
        "AIRFLOW_PASSWORD": PASSWORD,
        "AIRFLOW_TIMEOUT_SECONDS": f"{TIMEOUT:g}",
        "AIRFLOW_CONNECT_TIMEOUT_SECONDS": "1",
        "EXPORTER_REFRESH_SECONDS": f"{INTERVAL:g}",
        "EXPORTER_STALE_AFTER_SECONDS": f"{STALE_AFTER:g}",
    }

    def script(request: faults.Request) -> faults.Reply:
        server.now = time.time()
        return server(request)

    with (
        faults.FaultProxy(script=script) as proxy,
        RunningExporter(folder, environment | {"AIRFLOW_BASE_URL": proxy.url}) as exporter,
    ):

        def airflow_is(value: float) -> Callable[[Exposed], bool]:
            return lambda seen: seen.value("mlops_exporter_source_up", source="airflow") == value

        def well(seen: Exposed) -> bool:
            return airflow_is(1)(seen) and SERIES in seen.names()

        metrics = f"{exporter.url}/metrics"
        wait(metrics, well)
        timings.add("p99_well", load(metrics, seconds=seconds, connections=1, gzip=True).p99)
        began = time.monotonic()
        proxy.refuse()
        timings.add("down", wait(metrics, airflow_is(0), since=began))
        timings.add("dropped", wait(metrics, lambda seen: SERIES not in seen.names(), since=began))
        began = time.monotonic()
        proxy.listen()
        timings.add("back", wait(metrics, well, since=began))
        began = time.monotonic()
        proxy.add(faults.hang())
        timings.add("hung", wait(metrics, airflow_is(0), since=began))
        timings.add("other", _share(metrics, _audit_refreshes, _audit_success))
        timings.add("p99_hung", load(metrics, seconds=seconds, connections=1, gzip=True).p99)


def _audit_refreshes(seen: Exposed) -> float:
    return seen.value("mlops_exporter_source_refreshes_total", source="audit") or 0.0


def _audit_success(seen: Exposed) -> float:
    """By the exporter's own word: a scrape may show a refresh late, when it waits to be rendered with another."""
    at = seen.value("mlops_exporter_source_last_success_timestamp_seconds", source="audit")
    assert at is not None
    return at


def _peer_round(folder: Path, timings: Timings, seconds: float) -> None:
    failing, other = folder / "failing.sqlite", folder / "other.sqlite"
    peers.fill(failing, ("failing_value",), 3)
    peers.fill(other, ("other_value",), 3)
    queries = [
        peers.Query("failing", failing, ("failing_value",), INTERVAL, TIMEOUT),
        peers.Query("other", other, ("other_value",), INTERVAL, TIMEOUT),
    ]
    with peers.QueryExporter(folder, queries) as exporter:
        metrics = f"{exporter.url}/metrics"

        def failures(seen: Exposed) -> float:
            return sum(
                sample.value
                for sample in seen.samples
                if sample.name == "queries_total"
                and sample.labels.get("database") == "failing"
                and sample.labels.get("status") != "success"
            )

        def successes(database: str) -> Callable[[Exposed], float]:
            labels = {"database": database, "status": "success"}
            return lambda seen: seen.value("queries_total", **labels) or 0.0

        wait(metrics, lambda seen: "failing_value" in seen.names())
        timings.add("p99_well", load(metrics, seconds=seconds, connections=1, gzip=True).p99)
        began = time.monotonic()
        _execute(failing, "ALTER TABLE models RENAME TO gone")
        timings.add("down", wait(metrics, lambda seen: failures(seen) > 0, since=began))
        timings.add("dropped", wait(metrics, lambda seen: "failing_value" not in seen.names(), since=began))
        before = successes("failing")(ask(metrics))
        began = time.monotonic()
        _execute(failing, "ALTER TABLE gone RENAME TO models")
        timings.add("back", wait(metrics, lambda seen: successes("failing")(seen) > before, since=began))
        failed = failures(ask(metrics))
        with _locked(failing):
            began = time.monotonic()
            timings.add("hung", wait(metrics, lambda seen: failures(seen) > failed, since=began))
            timings.add("other", _share(metrics, successes("other"), lambda _: time.time()))
            timings.add("p99_hung", load(metrics, seconds=seconds, connections=1, gzip=True).p99)


def _share(url: str, count: Callable[[Exposed], float], when: Callable[[Exposed], float]) -> float:
    """How many of the refreshes that were due a source had: the interval over the time between two of them.

    Args:
        count: refreshes so far.
        when: when the last one of them was.
    """

    def after(number: float) -> tuple[float, float]:
        end = time.monotonic() + 3 * REFRESHES * INTERVAL
        while count(seen := ask(url)) < number:
            if time.monotonic() > end:
                raise RuntimeError(f"{count(seen)} refreshes after {3 * REFRESHES * INTERVAL:g} s, not {number}")
            time.sleep(POLL_SECONDS)
        return count(seen), when(seen)

    first, first_at = after(count(ask(url)) + 1)
    last, last_at = after(first + REFRESHES)
    return min(1.0, (last - first) * INTERVAL / (last_at - first_at))


def ask(url: str) -> Exposed:
    """What `/metrics` says."""
    with requests.Session() as session:
        session.trust_env = False
        return Exposed(session.get(url, timeout=30).text)


def wait(url: str, condition: Callable[[Exposed], bool], *, since: float | None = None) -> float:
    """Ask until something is so; gives the seconds since `since`, infinity when it did not come about in time."""
    began = time.monotonic() if since is None else since
    while not condition(ask(url)):
        if time.monotonic() - began > WATCHED_SECONDS:
            return float("inf")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Nobody else can read the file meanwhile."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def _execute(database: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(statement)
