"""Clients that send nothing, half a request, or read nothing, all at once, beside a Prometheus that scrapes."""

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.exporter import ROOT, RunningExporter
from testbed.many_models import fill_models, models_catalogue
from testbed.prometheus import RunningPrometheus
from testbed.slow_clients import REQUEST, all_kinds, clients
from testbed.usage import rss_bytes

SECONDS = 15.0
"""How long the clients stay. (A minute of it, with the same bounds, was tried by hand.)"""
UP = ("mlops_exporter_source_up", 1)


def ended(client: socket.socket) -> bool:
    """Whether the server has ended the connection, as far as is known without waiting."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_slow_clients_delay_no_scrape_and_cost_little(tmp_path: Path):
    log = tmp_path / "models.duckdb"
    fill_models(log, 16_000)
    env = {
        "AUDIT_URL": str(log),
        "EXPORTER_CATALOG": str(models_catalogue(tmp_path / "models.yaml")),
        "EXPORTER_MAX_SERIES": "300000",
    }
    with RunningExporter(tmp_path, env) as exporter, contextlib.ExitStack() as stack:
        exporter.wait_for(*UP, source="audit", within=60)
        assert len(exporter.get("/metrics", headers={"Accept-Encoding": "identity"}).content) > 10_000_000
        prometheus = RunningPrometheus(tmp_path / "prometheus", {"exporter": f"127.0.0.1:{exporter.port}"}, "4s")
        stack.enter_context(prometheus.server)
        prometheus.wait_for("up", {"exporter": 1.0}, within=30)
        before = rss_bytes(exporter.pids()[1])
        stack.enter_context(all_kinds(exporter.port, silent=250, halves=64, readers=64))
        took, end = [], time.monotonic() + SECONDS
        while time.monotonic() < end:
            began = time.monotonic()
            answer = exporter.get("/metrics", headers={"Accept-Encoding": "gzip"}, stream=True)
            assert len(answer.raw.read(decode_content=False)) > 100_000
            took.append(time.monotonic() - began)
        assert rss_bytes(exporter.pids()[1]) - before < 100 * 2**20
        assert statistics.quantiles(took, n=100)[98] < 0.1
        assert prometheus.query("min_over_time(up[30s])") == {"exporter": 1.0}


def test_where_there_are_too_many_connections_the_one_idle_longest_gives_way(tmp_path: Path):
    with (
        RunningExporter(tmp_path, {"EXPORTER_MAX_CONNECTIONS": "16"}) as exporter,
        clients(exporter.port, 40) as silent,
    ):
        exporter.wait_for(*UP, source="audit")
        assert [ended(client) for client in silent[:24]] == [True] * 24
        assert not ended(silent[-1])
        silent[-1].setblocking(True)
        silent[-1].sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200 OK")


OWN_SOCKETS = 5
"""Of a worker without clients: the listener, and what asyncio and gunicorn wake their loops with."""


def wait_until(true: Callable[[], bool], within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed between two looks
            found += str(link.readlink()).startswith("socket:")
    return found


@pytest.mark.parametrize("sent", [b"", b"GET /met", REQUEST])
def test_a_connection_is_ended_when_its_time_is_over(tmp_path: Path, sent: bytes):
    """With short limits. The whole answer to a request has one, so that reading a byte now and then gains nothing."""
    log = tmp_path / "models.duckdb"
    fill_models(log, 10_000)
    env = {"AUDIT_URL": str(log), "EXPORTER_CATALOG": str(models_catalogue(tmp_path / "models.yaml"))}
    short = (
        "import sys; from exporter import __main__, worker; worker.IDLE_SECONDS = worker.RESPONSE_SECONDS = 2.0; "
        "sys.exit(__main__.main(['serve']))"
    )
    with RunningExporter(tmp_path, env, [sys.executable, "-c", short]) as exporter:
        exporter.wait_for(*UP, source="audit", within=60)
        exporter.session.close()
        worker = exporter.pids()[1]
        wait_until(lambda: sockets(worker) <= OWN_SOCKETS)
        with clients(exporter.port, 20, sent) as slow:

            def all_ended() -> bool:
                for client in slow:
                    with contextlib.suppress(OSError):
                        client.recv(1)
                return sockets(worker) <= OWN_SOCKETS

            wait_until(lambda: sockets(worker) >= 20)
            wait_until(all_ended)
        assert exporter.get("/metrics").status_code == 200


def test_a_second_worker_or_master_cannot_be_asked_for_by_a_signal(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        master, worker = exporter.pids()
        for number in (signal.SIGTTIN, signal.SIGUSR2, signal.SIGTTOU):
            os.kill(master, number)
        exporter.wait_for(*UP, source="audit")
        assert exporter.pids() == (master, worker)


def test_gunicorn_without_the_configuration_says_so_in_one_sentence(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "exporter.server:app()"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert "gunicorn runs the exporter with its configuration only" in ran.stderr
    assert "Traceback" not in ran.stderr
