"""A real uvicorn under load counts every request exactly once, whatever becomes of it."""

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.exposed import Exposed
from testbed.process import ServerProcess, free_port, http_ready
from tests.regmodel.load import Call, Leave, drive, expected, make, scrape

ROOT = Path(__file__).resolve().parents[2]
GOOD = b'{"hour": 8, "temperature": 12.5}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    app = ["--factory", "tests.regmodel.served:create_app", "--app-dir", str(ROOT)]
    with ServerProcess(
        [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--no-access-log"],
        log=tmp_path / "uvicorn.log",
        ready=http_ready(f"{url}/health"),
        environment={"PYTHONPATH": str(ROOT / "docker" / "regmodel")},
        cwd=ROOT,
        ready_within=60,
    ):
        yield url


def the_calls(randomly: random.Random) -> list[Call]:
    def word() -> str:
        return f"{randomly.getrandbits(64):x}"

    calls = [Call("POST", "/predict", "/predict", 200, GOOD) for _ in range(800)]
    calls += [Call("POST", "/predict", "/predict", 422, b'{"hour": "x"}') for _ in range(200)]
    calls += [Call("DELETE", "/predict", "/predict", 405) for _ in range(50)]
    calls += [Call("GET", f"/models/{word()}", "/models/{version}", 200) for _ in range(300)]
    calls += [Call("GET", f"/outer/inner/models/{word()}", "/outer/inner/models/{version}", 200) for _ in range(100)]
    calls += [Call("GET", f"/sub/items/{number}", "/sub/items/{id}", 200) for number in range(100, 200)]
    tenant = "/tenants/{id}/items/{id}"
    calls += [Call("GET", f"/tenants/{word()}/items/13", tenant, 500) for _ in range(50)]
    calls += [Call("GET", f"/{word()}/{word()}", "unmatched", 404) for _ in range(300)]
    calls += [Call("GET", f"/sub/{word()}", "unmatched", 404) for _ in range(100)]
    calls += [Call("GET", "/raises", "/raises", 500) for _ in range(100)]
    calls += [Call("GET", "/answers-500", "/answers-500", 500) for _ in range(100)]
    calls += [Call("GET", "/unavailable", "/unavailable", 503) for _ in range(50)]
    calls += [Call("GET", "/broken-stream", "/broken-stream", 500, sees=200) for _ in range(50)]
    calls += [Call("GET", "/stream/3", "/stream/{chunks}", 200) for _ in range(100)]
    calls += [Call("GET", "/stream/100000", "/stream/{chunks}", 499, leave=Leave.AMID, sees=200) for _ in range(50)]
    calls += [Call("GET", "/slow", "/slow", 499, leave=Leave.BEFORE) for _ in range(50)]
    calls += [Call("GET", "/slow", "/slow", 200) for _ in range(20)]
    calls += [Call("POST", "/predict", "/predict", 499, GOOD, Leave.UPLOADING) for _ in range(50)]
    calls += [Call("GET", "/health", "/health", 200) for _ in range(100)]
    randomly.shuffle(calls)
    return calls


def test_every_request_is_counted_exactly_once(server: str) -> None:
    calls = the_calls(random.Random(1))
    outcome = asyncio.run(drive(server, calls))
    assert outcome == expected(calls)

    exposed = Exposed(asyncio.run(scrape(server)))
    assert exposed.value("test_in_flight") == 1, "the scrape itself"
    # Each of the 16 buckets, count and sum of a histogram, and a few status codes.
    methods = {(s.labels["method"], s.labels["endpoint"]) for s in exposed.samples if "endpoint" in s.labels}
    assert len(methods) < 30
    assert len(exposed.samples) < 30 * 25


def test_invented_methods_and_paths_make_no_series(server: str) -> None:
    before = len(Exposed(asyncio.run(scrape(server))).samples)
    randomly = random.Random(2)
    names = ["".join(randomly.choices("ABCDEFGHIJ", k=8)) for _ in range(200)]
    calls = [Call(name, f"/{name}", "unmatched", 404) for name in names]
    asyncio.run(_all(server, calls))
    exposed = Exposed(asyncio.run(scrape(server)))
    assert exposed.value("fastapi_requests_total", method="_OTHER", endpoint="unmatched", status_code="404") == 200
    assert len(exposed.samples) - before < 25


async def _all(server: str, calls: list[Call]) -> None:
    for call in calls:
        await asyncio.wait_for(make(server, call), 10)
