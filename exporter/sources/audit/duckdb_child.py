"""The embedded audit log, read by a process that lives for one read.

DuckDB and the SQL translator stay in memory once they have run, and a fault in native code ends its process. The
exporter, which reads the log only when its files were written, keeps neither: it looks at the files itself and starts
`python -m exporter.sources.audit.duckdb_child` for the read. A crash, or an end for lack of memory, is one failed
refresh.

The two speak over a socket pair, pickled, as a process and its own child can. The end that the exporter holds is also
the child's lifeline: shut down, or closed because the exporter is gone, it ends the query.
"""

import contextlib
import dataclasses
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final

from exporter.catalog import Catalog
from exporter.errors import SourceError, SourceTimeout, SourceUnavailable
from exporter.logs import configure_logging
from exporter.settings import Settings, secrets_of
from exporter.snapshot import Reading
from exporter.sources.audit.files import EmbeddedAudit

log = logging.getLogger(__name__)

PROGRAM: Final = (sys.executable, "-P", "-m", "exporter.sources.audit.duckdb_child")
"""What is started, with the number of its socket as the argument. `-P`: what lies in the working folder is not
imported, except where this process imports it from there, too."""
START_SECONDS: Final = 2.0
"""How much longer than the read itself, which has its own deadline, the process may take to start and to answer."""
KILL_SECONDS: Final = 1.0
"""How long the process may take to end once it was told to; then it is killed."""


class DuckDBProcess(EmbeddedAudit):
    """The audit log, read by DuckDB in a process of its own. See `exporter.sources.Source`.

    Args:
        clock: Unix seconds.
        program: the command that reads.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        clock: Callable[[], float] = time.time,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        # What the process does not need, it is not told.
        told = dataclasses.replace(settings, airflow_password=None, airflow_token=None, refresh_token=None)
        super().__init__(told, catalog, clock)
        self._program = program
        self._stop = threading.Event()
        self._wake = threading.Event()

    def _query(self, now: float, since: float | None) -> Reading:
        self._stop.clear()
        self._wake.clear()
        with self._started() as (process, ours):
            answer: Reading | SourceError | None = None
            # A process that ends too early breaks the connection, or leaves half an answer.
            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
                ours.sendall(pickle.dumps((self._settings, self._catalog, now, since)))
                with ours.makefile("rb") as answers:
                    answer = pickle.load(answers)  # noqa: S301 -- from the process that was started here
        if isinstance(answer, Reading):
            return answer
        if answer is not None:
            raise answer
        if self._stop.is_set():
            raise SourceTimeout(f"The audit log was not read within {self.timeout_seconds:g} s.")
        status = process.returncode
        how = f"on signal {-status}" if status < 0 else f"with status {status}"
        raise SourceError(
            f"The process that reads the audit log ended {how} and gave no answer: it crashed, or was killed, as "
            "systems do that lack memory."
        )

    def interrupt(self) -> None:
        """End a read that is under way."""
        self._stop.set()
        self._wake.set()

    @contextlib.contextmanager
    def _started(self) -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket]]:
        """The process and the socket to it. It has ended when the block has been left.

        What is inside is cut off when the deadline passes, or when `interrupt` is called.

        Raises:
            SourceUnavailable: no process can be started.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    process = subprocess.Popen(  # noqa: S603 -- arguments are ours
                        [*self._program, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    )
                except OSError as error:
                    raise SourceUnavailable(
                        f"The process that reads the audit log cannot be started: {error.strerror or error}."
                    ) from error
            over = threading.Event()

            def watch() -> None:
                self._wake.wait(self.timeout_seconds + START_SECONDS)
                if not over.is_set():
                    self._stop.set()
                with contextlib.suppress(OSError):
                    ours.shutdown(socket.SHUT_WR)
                try:
                    process.wait(KILL_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()

            watchdog = threading.Thread(target=watch, name="deadline", daemon=True)
            watchdog.start()
            try:
                yield process, ours
            finally:
                over.set()
                self._wake.set()
                watchdog.join()
                process.wait()


# -- in the process that reads -----------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Read once, for the exporter at the other end of this socket. Does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the exporter says when to end
    theirs = socket.socket(fileno=descriptor)
    asked = pickle.load(theirs.makefile("rb"))  # noqa: S301 -- from the process that started this one
    settings, catalog, now, since = asked
    configure_logging(settings.log_level, settings.log_format, secrets_of(os.environ))
    sys.excepthook = _log_bug
    answer = _read(settings, catalog, now, since, theirs)
    with contextlib.suppress(OSError):  # the exporter is gone
        theirs.sendall(pickle.dumps(answer))
    # At once: libraries that tidy up take their time, and have crashed at it.
    os._exit(0)


def _read(
    settings: Settings, catalog: Catalog, now: float, since: float | None, theirs: socket.socket
) -> Reading | SourceError:
    from exporter.sources.audit.duckdb import DuckDBAudit

    source = DuckDBAudit(settings, catalog, lambda: now)

    def until_told() -> None:
        with contextlib.suppress(OSError):
            theirs.recv(1)
        source.interrupt()

    threading.Thread(target=until_told, name="lifeline", daemon=True).start()
    try:
        return source._query(now, since)
    except SourceError as error:
        return error


def _log_bug(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Through logging, which blots secrets out."""
    log.critical("the process that reads the audit log failed on a bug", exc_info=(kind, error, traceback))


if __name__ == "__main__":
    main(int(sys.argv[1]))
