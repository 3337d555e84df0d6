"""The processes of a running exporter: gunicorn's master, one worker, and nothing else between two reads."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.exporter import RunningExporter
from testbed.process import children
from testbed.usage import patience

R2 = "bike_model_r2_champion_current"
UP = ("mlops_exporter_source_up", 1)
FAST = {"EXPORTER_REFRESH_SECONDS": "1"}


def gone(pid: int, within: float) -> bool:
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


def can_listen(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    with RunningExporter(tmp_path_factory.mktemp("sample"), FAST) as exporter:
        exporter.wait_for(*UP, source="audit")
        yield exporter


def test_between_reads_there_are_a_master_and_a_worker_without_duckdb(sample: RunningExporter):
    master, worker = sample.pids()
    assert children(master) == [worker]
    assert children(worker) == []
    assert "_duckdb" not in Path(f"/proc/{worker}/maps").read_text()


def test_a_killed_worker_is_replaced_by_one_and_its_values_are_shown_again(sample: RunningExporter):
    """By one, though gunicorn was asked for a second worker and a second master by the signals that it knows for it."""
    value = sample.exposed().value(R2)
    assert value is not None
    before = sample.pids()
    for number in (signal.SIGTTIN, signal.SIGUSR2, signal.SIGTTOU, signal.SIGTTIN):
        os.kill(before[0], number)
    os.kill(before[1], signal.SIGKILL)
    assert gone(before[1], within=30)
    sample.session.close()
    assert sample.wait_for(*UP, source="audit").value(R2) == value
    master, worker = sample.pids()
    assert master == before[0]
    assert worker != before[1]
    assert children(master) == [worker]


def test_nothing_is_left_when_the_master_is_killed_and_the_port_is_free(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exporter.wait_for(*UP, source="audit")
        master, worker = exporter.pids()
        kept_alive = exporter.session  # noqa: F841 -- an open connection must not hold the worker up
        os.kill(master, signal.SIGKILL)
        assert gone(worker, within=patience(2))
        assert can_listen(exporter.port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_all_of_it_in_order(tmp_path: Path, number: signal.Signals):
    with RunningExporter(tmp_path, FAST) as exporter:
        exporter.wait_for(*UP, source="audit")
        pids = exporter.pids()
        os.killpg(pids[0], number)
        for pid in pids[::-1]:
            assert gone(pid, within=patience(3))
        assert "Traceback" not in exporter.text_of_log()
