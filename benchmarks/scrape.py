"""How fast `/metrics` is answered.

Four servers give the same number of series, one after the other in every round: the exporter (idle, and again while it
refreshes without a pause, every value new each time), gunicorn's gthread worker with eight threads returning the
exporter's bytes from memory, a plain Flask view that calls `generate_latest` on global gauges, and query-exporter over
a SQLite table with as many values. Requests per second are taken on four kept-alive connections (of the exporter and of
the static bytes twice a round, in the order A B B A), latencies on one, which is what a Prometheus has, all by wrk with
Prometheus's own headers. Flask's view and query-exporter compress nothing, whatever is asked for; being far slower,
they are measured in every third round.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.load import Load, LoadError, load, once, require
from benchmarks.report import Section, Spread, Table, Target, number, paragraphs, ratio
from benchmarks.servers import BenchServer
from testbed.usage import cpu_seconds, tree

TITLE: Final = "Scrapes"
SIZES: Final = {"default": 0, "1k": 1_000, "10k": 10_000, "100k": 100_000}
"""Series by what a size is called; 0 is the built-in catalogue over the sample history."""
CONNECTIONS: Final = 4
LIMIT, FLASK, PEER, IDLE, BUSY = "static bytes", "Flask + generate_latest", "query-exporter", "exporter", "refreshing"
_PEER_COLUMNS: Final = 10
RATE_SECONDS: Final = 1.0
SMALL_BYTES: Final = 100_000
"""Body up to which one event loop beats threads by far; above it the kernel's copying counts."""
_EVERY: Final = {FLASK: 3, PEER: 3}
"""Servers that are measured only in every so many rounds."""


@dataclass
class Measured:
    """One server at one size and encoding: what was measured, by round."""

    rates: dict[int, float] = field(default_factory=dict)
    p50: dict[int, float] = field(default_factory=dict)
    p99: dict[int, float] = field(default_factory=dict)
    bytes: int = 0

    def add(self, round_: int, rate: float, one: Load) -> None:
        self.rates[round_], self.p50[round_], self.p99[round_] = rate, one.p50, one.p99

    @property
    def rate(self) -> Spread:
        return Spread.of(self.rates.values())

    def rate_over(self, other: "Measured") -> Spread:
        return _over(self.rates, other.rates)

    def p99_over(self, other: "Measured") -> Spread:
        return _over(self.p99, other.p99)


def _over(ours: dict[int, float], others: dict[int, float]) -> Spread:
    """The ratio in each round in which both were measured."""
    rounds = sorted(ours.keys() & others.keys())
    return ratio(Spread.of(ours[one] for one in rounds), Spread.of(others[one] for one in rounds))


Key = tuple[str, bool, str]
"""Size, compressed, server."""


def run(*, quick: bool) -> Section:
    """Measure all sizes, encodings and servers."""
    require()
    section = Section("scrape", TITLE, paragraphs(__doc__), packages=peers.version())
    rounds, seconds = (1, 1.0) if quick else (6, 2.0)
    sizes = {name: SIZES[name] for name in (("default", "1k") if quick else SIZES)}
    found: dict[Key, Measured] = {}
    for name, series in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            _measure_size(Path(folder), name, series, found, section.notes, rounds=rounds, seconds=seconds)
    section.tables += [_rates(found, sizes), _latencies(found, sizes)]
    section.targets += list(_targets(found, sizes))
    for name in sizes:
        rates = {server: found[name, False, server].rate.show() for server in (IDLE, LIMIT, FLASK, PEER)}
        others = (
            f"{rates[FLASK]} (`generate_latest` in Flask), {rates[PEER]} (query-exporter), {rates[LIMIT]} (the limit)"
        )
        section.headlines.append((f"Scrapes per second, {name} series, plain", rates[IDLE], others))
    section.notes.append("Where a server manages fewer than a hundred requests in a run, p99 is the slowest of them.")
    section.notes.append(
        "Scrapes of the other designs cost the more, the more series there are, since they render anew for each; "
        "the exporter renders once a refresh."
    )
    return section


def _measure_size(
    folder: Path,
    name: str,
    series: int,
    found: dict[Key, Measured],
    lost: list[str],
    *,
    rounds: int,
    seconds: float,
) -> None:
    busy = folder / "busy"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(BenchServer("exporter", folder, "--series", str(series), "--busy", str(busy)))
        many = wait_for_series(ours.url, series)
        _settle(ours)
        for compressed in (False, True):
            (folder / f"body{int(compressed)}").write_bytes(once(ours.url, gzip=compressed)[0])
        bodies = ("--plain", str(folder / "body0"), "--gzip", str(folder / "body1"))
        static = stack.enter_context(BenchServer("static", folder, *bodies))
        flask = stack.enter_context(BenchServer("flask", folder, "--series", str(many)))
        peer = stack.enter_context(_peer(folder, many))
        urls = {LIMIT: static.url, IDLE: ours.url, BUSY: ours.url, FLASK: flask.url, PEER: f"{peer.url}/metrics"}
        for compressed in (False, True):
            for server in (LIMIT, IDLE, BUSY, *(() if compressed else (FLASK, PEER))):
                found[name, compressed, server] = Measured(bytes=len(once(urls[server], gzip=compressed)[0]))
        for round_ in range(rounds):
            for compressed in (False, True):
                rates = _alternating_rates(urls, compressed)
                for server in (LIMIT, IDLE, BUSY, *(() if compressed else (FLASK, PEER))):
                    if round_ % _EVERY.get(server, 1):
                        continue
                    measured = found[name, compressed, server]
                    try:
                        with _refreshing(busy, ours) if server == BUSY else contextlib.nullcontext():
                            rate = rates[server] if server in rates else _rate(urls[server], compressed)
                            one = load(urls[server], seconds=seconds, connections=1, gzip=compressed)
                    except LoadError as error:
                        if server not in _EVERY or (round_ + _EVERY[server] >= rounds and not measured.rates):
                            raise
                        lost.append(f"{name} series, {server}, round {round_ + 1}: {str(error).splitlines()[0]}")
                    else:
                        measured.add(round_, rate, one)


def _alternating_rates(urls: dict[str, str], compressed: bool) -> dict[str, float]:
    """Requests per second of the limit and of the exporter, which are close: each the mean of two runs, one before and
    one after the other's, so that a machine that becomes faster or slower meanwhile favours neither."""
    rates: dict[str, list[float]] = {LIMIT: [], IDLE: []}
    for server in (LIMIT, IDLE, IDLE, LIMIT):
        rates[server].append(_rate(urls[server], compressed))
    return {server: statistics.mean(found) for server, found in rates.items()}


def _rate(url: str, compressed: bool) -> float:
    return load(url, seconds=RATE_SECONDS, connections=CONNECTIONS, gzip=compressed).rate


def wait_for_series(url: str, series: int, verify: Path | None = None) -> int:
    """Wait for the end of the first refresh; gives how many series there are."""
    end = time.monotonic() + 120
    while True:
        body = once(url, gzip=False, verify=verify)[0]
        lines = [line for line in body.splitlines() if not line.startswith(b"#")]
        if len(lines) >= series and any(line.startswith(b"mlops_exporter_source_up{") for line in lines):
            return series or len(lines)
        if time.monotonic() > end:
            raise RuntimeError(f"{len(lines)} series after 120 s, not {series}")
        time.sleep(0.1)


@contextlib.contextmanager
def _refreshing(busy: Path, server: BenchServer) -> Iterator[None]:
    """Have the exporter refresh without a pause; afterwards wait until the refresh under way has ended."""
    busy.touch()
    try:
        time.sleep(0.3)
        yield
    finally:
        busy.unlink()
        _settle(server)


def _settle(server: BenchServer) -> None:
    """Wait until a server does nothing."""
    end = time.monotonic() + 60
    while time.monotonic() < end and server.pid is not None:
        before = _cpu(server.pid)
        time.sleep(0.5)
        if _cpu(server.pid) - before <= 0.03:
            return
    raise RuntimeError("the server does not come to rest")


def _cpu(root: int) -> float:
    return sum(cpu_seconds(pid) for pid in tree(root))


@contextlib.contextmanager
def _peer(folder: Path, series: int) -> Iterator[peers.QueryExporter]:
    columns = tuple(f"value_{number_}" for number_ in range(min(_PEER_COLUMNS, series)))
    database = folder / "models.sqlite"
    peers.fill(database, columns, series // len(columns))
    # One query at the start: a refresh of 100k series would otherwise fall into the measurement.
    with peers.QueryExporter(folder, [peers.Query("models", database, columns, 3600)]) as peer:
        end = time.monotonic() + 120
        while once(f"{peer.url}/metrics", gzip=False)[0].count(b"\nvalue_") < series - len(columns):
            if time.monotonic() > end:
                raise RuntimeError("query-exporter does not show its series")
            time.sleep(0.5)
        yield peer


def _rates(found: dict[Key, Measured], sizes: dict[str, int]) -> Table:
    rows = []
    for name in sizes:
        for compressed in (False, True):
            limit = found[name, compressed, LIMIT]
            for server in (LIMIT, IDLE, BUSY, FLASK, PEER):
                measured = found.get((name, compressed, server))
                if measured is None:
                    continue
                rows.append(
                    (
                        name,
                        "gzip" if compressed else "plain",
                        server,
                        _size(measured.bytes),
                        measured.rate.show(),
                        "" if server == LIMIT else measured.rate_over(limit).show(),
                    )
                )
    columns = ("series", "", "server", "bytes", "requests per second", "of the limit")
    return Table(columns, rows, "Four connections:")


def _latencies(found: dict[Key, Measured], sizes: dict[str, int]) -> Table:
    rows = []
    for name in sizes:
        for compressed in (False, True):
            for server in (LIMIT, IDLE, BUSY, FLASK, PEER):
                measured = found.get((name, compressed, server))
                if measured is not None:
                    p50, p99 = (Spread.of(values.values()).show("ms", 1000) for values in (measured.p50, measured.p99))
                    rows.append((name, "gzip" if compressed else "plain", server, p50, p99))
    return Table(("series", "", "server", "p50", "p99"), rows, "One connection:")


def _targets(found: dict[Key, Measured], sizes: dict[str, int]) -> Iterator[Target]:
    for name in sizes:
        for compressed in (False, True):
            ours, static = found[name, compressed, IDLE], found[name, compressed, LIMIT]
            kind = "gzip" if compressed else "plain"
            least = 2.5 if ours.bytes <= SMALL_BYTES else 0.7
            share, slower = ours.rate_over(static), ours.p99_over(static)
            what = f"Scrapes: requests per second, {name} series, {kind}"
            yield Target(what, f"at least {least:g} times gthread's static bytes", share.show(), share.median >= least)
            what = f"Scrapes: p99, {name} series, {kind}"
            yield Target(what, "no worse than gthread's static bytes", f"{slower.show()} times", slower.median <= 1)
    if "10k" in sizes:
        p99 = Spread.of(found["10k", True, IDLE].p99.values())
        yield Target("Scrapes: p99 at 10k series, gzip", "under 5 ms", p99.show("ms", 1000), p99.median < 0.005)
    if "100k" in sizes:
        times = found["100k", False, IDLE].rate_over(found["100k", False, FLASK])
        what = "Scrapes: over `generate_latest` per scrape, 100k series, plain"
        yield Target(what, "at least 100 times", f"{times.show()} times", times.median >= 100)
        for compressed, seconds in ((True, 0.005), (False, 0.015)):
            p99 = Spread.of(found["100k", compressed, BUSY].p99.values())
            idle = Spread.of(found["100k", compressed, IDLE].p99.values())
            what = f"Scrapes: p99 while 100k series are rendered, {'gzip' if compressed else 'plain'}"
            shown = f"{p99.show('ms', 1000)} (idle: {idle.show('ms', 1000)})"
            yield Target(what, f"under {seconds * 1000:g} ms", shown, p99.median < seconds)


def _size(count: int) -> str:
    return f"{number(count / 1024)} KiB" if count < 2**20 else f"{number(count / 2**20)} MiB"
