"""daily_fetch_bike_data: counts from the city's feed into the warehouse, and a look at what came."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from bike_pipeline.records import BadCounts, Count
from bike_pipeline.regmodel import RegModel
from bike_pipeline.warehouse import Warehouse

LEAST_COVERAGE: Final = 0.95
"""Share of the expected rows (an hour a counter) that must have come."""
MOST_SILENT: Final = 0.5
"""Share of the rows without a count, above which the feed counts as broken."""
LARGEST_COUNT: Final = 100_000
_HOUR: Final = timedelta(hours=1)
_log = logging.getLogger(__name__)


def fetch(feed: RegModel, warehouse: Warehouse, as_of: datetime, *, days: int) -> tuple[datetime, int]:
    """Fetch the last `days` days before `as_of`, and with them every day that the warehouse lacks before.

    A missed run is made up for by the next one, and the first run fetches the whole history.

    Returns:
        Where the fetched window begins (it ends at `as_of`), and the number of rows.

    Raises:
        PipelineError: the feed or the warehouse failed, or the feed has nothing up to `as_of`.
    """
    known = feed.known()
    if known.last < as_of:
        raise BadCounts(f"the feed ends at {known.last:%Y-%m-%d %H:%M}, before {as_of:%Y-%m-%d %H:%M} UTC")
    last = warehouse.last_hour()
    gap = known.first if last is None else last + _HOUR
    start = max(known.first, min(gap, as_of - timedelta(days=days)))
    rows = feed.counts(start, as_of)
    warehouse.replace_counts(start, as_of, rows)
    return start, len(rows)


def arrived(check: Callable[[], int]) -> tuple[bool, int | None]:
    """Whether counts that another DAG fetches are there: True and what `check` gives, or False and None.

    Args:
        check: gives the number of rows, and raises BadCounts while counts are missing.

    Raises:
        PipelineError: the warehouse cannot be read.
    """
    try:
        return True, check()
    except BadCounts as missing:
        _log.info("waiting: %s", missing)
        return False, None


def validate(rows: Sequence[Count], start: datetime, end: datetime) -> None:
    """Check the stored counts of a window.

    Raises:
        BadCounts: with every problem found.
    """
    problems = []
    counters = {row.counter for row in rows}
    expected = int((end - start) / _HOUR) * len(counters)
    if len(rows) < LEAST_COVERAGE * expected or not rows:
        problems.append(f"{len(rows)} rows of {expected} expected ({len(counters)} counters)")
    twice = [key for key, times in Counter((row.timestamp, row.counter) for row in rows).items() if times > 1]
    if twice:
        problems.append(f"{len(twice)} hours are there twice, such as {twice[0][0]:%Y-%m-%d %H:%M} {twice[0][1]}")
    wrong = [row for row in rows if row.count is not None and not 0 <= row.count <= LARGEST_COUNT]
    if wrong:
        problems.append(f"{len(wrong)} counts are not from 0 to {LARGEST_COUNT}, such as {wrong[0].count}")
    silent = sum(row.count is None for row in rows)
    if rows and silent > MOST_SILENT * len(rows):
        problems.append(f"{silent} of {len(rows)} rows have no count")
    if problems:
        raise BadCounts(f"counts from {start:%Y-%m-%d} to {end:%Y-%m-%d}: " + "; ".join(problems))
