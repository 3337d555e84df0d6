"""Hourly bicycle counts and the weather they were counted in: one interface for simulated and for real data.

A table of counts (`pandas.DataFrame`) has one row an hour and counter, ordered by time, then counter:

| column | type | meaning |
|---|---|---|
| timestamp | datetime64, UTC | beginning of the hour |
| counter | str | which counter |
| count | float | bicycles in that hour; NaN where the sensor was silent |
| temperature | float | degrees Celsius; NaN where unknown |
| rain | float | millimetres in the hour; NaN where unknown |
| wind | float | metres a second; NaN where unknown |
| holiday | bool | public holiday |
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pandas as pd

WEATHER: Final = ("temperature", "rain", "wind")
COLUMNS: Final = ("timestamp", "counter", "count", *WEATHER, "holiday")
_MOST_PROBLEMS: Final = 20
_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no", ""})


class BadCounts(ValueError):
    """A file of counts cannot be used. The message lists every problem found, with line numbers."""


class Counts(Protocol):
    """Where counts come from."""

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of all counters, sorted."""
        ...

    @property
    def first(self) -> datetime:
        """Beginning of the first hour (UTC)."""
        ...

    @property
    def last(self) -> datetime:
        """End of the last hour (UTC)."""
        ...

    def between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """The table of counts from `start` (included) to `end` (excluded); empty where nothing is known."""
        ...


@dataclass(frozen=True, eq=False)
class CountTable:
    """Counts held in memory, whatever made them."""

    table: pd.DataFrame

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of all counters, sorted."""
        return tuple(sorted(self.table["counter"].unique()))

    @property
    def first(self) -> datetime:
        """Beginning of the first hour (UTC)."""
        first: datetime = self.table["timestamp"].iloc[0].to_pydatetime()
        return first

    @property
    def last(self) -> datetime:
        """End of the last hour (UTC)."""
        last: datetime = (self.table["timestamp"].iloc[-1] + pd.Timedelta(hours=1)).to_pydatetime()
        return last

    def between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """The rows from `start` (included) to `end` (excluded)."""
        times = self.table["timestamp"]
        first, after = times.searchsorted(pd.Timestamp(start)), times.searchsorted(pd.Timestamp(end))
        return self.table.iloc[first:after].reset_index(drop=True)


def read_csv(path: Path) -> CountTable:
    """Read real counts from a CSV file with a header.

    `timestamp` (ISO 8601; UTC unless it has an offset; any minute of the hour), `counter` and `count` are required. The
    weather columns and `holiday` may be missing or empty. Several rows of one hour and counter (15-minute counts, or
    two directions) are added up, and their weather is averaged.

    Raises:
        BadCounts: the file cannot be read, lacks a column, has no rows, or has values that are not what they should be.
    """
    try:
        # Everything as text: a column's type must not depend on one bad cell.
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadCounts(f"{path}: cannot be read as CSV: {error}") from error
    raw.columns = [str(name).strip().lower() for name in raw.columns]
    missing = [name for name in ("timestamp", "counter", "count") if name not in raw.columns]
    if missing:
        raise BadCounts(f"{path}: no column {', '.join(missing)} (found: {', '.join(raw.columns)})")
    if raw.empty:
        raise BadCounts(f"{path}: has a header and no rows")
    problems: list[str] = []
    table = pd.DataFrame(
        {
            "timestamp": pd.to_datetime(raw["timestamp"], utc=True, errors="coerce", format="ISO8601").dt.floor("h"),
            "counter": raw["counter"].str.strip(),
        }
    )
    _note(problems, raw["timestamp"], table["timestamp"].isna(), "timestamp is not an ISO 8601 time")
    _note(problems, raw["counter"], table["counter"] == "", "counter is empty")
    for name in ("count", *WEATHER):
        text = raw[name].str.strip() if name in raw.columns else pd.Series("", index=raw.index)
        numbers = pd.to_numeric(text, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
        empty = text.str.lower().isin(("", "nan", "null", "na"))
        _note(problems, text, numbers.isna() & ~empty, f"{name} is not a number")
        if name in ("count", "rain", "wind"):
            _note(problems, text, numbers < 0, f"{name} is negative")
        table[name] = numbers
    holiday = raw["holiday"].str.strip().str.lower() if "holiday" in raw.columns else pd.Series("", index=raw.index)
    _note(problems, holiday, ~holiday.isin(_TRUE | _FALSE), "holiday is neither true nor false")
    table["holiday"] = holiday.isin(_TRUE)
    if problems:
        shown = problems[:_MOST_PROBLEMS]
        more = f"\n  and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise BadCounts(f"{path}: {len(problems)} problems:\n  " + "\n  ".join(shown) + more)
    groups = table.groupby(["timestamp", "counter"], sort=True)
    added = groups.agg(
        # min_count: an hour in which every part is missing is missing, not 0.
        count=("count", lambda parts: parts.sum(min_count=1)) if groups.ngroups < len(table) else ("count", "first"),
        **{name: (name, "mean") for name in WEATHER},
        holiday=("holiday", "max"),
    )
    return CountTable(added.reset_index()[list(COLUMNS)])


def _note(problems: list[str], text: pd.Series, wrong: pd.Series, what: str) -> None:
    problems += [f"line {index + 2}: {what}: {text[index][:40]!r}" for index in np.flatnonzero(wrong)]
