"""What the audit query's rows mean, and how long the answer holds. Shared by both engines; does no I/O."""

import dataclasses
import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import BadData
from exporter.snapshot import Gap, Grid, Labels, Observation, Reading, Sample
from exporter.sources.audit.query import HOUR_US, AuditQuery
from exporter.sources.audit.row_keys import LABEL_CHARACTERS
from exporter.sources.boundary import MAX_SECONDS, MIN_SECONDS


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    """The query's rows as typed values. Times are Unix seconds. `label_sets` is None where the catalogue has none."""

    observations: Mapping[str, Observation]
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    rows: int
    last_record_at: float | None
    first_future_at: float | None
    label_sets: int | None = None
    series_dropped: int = 0

    def facts(self) -> Mapping[str, int | float | None]:
        """What `/health` says of it."""
        found: dict[str, int | float | None] = {"rows": self.rows, "last_record_at": self.last_record_at}
        if self.label_sets is not None:
            found |= {"label_sets": self.label_sets, "series_dropped": self.series_dropped}
        return found


def read_rows(query: AuditQuery, rows: Iterable[Mapping[str, Any]]) -> AuditAnswer:
    """Turn the query's answer into observations: one row, or one for each label set.

    Raises:
        BadData: the rows are not what the query asks for, or none of the log's rows has a usable time.
    """
    if query.labels:
        return _read_sets(query, rows)
    found = list(rows)
    if len(found) != 1:
        raise BadData(f"The audit query returned {len(found)} rows instead of one.")
    return read_row(query, found[0])


def _refuse_undated(query: AuditQuery, rows: int, undated: int) -> None:
    """A log that tells no time at all is misread: zero for every counter would be an invention.

    Raises:
        BadData: there are rows, and none has a time.
    """
    if undated and not rows:
        raise BadData(f"None of the log's {_rows(undated)} has a usable time in column {query.timestamp}.")


def _read_sets(query: AuditQuery, rows: Iterable[Mapping[str, Any]]) -> AuditAnswer:
    sets: list[Labels] = []
    seen: set[Labels] = set()  # a text that was made valid may be another one's
    values = {gauge.index: array("d") for gauge in query.gauges}
    times: dict[int, float] = {}
    counted = {f"{kind}{i}": array("d") for count in query.counts for _, i in count.indexes for kind in ("k", "newer")}
    overall: Mapping[str, Any] | None = None
    for row in rows:
        overall = overall or row
        labels = query.set_of(row)
        if labels is None or labels in seen or not _count(row, "rows"):
            continue
        if len(sets) == query.most_sets:
            raise BadData(f"The audit query returned more than the {query.most_sets} label sets that it asks for.")
        seen.add(labels)
        sets.append(labels)
        for index, known in values.items():
            value = _number(row, f"v{index}")
            known.append(math.nan if value is None else value)
            if value is not None:
                times[index] = max(times.get(index, -math.inf), _time(row, f"t{index}") or 0.0)
        for name, known in counted.items():
            known.append(_count(row, name))
    if overall is None:  # an empty table
        overall = dict.fromkeys(("all_newest", "all_first_future"))
    _refuse_undated(query, _overall(overall, "rows"), _overall(overall, "undated"))
    shared = tuple(sets)
    newest = _time(overall, "all_newest")
    observations: dict[str, Observation] = {}
    gaps, notes = list(query.gaps), []
    for gauge in query.gauges:
        for metric in gauge.metrics:
            if gauge.index in times:
                observations[metric] = Observation(Grid(shared, (((), values[gauge.index]),)), times[gauge.index])
            else:
                gaps.append(Gap(metric, f"column {gauge.column} holds no value yet"))
        unreadable = _overall(overall, f"b{gauge.index}")
        if unreadable:
            notes.append(f"column {gauge.column}: {_rows(unreadable)} with text that is not a number, left out")
    for count in query.counts:
        columns = tuple((((count.label, value),), counted[f"k{index}"]) for value, index in count.indexes)
        newer = tuple(counted[f"newer{index}"] for _, index in count.indexes)
        observations[count.metric] = Observation(Grid(shared, columns), newest, newer)
    notes += _notes(_overall(overall, "future"), _overall(overall, "undated"))
    nameless = _overall(overall, "nameless")
    if nameless:
        notes.append(
            f"{_rows(nameless)} without a usable value for {' and '.join(query.labels)} (NULL, blank, or longer than "
            f"{LABEL_CHARACTERS} characters), left out"
        )
    dropped = max(0, _overall(overall, "sets") - len(sets))
    if dropped:
        notes.append(
            f"EXPORTER_MAX_SERIES is {query.most_series}: {dropped} of {dropped + len(sets)} label sets "
            f"({dropped * query.set_series} series) are left out, those with the oldest rows"
        )
    return AuditAnswer(
        observations,
        tuple(gaps),
        tuple(notes),
        _overall(overall, "rows"),
        newest,
        _time(overall, "all_first_future"),
        len(sets),
        dropped * query.set_series,
    )


def _overall(row: Mapping[str, Any], name: str) -> int:
    return _count(row, f"all_{name}") if f"all_{name}" in row else 0


def read_row(query: AuditQuery, row: Mapping[str, Any]) -> AuditAnswer:
    """Turn the query's one row into observations. What is NULL or not finite gives no sample.

    Raises:
        BadData: a value has a type that the query cannot have produced, or none of the log's rows has a usable time.
    """
    _refuse_undated(query, _count(row, "rows"), _count(row, "undated"))
    newest = _time(row, "newest")
    observations: dict[str, Observation] = {}
    gaps = list(query.gaps)
    notes = []
    for gauge in query.gauges:
        value = _number(row, f"v{gauge.index}")
        for metric in gauge.metrics:
            if value is None:
                gaps.append(Gap(metric, f"column {gauge.column} holds no value yet"))
            else:
                observations[metric] = Observation((Sample((), value),), _time(row, f"t{gauge.index}"))
        unreadable = _count(row, f"b{gauge.index}") if gauge.is_text else 0
        if unreadable:
            notes.append(f"column {gauge.column}: {_rows(unreadable)} with text that is not a number, left out")
    everything: tuple[Labels, ...] = ((),)
    for count in query.counts:
        columns = tuple(
            (((count.label, value),), array("d", [_count(row, f"k{index}")])) for value, index in count.indexes
        )
        newer = tuple(array("d", [_count(row, f"newer{index}")]) for _, index in count.indexes)
        observations[count.metric] = Observation(Grid(everything, columns), newest, newer)
    notes += _notes(_count(row, "future"), _count(row, "undated"))
    return AuditAnswer(observations, tuple(gaps), tuple(notes), _count(row, "rows"), newest, _time(row, "first_future"))


def _notes(future: int, undated: int) -> Iterable[str]:
    if future:
        yield f"{_rows(future)} dated in the future: left out of values and counts until their time has come"
    if undated:
        yield f"{_rows(undated)} without a usable timestamp, left out"


def confirmed(
    previous: Reading | None, *, identity: str, catalog: str, token: str | None, now: float, max_age: float
) -> Reading | None:
    """The previous reading, confirmed now, if it is what the query would answer; None if the query has to run.

    `token` is the source's mark of the table's present state, None where it has none. Times are Unix seconds.
    """
    if previous is None or token is None:
        return None
    if (previous.identity, previous.catalog, previous.token) != (identity, catalog, token):
        return None
    if not 0 <= now - previous.queried_at < max_age:
        return None
    if previous.valid_until is not None and now >= previous.valid_until:
        return None
    return dataclasses.replace(previous, read_at=now)


def recompute_at(answer: AuditAnswer) -> float | None:
    """When the query would answer something else although the table did not change: when the first row that is dated
    in the future comes within `horizon_us`."""
    if answer.first_future_at is None:
        return None
    first_us = math.ceil(answer.first_future_at * 1_000_000)
    return (math.ceil(first_us / HOUR_US) - 2) * HOUR_US / 1_000_000


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row[name]
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadData(f"The audit query returned {type(value).__name__} for {name}, not a number.") from error
    return number if math.isfinite(number) else None


def _count(row: Mapping[str, Any], name: str) -> int:
    return int(_number(row, name) or 0)


def _time(row: Mapping[str, Any], name: str) -> float | None:
    micros = _number(row, name)
    return None if micros is None else max(MIN_SECONDS, min(micros / 1_000_000, MAX_SECONDS))
