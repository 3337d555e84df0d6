"""When samples are written: the command's --since, --until and --step, as whole Unix seconds."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from exporter.errors import ConfigError

LOOKBACK_SECONDS: Final = 300
"""How far back Prometheus looks for a sample (--query.lookback-delta): a longer step would leave gaps."""
HOLD_SECONDS: Final = 240
"""Longest time between two samples of an unchanged value: less than LOOKBACK_SECONDS, or it would not be found."""
NEAR_SECONDS: Final = LOOKBACK_SECONDS
"""Before and after a change every moment is written for so long."""
BLOCK_SECONDS: Final = 486 * 3600
"""Length of one file, and of the block made from it: one of the ranges (2 h times a power of 3) that promtool knows.
promtool reads a whole file again for every block it makes of it, so a file holds one block."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_DURATION: Final = re.compile(r"(\d{1,9})([smhdwy])")


@dataclass(frozen=True, slots=True)
class Grid:
    """`count` moments, `step` seconds apart; the first is `start` (Unix seconds)."""

    start: int
    step: int
    count: int

    def at(self, index: int) -> int:
        """The moment with this index."""
        return self.start + index * self.step

    @property
    def last(self) -> int:
        """The last moment."""
        return self.at(self.count - 1)

    def first_from(self, at_us: int) -> int:
        """Index of the first moment that is not before this time (microseconds since 1970), at least 0."""
        return max(0, -((self.start * 1_000_000 - at_us) // (self.step * 1_000_000)))

    def windows(self) -> list[tuple[int, int]]:
        """The moments of every block: index of the first, and of the one after the last."""
        found = []
        first = 0
        while first < self.count:
            end = (self.at(first) // BLOCK_SECONDS + 1) * BLOCK_SECONDS
            after = min(self.count, self.first_from(end * 1_000_000))
            found.append((first, after))
            first = after
        return found


def parse_grid(since: str, until: str, step: str, now: float) -> Grid:
    """The grid that the options ask for. Moments are whole multiples of the step, so that two runs fit together.

    Args:
        since, until: `180d` (before now), a date, or a time in ISO 8601, UTC unless it says otherwise.
        step: a duration such as `30s`.
        now: Unix seconds.

    Raises:
        ConfigError: with every option that cannot be used.
    """
    problems: list[str] = []
    start = _moment("--since", since, now, problems)
    end = _moment("--until", until, now, problems)
    seconds = _duration(step)
    if not seconds:
        problems.append(f"--step: expected a duration such as 30s or 1m, not {step!r}")
    elif seconds > LOOKBACK_SECONDS:
        problems.append(
            "--step: at most 5m, because Prometheus looks back 5 minutes and would show gaps between samples"
        )
    if end is not None and end > now:
        problems.append(f"--until: {until} lies in the future")
    if start is not None and end is not None and start >= end:
        problems.append(f"--since: {since} is not before --until ({until})")
    if problems or start is None or end is None or not seconds:
        raise ConfigError(problems)
    first, last = math.ceil(start / seconds), math.floor(end / seconds)
    if last < first:
        raise ConfigError([f"--since: no multiple of {step} lies between {since} and {until}"])
    return Grid(first * seconds, seconds, last - first + 1)


def shown(at: float) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(text: str) -> int | None:
    found = _DURATION.fullmatch(text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None


def _moment(option: str, text: str, now: float, problems: list[str]) -> float | None:
    if text.strip() == "now":
        return now
    ago = _duration(text)
    try:
        if ago is not None:
            at = now - ago
        else:
            moment = datetime.fromisoformat(text.strip())
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if at < 0:
            raise ValueError(text)
    except (ValueError, OverflowError):
        problems.append(
            f"{option}: expected a duration before now such as 180d, or a date such as 2026-03-01, not {text!r}"
        )
        return None
    return at
