"""A source's thread: one result for every call, in order, whatever the source does."""

import queue
import threading
from collections.abc import Iterator

import pytest

from exporter.errors import SourceError, SourceUnavailable
from exporter.snapshot import Reading
from exporter.source_thread import Call, ProbeFailed, Result, SourceThread
from testbed.scripted import Clock, ScriptedSource, failing, reading

READ = Call(None, frozenset({"m"}))


class Asked:
    """A source, its thread, and its results."""

    def __init__(self, source: ScriptedSource, clock: Clock) -> None:
        self.source = source
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self.thread = SourceThread(source, self.results, clock.monotonic)

    def ask(self, call: Call = READ) -> Result:
        self.thread.begin(call)
        result = self.results.get(timeout=30)
        assert result is not None
        assert result.call is call
        return result


@pytest.fixture
def asked(catalog, clock) -> Iterator[Asked]:
    made = Asked(ScriptedSource(lambda _: reading(catalog, clock)), clock)
    yield made
    made.thread.stop()
    assert made.thread.ended(30)


def test_a_call_is_made_on_a_thread_of_the_sources_own_and_timed(asked, catalog, clock):
    names = []

    def answer(_: Reading | None) -> Reading:
        names.append((threading.current_thread().name, threading.current_thread().daemon))
        clock.advance(1.5)
        return reading(catalog, clock)

    asked.source.answer = answer
    assert (asked.thread.busy, asked.thread.died, asked.thread.ended(0)) == (False, False, True)
    result = asked.ask()
    assert (result.source, result.duration, result.outcome) == ("audit", 1.5, reading(catalog, clock))
    assert asked.source.wanted == {"m"}
    asked.ask()
    assert names == [("source-audit", True)] * 2
    assert not asked.thread.died


def test_it_is_busy_until_the_call_has_ended_and_can_be_told_to_end(asked):
    asked.source.hang(interruptible=False)
    asked.thread.begin(READ)
    assert asked.source.entered.wait(30)
    assert asked.thread.busy
    asked.thread.stop()
    assert not asked.thread.ended(0)
    assert not asked.thread.ended(-1)
    asked.source.release()
    assert asked.thread.ended(30)
    assert not asked.thread.busy
    assert asked.thread.died
    assert asked.results.get(timeout=30) is not None
    asked.ask()
    assert asked.source.asked == 2, "with a new thread"


def test_its_end_is_waited_for_as_long_as_asked(asked, monkeypatch):
    asked.ask()
    waited = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", lambda _, timeout=None: waited.append(timeout))
        assert not any(asked.thread.ended(seconds) for seconds in (2.0, 0.0, -1.0))
    assert waited == [2.0, 0.0, 0.0]


def test_one_that_was_never_asked_has_ended(asked):
    asked.thread.stop()
    assert asked.thread.ended(0)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SourceUnavailable("gone"), "gone"),
        (ZeroDivisionError("secret"), "Bug in the exporter (ZeroDivisionError); the log has the traceback."),
        (SystemExit(), "Bug in the exporter (SystemExit); the log has the traceback."),
    ],
)
def test_whatever_a_source_raises_is_its_failure(asked, error, message):
    def answer(_: Reading | None) -> Reading:
        raise error

    asked.source.answer = answer
    outcome = asked.ask().outcome
    assert isinstance(outcome, SourceError)
    assert str(outcome) == message


def test_a_probe_reads_only_what_has_changed(asked, catalog, clock):
    before = reading(catalog, clock)
    probe = Call(before, frozenset(), probe=True)
    assert asked.ask(probe).outcome is None
    assert (asked.source.looked, asked.source.asked) == (1, 0)
    asked.source.looks_changed = lambda given: given is before
    assert isinstance(asked.ask(probe).outcome, Reading)
    assert (asked.source.looked, asked.source.asked) == (2, 1)
    assert isinstance(asked.ask(Call(before, frozenset())).outcome, Reading)
    assert isinstance(asked.ask(Call(None, frozenset(), probe=True)).outcome, Reading)
    assert (asked.source.looked, asked.source.asked) == (2, 3), "a read, and a probe without anything to compare with"
    error = SourceUnavailable("gone")
    asked.source.looks_changed = lambda given: failing(error)(given) is None
    assert asked.ask(probe).outcome == ProbeFailed(error)
