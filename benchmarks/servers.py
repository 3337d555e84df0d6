"""Servers that scrapes are measured on: python -m benchmarks.servers KIND, as child processes of the benchmarks.

All run under gunicorn with one worker:

- `exporter`: the exporter's app, worker and refresh loop over a source that gives a set number of series, anew at each
  refresh; it refreshes without a pause while the file named by --busy exists;
- `static`: a WSGI function that returns bytes which were made before, on gunicorn's gthread worker with 8 threads;
- `flask`: a Flask view that calls `generate_latest` on global gauges, on the same: what most people write.
"""

import argparse
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response
from gunicorn.app.base import BaseApplication
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from exporter.app import App
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.server import gunicorn_options
from exporter.settings import Settings
from exporter.snapshot import Grid, Observation, Reading, Sample
from exporter.sources.audit.duckdb import DuckDBAudit
from exporter.web_file import WebFile
from testbed.many_models import METRICS, models_catalogue
from testbed.process import ServerProcess, free_port, http_ready

FAMILIES: Final = ("airflow_dag_run_active_seconds", "airflow_dag_last_success_timestamp_seconds")
"""Gauges that the Flask view fills."""
_POLL_SECONDS: Final = 0.1
PAUSE: Final = 0.3
"""Interval between two refreshes: longer than a reading takes to be stored, so that it is rendered before the next one
is asked for, and over when it has been rendered."""


class ManySeries:
    """An audit log of many models with METRICS metrics each, whose values all differ from one read to the next.

    A read waits while `busy` does not exist, except for the first: the exporter is idle then.
    """

    name = "audit"
    identity = "synthetic"
    timeout_seconds = 1e9

    def __init__(self, catalog: Catalog, series: int, busy: Path) -> None:
        self._catalog = catalog
        self._models = series // METRICS
        self._busy = busy
        self._reads = 0
        self._stopped = threading.Event()

    def read(self, previous: Reading | None, _wanted: frozenset[str] = frozenset()) -> Reading:
        """All series, once more."""
        while previous is not None and not self._busy.exists() and not self._stopped.is_set():
            self._stopped.wait(_POLL_SECONDS)
        self._reads += 1
        now = time.time()
        sets = tuple((("model", f"model_{number:05}"),) for number in range(self._models))
        observations = {}
        for place, metric in enumerate(self._catalog.metrics):
            values = array(
                "d", ((number * 31 + self._reads * 7 + place) % 1000 / 1000 for number in range(self._models))
            )
            observations[metric.name] = Observation(Grid(sets, (((), values),)), now)
        return Reading(
            source=self.name,
            identity=self.identity,
            catalog=self._catalog.fingerprint,
            read_at=now,
            queried_at=now,
            token=None,
            observations=observations,
        )

    def changed(self, _previous: Reading) -> bool:
        """Never looked at between refreshes."""
        return False

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Nothing to count."""
        return {}

    def interrupt(self) -> None:
        """End the wait."""
        self._stopped.set()

    def close(self) -> None:
        """Nothing is open."""


class BenchServer(ServerProcess):
    """One of these servers as a process, at `url`; with an authority's file in `verify`, it is to serve HTTPS."""

    def __init__(self, kind: str, folder: Path, *arguments: str, verify: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"{'https' if verify else 'http'}://127.0.0.1:{self.port}/metrics"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            [sys.executable, "-m", "benchmarks.servers", kind, "--port", str(self.port), *arguments],
            log=folder / f"{kind}.log",
            ready=http_ready(self.url, timeout=30, verify=verify),
            environment={"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            cwd=folder,
            ready_within=120,
        )


class _Application(BaseApplication):
    def __init__(self, port: int, make: Callable[[], Any], options: Mapping[str, Any]) -> None:
        self._port, self._make, self._options = port, make, options
        super().__init__()

    def load_config(self) -> None:
        for name, value in {**self._options, "bind": [f"127.0.0.1:{self._port}"]}.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return self._make()


def exporter_app(series: int, busy: Path, web: Path | None = None) -> App:
    """The exporter's app; `series` 0 is what the built-in catalogue gives for the sample history. `web` is the file of
    its web configuration."""
    catalog = load_catalog(models_catalogue(busy.with_suffix(".yaml")) if series else None)
    if series:
        source: Any = ManySeries(catalog, series, busy)
    else:
        source = _Always(DuckDBAudit(Settings.from_env({}), catalog), busy)

    refresher = Refresher(catalog, [source], Ledger.open(None), interval=PAUSE, stale_after=1e9)
    return App(refresher, catalog, web=None if web is None else WebFile(web))


class _Always:
    """The DuckDB source over the sample, made to query at every read, and to wait while `busy` does not exist."""

    def __init__(self, source: Any, busy: Path) -> None:
        self._source, self._busy = source, busy
        self._stopped = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, previous: Reading | None, _wanted: frozenset[str] = frozenset()) -> Reading:
        while previous is not None and not self._busy.exists() and not self._stopped.is_set():
            self._stopped.wait(_POLL_SECONDS)
        reading: Reading = self._source.read(None)
        return reading

    def interrupt(self) -> None:
        self._stopped.set()
        self._source.interrupt()


def static_app(plain: bytes, compressed: bytes) -> Callable[..., Iterable[bytes]]:
    """The least that WSGI can do."""
    answers = {
        False: (plain, [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(plain)))]),
        True: (
            compressed,
            [
                ("Content-Type", CONTENT_TYPE_LATEST),
                ("Content-Encoding", "gzip"),
                ("Content-Length", str(len(compressed))),
            ],
        ),
    }

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body, headers = answers["gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")]
        start_response("200 OK", headers)
        return [body]

    return app


def flask_app(series: int) -> Flask:
    """A plain Flask view over global gauges."""
    registry = CollectorRegistry()
    gauges = [Gauge(family, f"The gauge {family}.", ["dag_id"], registry=registry) for family in FAMILIES]
    for place, gauge in enumerate(gauges):
        for number in range(series // len(gauges)):
            gauge.labels(f"model_{number:05}").set((number * 31 + place) % 1000 / 1000 + 0.001)
    app = Flask(__name__)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers")
    parser.add_argument("kind", choices=("exporter", "static", "flask"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--series", type=int, default=0)
    parser.add_argument("--busy", type=Path, default=Path("busy"))
    parser.add_argument("--web", type=Path)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--gzip", type=Path)
    options = parser.parse_args()
    configuration: dict[str, Any] = {"worker_class": "gthread", "threads": 8, "keepalive": 65, "loglevel": "warning"}
    make: Callable[[], Any]
    if options.kind == "exporter":
        configuration = gunicorn_options(Settings.from_env({}))
        make = lambda: exporter_app(options.series, options.busy, options.web)  # noqa: E731 -- one of three
    elif options.kind == "static":
        make = lambda: static_app(options.plain.read_bytes(), options.gzip.read_bytes())  # noqa: E731
    else:
        make = lambda: flask_app(options.series)  # noqa: E731
    _Application(options.port, make, configuration).run()


if __name__ == "__main__":
    main()
