"""What is known at one moment, as frozen values. Standard library only; nothing here does I/O.

A source's `read()` gives a Reading. The refresh loop puts the last good Reading of every source, and how each source
is doing, into one Snapshot, from which `/metrics` and `/health` are made. Times are Unix seconds.
"""

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Labels = tuple[tuple[str, str], ...]
"""Label names and values, in the order in which the catalogue declares them."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric. Values are finite: what is unknown has no sample."""

    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """One classic histogram: how many events fell into each bucket alone (the last one is +Inf), and their sum."""

    labels: Labels
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Grid:
    """The Samples of one metric for many label sets, as plain numbers: 10,000 models with 16 metrics are 16 arrays
    over one tuple of label sets, not 160,000 objects that the garbage collector visits.

    Attributes:
        sets: label sets, shared by all metrics of a reading.
        columns: the metric's own labels, such as `decision="deploy"`, with a value for each label set; NaN stands for
            no sample.
    """

    sets: tuple[Labels, ...]
    columns: tuple[tuple[Labels, "array[float]"], ...]

    def __iter__(self) -> Iterator[Sample]:
        for row, labels in enumerate(self.sets):
            for own, values in self.columns:
                value = values[row]
                if value == value:  # noqa: PLR0124 -- not NaN
                    yield Sample((*labels, *own), value)

    def __len__(self) -> int:
        return sum(_known(values) for _, values in self.columns)


def _known(values: "array[float]") -> int:
    """How many are not NaN. Most columns hold none, which their sum tells four times as fast as their values do."""
    return len(values) if not math.isnan(sum(values)) else len(values) - sum(map(math.isnan, values))


@dataclass(frozen=True, slots=True)
class Observation:
    """What one source says of one metric.

    `observed_at` is when the newest event behind the value happened (for an audit row, the row's timestamp);
    None when that is unknown, as for a count over an empty table.

    `newer` makes the observation a count of rows that is not recounted yet (`exporter.counters`): for each column of
    the Grid, how many of the rows are newer than the newest one that was counted before.
    """

    samples: tuple[Sample | HistogramSample, ...] | Grid
    observed_at: float | None = None
    newer: tuple["array[float]", ...] | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A metric that a source should give and cannot, and why: a missing column, a column of the wrong type."""

    metric: str
    reason: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What the counters of audit rows showed last, from which they go on (`exporter.counters`).

    Attributes:
        newest: time of the newest row that was ever counted; None before there was one.
        sets: label sets: those that are shown, then those that are not, the last to leave first.
        columns: by metric and the metric's own labels, what it showed for each label set.
    """

    newest: float | None
    sets: tuple[Labels, ...]
    columns: Mapping[tuple[str, Labels], "array[float]"]


@dataclass(frozen=True)
class Reading:
    """One good answer of a source.

    Attributes:
        source: name of the source, the value of the `source` label.
        identity: what was read (engine, table, filter). Readings of another identity are not comparable, so they are
            not shown, and counters do not go on from them.
        read_at: when the source last confirmed these values.
        queried_at: when the values were computed; older than `read_at` when the source said that nothing changed.
        catalog: fingerprint of the catalogue that it was read for; for another one only `totals` still hold.
        token: the source's mark of the state that was read; None when it has none, so that it is always asked.
        observations: by metric name.
        gaps: metrics that this source should give and cannot.
        notes: other things an operator should know, such as rows that were left out.
        facts: what `/health` says about the source: engine, table, rows, ...
        totals: what the counters of rows showed, also those that are missing from this reading; None until they were
            recounted, and for sources that count no rows.
        valid_until: when the values have to be computed again even if nothing changed; None for never.
    """

    source: str
    identity: str
    catalog: str
    read_at: float
    queried_at: float
    token: str | None
    observations: Mapping[str, Observation]
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=lambda: _NOTHING)
    totals: Totals | None = None
    valid_until: float | None = None


@dataclass(frozen=True)
class SourceStatus:
    """How a source is doing.

    Attributes:
        up: whether the last refresh succeeded; None before the first one has ended.
        last_success_at: when the last good reading was made, in this process or before a restart; None if never.
        age_seconds: how old that reading is, by a clock that cannot step back.
        held: a reading from before the current failure is still shown.
        refreshes, failures: counts since the process started; failures by reason.
        duration_seconds: how long the last finished refresh took.
        error, reason: the last failure; None while up.
        busy_seconds: how long a call that missed its deadline has been running; None when there is none.
        next_refresh_in_seconds: time until the source is asked again.
    """

    name: str
    up: bool | None = None
    last_attempt_at: float | None = None
    last_success_at: float | None = None
    age_seconds: float | None = None
    held: bool = False
    refreshes: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    duration_seconds: float | None = None
    error: str | None = None
    reason: str | None = None
    busy_seconds: float | None = None
    next_refresh_in_seconds: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """Everything that is known at `at`. `readings` holds, by source name, only readings that are still good to show."""

    at: float
    statuses: tuple[SourceStatus, ...]
    readings: Mapping[str, Reading]
    telemetry: Mapping[str, tuple[Sample, ...]] = field(default_factory=lambda: _NOTHING)
    """The sources' own counters (queries, bytes billed, requests) by metric name."""
    state_problem: str | None = None
    """Why state does not survive a restart; None when it does."""
    state_wanted: bool = True
    """Whether it should; False with `EXPORTER_STATE_DIR=none`."""
    state_note: str | None = None
    """What happened to the state file since the start, and was put right."""
    bugs: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Steps of the refresh loop that fail on a bug, and how."""

    @property
    def settled(self) -> bool:
        """Whether every source has been tried at least once."""
        return all(status.up is not None for status in self.statuses)
