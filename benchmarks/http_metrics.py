"""What the HTTP metrics cost a request: a FastAPI application bare and measured, side by side.

    python -m benchmarks.http_metrics [--rounds 400] [--requests 50] [--no-server]

The request is a small JSON POST that is validated and answered with JSON. Rounds of both applications take turns, so
that what else the machine does meets both; each round gives one ratio, and the median of the ratios is the result.
Many short rounds are better than a few long ones, during which the processor's clock changes. In process, the
application is called as a server would call it, and the processor time is taken, which on an idle machine is the time
that passes: nothing waits. The same is done with `/predict` of the RegModel API itself. Over uvicorn, time on the wall
is taken; both servers run at the same time in processes of their own, and one connection to each is kept open.
"""

import os

# Before NumPy and scikit-learn are imported, as `python -m regmodel` does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docker" / "regmodel"))

BODY = b'{"hour": 8, "temperature": 12.5, "site": "Totem 73"}'
HEADERS = {"Content-Type": "application/json"}


SLOW_REQUESTS = 2
"""Requests in a round of the RegModel API, which takes a hundred times as long."""

REGMODEL_BODY = json.dumps(
    {"counter": "Central Station", "timestamp": "2025-03-03T08:00:00Z", "temperature": 8.0, "level": 250.0}
).encode()


def bare() -> Any:
    class Features(BaseModel):
        hour: int
        temperature: float
        site: str

    app = FastAPI()

    @app.post("/predict")
    async def predict(features: Features) -> dict[str, float]:
        return {"bikes": features.temperature * features.hour}

    return app


def measured() -> Any:
    from regmodel.http_metrics import install  # noqa: PLC0415 (found by the path that is set above)

    app = bare()
    install(app, CollectorRegistry())
    return app


def regmodels(folder: Path) -> tuple[Any, Any]:
    """The RegModel API, bare and as it is; both have the same champion."""
    from regmodel.app import create_app  # noqa: PLC0415 (as above)
    from regmodel.service import Service  # noqa: PLC0415
    from regmodel.settings import Settings  # noqa: PLC0415

    service = Service(Settings(models_dir=folder))
    service.ensure_champion()
    unmeasured, as_it_is = (create_app(Settings(), service=service) for _ in range(2))
    # What `install` put into the instance.
    del unmeasured.build_middleware_stack
    return unmeasured, as_it_is


async def call_in_process(app: Any, requests: int, body: bytes = BODY) -> float:
    """Seconds for each of so many requests."""
    headers = [(b"host", b"bench"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    statuses = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    started = time.process_time()
    for _ in range(requests):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/predict",
            "raw_path": b"/predict",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        await app(scope, receive, send)
    seconds = (time.process_time() - started) / requests
    assert statuses == {200}, statuses
    return seconds


@contextlib.contextmanager
def served(factory: str) -> Iterator[Callable[[int], float]]:
    """A uvicorn of this application; gives what sends it so many requests and returns the seconds for each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.http_metrics:{factory}", f"--port={port}"]
    server = subprocess.Popen([*command, "--no-access-log", "--log-level=warning"], cwd=ROOT)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                connection.connect()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.05)

        def send(requests: int) -> float:
            started = time.perf_counter()
            for _ in range(requests):
                connection.request("POST", "/predict", BODY, HEADERS)
                response = connection.getresponse()
                response.read()
                assert response.status == 200, response.status
            return (time.perf_counter() - started) / requests

        yield send
    finally:
        connection.close()
        server.terminate()
        server.wait(10)


def compare(what: str, rounds: int, one_bare: Callable[[], float], one_measured: Callable[[], float]) -> float:
    """Print both times and their ratio; return the median overhead in percent."""
    for _ in range(5):  # warm
        one_bare(), one_measured()
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        # The second of a pair may find the caches, or a slower clock, that the first left behind.
        if number % 2:
            after = one_measured()
            before = one_bare()
        else:
            before = one_bare()
            after = one_measured()
        times.append((before, after))
    for name, column in (("bare", 0), ("measured", 1)):
        low, middle, high = statistics.quantiles([pair[column] * 1e6 for pair in times])
        print(f"{what:12} {name:9} median {middle:7.1f} µs a request   quartiles {low:7.1f} {high:7.1f}")
    overheads = [100 * (after / before - 1) for before, after in times]
    low, middle, high = statistics.quantiles(overheads)
    extra = statistics.median((after - before) * 1e6 for before, after in times)
    print(f"{what:12} overhead  median {middle:+7.2f} %  ({extra:+.2f} µs)   quartiles {low:+.2f} {high:+.2f} %")
    return middle


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=400)
    arguments.add_argument("--requests", type=int, default=50, help="requests in each round")
    arguments.add_argument("--no-server", action="store_true", help="leave out the rounds over uvicorn")
    given = arguments.parse_args()

    apps = bare(), measured()
    with asyncio.Runner() as runner:
        one_bare, one_measured = (lambda app=app: runner.run(call_in_process(app, given.requests)) for app in apps)
        compare("in process", given.rounds, one_bare, one_measured)
        with tempfile.TemporaryDirectory() as folder:
            apps = regmodels(Path(folder))
            one_bare, one_measured = (
                lambda app=app: runner.run(call_in_process(app, SLOW_REQUESTS, REGMODEL_BODY)) for app in apps
            )
            compare("RegModel API", given.rounds, one_bare, one_measured)
    if not given.no_server:
        with served("bare") as to_bare, served("measured") as to_measured:
            compare("over uvicorn", given.rounds, lambda: to_bare(given.requests), lambda: to_measured(given.requests))


if __name__ == "__main__":
    main()
