"""What the refresh loop knows of one source: its schedule, its thread, the call under way, and its last reading."""

import dataclasses
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from exporter.errors import SourceError, SourceTimeout
from exporter.schedule import Schedule
from exporter.snapshot import Reading, SourceStatus
from exporter.source_thread import Call, SourceThread
from exporter.sources import Source

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5.0
"""How long past its own deadline a source's call may go on before the loop interrupts it."""
_DIGITS: Final = re.compile(r"\d+")
"""Left out when two failures are compared, so that one outage is logged once although its message counts seconds."""


@dataclass
class SourceState:
    """One source. Touched by the loop thread alone.

    Attributes:
        wanted: metrics for which it has to stand in.
        asked_for: what was wanted at its last read.
        call: the call under way, since `started` (monotonic seconds).
        late: that call has gone past its deadline.
        reading, confirmed: the last good reading, and when (monotonic seconds) the source last confirmed it.
        refreshes, failures: counts since the start; failures by reason.
    """

    source: Source
    schedule: Schedule
    thread: SourceThread
    wanted: frozenset[str] = frozenset()
    asked_for: frozenset[str] = frozenset()
    call: Call | None = None
    started: float = 0.0
    attempted_at: float | None = None
    late: bool = False
    reading: Reading | None = None
    confirmed: float = 0.0
    refreshes: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    duration: float | None = None
    error: str | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """The source's name, the value of the `source` label."""
        return self.source.name

    @property
    def held_up(self) -> bool:
        """Whether others wait for the call under way before the state is made anew."""
        return self.call is not None and not self.call.probe and not self.late

    @property
    def lost(self) -> bool:
        """Whether the call under way will give no result: its thread has died, or has nothing to do any more although
        the call is late."""
        return self.call is not None and (self.thread.died or (self.late and not self.thread.busy))

    def restore(self, reading: Reading, age: float, now: float) -> None:
        """Go on from a kept reading that is `age` seconds old."""
        self.reading, self.confirmed = reading, now - age
        log.info("source %s: going on from a reading that is %.0f s old", self.name, age)

    def read(self, now: float, wall: float) -> None:
        """Begin a read.

        Raises:
            RuntimeError: the system starts no thread now.
        """
        previous = self.reading
        if self.schedule.forced and previous is not None:
            previous = dataclasses.replace(previous, token=None)  # which never says that nothing changed
        self.attempted_at = wall
        self._begin(Call(previous, self.wanted), now)
        self.asked_for = self.wanted
        self.schedule.begun()

    def probe(self, now: float) -> None:
        """Begin a probe.

        Raises:
            RuntimeError: the system starts no thread now.
        """
        self._begin(Call(self.reading, self.wanted, probe=True), now)

    def _begin(self, call: Call, now: float) -> None:
        self.thread.begin(call)
        self.call, self.started, self.late = call, now, False

    def ended(self, now: float) -> bool:
        """The call under way has ended. Gives whether it was late, and so counted as a failure already."""
        was_late, self.call, self.late = self.late, None, False
        self.schedule.probed(self.started, now)
        return was_late

    def succeeded(self, reading: Reading, now: float) -> None:
        """Put a good reading in place of the last one."""
        if self.schedule.up is False:
            log.info("source %s is back", self.name)
        self._log_news(reading)
        new = self.reading is None or reading.queried_at != self.reading.queried_at
        self.reading, self.confirmed = reading, now
        self.error = self.reason = None
        self.schedule.succeeded(now, new=new)

    def failed(self, error: SourceError, now: float, jitter: float) -> None:
        """Account for a failed refresh."""
        self.refreshes += 1
        self.failures[error.reason] = self.failures.get(error.reason, 0) + 1
        if self.error is None or _DIGITS.sub("", self.error) != _DIGITS.sub("", str(error)):
            log.warning("source %s is down (%s): %s", self.name, error.reason, error)
        self.error, self.reason = str(error), error.reason
        self.schedule.failed(now, error.reason, error.retry_after, jitter)

    def interrupt_if_overdue(self, now: float, jitter: Callable[[], float]) -> bool:
        """Interrupt a call that went past its deadline. That is a failure, now and again at every interval until the
        call ends. Gives whether there was one."""
        overdue = now > self.deadline and not (self.late and self.schedule.due > now)
        if overdue:
            self.late = True
            seconds = now - self.started
            self.failed(SourceTimeout(f"The call that began {seconds:.0f} s ago has not ended."), now, jitter())
            self.source.interrupt()
        return overdue

    @property
    def deadline(self) -> float:
        """When the call under way is interrupted, in monotonic seconds."""
        return self.started + self.source.timeout_seconds + GRACE_SECONDS

    def next_event(self) -> float:
        """When there is something to do about this source."""
        if self.call is None:
            return self.schedule.next_due()
        return self.schedule.due if self.late else self.deadline + 0.001

    def showable(self, now: float, fingerprint: str, stale_after: float) -> bool:
        """Whether the last good reading is made for this catalogue and not too old."""
        reading = self.reading
        return reading is not None and reading.catalog == fingerprint and now - self.confirmed <= stale_after

    def status(self, now: float, *, shown: bool) -> SourceStatus:
        """How the source is doing, for the snapshot."""
        reading, schedule = self.reading, self.schedule
        return SourceStatus(
            name=self.name,
            up=schedule.up,
            last_attempt_at=self.attempted_at,
            last_success_at=reading.read_at if reading else None,
            age_seconds=max(0.0, now - self.confirmed) if reading else None,
            held=shown and not schedule.up,
            refreshes=self.refreshes,
            failures=dict(self.failures),
            duration_seconds=self.duration,
            error=self.error,
            reason=self.reason,
            busy_seconds=now - self.started if self.late and self.call is not None else None,
            next_refresh_in_seconds=max(0.0, schedule.due - now),
        )

    def _log_news(self, reading: Reading) -> None:
        """Say once, not at every refresh, what an operator should know of a reading."""
        before = self.reading if self.schedule.up is not None else None
        missing = {gap.metric for gap in reading.gaps}
        if missing - ({gap.metric for gap in before.gaps} if before else set()):
            log.info("source %s has no value for %d metrics; /health says why", self.name, len(missing))
        for note in reading.notes:
            if before is None or note not in before.notes:
                log.warning("source %s: %s", self.name, note)
