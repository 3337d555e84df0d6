"""Everything killed at random moments, beside a writer that appends, trims and compacts: every row is counted once."""

import gzip
import os
import random
import signal
import threading
import time
from pathlib import Path

import duckdb
import pytest
import requests

from testbed.exporter import RunningExporter
from testbed.exposed import Exposed
from testbed.process import children
from tests.sources.audit.duckdb_log import TABLE, Log

ROUNDS = 40 if os.environ.get("CI") == "true" else 5
"""A laptop plays a few: each takes two to five seconds."""
KEPT_ROWS = 400
"""More than are written while the exporter is away: a row that comes and goes unseen cannot be counted."""
DEPLOYMENTS = "bike_model_deployments_total"
FAST = {"EXPORTER_REFRESH_SECONDS": "1", "AUDIT_TIMEOUT_SECONDS": "20"}


class Writer(threading.Thread):
    """Appends a row now and then, drops the oldest ones, and compacts the file."""

    def __init__(self, log: Log) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._chance = random.Random(1)
        self.ended = threading.Event()
        self.written = 0

    def run(self) -> None:
        while not self.ended.wait(self._chance.uniform(0.05, 0.3)):
            try:
                self._log.add([{"at": time.time(), "deployment_decision": "deploy"}])
                self.written += 1
                if self._chance.random() < 0.3:
                    kept = f"SELECT timestamp FROM {TABLE} ORDER BY timestamp DESC LIMIT {KEPT_ROWS}"
                    self._log.run(f"DELETE FROM {TABLE} WHERE timestamp NOT IN ({kept})", "CHECKPOINT")
            except duckdb.IOException:  # the exporter reads it just now
                continue


def scrape(exporter: RunningExporter, chance: random.Random) -> Exposed:
    """A scrape of any of the four bodies, which is whole."""
    headers = {
        "Accept": chance.choice(["text/plain", "application/openmetrics-text"]),
        "Accept-Encoding": chance.choice(["gzip", "identity"]),
    }
    answer = exporter.get("/metrics", headers=headers, stream=True)
    body = answer.raw.read(decode_content=False)
    body = gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body
    assert body.endswith(b"# EOF\n") == (headers["Accept"] != "text/plain")
    return Exposed(body)


def kill_all(exporter: RunningExporter) -> None:
    """Kill master, worker and whatever reads for it, at once."""
    master, worker = exporter.pids()
    for pid in (master, worker, *children(worker)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.timeout(1200)
def test_killed_at_random_moments_the_counter_counts_every_row_once(tmp_path: Path):
    chance = random.Random(2)
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "deployment_decision": "VARCHAR"})
    log.add([{"at": time.time(), "deployment_decision": "deploy"}])
    writer = Writer(log)
    writer.written = 1
    writer.start()
    shown = 0.0
    env = {**FAST, "AUDIT_URL": str(log.path)}
    for _ in range(ROUNDS):
        with RunningExporter(tmp_path, env) as exporter:
            end = time.monotonic() + chance.uniform(0.1, 3)
            while time.monotonic() < end:
                now = scrape(exporter, chance).value(DEPLOYMENTS, decision="deploy")
                if now is not None:
                    assert shown <= now <= writer.written + 1, "+ 1: a row that is written and not accounted for yet"
                    shown = now
                time.sleep(0.05)
            kill_all(exporter)
            exporter.session.close()
    writer.ended.set()
    writer.join()
    with RunningExporter(tmp_path, env) as exporter:
        exporter.wait_for(DEPLOYMENTS, float(writer.written), decision="deploy", within=60)
        assert requests.get(f"{exporter.url}/health", timeout=10).json()["status"] == "ok"
