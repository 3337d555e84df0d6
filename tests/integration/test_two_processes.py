"""The worker and the refresh process under gunicorn: what happens to one when the other is stopped or killed."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import requests

from testbed.exporter import RunningExporter

R2 = "bike_model_r2_champion_current"
FAST = {"EXPORTER_REFRESH_SECONDS": "1"}
TOKEN = "a-token-of-the-tests"


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends in time; one whose parent has not asked for its status counts as ended."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def loads(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


def can_listen(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        listener.listen()
        return True


def test_state_is_the_refresh_processs_alone_the_listener_the_workers_and_duckdb_neithers(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        _, worker, refresher = exporter.pids()
        assert Path(f"/proc/{refresher}/comm").read_text().strip() == "mlops-refresh"
        assert [loads(pid, "_duckdb") for pid in (worker, refresher)] == [False, False]
        open_files = {
            pid: [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()] for pid in (worker, refresher)
        }
        keeps_state = [any(file.endswith("ledger.sqlite3") for file in files) for files in open_files.values()]
        assert keeps_state == [False, True]
        # Beside the socket pair, which both have one end of, the refresh process has no socket.
        assert sum(file.startswith("socket:") for file in open_files[refresher]) == 1


def test_a_killed_refresh_process_leaves_the_values_on_show_and_is_started_anew(tmp_path: Path):
    with RunningExporter(tmp_path, FAST) as exporter:
        value = exporter.wait_for("mlops_exporter_source_up", 1, source="audit").value(R2)
        _, worker, refresher = exporter.pids()
        os.kill(refresher, signal.SIGKILL)
        killed = time.monotonic()
        while exporter.get("/-/healthy").status_code == 200:
            assert time.monotonic() - killed < 3
        assert exporter.exposed().value(R2) == value
        assert "the refresh process ended by itself (signal 9)" in exporter.text_of_log()
        assert gone(worker, within=10)
        assert time.monotonic() - killed >= 4.5
        # The listener is gunicorn's master's: a scrape between the two workers waits, and is answered by the next one.
        exposed = exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        assert exposed.value(R2) == value
        assert exporter.get("/-/healthy").status_code == 200
        _, new_worker, new_refresher = exporter.pids()
        assert new_worker != worker
        assert new_refresher != refresher


def test_a_killed_worker_takes_its_refresh_process_along(tmp_path: Path):
    with RunningExporter(tmp_path, FAST) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        _, worker, refresher = exporter.pids()
        os.kill(worker, signal.SIGKILL)
        assert gone(refresher)
        exporter.session.close()
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        assert exporter.pids()[2] != refresher


def test_nothing_is_left_when_all_others_are_killed_and_the_port_is_free(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        master, worker, refresher = exporter.pids()
        os.kill(refresher, signal.SIGSTOP)  # so that it cannot leave by itself
        exporter.session.close()
        for pid in (master, worker):
            os.kill(pid, signal.SIGKILL)
        assert gone(worker)
        # A worker's main thread may be gone a moment before its others, which hold the listener as well.
        end = time.monotonic() + 2
        while not can_listen(exporter.port):
            assert time.monotonic() < end, "the refresh process, which stands still, holds the port"
            time.sleep(0.02)
        os.kill(refresher, signal.SIGCONT)
        assert gone(refresher)


def test_scrapes_do_not_wait_for_a_refresh_process_that_stands_still(tmp_path: Path):
    """As one does whose driver keeps the interpreter's lock: in one process nothing would be answered."""
    with RunningExporter(tmp_path, {**FAST, "EXPORTER_REFRESH_TOKEN": TOKEN}) as exporter:
        value = exporter.wait_for("mlops_exporter_source_up", 1, source="audit").value(R2)
        refresher = exporter.pids()[2]
        os.kill(refresher, signal.SIGSTOP)
        slowest = 0.0
        for _ in range(100):
            began = time.monotonic()
            exposed = exporter.exposed()
            slowest = max(slowest, time.monotonic() - began)
            assert exposed.value(R2) == value
            time.sleep(0.01)
        assert slowest < 0.25
        asked = requests.post(
            f"{exporter.url}/-/refresh", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5, json={}
        )
        assert asked.status_code == 503
        assert asked.json()["status"] == "unavailable"
        assert exporter.get("/health").json()["sources"]["audit"]["age_seconds"] > 1
        before = exporter.exposed().value("mlops_exporter_source_refreshes_total", source="audit")
        os.kill(refresher, signal.SIGCONT)
        assert before is not None
        exporter.wait_beyond("mlops_exporter_source_refreshes_total", before, source="audit", within=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_all_of_it_in_order(tmp_path: Path, number: signal.Signals):
    with RunningExporter(tmp_path, FAST) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        pids = exporter.pids()
        began = time.monotonic()
        os.killpg(pids[0], number)
        for pid in pids[::-1]:
            assert gone(pid, within=3)
        assert time.monotonic() - began < 3
        log = exporter.text_of_log()
        assert "ended by itself" not in log
        assert "Traceback" not in log
