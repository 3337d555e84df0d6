"""What the HTTP metrics cost a request: applications bare and measured, side by side in one process.

    python -m benchmarks.http_metrics [--rounds 400] [--requests 50]

Two requests: a small JSON POST that is validated and answered with JSON, and `/predict` of the RegModel API. Rounds of
bare and measured take turns, so that what else the machine does meets both; each round gives one ratio, and the median
of the ratios is the result. Many short rounds are better than a few long ones, during which the processor's clock
changes. The application is called as a server would call it, and processor time is taken, which on an idle machine is
the time that passes: nothing waits.
"""

import os

# Before NumPy and scikit-learn are imported, as `python -m regmodel` does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docker" / "regmodel"))

BODY = b'{"hour": 8, "temperature": 12.5, "site": "Totem 73"}'
REGMODEL_BODY = json.dumps(
    {"counter": "Central Station", "timestamp": "2025-03-03T08:00:00Z", "temperature": 8.0, "level": 250.0}
).encode()
SLOW_REQUESTS = 2
"""Requests in a round of the RegModel API, which takes a hundred times as long."""


def small() -> tuple[Any, Any]:
    """An application that does next to nothing, bare and measured."""
    from regmodel.http_metrics import HttpMetrics  # noqa: PLC0415 (found by the path that is set above)

    class Features(BaseModel):
        hour: int
        temperature: float
        site: str

    async def predict(features: Features) -> dict[str, float]:
        return {"bikes": features.temperature * features.hour}

    bare, measured = FastAPI(), FastAPI()
    for app in (bare, measured):
        app.add_api_route("/predict", predict, methods=["POST"])
    measured.add_middleware(HttpMetrics, api=measured, registry=CollectorRegistry())
    return bare, measured


def regmodel(folder: Path) -> tuple[Any, Any]:
    """The RegModel API, bare and as it is; both have the same champion."""
    from regmodel.app import create_app  # noqa: PLC0415 (as above)
    from regmodel.service import Service  # noqa: PLC0415
    from regmodel.settings import Settings  # noqa: PLC0415

    service = Service(Settings(models_dir=folder))
    service.ensure_champion()
    bare, measured = (create_app(Settings(), service=service) for _ in range(2))
    bare.user_middleware.clear()  # the HTTP metrics are the only one
    return bare, measured


async def call(app: Any, requests: int, body: bytes) -> float:
    """Seconds of processor time for each of so many requests."""
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


def compare(what: str, apps: tuple[Any, Any], rounds: int, requests: int, body: bytes) -> None:
    """Print the times of both applications, and what the second takes longer."""
    times: list[list[float]] = []
    with asyncio.Runner() as runner:
        for number in range(-5, rounds):
            # The second of a pair may find the caches, or a slower clock, that the first left behind.
            order = (0, 1) if number % 2 else (1, 0)
            pair = {which: runner.run(call(apps[which], requests, body)) for which in order}
            if number >= 0:  # those before warm up
                times.append([pair[0], pair[1]])
    for which, name in enumerate(("bare", "measured")):
        low, middle, high = statistics.quantiles([pair[which] * 1e6 for pair in times])
        print(f"{what:12} {name:9} median {middle:8.1f} µs a request   quartiles {low:8.1f} {high:8.1f}")
    low, middle, high = statistics.quantiles([100 * (after / before - 1) for before, after in times])
    extra = statistics.median((after - before) * 1e6 for before, after in times)
    print(f"{what:12} overhead  median {middle:+8.2f} %  ({extra:+.2f} µs)   quartiles {low:+.2f} {high:+.2f} %")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=400)
    arguments.add_argument("--requests", type=int, default=50, help="requests in each round")
    given = arguments.parse_args()
    compare("small", small(), given.rounds, given.requests, BODY)
    with tempfile.TemporaryDirectory() as folder:
        compare("RegModel API", regmodel(Path(folder)), given.rounds, SLOW_REQUESTS, REGMODEL_BODY)


if __name__ == "__main__":
    main()
