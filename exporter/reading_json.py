"""A Reading as JSON, as the state file keeps it.

What is read back is taken as little on trust as what comes from a source: numbers are finite, texts valid and bounded,
no series stands twice.
"""

import base64
import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

from exporter.snapshot import Gap, Grid, HistogramSample, Labels, Observation, Reading, Sample, Totals
from exporter.sources import boundary

ITEMS_AT_ONCE: Final = 200
MAX_CHARACTERS: Final = 100_000
"""The longest text of a kept reading that is no label; notes and facts list names. Longer ones are cut."""
MAX_COUNT: Final = 2**53
"""Above this, a float does not tell one number of events from the next."""
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def reading_to_json(reading: Reading) -> dict[str, Any]:
    """The reading as values that JSON can hold. The label sets that its Grids share are written once, their numbers
    in base64: as text they would take a hundred times as long."""
    grids = [o.samples for o in reading.observations.values() if isinstance(o.samples, Grid)]
    return {
        "label_sets": grids[0].sets if grids else (),
        "source": reading.source,
        "identity": reading.identity,
        "catalog": reading.catalog,
        "read_at": reading.read_at,
        "queried_at": reading.queried_at,
        "token": reading.token,
        "observations": {
            name: {
                "observed_at": observation.observed_at,
                **(
                    {"grid": _grid_to_json(observation.samples, grids[0].sets)}
                    if isinstance(observation.samples, Grid)
                    else {"samples": [_sample_to_json(sample) for sample in observation.samples]}
                ),
            }
            for name, observation in reading.observations.items()
        },
        "gaps": [[gap.metric, gap.reason] for gap in reading.gaps],
        "notes": list(reading.notes),
        "facts": dict(reading.facts),
        "totals": None if reading.totals is None else _totals_to_json(reading.totals, grids[0].sets if grids else ()),
        "valid_until": reading.valid_until,
    }


def reading_from_json(content: Any) -> Reading:
    """The reading that `reading_to_json` wrote.

    Raises:
        ValueError: it was not written by this version, or was damaged.
    """
    try:
        sets = _label_sets(content.get("label_sets", ()))
        observations = {
            _text(name): Observation(
                _grid_from_json(entry["grid"], sets) if "grid" in entry else _samples_from_json(entry["samples"]),
                _time(entry["observed_at"]),
            )
            for name, entry in content["observations"].items()
        }
        return Reading(
            source=_text(content["source"]),
            identity=_text(content["identity"]),
            catalog=_text(content["catalog"]),
            read_at=boundary.unix_seconds(content["read_at"]),
            queried_at=boundary.unix_seconds(content["queried_at"]),
            token=None if content["token"] is None else _text(content["token"]),
            observations=observations,
            gaps=tuple(Gap(_text(metric), _text(reason)) for metric, reason in content["gaps"]),
            notes=tuple(_text(note) for note in content["notes"]),
            facts={_text(name): _fact(value) for name, value in content["facts"].items()},
            totals=_totals_from_json(content["totals"], sets)
            if "totals" in content
            else _totals_of_0_1_0(content, observations),
            valid_until=_time(content["valid_until"]),
        )
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a reading ({type(error).__name__}: {boundary.shown(str(error))})") from error


def dumps(content: Any) -> str:
    """JSON of the content, a piece at a time: Python's encoder lets no other thread run, however much it is given."""
    if isinstance(content, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list | tuple) and len(content) > ITEMS_AT_ONCE:
        pieces = (content[start : start + ITEMS_AT_ONCE] for start in range(0, len(content), ITEMS_AT_ONCE))
        return "[" + ",".join(json.dumps(piece, allow_nan=False)[1:-1] for piece in pieces) + "]"
    return json.dumps(content, allow_nan=False)


def _sample_to_json(sample: Sample | HistogramSample) -> list[Any]:
    if isinstance(sample, Sample):
        return [sample.labels, sample.value]
    return [sample.labels, list(sample.counts), sample.sum]


def _samples_from_json(content: Any) -> tuple[Sample | HistogramSample, ...]:
    samples = tuple(_sample_from_json(sample) for sample in content)
    _refuse_twins(sample.labels for sample in samples)
    return samples


def _sample_from_json(content: Any) -> Sample | HistogramSample:
    if len(content) == 2:
        return Sample(_labels(content[0]), boundary.finite(content[1]))
    labels, counts, total = content
    return HistogramSample(
        _labels(labels), tuple(boundary.whole(count, 0, MAX_COUNT) for count in counts), boundary.finite(total)
    )


def _grid_to_json(grid: Grid, sets: tuple[Labels, ...]) -> list[Any]:
    if grid.sets is not sets:
        raise ValueError("the Grids of a reading share one tuple of label sets")
    return [[own, _numbers_to_json(values)] for own, values in grid.columns]


def _grid_from_json(content: Any, sets: tuple[Labels, ...]) -> Grid:
    columns = tuple((_labels(own), _numbers_from_json(text, len(sets))) for own, text in content)
    _refuse_twins(own for own, _ in columns)
    return Grid(sets, columns)


def _totals_to_json(totals: Totals, shown: tuple[Labels, ...]) -> dict[str, Any]:
    """The totals; of the label sets that stand in the reading already, only how many they are."""
    known = len(shown) if totals.sets[: len(shown)] == shown else 0
    return {
        "newest": totals.newest,
        "shown": known,
        "sets": totals.sets[known:],
        "columns": [[name, own, _numbers_to_json(values)] for (name, own), values in totals.columns.items()],
    }


def _totals_from_json(content: Any, shown: tuple[Labels, ...]) -> Totals | None:
    if content is None:
        return None
    sets = (*shown[: boundary.whole(content["shown"], 0, len(shown))], *_label_sets(content["sets"]))
    _refuse_twins(sets)
    columns = {(_text(name), _labels(own)): _amounts(text, len(sets)) for name, own, text in content["columns"]}
    return Totals(_time(content["newest"]), sets, columns)


def _totals_of_0_1_0(content: Any, observations: Mapping[str, Observation]) -> Totals | None:
    """The totals from a reading that version 0.1.0 wrote, which kept what the log once held as offsets: `carries`, a
    list of metric, labels, rows counted last, and offset. A series of a Grid stands there only if it has an offset or
    is not shown. A metric's own label is the last one. That version counted rows dated in the future, too.
    """
    found: dict[Labels, dict[tuple[str, Labels], float]] = {}
    grids = [(name, o.samples) for name, o in observations.items() if isinstance(o.samples, Grid)]
    for name, grid in grids:
        for own, values in grid.columns:
            if own:  # of the columns of Grids, those with a label of their own are counts
                for labels, value in zip(grid.sets, values, strict=True):
                    found.setdefault(labels, {})[name, own] = value
    for name, series, counted, offset in reversed(content["carries"]):  # the last to leave stands at the end
        labels = _labels(series)
        rows = boundary.finite(counted) + boundary.finite(offset)
        found.setdefault(labels[:-1], {})[_text(name), labels[-1:]] = boundary.finite(rows)
    if not found:
        return None
    keys = dict.fromkeys(key for values in found.values() for key in values)
    newest, future = _time(content["facts"].get("last_record_at")), _time(content["valid_until"])
    if newest is not None and future is not None and future < float(content["read_at"]) + 86_400:
        # Its first row that was dated in the future is at most two hours after that; it must not count again.
        newest = max(newest, future + 7_200)
    return Totals(
        newest,
        tuple(found),
        {key: array("d", (values.get(key, 0.0) for values in found.values())) for key in keys},
    )


def _numbers_to_json(values: "array[float]") -> str:
    return base64.b64encode(values.tobytes()).decode()


def _numbers_from_json(text: Any, length: int) -> "array[float]":
    values = array("d", base64.b64decode(text, validate=True))
    if len(values) != length:
        raise ValueError(f"{len(values)} values for {length} label sets")
    if any(map(math.isinf, values)):
        raise ValueError("a value is infinite")
    return values


def _amounts(text: Any, length: int) -> "array[float]":
    """What counters showed. NaN, of which nothing is the larger, would stay for ever."""
    values = _numbers_from_json(text, length)
    if not all(value >= 0 for value in values):
        raise ValueError("a counter is no number from 0 on")
    return values


def _label_sets(content: Any) -> tuple[Labels, ...]:
    sets = tuple(_labels(labels) for labels in content)
    _refuse_twins(sets)
    return sets


def _refuse_twins(sets: Iterable[Labels]) -> None:
    """Raise ValueError if a label set stands there twice: Prometheus refuses a series that does."""
    every = tuple(sets)
    if len(set(every)) != len(every):
        raise ValueError("a label set stands there twice")


def _labels(content: Any) -> Labels:
    labels = tuple((str(name), _text(value, boundary.LABEL_CHARACTERS)) for name, value in content)
    names = {name for name, _ in labels}
    if len(names) != len(labels) or not all(map(_LABEL_NAME.fullmatch, names)):
        raise ValueError("no label names")
    return labels


def _fact(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return _text(value)
    if value is not None:
        boundary.finite(value)
    known: bool | int | float | None = value
    return known


def _text(value: Any, limit: int = MAX_CHARACTERS) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is a {type(value).__name__}")
    return boundary.text(value, limit)


def _time(value: Any) -> float | None:
    return None if value is None else boundary.unix_seconds(value)
