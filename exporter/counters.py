"""Why counters never step back. There are two kinds, each with one rule.

**Accumulated**: finished runs and tasks of Airflow, and sums of XComs. Each event is added once, in the ledger, in one
transaction with what says that it was added (`sources/airflow/totals.py`). It stays when Airflow deletes it later.

**Recounted**: rows of the audit log. Each query counts the whole log, which may have lost rows since the last one: they
were deleted, they expired, a file was away or half written. So the log is asked, for each series, how many rows there
are (`counted`) and how many of them are newer than the newest row that was ever counted (`newer`). What is shown is

    shown = max(counted, shown before + newer)

- A log that only grows shows its count, late rows included: `counted` is the larger number.
- A log that loses old rows while new ones come goes on counting the new ones: `shown before + newer` is the larger.
- A log that is seen empty or half once, and whole again, shows what it showed: rows that come back are not newer.
- Where nothing was shown before, what is counted is shown.

The time of the newest row never steps back, so a newest row that is deleted and restored is no new row; one time holds
for the whole log. Rows dated beyond the query's horizon, in the future, are in neither number until their time has
come. A row that is rewritten with a newer time counts as new. Where a doubt is left, as for late rows while old ones
leave, a counter is too low rather than too high, and a note says that rows are gone.

What was shown stands in the Reading's Totals, which the ledger keeps in one record with the values: a restart changes
nothing. A label set whose rows are all gone, or that EXPORTER_MAX_SERIES leaves out, has no series. Its totals are
remembered, and its series go on from them when it comes back.
"""

import dataclasses
from array import array
from collections.abc import Mapping
from operator import add
from typing import Final

from exporter.snapshot import Grid, Labels, Reading, Totals

REMEMBERED: Final = 100_000
"""Most series that are not shown whose totals are remembered; beyond it the first to leave are forgotten."""


def recounted(reading: Reading, before: Reading | None, counters: Mapping[str, tuple[str, ...]]) -> Reading:
    """The reading with what its counters show in place of what was counted. A reading that counts no rows keeps its
    observations.

    Args:
        before: the source's last good reading, which is the one that it was given when it counted what is newer.
        counters: labels of the counters that count rows, by metric name: those of the label sets, then one of its own.
    """
    if reading.totals is not None:  # the source confirmed the last reading, which was recounted then
        return reading
    known = before.totals if before is not None else None
    counts = [
        (name, labels[:-1], found.samples, found.newer, found.observed_at)
        for name, labels in counters.items()
        if (found := reading.observations.get(name)) and isinstance(found.samples, Grid) and found.newer is not None
    ]
    if not counts:
        return dataclasses.replace(reading, totals=known)
    _, names, grid, _, newest = counts[0]
    sets = grid.sets
    totals = _in_order(known or Totals(None, (), {}), sets, names)
    columns = dict(totals.columns)
    observations = dict(reading.observations)
    cut = bool(reading.facts.get("series_dropped"))
    nothing = array("d", bytes(8 * len(totals.sets)))
    gone_on = []
    for name, _, grid, all_newer, _ in counts:
        shown, left = [], False
        for (own, counted), newer in zip(grid.columns, all_newer, strict=True):
            last = columns.get((name, own), nothing)
            values, others = array("d", map(max, counted, map(add, last, newer))), last[len(sets) :]
            columns[name, own] = values + others
            shown.append((own, values))
            left = left or values != counted or (any(others) and not cut)  # what was cut may have its rows still
        observations[name] = dataclasses.replace(observations[name], samples=Grid(sets, tuple(shown)), newer=None)
        if left:
            gone_on.append(name)
    notes = reading.notes
    if gone_on:
        notes += (
            f"rows that were counted are gone from the log: {', '.join(gone_on)} went on from what was shown, as "
            "counters do",
        )
    times = [at for at in (totals.newest, newest) if at is not None]
    totals = Totals(max(times, default=None), totals.sets, columns)
    return dataclasses.replace(reading, observations=observations, notes=notes, totals=totals)


def _in_order(known: Totals, sets: tuple[Labels, ...], names: tuple[str, ...]) -> Totals:
    """What is known of these label sets, 0 where that is nothing, and then of the others. Label sets of other names,
    which an earlier catalogue had, are forgotten."""
    rows = {labels: row for row, labels in enumerate(known.sets) if tuple(name for name, _ in labels) == names}
    order = [rows.pop(labels, -1) for labels in sets]
    others = list(rows)[: REMEMBERED // max(1, len(known.columns))]
    order += [rows[labels] for labels in others]
    columns = {
        key: array("d", (values[row] if row >= 0 else 0.0 for row in order)) for key, values in known.columns.items()
    }
    return Totals(known.newest, (*sets, *others), columns)


def merged(totals: Totals | None, others: Totals | None) -> Totals | None:
    """What no counter may fall below when two exporters counted the same log: of each series the larger value, and the
    later newest row. The label sets of `totals` come first."""
    if totals is None or others is None:
        return totals or others
    sets = tuple(dict.fromkeys((*totals.sets, *others.sets)))
    known = [(dict(zip(one.sets, range(len(one.sets)), strict=True)), one.columns) for one in (totals, others)]

    def value(key: tuple[str, Labels], labels: Labels) -> float:
        return max(columns[key][rows[labels]] if key in columns and labels in rows else 0.0 for rows, columns in known)

    keys = dict.fromkeys((*totals.columns, *others.columns))
    times = [at for at in (totals.newest, others.newest) if at is not None]
    return Totals(
        max(times, default=None), sets, {key: array("d", (value(key, labels) for labels in sets)) for key in keys}
    )


def newest_counted(before: Reading | None) -> float | None:
    """Time in Unix seconds of the newest row that was ever counted: where counting what is newer begins. None if there
    was no row yet."""
    return None if before is None or before.totals is None else before.totals.newest
