"""What clients cost that send nothing, half a request, or read nothing.

Both servers have a body of more than 10 MB: the exporter, and gunicorn's gthread worker with eight threads that returns
the exporter's bytes from memory. Each is scraped with gzip on a new connection at a time, first alone, then beside 250
connections that send nothing, 64 that sent one byte of a request and 64 that asked for the plain body and never read.
A scrape that has no answer after 10 s, Prometheus' default, is lost, and no further one is tried.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from benchmarks.load import headers, once
from benchmarks.report import Section, Table, Target, number, paragraphs
from benchmarks.servers import BenchServer
from testbed.exporter import RunningExporter
from testbed.many_models import METRICS, fill_models, models_catalogue
from testbed.slow_clients import all_kinds
from testbed.usage import rss_bytes, tree

TITLE: Final = "Slow clients"
SILENT, HALVES, READERS = 250, 64, 64
TIMEOUT_SECONDS: Final = 10.0
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Scrapes:
    """Seconds of the scrapes that were answered, and whether one was lost."""

    seconds: tuple[float, ...]
    lost: bool

    @property
    def p99(self) -> float:
        """Seconds; infinite when a scrape was lost."""
        return float("inf") if self.lost else statistics.quantiles(self.seconds, n=100)[98]

    def show(self) -> str:
        """p50 and p99, or that there was no answer."""
        if self.lost:
            return f"no answer within {TIMEOUT_SECONDS:g} s"
        return f"{number(statistics.median(self.seconds) * 1000)} ms, {number(self.p99 * 1000)} ms"


def scrapes(url: str, seconds: float) -> Scrapes:
    """Scrape for so many seconds, each time on a new connection."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            with requests.Session() as session:
                session.trust_env = False
                with session.get(url, headers=headers(gzip=True), timeout=TIMEOUT_SECONDS, stream=True) as answer:
                    answer.raise_for_status()
                    answer.raw.read(decode_content=False)
        except requests.RequestException:
            return Scrapes(tuple(took), lost=True)
        took.append(time.perf_counter() - began)
    return Scrapes(tuple(took), lost=False)


def run(*, quick: bool) -> Section:
    """Scrape both servers, alone and beside slow clients."""
    section = Section("slow_clients", TITLE, paragraphs(__doc__))
    seconds, models = (2.0, 1_000) if quick else (20.0, 16_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "models.duckdb"
        fill_models(log, models)
        env = {
            "AUDIT_URL": str(log),
            "EXPORTER_CATALOG": str(models_catalogue(folder / "models.yaml")),
            "EXPORTER_MAX_SERIES": str(models * METRICS),
        }
        with RunningExporter(folder, env) as exporter:
            exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
            url = f"{exporter.url}/metrics"
            bodies = {kind: folder / kind for kind in ("plain", "gzip")}
            for kind, path in bodies.items():
                path.write_bytes(once(url, gzip=kind == "gzip")[0])
            alone, worker = scrapes(url, seconds), exporter.pids()[1]
            before = rss_bytes(worker)
            with all_kinds(exporter.port, SILENT, HALVES, READERS) as count:
                beside = scrapes(url, seconds)
                grown = (rss_bytes(worker) - before) / MIB
        arguments = [word for kind, path in bodies.items() for word in (f"--{kind}", str(path))]
        with BenchServer("static", folder / "static", *arguments) as static:
            static_alone = scrapes(static.url, seconds)
            _, worker = tree(static.pid or 0)
            before = rss_bytes(worker)
            with all_kinds(static.port, SILENT, HALVES, READERS):
                static_beside = scrapes(static.url, seconds)
                static_grown = (rss_bytes(worker) - before) / MIB
        megabytes = bodies["plain"].stat().st_size / 1e6
    section.tables.append(
        Table(
            ("", "exporter", "static bytes, gthread"),
            [
                ("scrape, p50 and p99, alone", alone.show(), static_alone.show()),
                (f"beside {count} slow clients", beside.show(), static_beside.show()),
                ("RSS that they add", f"{number(grown)} MiB", f"{number(static_grown)} MiB"),
            ],
        )
    )
    section.notes.append(f"The plain body has {number(megabytes)} MB.")
    section.headlines.append((f"Scrape p50 and p99 beside {count} slow clients", beside.show(), static_beside.show()))
    section.targets += [
        Target(f"Slow clients: scrape p99 beside {count}", "under 100 ms", beside.show(), beside.p99 < 0.1),
        Target("Slow clients: RSS that they add", "under 100 MiB", f"{number(grown)} MiB", grown < 100),
    ]
    return section
