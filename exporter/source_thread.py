"""A source's own thread: its calls run there one at a time and may hang without holding anything else up."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from exporter.errors import SourceError
from exporter.snapshot import Reading
from exporter.sources import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What the thread is to do: read the source, or, for a probe, read it only if it says that it changed."""

    previous: Reading | None
    wanted: frozenset[str]
    probe: bool = False


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A probe did not find out whether there is anything new."""

    error: SourceError


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call; the outcome is None where a probe found nothing new."""

    source: str
    call: Call
    outcome: Reading | SourceError | ProbeFailed | None
    duration: float


class SourceThread:
    """The thread of one source. It is started with the first call, and anew with the next one if it has died.

    Args:
        results: receives what came of each call.
        monotonic: seconds, for durations.
    """

    def __init__(
        self, source: Source, results: "queue.SimpleQueue[Result | None]", monotonic: Callable[[], float]
    ) -> None:
        self._source = source
        self._results = results
        self._monotonic = monotonic
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False
        """Whether a call was begun and has given no result yet."""

    def begin(self, call: Call) -> None:
        """Have the call made.

        Raises:
            RuntimeError: the system starts no thread now; nothing was begun.
        """
        if self._thread is None or not self._thread.is_alive():
            self._calls = queue.SimpleQueue()  # a thread that died may have left a call behind
            thread = threading.Thread(target=self._run, name=f"source-{self._source.name}", daemon=True)
            thread.start()
            self._thread = thread
        self.busy = True
        self._calls.put(call)

    def stop(self) -> None:
        """Let the thread end after the call under way, which is interrupted. Returns at once."""
        self._calls.put(None)
        self._source.interrupt()

    def ended(self, within: float) -> bool:
        """Whether the thread has ended, waiting for it at most so many seconds."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, within))
        return not self._thread.is_alive()

    @property
    def died(self) -> bool:
        """Whether the thread was started and has ended without having been told to."""
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            began = self._monotonic()
            outcome: Reading | SourceError | ProbeFailed | None
            try:
                outcome = self._answer(call)
            except SourceError as error:
                outcome = error
            except BaseException as error:
                # It is logged whole, and shown as the source's failure.
                log.exception("reading source %s failed on a bug", self._source.name)
                outcome = SourceError(f"Bug in the exporter ({type(error).__name__}); the log has the traceback.")
            self._results.put(Result(self._source.name, call, outcome, self._monotonic() - began))
            self.busy = False

    def _answer(self, call: Call) -> Reading | ProbeFailed | None:
        if call.probe and call.previous is not None:
            try:
                if not self._source.changed(call.previous):
                    return None
            except SourceError as error:
                # The next refresh will say so, if it is still so.
                log.debug("the probe of source %s failed: %s", self._source.name, error)
                return ProbeFailed(error)
        return self._source.read(call.previous, call.wanted)
