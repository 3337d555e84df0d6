"""TLS and passwords on the real server: Prometheus, a renewed certificate, slow clients, the health check."""

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from exporter.__main__ import main
from exporter.authentication import hashed
from testbed.certificates import Authority
from testbed.exporter import ROOT, RunningExporter
from testbed.prometheus import RunningPrometheus
from testbed.usage import patience, rss_bytes
from tests.integration.test_slow_clients import OWN_SOCKETS, clients, ended, many_models, sockets, wait_until

PASSWORD = "planted-password"
HASH = hashed(PASSWORD, cost=6)
UP = ("mlops_exporter_source_up", 1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """It has issued `server` and `prometheus`."""
    made = Authority(tmp_path)
    made.issue("server")
    made.issue("prometheus")
    return made


def web_file(folder: Path, *, clients: bool = False, users: bool = False) -> dict[str, str]:
    """Writes web.yml; gives the environment that names it."""
    content: dict[str, object] = {"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key"}}
    if clients:
        content["tls_server_config"] |= {  # type: ignore[operator]
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": "test-ca.pem",
            "client_allowed_sans": ["prometheus"],
        }
    if users:
        content["basic_auth_users"] = {"prometheus": HASH}
    (folder / "web.yml").write_text(json.dumps(content))
    return {"EXPORTER_WEB_CONFIG_FILE": str(folder / "web.yml")}


def session(folder: Path, *, certificate: bool = False, password: str | None = None) -> requests.Session:
    made = requests.Session()
    made.verify = str(folder / "test-ca.pem")
    if certificate:
        made.cert = (str(folder / "prometheus.pem"), str(folder / "prometheus.key"))
    if password:
        made.auth = ("prometheus", password)
    return made


def served_serial(exporter: RunningExporter, folder: Path) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(folder / "test-ca.pem"))
    context.load_cert_chain(folder / "prometheus.pem", folder / "prometheus.key")
    with (
        socket.create_connection(("127.0.0.1", exporter.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        certificate = secured.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def healthy(folder: Path, exporter: RunningExporter, environment: dict[str, str]) -> int:
    """The exit code of the container's health check."""
    ran = subprocess.run(
        [sys.executable, "-m", "exporter.healthy"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EXPORTER_PORT": str(exporter.port), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.stderr == "") is (ran.returncode == 0)
    return ran.returncode


def test_prometheus_scrapes_with_certificate_and_password_through_a_renewal(authority: Authority, tmp_path: Path):
    stranger = Authority(tmp_path, "stranger").issue("stranger")
    colleague = authority.issue("colleague")
    environment = web_file(tmp_path, clients=True, users=True)
    mine = {"cert_file": str(tmp_path / "prometheus.pem"), "key_file": str(tmp_path / "prometheus.key")}
    tls = {"ca_file": str(tmp_path / "test-ca.pem")}
    login = {"username": "prometheus", "password": PASSWORD}
    options = {
        "good": {"scheme": "https", "tls_config": {**tls, **mine}, "basic_auth": login},
        "wrong password": {
            "scheme": "https",
            "tls_config": {**tls, **mine},
            "basic_auth": {**login, "password": "planted-guess"},
        },
        "no certificate": {"scheme": "https", "tls_config": tls, "basic_auth": login},
        "a stranger's": {
            "scheme": "https",
            "tls_config": {**tls, "cert_file": str(stranger.cert), "key_file": str(stranger.key)},
            "basic_auth": login,
        },
        "another name": {
            "scheme": "https",
            "tls_config": {**tls, "cert_file": str(colleague.cert), "key_file": str(colleague.key)},
            "basic_auth": login,
        },
        "plain": {"basic_auth": login},
    }
    running = RunningExporter(tmp_path, environment, session=session(tmp_path, certificate=True, password=PASSWORD))
    targets = dict.fromkeys(options, f"127.0.0.1:{running.port}")
    prometheus = RunningPrometheus(tmp_path / "prometheus", targets, options=options)
    with running as exporter:
        exporter.wait_for(*UP, source="audit")
        with prometheus.server:
            prometheus.wait_for("up", {name: float(name == "good") for name in options})
            errors = prometheus.targets()
            assert errors["good"] == ""
            assert "401" in errors["wrong password"]
            r2 = exporter.exposed().value("bike_model_r2_champion_current")
            prometheus.wait_for("bike_model_r2_champion_current", {"good": r2})

            renewed = authority.issue("server")
            wait_until(lambda: served_serial(exporter, tmp_path) == renewed.serial)
            (tmp_path / "server.pem").write_text("half of a certif")
            wait_until(lambda: exporter.get("/health").json()["status"] == "degraded")
            assert served_serial(exporter, tmp_path) == renewed.serial
            assert "server.pem" in exporter.get("/health").json()["web_configuration"]["problem"]
            assert healthy(tmp_path, exporter, environment) == 0
            renewed = authority.issue("server")
            wait_until(lambda: served_serial(exporter, tmp_path) == renewed.serial)
            assert exporter.get("/health").json()["status"] == "ok"
            assert healthy(tmp_path, exporter, environment) == 0
            assert prometheus.query("min_over_time(up[1m])")["good"] == 1.0
            # A connection that is kept alive does not hold up the end.
            assert exporter.terminate() < patience(3)
        log = exporter.text_of_log()
        assert "serving on https://127.0.0.1:" in log
        assert log.count(" without the right user and password: 1; the last from 127.0.0.1\n") == 1
        assert log.count("WARNING exporter.worker: TLS: failed connections: 1; the last: ") == 1
        assert log.count("are no certificate and its key in PEM") == 1, log
        for secret in ("planted", HASH, "Traceback"):
            assert secret not in log
    assert healthy(tmp_path, exporter, environment) == 1


def test_prometheus_scrapes_with_a_password_alone(tmp_path: Path):
    """Over plain HTTP: no certificate is involved."""
    (tmp_path / "web.yml").write_text(json.dumps({"basic_auth_users": {"prometheus": HASH}}))
    environment = {"EXPORTER_WEB_CONFIG_FILE": str(tmp_path / "web.yml")}
    with_password = requests.Session()
    with_password.auth = ("prometheus", PASSWORD)
    running = RunningExporter(tmp_path, environment, session=with_password)
    options = {
        "good": {"basic_auth": {"username": "prometheus", "password": PASSWORD}},
        "wrong": {"basic_auth": {"username": "prometheus", "password": "planted-guess"}},
    }
    targets = dict.fromkeys(options, f"127.0.0.1:{running.port}")
    prometheus = RunningPrometheus(tmp_path / "prometheus", targets, options=options)
    with running as exporter:
        exporter.wait_for(*UP, source="audit")
        with prometheus.server:
            prometheus.wait_for("up", {"good": 1.0, "wrong": 0.0})
        assert healthy(tmp_path, exporter, environment) == 0
        assert healthy(tmp_path, exporter, {}) == 1, "it expects 200 where no password is configured"
        assert exporter.text_of_log().count("without the right user and password") == 1


def test_connections_in_their_handshake_count_and_the_oldest_gives_way(authority: Authority, tmp_path: Path):
    environment = {**web_file(tmp_path), "EXPORTER_MAX_CONNECTIONS": "16"}
    with RunningExporter(tmp_path, environment, session=session(tmp_path)) as exporter:
        exporter.wait_for(*UP, source="audit")
        with clients(exporter.port, 40) as silent:
            wait_until(lambda: all(ended(client) for client in silent[:24]))
            assert not ended(silent[-1])
            assert exporter.get("/metrics").status_code == 200


def test_slow_clients_over_tls_cost_little_and_end_when_their_time_is_over(authority: Authority, tmp_path: Path):
    """With short limits: clients that send nothing, half a handshake or half a request, and 64 that read nothing."""
    environment = {**web_file(tmp_path), **many_models(tmp_path, 3200)}
    short = (
        "import sys; from exporter import __main__, worker; "
        "worker.IDLE_SECONDS = worker.RESPONSE_SECONDS = worker.HANDSHAKE_SECONDS = 6.0; "
        "sys.exit(__main__.main(['serve']))"
    )
    context = ssl.create_default_context(cafile=str(tmp_path / "test-ca.pem"))
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

    def secured(client: socket.socket, sent: bytes) -> None:
        stack.enter_context(context.wrap_socket(client, server_hostname="localhost")).sendall(sent)

    with (
        RunningExporter(tmp_path, environment, [sys.executable, "-c", short], session(tmp_path)) as exporter,
        contextlib.ExitStack() as stack,
    ):
        exporter.wait_for(*UP, source="audit")
        assert len(exporter.get("/metrics", headers={"Accept-Encoding": "identity"}).content) > 10_000_000
        exporter.session.close()
        worker = exporter.pids()[1]
        wait_until(lambda: sockets(worker) <= OWN_SOCKETS)
        before = rss_bytes(worker)
        slow = stack.enter_context(clients(exporter.port, 94))
        for client in slow[10:20]:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
        for client in slow[20:30]:
            secured(client, request[:8])
        for client in slow[30:]:
            secured(client, request)
        assert sockets(worker) > OWN_SOCKETS + 64
        assert exporter.get("/metrics").status_code == 200
        assert rss_bytes(worker) - before < 100 * 2**20
        exporter.session.close()
        wait_until(lambda: sockets(worker) <= OWN_SOCKETS)
        assert exporter.get("/metrics").status_code == 200
        assert healthy(tmp_path, exporter, environment) == 0


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loggers_are_put_back: None, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Runs a command of the command line with web.yml in this process; gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - {"HOME", "PATH"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EXPORTER_WEB_CONFIG_FILE", "web.yml")

    def run(name: str) -> tuple[int, str]:
        code = main([name])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_a_broken_file_is_refused_at_the_start_with_every_problem(
    tmp_path: Path, command: Callable[[str], tuple[int, str]]
):
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: a}\nbasic_auth_users: {anna: planted}\n")
    for name, expected in (("serve", 2), ("check", 1)):
        code, said = command(name)
        assert code == expected
        assert said.count("web.yml:1: ") == 2
        assert said.count("web.yml:2: ") == 1
        assert "planted" not in said


def test_a_password_is_hashed_and_its_hash_is_taken(
    tmp_path: Path, command: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    (tmp_path / "web.yml").write_text("")
    code, printed = command("hash-password")
    assert code == 0
    (tmp_path / "web.yml").write_text(json.dumps({"basic_auth_users": {"anna": printed.strip()}}))
    code, said = command("check")
    assert code == 0
    assert "web.yml: plain HTTP, 1 user with a password" in said
