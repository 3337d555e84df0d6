"""Counters that never step back although rows leave the log: what is carried from one reading to the next.

A counter's series is exported as what the source counts now plus an offset, which holds what it once counted and no
longer does. A label set whose rows are all gone has no series, and counts as 0 from then on: its total is remembered,
so that the series goes on from there if the label set comes back. Where EXPORTER_MAX_SERIES leaves label sets out, an
absent one may still have its rows, so what was last counted is remembered instead.
"""

import dataclasses
import logging
from array import array
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from exporter.snapshot import (
    Carry,
    CounterKey,
    Grid,
    HistogramSample,
    Labels,
    Observation,
    Reading,
    Sample,
    carry_on,
)

log = logging.getLogger(__name__)

REMEMBERED: Final = 100_000
"""Most series of label sets that are not shown whose totals are remembered; of more, those that went last."""


def carried(reading: Reading, previous: Reading | None, counters: Mapping[str, tuple[str, ...]]) -> Reading:
    """The reading with its counters carried on from the previous one, so that none of them steps back.

    Args:
        counters: labels of the counters that count rows, by metric name.
    """
    before: Mapping[CounterKey, Carry] = previous.carries if previous is not None else {}
    if previous is not None and reading.queried_at == previous.queried_at and reading.carries is previous.carries:
        return reading  # confirmed, not read anew: it is carried already
    cut = bool(reading.facts.get("series_dropped"))
    carries: dict[CounterKey, Carry] = {}
    unshown: dict[CounterKey, Carry] = {}
    by_name: dict[str, dict[Labels, Carry]] = {}
    for key, carry in before.items():
        if key[0] not in counters:
            carries[key] = carry
        elif tuple(name for name, _ in key[1]) == counters[key[0]]:
            by_name.setdefault(key[0], {})[key[1]] = carry
    observations = dict(reading.observations)
    for name, labels in counters.items():
        known = by_name.get(name, {})
        last = previous.observations.get(name) if previous is not None else None
        last_grid = last.samples if last is not None and isinstance(last.samples, Grid) else None
        if last_grid is not None and _names(last_grid) != labels:
            last_grid = None
        now = observations.get(name)
        fewer = False
        if now is None:  # a gap: everything is remembered as it was
            unshown.update(((name, key), carry) for key, carry in _as_carries(last_grid, known))
        elif isinstance(now.samples, Grid):
            grid, kept, gone, fewer = _carried_grid(now.samples, last_grid, known, cut=cut)
            observations[name] = dataclasses.replace(now, samples=grid)
            carries.update(((name, key), carry) for key, carry in kept)
            unshown.update(((name, key), carry) for key, carry in gone)
        else:
            carries.update(((name, key), carry) for key, carry in known.items())
            samples: list[Sample | HistogramSample] = []
            for sample in now.samples:
                assert isinstance(sample, Sample)  # noqa: S101 -- counts of rows are no histograms
                carry = carry_on(before, (name, sample.labels), sample.value)
                fewer |= bool(carry.offset and carry.offset != before[name, sample.labels].offset)
                carries[name, sample.labels] = carry
                samples.append(Sample(sample.labels, carry.raw + carry.offset))
            observations[name] = Observation(tuple(samples), now.observed_at)
        if fewer:
            log.warning(
                "source %s counts fewer rows for %s than before (rows were deleted, or the table was made anew): the "
                "counter goes on from where it was",
                reading.source,
                name,
            )
    # Those that went last stand at the end.
    carries.update(islice(unshown.items(), max(0, len(unshown) - REMEMBERED), None))
    return dataclasses.replace(reading, observations=observations, carries=carries)


def _names(grid: Grid) -> tuple[str, ...]:
    if not grid.sets or not grid.columns:
        return ()
    return tuple(name for name, _ in (*grid.sets[0], *grid.columns[0][0]))


def _as_carries(last: Grid | None, known: Mapping[Labels, Carry]) -> Iterable[tuple[Labels, Carry]]:
    """What is known of every series: those that were not shown already, then those that were shown last."""
    shown = {sample.labels: sample.value for sample in last} if last is not None else {}
    yield from ((labels, carry) for labels, carry in known.items() if labels not in shown)
    for labels, total in shown.items():
        offset = known[labels].offset if labels in known else 0.0
        yield labels, Carry(total - offset, offset)


def _carried_grid(
    now: Grid, last: Grid | None, known: Mapping[Labels, Carry], *, cut: bool
) -> tuple[Grid, list[tuple[Labels, Carry]], list[tuple[Labels, Carry]], bool]:
    """The grid carried on, the carries of its series that have an offset, those of series that are not shown, and
    whether rows of a label set that is still there left the log."""
    before = dict(_as_carries(last, known))
    columns, kept, fewer = [], [], False
    for own, values in now.columns:
        totals = array("d", values)
        for row, labels in enumerate(now.sets):
            carry = before.pop((*labels, *own), None)
            if carry is None:
                continue
            offset = carry.offset + max(0.0, carry.raw - values[row])
            if offset:
                fewer |= carry.raw > values[row]
                totals[row] = values[row] + offset
                kept.append(((*labels, *own), Carry(values[row], offset)))
        columns.append((own, totals))
    gone = [(labels, carry if cut else Carry(0.0, carry.raw + carry.offset)) for labels, carry in before.items()]
    return Grid(now.sets, tuple(columns)), kept, gone, fewer
