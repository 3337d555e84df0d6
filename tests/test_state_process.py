"""The state folder as the exporter's own processes use it: a reload, and a second exporter."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.exporter import RunningExporter

UP = "mlops_exporter_source_up"
OFTEN = [
    sys.executable,
    "-c",
    "import sys; from exporter import __main__, refresh; refresh.HEARTBEAT_SECONDS = 0.5; "
    "sys.exit(__main__.main(['serve']))",
]
"""An exporter that tries every half second, instead of every five, to take over the state file."""


def wait_for_state(exporter: RunningExporter, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What /health says once its part on state is as wanted."""
    end = time.monotonic() + 120
    while True:
        health: dict[str, Any] = exporter.get("/health").json()
        if reached(health["state"]):
            return health
        assert time.monotonic() < end, f"{health}\n{exporter.text_of_log()}"
        time.sleep(0.1)


def test_after_a_reload_the_new_worker_has_the_state_folder(tmp_path: Path):
    with RunningExporter(tmp_path, command=OFTEN) as exporter:
        exporter.wait_for(UP, 1.0, source="audit")
        master, worker = exporter.pids()
        lock = tmp_path / "exporter-state" / "ledger.lock"
        assert lock.read_text().startswith(f"process {worker} on ")
        os.kill(master, signal.SIGHUP)
        end = time.monotonic() + 120
        while lock.read_text().startswith(f"process {worker} on "):
            assert time.monotonic() < end, exporter.text_of_log()
            time.sleep(0.1)
        wait_for_state(exporter, lambda state: state["survives_restart"])


def test_a_second_exporter_takes_over_when_the_first_is_killed(tmp_path: Path):
    state = {"EXPORTER_STATE_DIR": str(tmp_path / "state")}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with RunningExporter(tmp_path / "one", state) as first:
        first.wait_for(UP, 1.0, source="audit")
        _, worker = first.pids()
        with RunningExporter(tmp_path / "two", state, OFTEN) as second:
            second.wait_for(UP, 1.0, source="audit")
            health = wait_for_state(second, lambda state: state["problem"] is not None)
            assert f"in use by process {worker} on " in health["state"]["problem"]
            assert health["status"] == "degraded"
            first.terminate(signal.SIGKILL)
            wait_for_state(second, lambda state: state["survives_restart"])
