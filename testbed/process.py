"""Server processes for tests: started in a process group of their own, awaited until ready, and always ended."""

import atexit
import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_POLL_SECONDS: Final = 0.1
_TAIL_LINES: Final = 40


class NotReady(RuntimeError):
    """A server ended, or did not answer its readiness probe in time. The message ends with its log's tail."""


def children(pid: int | str = "self") -> list[int]:
    """Process ids of a process's children, whichever of its threads started them.

    Raises:
        FileNotFoundError: the process is gone.
    """
    while True:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        # A thread that ends while they are read hands its children to another one: read them all again.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return sorted({int(child) for thread in threads for child in (thread / "children").read_text().split()})


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Nothing reserves it: use it at once."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def http_ready(url: str, timeout: float = 2.0, verify: Path | None = None) -> Callable[[], bool]:
    """A readiness probe: whether a GET of this URL is answered with a 2xx status.

    Args:
        verify: the authority's file where the URL is one of HTTPS.
    """
    # Environment proxies must not stand between a test and a server on the same machine.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if verify is not None:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=verify)))
    opener = urllib.request.build_opener(*handlers)

    def probe() -> bool:
        try:
            with opener.open(url, timeout=timeout) as response:
                return 200 <= int(response.status) < 300
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return False

    return probe


class ServerProcess:
    """A child process that serves something.

    Used as a context manager: entering starts it and waits until it is ready, leaving ends it and everything it
    started. It is also ended when the interpreter exits without leaving the block.

    Args:
        command: the program and its arguments.
        log: the file that receives its output; it is truncated.
        ready: the readiness probe.
        environment: variables added to those of this process.
        cwd: the folder it runs in.
        ready_within: seconds it is given to become ready.
        stop_within: seconds it is given to end after SIGTERM, before SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_within: float = 120.0,
        stop_within: float = 10.0,
    ) -> None:
        self.command = [os.fspath(part) for part in command]
        self.log = log
        self._ready = ready
        self._environment = dict(environment or {})
        self._cwd = cwd
        self._ready_within = ready_within
        self._stop_within = stop_within
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            NotReady: it ended, or did not become ready in time. It has been ended by then.
        """
        if self._process is not None:
            raise RuntimeError("already started")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                cwd=self._cwd,
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and its group: SIGTERM, then SIGKILL to whatever is left. Harmless when it has ended."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stop_within)
        # The leader may be gone while its children are not: the group outlives it.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, number: signal.Signals, within: float) -> float:
        """Send the process, not its group, a signal and wait for its end; gives the seconds that took.

        Raises:
            subprocess.TimeoutExpired: it has not ended `within` so many seconds.
        """
        if self._process is None:
            raise RuntimeError("not started")
        began = time.monotonic()
        self._process.send_signal(number)
        self._process.wait(within)
        return time.monotonic() - began

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines that the process wrote."""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_within
        while not self._ready():
            if (status := process.poll()) is not None:
                raise NotReady(self._report(f"ended with status {status} before it was ready"))
            if time.monotonic() > deadline:
                raise NotReady(self._report(f"was not ready after {self._ready_within:g} s"))
            time.sleep(_POLL_SECONDS)

    def _report(self, what: str) -> str:
        return f"{self.command[0]} {what}. The end of its log, {self.log}:\n{self.log_tail()}"


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
