"""The real API under load: every request counted exactly, whatever becomes of it, and none of a client's series."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from testbed.exposed import Exposed
from testbed.process import ServerProcess, free_port, http_ready

ROOT = Path(__file__).resolve().parents[2]
ROW = {"counter": "Central Station", "timestamp": "2025-03-03T08:00:00Z", "temperature": 8.0}
GOOD = json.dumps(ROW).encode()
BATCH = json.dumps({"rows": [ROW] * 200}).encode()
BAD = json.dumps({**ROW, "rain": -1}).encode()
CONNECTIONS: Final = 16
MANY: Final = 10 if os.environ.get("CI") == "true" else 3
"""How often the rarest call is made, and the others in proportion: 1,100 calls in CI, 330 elsewhere."""
WITHIN: Final = 30.0
"""Seconds for one request, and for the counts to settle: the server learns in its own time that a client left."""


@dataclass(frozen=True)
class Call:
    """A request, the status that answers it, and the endpoint that it counts for."""

    method: str
    path: str
    endpoint: str
    status: int
    body: bytes = b""
    aborted: bool = False
    """The client leaves in the middle of its own body, and sees no status."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("load")
    url = f"http://127.0.0.1:{port}"
    app = ["--factory", "tests.regmodel.regmodel_with_a_bug:create_app", "--app-dir", str(ROOT)]
    with ServerProcess(
        [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--no-access-log"],
        log=folder / "uvicorn.log",
        ready=http_ready(f"{url}/health"),
        environment={
            "PYTHONPATH": str(ROOT / "docker" / "regmodel"),
            "REGMODEL_MODELS_DIR": str(folder / "models"),
            "OMP_NUM_THREADS": "1",
        },
        cwd=ROOT,
        ready_within=120,
    ):
        yield url


def window(year: int) -> bytes:
    return json.dumps({"test_current": {"start": f"{year}-05-05", "end": f"{year}-05-19"}}).encode()


def test_every_request_to_the_real_api_is_counted_exactly_once(server: str):
    randomly = random.Random(5)

    def word() -> str:
        return f"{randomly.getrandbits(64):x}"

    calls = [Call("POST", "/predict", "/predict", 200, GOOD) for _ in range(30 * MANY)]
    calls += [Call("POST", "/predict", "/predict", 200, BATCH) for _ in range(3 * MANY)]
    calls += [Call("POST", "/predict", "/predict", 422, BAD) for _ in range(10 * MANY)]
    calls += [Call("POST", "/predict", "/predict", 422, b"{") for _ in range(5 * MANY)]
    calls += [Call("POST", "/predict", "/predict", 400, BATCH, aborted=True) for _ in range(3 * MANY)]
    calls += [Call("GET", "/predict", "/predict", 405) for _ in range(3 * MANY)]
    calls += [Call("GET", f"/{word()}/{word()}", "unmatched", 404) for _ in range(20 * MANY)]
    calls += [Call("POST", "/evaluate", "/evaluate", 500, window(1971)) for _ in range(5 * MANY)]
    calls += [Call("POST", "/evaluate", "/evaluate", 422, window(1999)) for _ in range(5 * MANY)]
    calls += [Call("POST", "/evaluate", "/evaluate", 200, window(2025)) for _ in range(MANY)]
    calls += [Call("POST", "/promote", "/promote", 404, b'{"version": "v0777"}') for _ in range(5 * MANY)]
    calls += [Call("GET", "/models", "/models", 200) for _ in range(10 * MANY)]
    calls += [Call("GET", "/health", "/health", 200) for _ in range(10 * MANY)]
    randomly.shuffle(calls)
    exposed = asyncio.run(drive(server, calls))
    endpoints = {sample.labels["endpoint"] for sample in exposed.samples if "endpoint" in sample.labels}
    declared = {"/predict", "/train", "/evaluate", "/promote", "/models", "/counts", "/health", "/metrics"}
    documentation = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    assert endpoints == declared | documentation | {"unmatched"}


async def drive(url: str, calls: Sequence[Call]) -> Exposed:
    """Make the calls over CONNECTIONS connections at a time, check what is counted, and give the last exposition."""
    expected = {
        "fastapi_requests_total": Counter((call.method, call.endpoint, str(call.status)) for call in calls),
        "fastapi_errors_total": Counter((call.method, call.endpoint) for call in calls if call.status >= 500),
        "fastapi_request_duration_seconds_count": Counter(
            (call.method, call.endpoint) for call in calls if call.endpoint != "/health"
        ),
    }
    queue = list(calls)

    async def work() -> None:
        while queue:
            call = queue.pop()
            if call.aborted:
                await asyncio.wait_for(abort(client, call), WITHIN)
            else:
                headers = {"Content-Type": "application/json"}
                answer = await client.request(call.method, call.path, content=call.body, headers=headers)
                assert answer.status_code == call.status, call

    # uvicorn closes the connection after an exception, while the client may already be using it again.
    async with httpx.AsyncClient(base_url=url, timeout=WITHIN, headers={"Connection": "close"}) as client:
        before = Exposed((await client.get("/metrics")).text)
        async with asyncio.TaskGroup() as workers:
            for _ in range(CONNECTIONS):
                workers.create_task(work())
        deadline = asyncio.get_running_loop().time() + WITHIN
        while True:
            after = Exposed((await client.get("/metrics")).text)
            grown = {name: counted(after, name) - counted(before, name) for name in expected}
            if grown == expected or asyncio.get_running_loop().time() > deadline:
                assert grown == expected
                return after


async def abort(client: httpx.AsyncClient, call: Call) -> None:
    """Send half of a request's body and leave."""
    address = urlsplit(str(client.base_url))
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(call.body)}\r\n\r\n".encode() + call.body[: len(call.body) // 2])
    await writer.drain()
    # The server must have begun with the request, or there is nothing to count.
    await client.get("/metrics")
    writer.transport.abort()


def counted(exposed: Exposed, name: str) -> Counter[tuple[str, ...]]:
    """Values by the labels method, endpoint and, for requests, status code; without the scrapes."""
    order = ("method", "endpoint", "status_code")
    return Counter(
        {
            tuple(s.labels[label] for label in order if label in s.labels): int(s.value)
            for s in exposed.samples
            if s.name == name and s.labels["endpoint"] != "/metrics"
        }
    )
