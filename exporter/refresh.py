"""The refresh loop: asks the sources, keeps what they said, and swaps in what `/metrics` serves.

One loop thread decides; every source has a thread of its own, on which its calls may hang without holding anything
else up. A source whose call still hangs is not asked again, so the number of threads is fixed. What requests see is one
immutable State, replaced by reference. When a source is asked is `exporter.schedule`'s to say.

A source that fails is down (`source_up` 0) with the first failed refresh. Its last good reading is shown until it is
`stale_after` old; then its series are dropped.

Every step of a turn is guarded, for one source or one metric family at a time: see `exporter.guard`.
"""

import contextlib
import dataclasses
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.catalog import Catalog, CountRows
from exporter.choice import AUDIT, needed_from
from exporter.counters import merged, recounted
from exporter.errors import SourceError, StateError
from exporter.exposition import Exposition, render
from exporter.families import families
from exporter.guard import Guard
from exporter.ledger import Ledger
from exporter.schedule import RequestGate, RequestOutcome, Schedule
from exporter.snapshot import Reading, Sample, Snapshot, SourceStatus
from exporter.source_state import SourceState
from exporter.source_thread import ProbeFailed, Result, SourceThread
from exporter.sources import Source

log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 2.0
"""How long one source's new reading waits for the others, so that a refresh is rendered once."""
HEARTBEAT_SECONDS: Final = 5.0
"""The loop turns at least this often, whatever it waits for."""
NO_STATUS: Final = "How this source is doing cannot be said: a bug in the exporter, of which the log has the traceback."
UNHEALTHY_AFTER_SECONDS: Final = 60.0
"""Without a turn for this long the loop counts as dead."""


@dataclass(frozen=True)
class State:
    """What requests are answered from.

    Attributes:
        exposition: what is known.
        bare: the exporter's own metrics with every source down, for when nobody has made a newer state for too long.
        made_at: monotonic seconds.
    """

    snapshot: Snapshot
    exposition: Exposition
    bare: Exposition
    made_at: float


class Refresher:
    """Owns the loop, the sources and the ledger. Nothing runs before `start`.

    Args:
        interval: seconds between two refreshes of a source.
        stale_after: seconds for which the last good reading of a source that is down is shown.
        probes: seconds between two probes, by name of the source.
        wall: Unix seconds. It may jump; ages and waits are measured with `monotonic`.
        jitter: a random number from 0 to 1.
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
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._stale_after = stale_after
        self._interval = interval
        self._wall = wall
        self._monotonic = monotonic
        self._jitter = jitter
        self._results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        now = monotonic()
        self._sources = {
            source.name: SourceState(
                source,
                Schedule(interval, (probes or {}).get(source.name, math.inf), due=now),
                SourceThread(source, self._results, monotonic),
            )
            for source in sources
        }
        self._counters = {
            metric.name: metric.labels for metric, origin in catalog.audit_metrics() if isinstance(origin, CountRows)
        }
        self._requests = threading.Lock()
        self._gate = RequestGate()
        self._request: bool | None = None
        """Whether to force, once somebody requested a refresh and the loop has not seen it yet."""
        self._take_over_at = now
        self._guard = Guard()
        self._dirty_since: float | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._turned_at = self._started_at = now
        for one in self._sources.values():
            with self._guard.step(f"going on from the kept reading of source {one.name}"):
                reading = ledger.load_reading(one.name, one.source.identity)
                if reading is not None:
                    one.restore(reading, max(0.0, wall() - reading.read_at), now)
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
        return self._monotonic() - self._started_at

    def state_age_seconds(self, state: State) -> float:
        """Seconds since the state was made."""
        return max(0.0, self._monotonic() - state.made_at)

    def too_old(self, state: State) -> bool:
        """Whether the loop should have replaced the state long ago, and its values are past the stale limit."""
        return self.state_age_seconds(state) > self._stale_after + self._interval

    def alive(self) -> bool:
        """Whether the loop turns."""
        turns = self._thread is not None and self._thread.is_alive()
        return turns and self._monotonic() - self._turned_at < UNHEALTHY_AFTER_SECONDS

    def request_refresh(self, *, force: bool = False) -> RequestOutcome:
        """Have all sources asked at once instead of at their next turn. Returns at once; from any thread.

        A source whose call is under way is asked again after it, since that call may have missed what is new.

        Args:
            force: read the audit log even if its metadata says that nothing changed. In BigQuery that is billed.
        """
        if self._thread is not None and not self.alive():
            return RequestOutcome("unavailable", 0.0, {})
        now = self._monotonic()
        schedules = {name: one.schedule for name, one in self._sources.items()}
        backing_off = {name: s.backs_off_until - now for name, s in schedules.items() if s.backs_off_until > now}
        with self._requests:
            pending = self._request is not None or any(schedule.requested for schedule in schedules.values())
            forced = self._request is True or any(schedule.forced for schedule in schedules.values())
            if forced or (pending and not force):
                return RequestOutcome("waiting", 0.0, backing_off)
            wait = self._gate.wait(now, force=force)
            if len(backing_off) == len(schedules):
                wait = max(wait, min(backing_off.values(), default=0.0))
            if wait > 0:
                return RequestOutcome("too soon", wait, backing_off)
            self._request = force
            self._gate.accept(now, force=force)
        log.info("refresh requested%s", ", whatever the metadata says" if force else "")
        self._results.put(None)  # wakes the loop
        return RequestOutcome("accepted", 0.0, backing_off)

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin refreshing, on daemon threads: nothing waits for a hung call when the process ends."""
        self._thread = threading.Thread(target=self._loop, name="refresh", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the loop, interrupt calls under way, close sources and ledger. Returns within about `timeout` seconds."""
        self._stopping.set()
        self._results.put(None)
        for one in self._sources.values():
            one.thread.stop()
        end = self._monotonic() + timeout
        if self._thread is not None:
            self._thread.join(max(0.0, end - self._monotonic()))
        for one in self._sources.values():
            if one.thread.ended(end - self._monotonic()):
                with contextlib.suppress(SourceError):
                    one.source.close()
        self._ledger.close()

    def run_once(self) -> State:
        """Refresh every source once, without the loop, and give the state. For `python -m exporter once`."""
        for one in self._sources.values():
            one.schedule.requested = True
        while not self._stopping.is_set():
            wait = self.step()
            if not self.busy:
                break
            self.wait(wait)
        return self._state

    @property
    def calling(self) -> bool:
        """Whether a source's thread is at work on a call that is not late, or has a result that nobody took yet."""
        return any(one.thread.busy and not one.late for one in self._sources.values()) or not self._results.empty()

    @property
    def busy(self) -> bool:
        """Whether a call is under way, or one is due, or something new is not on show yet."""
        now = self._monotonic()
        due = any(one.schedule.refresh_is_due(now) for one in self._sources.values())
        calls = any(one.call is not None and not one.late for one in self._sources.values())
        return calls or due or self._dirty_since is not None

    def wait(self, seconds: float) -> None:
        """Wait for a result or a refresh request, but no longer than this, and take the result."""
        with self._guard.step("taking a result"), contextlib.suppress(queue.Empty):
            self._take(self._results.get(timeout=min(seconds, HEARTBEAT_SECONDS)))

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.wait(self.step())

    # -- one turn --------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """One turn: take results, interrupt what is late, ask what is due, swap in the new state.

        Returns:
            Seconds until there is something to do again.
        """
        with self._guard.step("a turn of the refresh loop"):
            return self._turn()
        return HEARTBEAT_SECONDS

    def _turn(self) -> float:
        self._turned_at = self._monotonic()
        errors = self._guard.errors
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._results.get_nowait())
        now = self._monotonic()
        with self._guard.step("taking a refresh request"):
            self._take_request(now)
        with self._guard.step("taking over the state file"):
            self._take_over_state(now)
        for one in self._sources.values():
            with self._guard.step(f"asking source {one.name}"):
                self._ask_if_due(one, now)
        for one in self._sources.values():
            with self._guard.step(f"dropping the reading of source {one.name} once it is too old"):
                self._expire(one, now)
        waits = False
        for one in self._sources.values():
            with self._guard.step(f"waiting for source {one.name}"):
                waits |= one.held_up
        if self._dirty_since is not None and (not waits or now - self._dirty_since >= SETTLE_SECONDS):
            with self._guard.step("making the state that requests are answered from"):
                self._state = self._make_state()
                self._dirty_since = None
            for one in self._sources.values():
                with self._guard.step(f"finding out which metrics are wanted from source {one.name}"):
                    self._want(one, now)
        wait = self._until_next(now)
        return wait if self._guard.errors == errors else max(wait, HEARTBEAT_SECONDS)

    def _take(self, result: Result | None) -> None:
        """Put to use what came of a call."""
        if result is None:
            return
        one, now = self._sources[result.source], self._monotonic()
        was_late = one.ended(now)
        outcome = result.outcome
        if outcome is None:
            return
        if isinstance(outcome, ProbeFailed):
            one.schedule.probe_failed(outcome.error.reason, outcome.error.retry_after)
            return
        self._touch(now)
        if isinstance(outcome, Reading):
            taken = False
            with self._guard.step(f"taking the reading of source {one.name}"):
                one.succeeded(recounted(outcome, one.reading, self._counters), now)
                taken = True
            if taken:
                one.refreshes += not was_late
                one.duration = result.duration
                with self._guard.step(f"saving the reading of source {one.name}"):
                    self._save(one)
                return
            outcome = SourceError(f"The reading of source {one.name} met a bug in the exporter; the log has it.")
        if not was_late:
            one.duration = result.duration
            one.failed(outcome, now, self._jitter())

    def _take_request(self, now: float) -> None:
        with self._requests:
            force, self._request = self._request, None
            if force is not None:
                for one in self._sources.values():
                    one.schedule.request(now, force=force and one.name == AUDIT)

    def _ask_if_due(self, one: SourceState, now: float) -> None:
        if one.lost:
            if not one.ended(now):
                one.failed(SourceError(f"What source {one.name} answered got lost."), now, self._jitter())
                self._touch(now)
        elif one.call is not None:
            if one.interrupt_if_overdue(now, self._jitter):
                self._touch(now)
            return
        try:
            if one.schedule.refresh_is_due(now):
                one.read(now, self._wall())
            elif one.schedule.probe_is_due(now) and one.reading is not None:
                one.probe(now)
        except RuntimeError as error:  # how Python says that the system starts no thread
            one.failed(SourceError(f"No thread could be started to ask source {one.name}: {error}."), now, 0.0)
            self._touch(now)

    def _want(self, one: SourceState, now: float) -> None:
        """Find out which metrics a source has to stand in for. If it is up, and was not asked for all of them yet, it
        is asked at once: the fallback must not wait for its turn."""
        one.wanted = needed_from(one.name, self._catalog, self._state.snapshot)
        if one.schedule.up and one.call is None and one.wanted - one.asked_for:
            one.schedule.due = now

    def _save(self, one: SourceState) -> None:
        assert one.reading is not None  # noqa: S101 -- it has just been taken
        with contextlib.suppress(StateError):  # the ledger logs it, and `problem` says it
            self._ledger.save_reading(one.reading)

    def _take_over_state(self, now: float) -> None:
        """Begin to use the state file if that was not possible before, for example because another exporter held it.

        Only between calls: a source that counts in the ledger must find in it at the end of a read what was there at
        its beginning, and an audit reading counts rows that are newer than those of the reading that it was given.
        What the file holds of Airflow goes on from the next read. Of counters of rows, the larger value goes on.
        """
        if now < self._take_over_at or any(one.call is not None for one in self._sources.values()):
            return
        self._take_over_at = now + HEARTBEAT_SECONDS
        problem = self._ledger.problem
        if self._ledger.take_over():
            for one in self._sources.values():
                kept = self._ledger.load_reading(one.name, one.source.identity)
                if kept is not None and one.reading is None:
                    one.restore(kept, max(0.0, self._wall() - kept.read_at), now)
                elif kept is not None and one.reading is not None and kept.totals is not None:
                    totals = merged(one.reading.totals, kept.totals)
                    one.reading = dataclasses.replace(one.reading, totals=totals, token=None)  # shown from the next on
        if self._ledger.problem != problem:
            self._touch(now)

    def _touch(self, now: float) -> None:
        if self._dirty_since is None:
            self._dirty_since = now

    def _showable(self, one: SourceState, now: float) -> bool:
        return one.showable(now, self._catalog.fingerprint, self._stale_after)

    def _expire(self, one: SourceState, now: float) -> None:
        """Have the state made anew when a reading on show has become too old to be."""
        if one.name in self._state.snapshot.readings and not self._showable(one, now):
            log.warning("source %s: the last good reading is too old; its series are dropped", one.name)
            self._touch(now - SETTLE_SECONDS)

    def _until_next(self, now: float) -> float:
        times = [one.next_event() for one in self._sources.values()]
        times += [
            one.confirmed + self._stale_after + 0.001
            for one in self._sources.values()
            if one.name in self._state.snapshot.readings
        ]
        if self._dirty_since is not None:
            times.append(self._dirty_since + SETTLE_SECONDS)
        return max(0.0, min(times, default=now + self._interval) - now)

    # -- the state -------------------------------------------------------------------------------------------------

    def _make_state(self) -> State:
        now = self._monotonic()
        readings: dict[str, Reading] = {}
        statuses: dict[str, SourceStatus] = {}
        telemetry: dict[str, tuple[Sample, ...]] = {}
        for one in self._sources.values():
            statuses[one.name] = SourceStatus(one.name, up=False, error=NO_STATUS, reason="internal")
            with self._guard.step(f"showing the reading of source {one.name}"):
                if one.reading is not None and self._showable(one, now):
                    readings[one.name] = one.reading
            with self._guard.step(f"saying how source {one.name} is doing"):
                statuses[one.name] = one.status(now, shown=one.name in readings)
            with self._guard.step(f"counting what source {one.name} did"):
                telemetry.update(one.source.telemetry())
        snapshot = Snapshot(
            at=self._wall(),
            statuses=tuple(statuses.values()),
            readings=readings,
            telemetry=telemetry,
            state_problem=self._ledger.problem,
            state_wanted=self._ledger.wanted,
            state_note=self._ledger.note,
        )
        exposition = self._render(snapshot)
        for name, error in exposition.left_out.items():
            self._guard.failed(_rendering(name), error)
        for step in self._guard.failing:
            if step.startswith(_rendering("")) and step.removeprefix(_rendering("")) not in exposition.left_out:
                self._guard.worked(step)
        cut_off = tuple(dataclasses.replace(status, up=False) for status in snapshot.statuses)
        bare = self._render(dataclasses.replace(snapshot, readings={}, statuses=cut_off))
        return State(dataclasses.replace(snapshot, bugs=self._guard.failing), exposition, bare, now)

    def _render(self, snapshot: Snapshot) -> Exposition:
        return render(families(self._catalog, snapshot, self._guard.errors))


def _rendering(family: str) -> str:
    return f"rendering {family}"
