"""The exporter itself as a process, the way `make run` starts it."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from testbed.exposed import Exposed
from testbed.process import ServerProcess, children, free_port, http_ready

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("EXPORTER_", "AUDIT_", "GOOGLE_", "BIGQUERY_", "AIRFLOW_", "WEB_CONCURRENCY")


class RunningExporter:
    """`python -m exporter serve` in a folder of its own, on a free port.

    Args:
        folder: working directory; the state folder and the sample are made in it.
        environment: settings besides EXPORTER_HOST and EXPORTER_PORT.
        command: what to run instead of `python -m exporter serve`.
        session: sends the requests; with an authority's file in `verify`, the exporter is to serve HTTPS.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self.port = free_port()
        scheme = "https" if session is not None and isinstance(session.verify, str) else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log = folder / "exporter.log"
        inherited = {name: "" for name in os.environ if name.startswith(_OURS)}
        self._server = ServerProcess(
            command or [sys.executable, "-m", "exporter", "serve"],
            log=self.log,
            ready=self._ready if session else http_ready(f"{self.url}/metrics"),
            environment={
                **inherited,
                "PYTHONPATH": str(ROOT),
                "EXPORTER_HOST": "127.0.0.1",
                "EXPORTER_PORT": str(self.port),
                **(environment or {}),
            },
            cwd=folder,
            ready_within=90,
        )
        self.session = session or requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> "RunningExporter":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self._server.stop()

    def _ready(self) -> bool:
        try:
            return self.get("/metrics").ok
        except requests.ConnectionError:
            return False

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        """GET a path, within ten seconds."""
        return self.session.get(self.url + path, timeout=10, **kwargs)

    def exposed(self) -> Exposed:
        """What /metrics says now."""
        return Exposed(self.get("/metrics").text)

    def wait_for(self, name: str, value: float | None, *, within: float = 60.0, **labels: str) -> Exposed:
        """Scrape until a sample has this value."""
        return self._wait(name, lambda found: found == value, f"not {value}", within, labels)

    def wait_beyond(self, name: str, value: float, *, within: float = 60.0, **labels: str) -> Exposed:
        """Scrape until a sample is above this value: what counts on its own may move by more than one at a time."""
        return self._wait(name, lambda found: found is not None and found > value, f"not above {value}", within, labels)

    def _wait(
        self, name: str, reached: Callable[[float | None], bool], otherwise: str, within: float, labels: dict[str, str]
    ) -> Exposed:
        end = time.monotonic() + within
        while True:
            exposed = self.exposed()
            found = exposed.value(name, **labels)
            if reached(found):
                return exposed
            if time.monotonic() > end:
                raise AssertionError(f"{name} {labels} is {found}, {otherwise}, after {within} s\n{self.text_of_log()}")
            time.sleep(0.1)

    def text_of_log(self) -> str:
        """Everything that the process has logged."""
        return self.log.read_text("utf-8", errors="replace")

    def pids(self) -> tuple[int, int]:
        """Process ids of gunicorn's master and of its worker."""
        master = self._server.pid
        assert master is not None
        (worker,) = children(master)
        return master, worker

    def threads(self) -> int:
        """Number of threads in the worker."""
        return len(list(Path(f"/proc/{self.pids()[1]}/task").iterdir()))

    def terminate(self, number: signal.Signals = signal.SIGTERM, within: float = 10.0) -> float:
        """Send the master a signal and wait for its end; gives the seconds that took."""
        return self._server.end(number, within)
