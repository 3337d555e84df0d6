"""When a source is asked. Pure: moments are monotonic seconds that the caller gives, and nothing here waits.

- A refresh is due every `interval` seconds, counted from when it was due, so that refreshes do not drift.
- After a failure the next one is due an interval later, plus up to a tenth at random. Where asking does harm
  (credentials, permission, quota) the source backs off: the wait doubles up to BACK_OFF_LIMIT. A Retry-After is obeyed.
- A source that was never up since the start is asked again after 1, 2, 4 … seconds, up to the interval.
- A refresh request has the source asked at once, unless it backs off; its next turn stays where it was.
- Between two refreshes a probe, which costs nothing, looks whether there is anything new, and has it read. A table that
  changes all the time is read, and billed, once an interval as without probes: after BURST reads in a row that found
  something new there is no probe until intervals without one have passed.
- A probe that fails is no failure of the source: the next refresh is. One that was refused for credentials, permission
  or quota, or with a Retry-After, is not repeated before that refresh.
"""

import math
from dataclasses import dataclass
from typing import Final

from exporter.errors import BACKING_OFF

BACK_OFF_LIMIT: Final = 300.0
"""Longest wait of a source that backs off, unless the interval itself is longer."""
RETRY_AFTER_LIMIT: Final = 3600.0
"""Longest Retry-After that is obeyed: a server's mistake must not silence it for a day."""
JITTER: Final = 0.1
FIRST_RETRY_SECONDS: Final = 1.0
BURST: Final = 5
"""So many reads that found something new may come ahead of the rate of one an interval before probes pause."""
REQUEST_SECONDS: Final = 5.0
"""Least time between two refresh requests that are accepted."""
FORCED_REQUEST_SECONDS: Final = 60.0
"""Least time between two forced refresh requests that are accepted: in BigQuery each is billed."""


@dataclass
class Schedule:
    """The times of one source.

    Attributes:
        due: when the next refresh is due.
        probe_seconds: seconds between two probes; infinite for none.
        probe_due: when the next probe is due; infinite until the next refresh for one that was refused.
        paid_until: when the reads that found something new so far are an interval apart on average.
        backs_off_until: until when the source is not asked, whatever is requested; 0 for now.
        requested: a refresh request waits to be carried out.
        forced: and the source is to be read even if nothing seems to have changed.
    """

    interval: float
    probe_seconds: float
    due: float
    probe_due: float = math.inf
    paid_until: float = -math.inf
    backs_off_until: float = 0.0
    requested: bool = False
    forced: bool = False
    up: bool | None = None
    was_up: bool = False
    failures_in_a_row: int = 0

    def refresh_is_due(self, now: float) -> bool:
        """Whether the source is to be read now."""
        return self.due <= now or self.requested

    def probe_is_due(self, now: float) -> bool:
        """Whether the source is to be probed now. One that is down is not: a probe says nothing then."""
        return bool(self.up) and self._next_probe <= now

    def next_due(self) -> float:
        """The moment of the next refresh or probe."""
        return min(self.due, self._next_probe) if self.up else self.due

    @property
    def _next_probe(self) -> float:
        return max(self.probe_due, self.paid_until - BURST * self.interval)

    def request(self, now: float, *, force: bool) -> None:
        """Have the source read at once, unless it backs off."""
        if self.backs_off_until <= now:
            self.requested = True
            self.forced |= force

    def begun(self) -> None:
        """A read begins, which serves the refresh requests so far."""
        self.requested = self.forced = False

    def probed(self, began: float, now: float) -> None:
        """A probe or read has ended. The next probe is counted from its beginning, which is when the source was looked
        at, but takes no more than half of the time."""
        self.probe_due = began + max(self.probe_seconds, 2 * (now - began))

    def probe_failed(self, reason: str, retry_after: float | None) -> None:
        """The probe that has ended failed; see `failed` for the arguments."""
        if reason in BACKING_OFF or retry_after is not None:
            self.probe_due = math.inf

    def succeeded(self, now: float, *, new: bool) -> None:
        """A read has succeeded.

        Args:
            new: it queried the source; it did not only confirm what was known.
        """
        if new:
            self.paid_until = max(self.paid_until, now) + self.interval
        self.up = self.was_up = True
        self.failures_in_a_row = 0
        self.backs_off_until = 0.0
        if self.due <= now:  # else it was read before its turn, which stays
            on_schedule = self.due + self.interval
            self.due = on_schedule if on_schedule > now else now + self.interval

    def failed(self, now: float, reason: str, retry_after: float | None, jitter: float) -> None:
        """A read has failed.

        Args:
            reason: a value of FAILURE_REASONS.
            retry_after: seconds for which the source asked not to be asked again; None where it said nothing.
            jitter: a random number from 0 to 1.
        """
        self.up = False
        self.failures_in_a_row += 1
        doubled = 2.0 ** min(self.failures_in_a_row - 1, 20)
        backs_off = reason in BACKING_OFF
        wait = self.interval
        if backs_off:
            wait = min(self.interval * doubled, max(self.interval, BACK_OFF_LIMIT))
        elif not self.was_up:
            wait = min(FIRST_RETRY_SECONDS * doubled, self.interval)
        if retry_after is not None:
            wait = max(wait, min(retry_after, RETRY_AFTER_LIMIT))
        self.due = now + wait * (1.0 + JITTER * jitter)
        self.backs_off_until = self.due if backs_off or retry_after is not None else 0.0


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What came of a refresh request.

    Attributes:
        outcome: `accepted`; `waiting`, when an earlier request that is not begun yet serves this one too; `too soon`;
            `unavailable`, when the refresh loop has stopped.
        retry_after: seconds until it makes sense to ask again; 0 unless it was too soon.
        backing_off: sources that are not asked now, with the seconds until they are.
    """

    outcome: str
    retry_after: float
    backing_off: dict[str, float]


@dataclass
class RequestGate:
    """How often refresh requests are accepted."""

    accepted_at: float = -math.inf
    forced_at: float = -math.inf

    def wait(self, now: float, *, force: bool) -> float:
        """Seconds until a request is accepted; 0 or less for now."""
        return max(self.accepted_at + REQUEST_SECONDS, self.forced_at + FORCED_REQUEST_SECONDS if force else 0.0) - now

    def accept(self, now: float, *, force: bool) -> None:
        """A request was accepted."""
        self.accepted_at = now
        if force:
            self.forced_at = now
