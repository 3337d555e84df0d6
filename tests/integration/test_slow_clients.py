"""Clients that send nothing, half a request, or read nothing, all at once, beside a Prometheus that scrapes."""

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from testbed.debian import program
from testbed.exporter import ROOT, RunningExporter
from testbed.many_models import fill_models, models_catalogue
from testbed.prometheus import RunningPrometheus
from testbed.slow_clients import REQUEST, all_kinds, clients
from testbed.usage import rss_bytes

SECONDS = 10.0
"""How long the clients stay: two scrapes of Prometheus. (A minute of it was tried by hand.)"""
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


def many_models(folder: Path, models: int) -> dict[str, str]:
    """Writes a log and its catalogue, 3.4 KB of exposition a model; gives the environment that names both."""
    log = folder / "models.duckdb"
    fill_models(log, models, name_characters=180)
    return {"AUDIT_URL": str(log), "EXPORTER_CATALOG": str(models_catalogue(folder / "models.yaml"))}


def test_slow_clients_delay_no_scrape_and_cost_little(tmp_path: Path):
    program("prometheus")  # else all that follows is for nothing
    running = RunningExporter(tmp_path, many_models(tmp_path, 3200))
    prometheus = RunningPrometheus(tmp_path / "prometheus", {"exporter": f"127.0.0.1:{running.port}"}, "4s")
    with running as exporter, prometheus.server, contextlib.ExitStack() as stack:
        exporter.wait_for(*UP, source="audit")
        assert len(exporter.get("/metrics", headers={"Accept-Encoding": "identity"}).content) > 10_000_000
        prometheus.wait_for("up", {"exporter": 1.0})
        before = rss_bytes(exporter.pids()[1])
        stack.enter_context(all_kinds(exporter.port, silent=250, halves=64, readers=64))
        took, end = [], time.monotonic() + SECONDS
        while time.monotonic() < end:
            began = time.monotonic()
            answer = exporter.get("/metrics", headers={"Accept-Encoding": "gzip"}, stream=True)
            assert len(answer.raw.read(decode_content=False)) > 100_000
            took.append(time.monotonic() - began)
        assert rss_bytes(exporter.pids()[1]) - before < 100 * 2**20
        # Of all of them, for others use this machine, too: the slow ones would hold a scrape up for many seconds.
        assert statistics.median(took) < 0.1
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


def test_a_connection_is_ended_when_its_time_is_over(tmp_path: Path):
    """With short limits: of clients that send nothing, half a request, and that read next to nothing of the answer. The
    whole answer has a limit, so that reading a byte now and then gains nothing."""
    short = (
        "import sys; from exporter import __main__, worker; worker.IDLE_SECONDS = worker.RESPONSE_SECONDS = 3.0; "
        "sys.exit(__main__.main(['serve']))"
    )
    with RunningExporter(tmp_path, many_models(tmp_path, 2000), [sys.executable, "-c", short]) as exporter:
        exporter.wait_for(*UP, source="audit")
        exporter.session.close()
        worker = exporter.pids()[1]
        wait_until(lambda: sockets(worker) <= OWN_SOCKETS)
        kinds = [clients(exporter.port, 20, sent) for sent in (b"", b"GET /met", REQUEST)]
        with kinds[0] as silent, kinds[1] as halves, kinds[2] as readers:

            def all_ended() -> bool:
                for client in (*silent, *halves, *readers):
                    with contextlib.suppress(OSError):
                        client.recv(1)
                return sockets(worker) <= OWN_SOCKETS

            wait_until(lambda: sockets(worker) >= 60)
            wait_until(all_ended)
        assert exporter.get("/metrics").status_code == 200


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
