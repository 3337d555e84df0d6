"""The embedded audit log, read by a process that lives for one read.

DuckDB and the SQL translator stay in memory once they have run, and a fault in native code ends its process. The
exporter, which reads the log only when its files were written, keeps neither: it looks at the files itself and starts
`python -m exporter.sources.audit.duckdb_child` for the read. A crash, or an end for lack of memory, is one failed
refresh.

The request goes to the child's standard input and the reading comes from its standard output, pickled, as a process
and its own child can. The child holds the other end of a pipe, its lifeline, and ends when that closes, which the
kernel sees to when the exporter is gone.
"""

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from exporter.catalog import Catalog
from exporter.counters import newest_counted
from exporter.errors import SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.snapshot import Reading, Sample
from exporter.sources.audit.answer import confirmed
from exporter.sources.audit.files import EmbeddedLog, FoundFiles
from exporter.sources.audit.query import SOURCE_NAME
from exporter.sources.audit.spill import sweep

log = logging.getLogger(__name__)

PROGRAM: Final = (sys.executable, "-P", "-m", "exporter.sources.audit.duckdb_child")
"""What is started, with the number of its lifeline as the argument. `-P`: what lies in the working folder is not
imported, except where this process imports it from there, too."""
START_SECONDS: Final = 2.0
"""How much longer than the read itself, which has its own deadline, the child may take to start and to answer."""
PASSED_ON: Final = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONUTF8", "TMPDIR")
"""Variables of the environment that Python or DuckDB may need to run at all. None is a secret."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is to do: read this log. It holds no secret.

    Attributes:
        found: the files as they were seen; None where the sample is to be made first.
        now: Unix seconds.
        since: see `build_query`.
    """

    log: EmbeddedLog
    found: FoundFiles | None
    now: float
    since: float | None
    log_level: str


class Reader(Protocol):
    """What reads a log when its files changed."""

    def read(self, request: Request) -> Reading:
        """Read once, within the log's deadline.

        Raises:
            SourceError: it could not be read.
        """
        ...

    def interrupt(self) -> None:
        """End a read that is under way."""
        ...


class DuckDBAudit:
    """An embedded audit log. See `exporter.sources.Source`.

    Args:
        clock: Unix seconds.
        reader: what reads the log; by default a child.
    """

    name = SOURCE_NAME

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        clock: Callable[[], float] = time.time,
        reader: Reader | None = None,
    ) -> None:
        self._log = EmbeddedLog.of(settings, catalog)
        self._log_level = settings.log_level
        self._max_age = settings.audit_max_query_age_seconds
        self._clock = clock
        self._reader = reader or Child()
        self.timeout_seconds = self._log.timeout_seconds
        self.identity = self._log.identity

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:  # noqa: ARG002 -- one query answers for every metric
        """Look at the files, and have them queried if they changed. See `Source.read`."""
        now = self._clock()
        found = None
        if not self._log.awaits_sample:
            found = self._log.look()
            known = confirmed(
                previous,
                identity=self.identity,
                catalog=self._log.catalog.fingerprint,
                token=found.revision,
                now=now,
                max_age=self._max_age,
            )
            if known is not None:
                return known
        return self._reader.read(Request(self._log, found, now, newest_counted(previous), self._log_level))

    def changed(self, previous: Reading) -> bool:
        """Whether the files are others than those that were read. See `Source.changed`."""
        return self._log.look().revision != previous.token

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Nothing to count: nothing is billed."""
        return {}

    def interrupt(self) -> None:
        """End a read that is under way. See `Source.interrupt`."""
        self._reader.interrupt()

    def close(self) -> None:
        """Nothing stays open between reads."""


class Child:
    """Reads a log in a process that is started for it.

    Args:
        program: the command that reads.
    """

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def read(self, request: Request) -> Reading:
        """Have a child read; it has ended afterwards.

        Raises:
            SourceError: what the child raised, or that it gave no answer.
        """
        content = pickle.dumps(request)
        process, lifeline = self._start()
        try:
            output, said = process.communicate(content, request.log.timeout_seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            self.interrupt()
            output, said = process.communicate()
        finally:
            os.close(lifeline)  # which ends a child that is still there
            with self._lock:
                self._process, interrupted = None, self._interrupted
        if process.returncode != 0:
            sweep()
        _relay(said)
        answer: Reading | SourceError | None = None
        # A child that ends too early leaves no answer, or half of one.
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            answer = pickle.loads(output)  # noqa: S301 -- from the process that was started here
        if isinstance(answer, Reading):
            return answer
        if isinstance(answer, SourceError):
            raise answer
        if interrupted:
            raise SourceTimeout(f"The audit log was not read within {request.log.timeout_seconds:g} s.")
        status = process.returncode
        how = f"on signal {-status}" if status < 0 else f"with status {status}"
        raise SourceError(
            f"The process that reads the audit log ended {how} and gave no answer: it crashed, or was killed, as "
            "systems do that lack memory."
        )

    def interrupt(self) -> None:
        """Kill the child that reads; harmless when there is none."""
        with self._lock:
            self._interrupted = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> "tuple[subprocess.Popen[bytes], int]":
        """Start the child; gives it with this process's end of its lifeline.

        Raises:
            SourceUnavailable: no process can be started.
        """
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        try:
            theirs, ours = os.pipe()
            try:
                with self._lock:
                    self._interrupted = False
                    self._process = subprocess.Popen(  # noqa: S603 -- arguments are ours
                        [*self._program, str(theirs)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        pass_fds=(theirs,),
                        env=environment,
                    )
                    return self._process, ours
            except OSError:
                os.close(ours)
                raise
            finally:
                os.close(theirs)
        except OSError as error:
            raise SourceUnavailable(
                f"The process that reads the audit log cannot be started: {error.strerror or error}."
            ) from error


def _relay(said: bytes) -> None:
    """Log what the child logged, a JSON object a line, through this process's logging, which blots secrets out."""
    for line in said.decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
            text = "\n".join(record[part] for part in ("message", "traceback") if part in record)
            logging.getLogger(record["logger"]).log(logging.getLevelNamesMapping()[record["level"]], "%s", text)
        except (ValueError, KeyError, TypeError):  # not from logging: Python's or the system's own words
            log.warning("the process that reads the audit log said: %s", line)
