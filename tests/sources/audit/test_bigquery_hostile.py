"""What a hostile endpoint in BigQuery's place can do: cost its own refresh, within the deadline and little memory."""

import json
import resource
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from exporter.errors import BadData, SourceError
from exporter.settings import Settings
from exporter.sources.audit.bigquery import BigQueryAudit
from tests.sources.audit.duckdb_log import CATALOG, NOW

TABLE: dict[str, Any] = {
    "kind": "bigquery#table",
    "tableReference": {"projectId": "p", "datasetId": "monitoring_audit", "tableId": "logs"},
    "type": "TABLE",
    "location": "EU",
    "numRows": "1",
    "numBytes": "1",
    "creationTime": "1700000000000",
    "lastModifiedTime": "1700000000000",
    "schema": {"fields": [{"name": "timestamp", "type": "TIMESTAMP"}, {"name": "r2", "type": "FLOAT"}]},
}


@pytest.fixture
def answers() -> Iterator[tuple[str, list[bytes]]]:
    """A server's address, and the body with which it answers everything."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = zlib.compress(bodies[0])
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Encoding", "deflate")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 -- the server's name

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def source_at(url: str) -> BigQueryAudit:
    settings = Settings.from_env(
        {"GOOGLE_CLOUD_PROJECT": "project-one", "BIGQUERY_EMULATOR_HOST": url, "AUDIT_TIMEOUT_SECONDS": "20"}
    )
    return BigQueryAudit(settings, CATALOG, lambda: NOW)


def many_columns(count: int) -> bytes:
    fields = [*TABLE["schema"]["fields"], *({"name": f"c{number}", "type": "FLOAT"} for number in range(count))]
    return json.dumps(TABLE | {"schema": {"fields": fields}}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (many_columns(300_000), "more than 250,000 values"),
        (many_columns(20_000), "has 20002 columns"),
        (b"[" + b"{}," * 10_000_000 + b"{}]", "more than 250,000 values"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 50 deep"),
        (json.dumps(TABLE | {"lastModifiedTime": "9" * 40}).encode(), "not its API"),
        (json.dumps(TABLE | {"lastModifiedTime": "9" * 5000}).encode(), "not its API"),
        (json.dumps(TABLE | {"creationTime": "-" + "9" * 400}).encode(), "not its API"),
        (json.dumps(TABLE | {"schema": {"fields": [[1], 2, None]}}).encode(), "not its API"),
        (b"null", "not its API"),
        (b'"\\ud800"', "not its API"),
        (b"9" * 1_000_000, "not its API"),
    ],
)
def test_an_answer_that_is_too_much_or_makes_no_sense_is_refused(
    answers: tuple[str, list[bytes]], body: bytes, says: str
):
    url, bodies = answers
    bodies.append(body)
    source = source_at(url)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(BadData) as caught:
        source.read(None)
    source.close()
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.monotonic() - began < 22
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024


@pytest.mark.parametrize("name", ["numRows", "numBytes", "type", "location", "tableReference", "timePartitioning"])
@pytest.mark.parametrize("value", [None, "x" * 100_000, "\ud800", -1, 1e308, 10**399, [], {}, [[]], True])
def test_odd_metadata_is_no_bug(answers: tuple[str, list[bytes]], name: str, value: object):
    url, bodies = answers
    bodies.append(json.dumps(TABLE | {name: value}).encode())
    source = source_at(url)
    with pytest.raises(SourceError) as caught:
        source.read(None)
    source.close()
    assert "Bug" not in str(caught.value)
    str(caught.value).encode()
