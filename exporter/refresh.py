"""The refresh loop: asks the sources, keeps what they said, and swaps in what `/metrics` serves.

One loop thread decides; every source has one thread of its own, on which its calls run and may hang without holding
anything else up. A source whose call is still hanging is not asked again, so the number of threads is fixed. What
requests see is one immutable State, replaced by reference.

The policy, for a source that fails:

- it is down (`source_up` 0) with the first failed refresh;
- its last good reading is shown until it is `stale_after` old, then its series are dropped;
- it is asked again one interval later, plus up to a tenth at random; where asking does harm (credentials, permission,
  quota) the wait doubles up to BACK_OFF_LIMIT, and a Retry-After is obeyed.

Between two refreshes a source may be asked to `ask_now` (but not where asking does harm), and a source with a probe
interval is looked at for free, and read only if that look says that it changed.
"""

import contextlib
import dataclasses
import logging
import math
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from exporter import metrics
from exporter.carry import carried
from exporter.catalog import Catalog, CountRows
from exporter.choice import AUDIT, needed_from
from exporter.errors import BACKING_OFF, SourceError, SourceTimeout, StateError
from exporter.ledger import Ledger
from exporter.snapshot import Reading, Sample, Snapshot, SourceStatus
from exporter.sources import Source

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5.0
"""How long past its own deadline a source's call may go on before the loop cuts it off."""
SETTLE_SECONDS: Final = 2.0
"""How long one source's new reading waits for the others, so that a refresh is rendered once."""
BACK_OFF_LIMIT: Final = 300.0
RETRY_AFTER_LIMIT: Final = 3600.0
JITTER: Final = 0.1
HEARTBEAT_SECONDS: Final = 5.0
"""The loop turns at least this often, whatever it waits for."""
UNHEALTHY_AFTER_SECONDS: Final = 60.0
"""Without a turn for this long the loop counts as dead."""
ASK_SECONDS: Final = 5.0
FORCE_SECONDS: Final = 60.0
"""Least time between two calls of `ask_now` that are obeyed; forced ones are billed."""
_DIGITS: Final = re.compile(r"\d+")
"""Left out when two failures are compared, so that one outage is logged once although its message counts seconds."""


@dataclass(frozen=True)
class State:
    """What requests are answered from: a snapshot, its exposition, and when (monotonic) they were made."""

    snapshot: Snapshot
    exposition: metrics.Exposition
    made_at: float


@dataclass
class _Tracked:
    """What the loop knows of one source. Touched by the loop thread alone."""

    source: Source
    thread: threading.Thread | None = None
    requests: "queue.SimpleQueue[Reading | _Probe | _Stop | None]" = field(default_factory=queue.SimpleQueue)
    due: float = 0.0
    probe_due: float = math.inf
    probing: bool = False
    asked_now: bool = False
    forced: bool = False
    left_alone_until: float = 0.0
    wanted: frozenset[str] = frozenset()
    asked_for: frozenset[str] = frozenset()
    started: float | None = None
    started_at: float | None = None
    late: bool = False
    reading: Reading | None = None
    confirmed: float = 0.0
    up: bool | None = None
    refreshes: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    failed_in_a_row: int = 0
    duration: float | None = None
    error: str | None = None
    reason: str | None = None


class _Stop:
    """Ends a source's thread."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """Asks a source's thread for a look that costs nothing, and for a read if that says that something changed."""

    previous: Reading


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of a read; the outcome is None where a probe found nothing new."""

    tracked: _Tracked
    outcome: Reading | SourceError | None
    duration: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What `ask_now` did.

    Attributes:
        outcome: `accepted`; `waiting`, when an earlier wish that is not begun yet serves this one too; `too soon`.
        retry_after: seconds until it makes sense to ask again; 0 unless it was too soon.
        left_alone: sources that are not asked, with the seconds until they are, because asking does harm now.
    """

    outcome: str
    retry_after: float
    left_alone: Mapping[str, float]


class Refresher:
    """Owns the loop, the sources and the ledger. Nothing runs before `start`.

    Args:
        interval: seconds between two refreshes of a source.
        stale_after: seconds for which the last good reading of a source that is down is shown.
        probes: seconds between two free looks, by name of the source.
        wall: Unix seconds. It may jump; ages and waits are measured with `monotonic`.
        jitter: a random number from 0 to 1.
        on_state: called by the loop with every state after the first.
    """

    def __init__(
        self,
        catalog: Catalog,
        sources: Sequence[Source],
        ledger: Ledger,
        *,
        interval: float,
        stale_after: float,
        probes: Mapping[str, float] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._interval = interval
        self._stale_after = stale_after
        self._probes = dict(probes or {})
        self._wall = wall
        self._monotonic = monotonic
        self._jitter = jitter
        self._on_state = on_state
        self._results: queue.SimpleQueue[_Result | None] = queue.SimpleQueue()
        self._tracked = [_Tracked(source, due=monotonic()) for source in sources]
        self._counters = {
            metric.name: metric.labels for metric, origin in catalog.audit_metrics() if isinstance(origin, CountRows)
        }
        self._wishes = threading.Lock()
        self._wish: bool | None = None
        """Whether to force, once somebody asked and the loop has not seen it yet."""
        self._wished_at = self._forced_at = -math.inf
        self._state_problem = ledger.problem
        self._errors = 0
        self._dirty_since: float | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._beat = monotonic()
        self._started = self._beat
        for tracked in self._tracked:
            self._restore(tracked)
        self._state = self._make_state()

    # -- what requests use -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The current state. Take it once per request: it is replaced, never changed."""
        return self._state

    @property
    def interval(self) -> float:
        """Seconds between two refreshes of a source."""
        return self._interval

    def uptime_seconds(self) -> float:
        """Seconds since this was made."""
        return self._monotonic() - self._started

    def state_age_seconds(self, state: State) -> float:
        """Seconds since the state was made."""
        return max(0.0, self._monotonic() - state.made_at)

    def alive(self) -> bool:
        """Whether the loop turns, and every source's thread that was begun still exists."""
        threads = [self._thread, *(tracked.thread for tracked in self._tracked if tracked.thread is not None)]
        return all(thread is not None and thread.is_alive() for thread in threads) and (
            self._monotonic() - self._beat < UNHEALTHY_AFTER_SECONDS
        )

    def ask_now(self, *, force: bool = False) -> Asked:
        """Have all sources asked at once instead of at their next turn. Returns at once; from any thread.

        A source whose call is under way is asked again after it, since that call may have missed what is new.

        Args:
            force: read the audit log even if its metadata says that nothing changed. In BigQuery that is billed.
        """
        now = self._monotonic()
        left_alone = {t.source.name: t.left_alone_until - now for t in self._tracked if t.left_alone_until > now}
        with self._wishes:
            pending = self._wish is not None or any(t.asked_now for t in self._tracked)
            pending_force = self._wish is True or any(t.forced for t in self._tracked)
            if pending_force or (pending and not force):
                return Asked("waiting", 0.0, left_alone)
            wait = max(self._wished_at + ASK_SECONDS, self._forced_at + FORCE_SECONDS if force else 0.0) - now
            if len(left_alone) == len(self._tracked):
                wait = max(wait, min(left_alone.values(), default=0.0))
            if wait > 0:
                return Asked("too soon", wait, left_alone)
            self._wish, self._wished_at = force, now
            if force:
                self._forced_at = now
        log.info("asked to refresh now%s", ", whatever the metadata says" if force else "")
        self._results.put(None)  # wakes the loop
        return Asked("accepted", 0.0, left_alone)

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin refreshing, on daemon threads: nothing waits for a hung call when the process ends."""
        self._thread = threading.Thread(target=self._loop, name="refresh", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the loop, cut off calls under way, close sources and ledger. Returns within about `timeout` seconds."""
        self._stopping.set()
        self._results.put(None)
        for tracked in self._tracked:
            tracked.requests.put(_Stop())
            tracked.source.interrupt()
        end = self._monotonic() + timeout
        for thread in [self._thread, *(tracked.thread for tracked in self._tracked)]:
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, end - self._monotonic()))
        for tracked in self._tracked:
            if tracked.thread is None or not tracked.thread.is_alive():
                with contextlib.suppress(SourceError):
                    tracked.source.close()
        self._ledger.close()

    def run_once(self) -> State:
        """Refresh every source once, without the loop, and give the state. For `python -m exporter once`."""
        while not self._stopping.is_set():
            wait = self.step()
            now = self._monotonic()
            # A source may be asked twice: once more when it turns out that it has to stand in for another.
            busy = any(tracked.started is not None or tracked.due <= now for tracked in self._tracked)
            if self._dirty_since is None and not busy:
                break
            self._take(wait)
        return self._state

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self.step()
            except Exception:
                # A bug must not end the loop: the last good state stays, the error is logged and counted.
                self._errors += 1
                log.exception("the refresh loop failed; it goes on")
                wait = self._interval
            self._take(wait)

    def _take(self, wait: float) -> None:
        """Wait for a result or for time to pass, and leave the result where `step` finds it."""
        with contextlib.suppress(queue.Empty):
            result = self._results.get(timeout=max(0.0, min(wait, HEARTBEAT_SECONDS)))
            if result is not None:
                self._settle(result)

    # -- one turn --------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Take results, cut off what is late, ask what is due, swap in the new state. Gives seconds until the next."""
        self._beat = self._monotonic()
        while True:
            try:
                result = self._results.get_nowait()
            except queue.Empty:
                break
            if result is not None:
                self._settle(result)
        now = self._monotonic()
        self._take_wish(now)
        for tracked in self._tracked:
            if tracked.started is not None and now - tracked.started > tracked.source.timeout_seconds + GRACE_SECONDS:
                self._overdue(tracked, now)
            elif tracked.started is None and (tracked.due <= now or tracked.asked_now):
                self._ask(tracked, now)
            elif tracked.started is None and self._probe_due(tracked) <= now:
                self._probe(tracked, now)
        self._expire(now)
        waiting = any(
            tracked.started is not None and not tracked.late and not tracked.probing for tracked in self._tracked
        )
        if self._dirty_since is not None and (not waiting or now - self._dirty_since >= SETTLE_SECONDS):
            self._state = self._make_state()
            if self._on_state is not None:
                self._on_state(self._state)
            self._dirty_since = None
            self._want(now)
        return self._until_next(now)

    def _want(self, now: float) -> None:
        """Tell every source which metrics it has to stand in for. One that is up, and was not asked for all of them
        yet, is asked at once: the fallback must not wait for its turn."""
        for tracked in self._tracked:
            wanted = needed_from(tracked.source.name, self._catalog, self._state.snapshot)
            tracked.wanted = wanted
            if tracked.up and tracked.started is None and wanted - tracked.asked_for:
                tracked.due = now

    def _take_wish(self, now: float) -> None:
        with self._wishes:
            wish, self._wish = self._wish, None
            if wish is None:
                return
            for tracked in self._tracked:
                if tracked.left_alone_until <= now:
                    tracked.asked_now = True
                    tracked.forced |= wish and tracked.source.name == AUDIT

    def _probe_due(self, tracked: _Tracked) -> float:
        """When to look at the source for free; never while it is down, since a look says nothing then."""
        return tracked.probe_due if tracked.up and tracked.reading is not None else math.inf

    def _probe(self, tracked: _Tracked, now: float) -> None:
        assert tracked.reading is not None  # noqa: S101 -- _probe_due says so
        tracked.started, tracked.late, tracked.probing = now, False, True
        tracked.requests.put(_Probe(tracked.reading))

    def _ask(self, tracked: _Tracked, now: float) -> None:
        if tracked.thread is None:
            tracked.thread = threading.Thread(
                target=self._work, args=(tracked,), name=f"source-{tracked.source.name}", daemon=True
            )
            tracked.thread.start()
        tracked.started, tracked.started_at, tracked.late = now, self._wall(), False
        tracked.asked_for = tracked.wanted
        previous = tracked.reading
        if tracked.forced and previous is not None:
            previous = dataclasses.replace(previous, token=None)  # which never says that nothing changed
        tracked.asked_now = tracked.forced = False
        tracked.requests.put(previous)

    def _work(self, tracked: _Tracked) -> None:
        """A source's thread: one read at a time, each answered with a reading or an error."""
        while True:
            request = tracked.requests.get()
            if isinstance(request, _Stop):
                return
            began = self._monotonic()
            outcome: Reading | SourceError | None
            try:
                if isinstance(request, _Probe):
                    changed = self._looks_changed(tracked.source, request.previous)
                    outcome = tracked.source.read(request.previous, tracked.wanted) if changed else None
                else:
                    outcome = tracked.source.read(request, tracked.wanted)
            except SourceError as error:
                outcome = error
            except Exception as error:
                # A bug in one source must not end its thread: it is logged whole, and shown as the source's failure.
                log.exception("reading source %s failed on a bug", tracked.source.name)
                outcome = SourceError(f"Bug in the exporter ({type(error).__name__}); the log has the traceback.")
            self._results.put(_Result(tracked, outcome, self._monotonic() - began))

    @staticmethod
    def _looks_changed(source: Source, previous: Reading) -> bool:
        try:
            return source.changed(previous)
        except SourceError as error:
            # The next refresh will say so, if it is still so.
            log.debug("the look at source %s between two refreshes failed: %s", source.name, error)
            return False

    def _settle(self, result: _Result) -> None:
        tracked, now = result.tracked, self._monotonic()
        was_late, tracked.started, tracked.late, tracked.probing = tracked.late, None, False, False
        tracked.probe_due = now + self._probes.get(tracked.source.name, math.inf)
        if result.outcome is None:
            return
        self._touch(now)
        if isinstance(result.outcome, Reading):
            self._succeed(tracked, result.outcome, now, counted=was_late)
            tracked.duration = result.duration
        elif not was_late:
            tracked.duration = result.duration
            self._fail(tracked, result.outcome, now)

    def _succeed(self, tracked: _Tracked, reading: Reading, now: float, *, counted: bool) -> None:
        if not counted:
            tracked.refreshes += 1
        if tracked.up is False:
            log.info("source %s is back", tracked.source.name)
        reading = carried(reading, tracked.reading, self._counters)
        self._log_changes(tracked, reading)
        tracked.reading, tracked.confirmed = reading, now
        tracked.up, tracked.error, tracked.reason, tracked.failed_in_a_row = True, None, None, 0
        tracked.left_alone_until = 0.0
        if tracked.due <= now:  # else it was asked before its turn, which stays
            # From the time that it was due, not from now, so that refreshes do not drift.
            on_schedule = tracked.due + self._interval
            tracked.due = on_schedule if on_schedule > now else now + self._interval
        try:
            self._ledger.save_reading(reading)
        except StateError as error:
            if self._state_problem is None:
                log.warning("%s; values are served all the same", error)
            self._state_problem = str(error)
        else:
            if self._state_problem != self._ledger.problem:
                log.info("state can be written again")
            self._state_problem = self._ledger.problem

    def _fail(self, tracked: _Tracked, error: SourceError, now: float) -> None:
        tracked.refreshes += 1
        tracked.failures[error.reason] = tracked.failures.get(error.reason, 0) + 1
        tracked.failed_in_a_row += 1
        if tracked.error is None or _DIGITS.sub("", tracked.error) != _DIGITS.sub("", str(error)):
            log.warning("source %s is down (%s): %s", tracked.source.name, error.reason, error)
        tracked.up, tracked.error, tracked.reason = False, str(error), error.reason
        wait = self._interval
        if error.reason in BACKING_OFF:
            wait = min(
                self._interval * 2.0 ** min(tracked.failed_in_a_row - 1, 20), max(self._interval, BACK_OFF_LIMIT)
            )
        if error.retry_after is not None:
            wait = max(wait, min(error.retry_after, RETRY_AFTER_LIMIT))
        tracked.due = now + wait * (1.0 + JITTER * self._jitter())
        harmful = error.reason in BACKING_OFF or error.retry_after is not None
        tracked.left_alone_until = tracked.due if harmful else 0.0
        self._touch(now)

    def _overdue(self, tracked: _Tracked, now: float) -> None:
        """A call went past its deadline: the source has failed, now and again at every interval until it ends."""
        if tracked.late and tracked.due > now:
            return
        assert tracked.started is not None  # noqa: S101 -- only a call under way can be late
        tracked.late = True
        seconds = now - tracked.started
        self._fail(tracked, SourceTimeout(f"The call that began {seconds:.0f} s ago has not ended."), now)
        tracked.source.interrupt()

    def _touch(self, now: float) -> None:
        if self._dirty_since is None:
            self._dirty_since = now

    def _expire(self, now: float) -> None:
        """Have the state made anew when a reading on show has become too old to be."""
        for tracked in self._tracked:
            shown = tracked.source.name in self._state.snapshot.readings
            if shown and not self._showable(tracked, now):
                log.warning("source %s: the last good reading is too old; its series are dropped", tracked.source.name)
                self._touch(now - SETTLE_SECONDS)

    def _until_next(self, now: float) -> float:
        times = []
        for tracked in self._tracked:
            if tracked.started is None or tracked.late:
                times += [tracked.due, self._probe_due(tracked)] if tracked.started is None else [tracked.due]
            else:
                times.append(tracked.started + tracked.source.timeout_seconds + GRACE_SECONDS + 0.001)
            if tracked.source.name in self._state.snapshot.readings:
                times.append(tracked.confirmed + self._stale_after + 0.001)
        if self._dirty_since is not None:
            times.append(self._dirty_since + SETTLE_SECONDS)
        return max(0.0, min(times, default=now + self._interval) - now)

    # -- readings --------------------------------------------------------------------------------------------------

    def _restore(self, tracked: _Tracked) -> None:
        """Go on from what the ledger kept, with its true age."""
        reading = self._ledger.load_reading(tracked.source.name, tracked.source.identity)
        if reading is None:
            return
        age = max(0.0, self._wall() - reading.read_at)
        tracked.reading, tracked.confirmed = reading, self._monotonic() - age
        log.info("source %s: going on from a reading that is %.0f s old", tracked.source.name, age)

    def _log_changes(self, tracked: _Tracked, reading: Reading) -> None:
        """Say once, not at every refresh, what an operator should know of a reading."""
        before = tracked.reading if tracked.up is not None else None
        new_gaps = [gap for gap in reading.gaps if before is None or gap not in before.gaps]
        if new_gaps:
            listed = "; ".join(f"{gap.metric} ({gap.reason})" for gap in new_gaps)
            log.warning("source %s gives no value for: %s", tracked.source.name, listed)
        known = before.notes if before is not None else ()
        for note in reading.notes:
            if note not in known:
                log.warning("source %s: %s", tracked.source.name, note)

    def _showable(self, tracked: _Tracked, now: float) -> bool:
        reading = tracked.reading
        return (
            reading is not None
            and reading.catalog == self._catalog.fingerprint
            and now - tracked.confirmed <= self._stale_after
        )

    def _make_state(self) -> State:
        now = self._monotonic()
        readings = {
            tracked.source.name: tracked.reading
            for tracked in self._tracked
            if tracked.reading is not None and self._showable(tracked, now)
        }
        telemetry: dict[str, tuple[Sample, ...]] = {}
        for tracked in self._tracked:
            telemetry.update(tracked.source.telemetry())
        snapshot = Snapshot(
            at=self._wall(),
            statuses=tuple(self._status(tracked, now, tracked.source.name in readings) for tracked in self._tracked),
            readings=readings,
            telemetry=telemetry,
            state_problem=self._state_problem,
        )
        exposition = metrics.render(metrics.families(self._catalog, snapshot, self._errors))
        return State(snapshot, exposition, now)

    def _status(self, tracked: _Tracked, now: float, shown: bool) -> SourceStatus:
        reading = tracked.reading
        return SourceStatus(
            name=tracked.source.name,
            up=tracked.up,
            last_attempt_at=tracked.started_at,
            last_success_at=reading.read_at if reading else None,
            age_seconds=now - tracked.confirmed if reading else None,
            held=shown and not tracked.up,
            refreshes=tracked.refreshes,
            failures=dict(tracked.failures),
            duration_seconds=tracked.duration,
            error=tracked.error,
            reason=tracked.reason,
            busy_seconds=now - tracked.started if tracked.late and tracked.started is not None else None,
            next_refresh_in_seconds=max(0.0, tracked.due - now),
        )
