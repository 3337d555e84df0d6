"""Start-up time, and what the exporter uses while it does nothing.

The exporter is started as `make run` starts it, with its sample history and the default interval of 60 s; beside it
query-exporter over as many values in SQLite, at the same interval. Start-up is from the start of the process to the
first answer 200 on `/metrics`, asked every 5 ms. Then both idle side by side; CPU time is taken over the stated window
and extrapolated to an hour. Memory is compared with a Python that only imports the packages that the worker needs, and
sleeps. DuckDB is not there: a child that lives for one read loads it, after the log was written; what that takes stands
by itself. The worker is looked at a second time with its audit log in the BigQuery emulator.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.refresh import emulated_log
from benchmarks.report import ROOT, Section, Spread, Table, Target, number, paragraphs
from testbed import install
from testbed.process import free_port
from testbed.usage import cpu_seconds, pss_bytes, rss_bytes, tree

TITLE: Final = "Start-up and idling"
VALUES: Final = 16
BARE_IMPORTS: Final = (
    *("gunicorn.app.base", "gunicorn.workers.gasgi", "a2wsgi", "flask", "yaml", "sqlite3"),
    *("prometheus_client", "prometheus_client.openmetrics.exposition"),
)
"""What the worker cannot do without when the audit log is the embedded one."""
MUST_NOT_BE_IMPORTED: Final = (
    *("google.cloud.bigquery", "grpc", "google.auth", "requests", "exporter.sources.airflow"),
    *("duckdb", "sqlglot"),
)
BIGQUERY_IMPORTS: Final = (*BARE_IMPORTS, "google.cloud.bigquery")
"""The same where the audit log is in BigQuery."""
_PROBE: Final = """\
import json, os, resource, sys
from exporter.catalog_parser import load_catalog
from exporter.server import build_refresher
from exporter.settings import Settings
settings = Settings.from_env(os.environ)
refresher = build_refresher(settings, load_catalog(settings.catalog_path))
state = refresher.run_once()
refresher.stop()
(status,) = state.snapshot.statuses
assert status.up, status
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"modules": sorted(sys.modules), "seconds": status.duration_seconds, "peak": peak}))
"""
_POLL_SECONDS: Final = 0.005
_OURS: Final = ("EXPORTER_", "AUDIT_", "GOOGLE_", "BIGQUERY_", "AIRFLOW_", "WEB_CONCURRENCY", "QE_")
MIB: Final = 2**20
_NO_EMULATOR: Final = "not measured: the emulator is not installed"


def run(*, quick: bool) -> Section:
    """Start, idle, and look."""
    section = Section("footprint", TITLE, paragraphs(__doc__), packages=peers.version())
    rounds, window = (2, 5.0) if quick else (7, 120.0)
    first = {"exporter": [], "query-exporter": []}  # type: dict[str, list[float]]
    fresh: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, _exporter(Path(folder)) as (_, port, began):
            first["exporter"].append(_answers(port, began, b""))
            fresh.append(_answers(port, began, b'mlops_exporter_source_up{source="audit"} 1'))
        with tempfile.TemporaryDirectory() as folder, _peer(Path(folder)) as (_, port, began):
            first["query-exporter"].append(_answers(port, began, b""))
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        _exporter(Path(one)) as (ours, port, began),
        _peer(Path(other)) as (theirs, peer_port, peer_began),
        _bare(BARE_IMPORTS) as bare,
    ):
        _answers(port, began, b'mlops_exporter_source_up{source="audit"} 1')
        _answers(peer_port, peer_began, b"value_0")
        time.sleep(5.0)
        cpu = [_cpu(pid) for pid in (ours, theirs)]
        time.sleep(window)
        used = [(_cpu(pid) - before) / window * 3600 for pid, before in zip((ours, theirs), cpu, strict=True)]
        master, worker = tree(ours)
        rss, peer_rss, bare_rss = (rss_bytes(pid) for pid in (worker, theirs, bare))
        pss, peer_pss = (sum(pss_bytes(pid) for pid in tree(root)) for root in (ours, theirs))
        master_rss = rss_bytes(master)
    bigquery = _bigquery()
    with tempfile.TemporaryDirectory() as folder:
        _a_refresh(Path(folder))  # makes the sample history
        reads = [_a_refresh(Path(folder)) for _ in range(rounds)]
    imported = sorted(set(MUST_NOT_BE_IMPORTED) & {name for read in reads for name in read["modules"]})
    ours_first = Spread.of(first["exporter"])
    theirs_first = Spread.of(first["query-exporter"])
    times = rss / bare_rss
    section.tables.append(
        Table(
            ("", "exporter", "query-exporter"),
            [
                ("first answer", ours_first.show("s"), theirs_first.show("s")),
                ("first answer with the source's values", Spread.of(fresh).show("s"), ""),
                ("idle RSS of the worker", _mib(rss), _mib(peer_rss)),
                ("the same with BigQuery", _mib(bigquery[0]) if bigquery else _NO_EMULATOR, ""),
                ("idle RSS of gunicorn's master", _mib(master_rss), ""),
                ("idle PSS of all its processes", _mib(pss), _mib(peer_pss)),
                ("a read of the embedded log", Spread.of(read["seconds"] for read in reads).show("s"), ""),
                ("highest RSS of the process that does it", Spread.of(r["peak"] / MIB for r in reads).show("MiB"), ""),
                ("RSS of the bare imports", _mib(bare_rss), ""),
                ("RSS of the bare imports with BigQuery", _mib(bigquery[1]) if bigquery else "", ""),
                (f"CPU per idle hour, from {window:g} s", f"{number(used[0])} s", f"{number(used[1])} s"),
            ],
        )
    )
    section.headlines += [
        ("Start to the first answer", ours_first.show("s"), f"{theirs_first.show('s')} (query-exporter)"),
        ("Idle memory (PSS)", _mib(pss), f"{_mib(peer_pss)} (query-exporter)"),
    ]
    section.notes += [
        f"Bare imports: `{'`, `'.join(BARE_IMPORTS)}`; with BigQuery also "
        f"`{'`, `'.join(BIGQUERY_IMPORTS[len(BARE_IMPORTS) :])}`.",
        f"Of `{'`, `'.join(MUST_NOT_BE_IMPORTED)}` the worker had imported, with an embedded log: "
        f"{', '.join(imported) or 'none'}.",
    ]
    section.targets += [
        Target("Start-up: first answer", "under 1 s", ours_first.show("s"), ours_first.median < 1.0),
        Target("Idle RSS over the bare imports, DuckDB", "at most 1.3 times", f"{number(times)} times", times <= 1.3),
        Target(
            "Idle RSS over the bare imports, BigQuery",
            "at most 1.3 times",
            f"{number(bigquery[0] / bigquery[1])} times" if bigquery else _NO_EMULATOR,
            bigquery[0] / bigquery[1] <= 1.3 if bigquery else None,
        ),
        Target(
            "Drivers that are not used",
            "not imported",
            ", ".join(imported) or "none imported",
            not imported,
        ),
    ]
    return section


def _bigquery() -> tuple[int, int] | None:
    """RSS of the worker, and of the bare imports, where the audit log is in BigQuery; None without the
    emulator."""
    if not install.is_installed("bigquery"):
        return None
    with (
        tempfile.TemporaryDirectory() as name,
        emulated_log(Path(name), 100) as settings,
        _exporter(Path(name), settings) as (ours, port, began),
        _bare(BIGQUERY_IMPORTS) as bare,
    ):
        _answers(port, began, b'mlops_exporter_source_up{source="audit"} 1')
        time.sleep(5.0)
        return rss_bytes(tree(ours)[1]), rss_bytes(bare)


def _mib(count: float) -> str:
    return f"{number(count / MIB)} MiB"


def _cpu(root: int) -> float:
    return sum(cpu_seconds(pid) for pid in tree(root))


@contextlib.contextmanager
def _started(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[tuple[int, float]]:
    """A process, and when (perf_counter) it was started."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with (folder / "output.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**inherited, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process.pid, began
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _exporter(folder: Path, settings: dict[str, str] | None = None) -> Iterator[tuple[int, int, float]]:
    port = free_port()
    environment = {
        **(settings or {}),
        "PYTHONPATH": str(ROOT),
        "EXPORTER_HOST": "127.0.0.1",
        "EXPORTER_PORT": str(port),
    }
    with _started([sys.executable, "-m", "exporter", "serve"], folder, environment) as (pid, began):
        yield pid, port, began


@contextlib.contextmanager
def _peer(folder: Path) -> Iterator[tuple[int, int, float]]:
    columns = tuple(f"value_{place}" for place in range(VALUES))
    peers.fill(folder / "models.sqlite", columns, 1)
    peer = peers.QueryExporter(folder, [peers.Query("models", folder / "models.sqlite", columns, 60)])
    with _started(peer.command, folder, {}) as (pid, began):
        yield pid, peer.port, began


@contextlib.contextmanager
def _bare(modules: Sequence[str]) -> Iterator[int]:
    program = f"import {', '.join(modules)}, sys, time; print('ready', flush=True); time.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the bare imports failed")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _answers(port: int, began: float, wanted: bytes) -> float:
    """Seconds until `/metrics` answers 200 with this in its body."""
    while time.perf_counter() - began < 60:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status == http.client.OK and wanted in answer.read():
                return time.perf_counter() - began
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"port {port} did not answer within 60 s")


def _a_refresh(folder: Path) -> dict[str, Any]:
    """One refresh of the embedded audit log in this folder, without keeping state: which modules are imported then,
    how long the read took, and the highest RSS of the process that did it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "EXPORTER_STATE_DIR": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
