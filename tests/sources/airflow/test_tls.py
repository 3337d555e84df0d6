"""TLS between the exporter and Airflow: private authorities, files that cannot be used, plain servers."""

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from exporter.errors import SourceError
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.session import Session
from testbed.fake_airflow import NOW, FakeAirflow, settings
from testbed.faults import Request


def make(url: str, **env: str) -> AirflowApi:
    return AirflowApi(Session(settings(url, **env), clock=lambda: NOW, jitter=lambda: -0.5))


def failure(asked: AirflowApi) -> SourceError:
    """The error that asking for the DAGs ends in."""
    with pytest.raises(SourceError) as caught, asked.session.deadline(10):
        asked.dags()
    return caught.value


@pytest.fixture
def https(fake: FakeAirflow, tmp_path: Path) -> Iterator[str]:
    """The fake behind TLS, with a certificate that an authority of its own has signed (`tmp_path/ca.pem`)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: apt install openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=tmp_path, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    run(*new, "-subj", "/CN=airflow", "-keyout", "key.pem", "-out", "request.pem")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signing = ("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    run(*signing, "-days", "2", "-extfile", "names", "-out", "cert.pem")

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path, _, query = self.path.partition("?")
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = fake(Request(self.command, path, query, headers, body))
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = answer  # noqa: N815 -- names that http.server asks for

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_private_authority_has_to_be_named(https: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(variable, certifi.where())
    error = failure(make(https))
    assert (error.reason, "AIRFLOW_CA_FILE" in str(error)) == ("unavailable", True)
    assert make(https, AIRFLOW_CA_FILE=str(tmp_path / "ca.pem")).dags()
    assert make(https, AIRFLOW_VERIFY_TLS="false").dags()


def test_a_ca_file_that_cannot_be_used_is_named(https: str, tmp_path: Path):
    (tmp_path / "empty.pem").write_text("not a certificate\n")
    for name in ("/no/such/ca.pem", str(tmp_path / "empty.pem")):
        assert f"AIRFLOW_CA_FILE ({name}) cannot be used" in str(failure(make(https, AIRFLOW_CA_FILE=name)))


def test_https_to_a_plain_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert "plain http" in str(failure(make(f"https://127.0.0.1:{server.server_port}")))
    server.shutdown()
    server.server_close()
