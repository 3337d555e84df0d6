"""What TLS costs a scrape.

Two exporters give the same series, one over plain HTTP, one over TLS with a certificate of an elliptic curve (P-256).
Requests per second are taken on four kept-alive connections, of each twice a round, in the order A B B A; latencies on
one. New connections, each with its whole handshake, are opened one after the other by Python's own client.
"""

import json
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.load import load, once, require
from benchmarks.report import Section, Spread, Table, Target, number, paragraphs, ratio
from benchmarks.scrape import wait_for_series
from benchmarks.servers import BenchServer
from testbed.certificates import Authority

TITLE: Final = "TLS"
SIZES: Final = {"default": 0, "10k": 10_000, "100k": 100_000}
CONNECTIONS: Final = 4
RATE_SECONDS: Final = 1.0
AT_LEAST: Final = 0.7
"""Of plain HTTP's scrapes per second, over kept-alive connections."""
PLAIN, TLS = "plain HTTP", "TLS"
HANDSHAKES: Final = 200

Rates = dict[str, list[float]]
"""By server, a number for each round."""


def run(*, quick: bool) -> Section:
    """Measure all sizes and encodings."""
    require()
    section = Section("tls", TITLE, paragraphs(__doc__))
    rounds, sizes = (1, ["default"]) if quick else (4, list(SIZES))
    rows, latencies = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            servers = dict(_servers(Path(folder), SIZES[size], stack))
            for name, server in servers.items():
                wait_for_series(server.url, SIZES[size], None if name == PLAIN else Path(folder) / "test-ca.pem")
            authority = Path(folder) / "test-ca.pem"
            for compressed in (False, True):
                body, _ = once(servers[PLAIN].url, gzip=compressed)
                rates, p50 = _measure(servers, authority, compressed=compressed, rounds=rounds)
                kind = "gzip" if compressed else "plain"
                for server in servers:
                    share = "" if server == PLAIN else ratio(Spread.of(rates[server]), Spread.of(rates[PLAIN])).show()
                    rate = Spread.of(rates[server]).show()
                    rows.append((size, kind, server, f"{number(len(body) / 1024)} KiB", rate, share))
                    latencies.append((size, kind, server, Spread.of(p50[server]).show("ms", 1000)))
                share = ratio(Spread.of(rates[TLS]), Spread.of(rates[PLAIN]))
                section.targets.append(
                    Target(
                        f"TLS: requests per second, {size} series, {kind}",
                        f"at least {AT_LEAST:g} of plain HTTP's",
                        share.show(),
                        share.median >= AT_LEAST,
                    )
                )
            if size == "default":
                took = _handshakes(servers[TLS], authority)
                section.notes.append(
                    f"A new connection, TCP and TLS 1.3 together: {took.show('ms', 1000)}, 200 in turn."
                )
    section.tables.append(
        Table(("series", "", "server", "bytes", "requests per second", "of plain HTTP"), rows, "Four connections:")
    )
    section.tables.append(Table(("series", "", "server", "p50"), latencies, "One connection:"))
    return section


def _servers(folder: Path, series: int, stack: ExitStack) -> Iterator[tuple[str, BenchServer]]:
    """The exporters, each once its first refresh has ended."""
    authority = Authority(folder)
    authority.issue("server")
    content = {"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key"}}
    (folder / "web.yml").write_text(json.dumps(content))
    arguments = ("--series", str(series), "--busy", str(folder / "busy"))
    yield PLAIN, stack.enter_context(BenchServer("exporter", folder / "plain", *arguments))
    yield (
        TLS,
        stack.enter_context(
            BenchServer("exporter", folder / "tls", *arguments, "--web", str(folder / "web.yml"), verify=authority.cert)
        ),
    )


def _measure(
    servers: Mapping[str, BenchServer], authority: Path, *, compressed: bool, rounds: int
) -> tuple[Rates, Rates]:
    """Requests per second, and the median latency in seconds, by server and round."""
    rates: Rates = {name: [] for name in servers}
    p50: Rates = {name: [] for name in servers}

    def measured(name: str, connections: int) -> tuple[float, float]:
        verify = None if name == PLAIN else authority
        found = load(servers[name].url, seconds=RATE_SECONDS, connections=connections, gzip=compressed, verify=verify)
        return found.rate, found.p50

    for _ in range(rounds):
        found: Rates = {name: [] for name in servers}
        for name in (*servers, *reversed(servers)):
            found[name].append(measured(name, CONNECTIONS)[0])
        for name in servers:
            rates[name].append(statistics.mean(found[name]))
            p50[name].append(measured(name, 1)[1])
    return rates, p50


def _handshakes(server: BenchServer, authority: Path) -> Spread:
    """Seconds from the start of a connection until its handshake has ended: the quintiles."""
    context = ssl.create_default_context(cafile=authority)
    took = []
    for _ in range(HANDSHAKES):
        began = time.perf_counter()
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            took.append(time.perf_counter() - began)
    return Spread.of(statistics.quantiles(took, n=5))
