"""The real API under load: every request counted exactly, whatever becomes of it, and none of a client's series."""

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.exposed import Exposed
from testbed.process import ServerProcess, free_port, http_ready
from tests.regmodel.load import Call, Leave, drive, expected, scrape

ROOT = Path(__file__).resolve().parents[2]
ROW = {"counter": "Central Station", "timestamp": "2025-03-03T08:00:00Z", "temperature": 8.0}
GOOD = json.dumps(ROW).encode()
BATCH = json.dumps({"rows": [ROW] * 200}).encode()
BAD = json.dumps({**ROW, "rain": -1}).encode()


def window(year: int) -> bytes:
    return json.dumps({"test_current": {"start": f"{year}-05-05", "end": f"{year}-05-19"}}).encode()


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


def test_every_request_to_the_real_api_is_counted_exactly_once(server: str):
    randomly = random.Random(5)

    def word() -> str:
        return f"{randomly.getrandbits(64):x}"

    year = "/counts?start=2024-02-01&end=2025-02-01"
    calls = [Call("POST", "/predict", "/predict", 200, GOOD) for _ in range(1000)]
    calls += [Call("POST", "/predict", "/predict", 200, BATCH) for _ in range(100)]
    calls += [Call("POST", "/predict", "/predict", 422, BAD) for _ in range(300)]
    calls += [Call("POST", "/predict", "/predict", 422, b"{") for _ in range(100)]
    calls += [Call("POST", "/predict", "/predict", 499, BATCH, Leave.UPLOADING) for _ in range(50)]
    calls += [Call("GET", "/predict", "/predict", 405) for _ in range(50)]
    calls += [Call("GET", f"/{word()}/{word()}", "unmatched", 404) for _ in range(400)]
    calls += [Call("POST", "/evaluate", "/evaluate", 500, window(1971)) for _ in range(100)]
    calls += [Call("POST", "/evaluate", "/evaluate", 422, window(1999)) for _ in range(100)]
    calls += [Call("POST", "/evaluate", "/evaluate", 200, window(2025)) for _ in range(10)]
    calls += [Call("POST", "/promote", "/promote", 404, b'{"version": "v0777"}') for _ in range(100)]
    calls += [Call("GET", "/models", "/models", 200) for _ in range(200)]
    calls += [Call("GET", "/health", "/health", 200) for _ in range(200)]
    calls += [Call("GET", year, "/counts", 499, leave=Leave.BEFORE) for _ in range(5)]
    randomly.shuffle(calls)
    assert len(calls) > 2500
    outcome = asyncio.run(drive(server, calls))
    assert outcome == expected(calls)
    exposed = Exposed(asyncio.run(scrape(server)))
    endpoints = {sample.labels["endpoint"] for sample in exposed.samples if "endpoint" in sample.labels}
    declared = {"/predict", "/train", "/evaluate", "/promote", "/models", "/counts", "/health", "/metrics"}
    documentation = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    assert endpoints == declared | documentation | {"unmatched"}
