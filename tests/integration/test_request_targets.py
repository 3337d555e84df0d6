"""Whatever is asked for, however it is written: an ordinary answer, never a 500 and never a traceback."""

import os
import random
import socket
from pathlib import Path

from testbed.exporter import RunningExporter

REQUESTS = 10_000 if os.environ.get("CI") == "true" else 1_000
PATHS = b"/ /metrics /health /-/healthy /-/ready /-/refresh //metrics /%2fmetrics /metrics/".split()
PIECES = (
    *b"% %2f %2e%2e %00 %ff %C3%A4 %ED%A0%80 .. / // \\ ? # ; & =".split(),
    *(b"\xff", "\u00e4".encode(), b"'", b'"', b"<b>", b"{{7*7}}", b"*", b"http://x/", b"force=true", b"a" * 300),
)
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"FOO", b"get")
HEADERS = (
    b"Accept: application/openmetrics-text;q=x\r\n",
    b"Accept: \xff\xfe\r\n",
    b"Accept-Encoding: gzip;q=nan\r\n",
    b"Authorization: Bearer \xff\r\n",
    b"Authorization: Basic ====\r\n",
    b"Content-Length: 0\r\n",
    b"Host: \xe4\r\n",
    b"X-Forwarded-Proto: https\r\n",
    b"Cookie: a=b\r\n",
    b"Range: bytes=0-1\r\n",
)


def some_request(chance: random.Random) -> bytes:
    target = chance.choice(PATHS) + b"".join(chance.choices(PIECES, k=chance.randint(0, 4)))
    headers = b"".join(chance.sample(HEADERS, k=chance.randint(0, 3)))
    return chance.choice(METHODS) + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"Connection: close\r\n\r\n"


def answer(port: int, request: bytes) -> bytes:
    """The status line; empty where the server ends the connection without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        received = b""
        while b"\r\n" not in received and (more := client.recv(4096)):
            received += more
    return received.split(b"\r\n")[0]


def test_random_request_targets_get_ordinary_answers(tmp_path: Path):
    chance = random.Random(9101)
    with RunningExporter(tmp_path, {"EXPORTER_REFRESH_TOKEN": "a-token-of-the-tests"}) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        statuses: dict[bytes, int] = {}
        for _ in range(REQUESTS):
            request = some_request(chance)
            status = answer(exporter.port, request).split(b" ")[1:2]
            assert status, request
            assert status[0] < b"500" or status[0] in (b"501", b"503"), (status, request)
            statuses[status[0]] = statuses.get(status[0], 0) + 1
        assert {b"200", b"404", b"405", b"400"} <= set(statuses), statuses
        assert exporter.get("/metrics").status_code == 200
        assert "Traceback" not in exporter.text_of_log()
