"""The child that reads an embedded log once, for `exporter.sources.audit.duckdb`, and ends.

It may hang in native code, as in a read of a named pipe, where nobody can interrupt it. So a thread waits for the end
of the lifeline, a pipe whose other end the exporter holds, and ends the process by itself: DuckDB lets other threads
run whatever it waits for. Standard library only up to there, so that this holds from the first moment.
"""

import logging
import os
import pickle
import signal
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from exporter.sources.audit.duckdb import Request

log = logging.getLogger(__name__)


def main(lifeline: int) -> NoReturn:
    """Read once, for the exporter at the other end of the pipes."""
    threading.Thread(target=_end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the exporter says when to end
    sys.excepthook = _log_bug
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing else gets into the answer
    request: Request = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the process that started this one
    answer = pickle.dumps(_answer(request))
    answers.write(answer)
    answers.flush()
    # At once: libraries that tidy up take their time, and have crashed at it.
    os._exit(0)


def _answer(request: "Request") -> object:
    """The reading, or the SourceError that stands for it."""
    from exporter.errors import SourceError
    from exporter.logs import configure_logging
    from exporter.sources.audit.duckdb_reader import DuckDBReader

    configure_logging(request.log_level, "json")
    try:
        return DuckDBReader(request.log).read(request.found, request.now, request.since)
    except SourceError as error:
        return error


def _end_with(lifeline: int) -> NoReturn:
    os.read(lifeline, 1)  # nobody writes: it returns when the exporter's end is closed
    os._exit(1)


def _log_bug(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    log.critical("the process that reads the audit log failed on a bug", exc_info=(kind, error, traceback))


if __name__ == "__main__":
    main(int(sys.argv[1]))
