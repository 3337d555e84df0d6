"""daily_prediction: the features of every hour, the API's predictions, and how they compare with what was counted."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bike_pipeline.records import BadCounts, Count, PipelineError, Predicted
from bike_pipeline.regmodel import RegModel
from bike_pipeline.warehouse import Warehouse

LEVEL_HOURS: Final = 72
"""A counter's level is known with at least so many counts in the week before; as in the model's own features."""
WEEK: Final = timedelta(days=7)
FEWEST_SCORED: Final = 24


@dataclass(frozen=True, slots=True)
class Quality:
    """Predictions against counts, over `rows` hours that have both: R², RMSE and MAE in bicycles an hour."""

    r2: float
    rmse: float
    mae: float
    rows: int


def check_raw_data(warehouse: Warehouse, start: datetime, end: datetime) -> int:
    """Whether there are counts to predict for; gives the number of rows.

    Raises:
        BadCounts: a day of the window has none.
    """
    rows = warehouse.counts(start, end)
    days = {row.timestamp.date() for row in rows}
    lacking = [day for n in range((end - start).days) if (day := (start + timedelta(days=n)).date()) not in days]
    if lacking:
        raise BadCounts(f"no counts for {len(lacking)} days, such as {lacking[0]}: has daily_fetch_bike_data run?")
    return len(rows)


def predict(
    model: RegModel, warehouse: Warehouse, start: datetime, end: datetime
) -> tuple[list[Predicted], Quality | None]:
    """Predict every hour of a window as it could have been done at the beginning of its day, and store it.

    Returns:
        The predictions, and their quality; None where too few hours have a count.

    Raises:
        PipelineError: the API or the warehouse failed.
    """
    rows = warehouse.counts(start - WEEK, end)
    asked = [row for row in rows if row.timestamp >= start]
    values, version = model.predict(features(rows, asked))
    predicted = [
        Predicted(row.timestamp, row.counter, value, version) for row, value in zip(asked, values, strict=True)
    ]
    warehouse.replace_predictions(start, end, predicted)
    return predicted, quality(asked, values)


def features(history: Sequence[Count], asked: Sequence[Count]) -> list[dict[str, object]]:
    """The rows as `/predict` takes them, with what was counted before (see the model's features).

    Args:
        history: the counts of the asked days and of the 7 days before.
    """
    known: dict[tuple[str, datetime], float] = {}
    by_counter: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for row in history:
        if row.count is not None:
            known[row.counter, row.timestamp] = row.count
            by_counter[row.counter].append((row.timestamp, row.count))
    levels: dict[tuple[str, datetime], float | None] = {}

    def level(counter: str, midnight: datetime) -> float | None:
        key = (counter, midnight)
        if key not in levels:
            before = [count for at, count in by_counter[counter] if midnight - WEEK <= at < midnight]
            levels[key] = sum(before) / len(before) if len(before) >= LEVEL_HOURS else None
        return levels[key]

    return [
        {
            "counter": row.counter,
            "timestamp": row.timestamp.isoformat(),
            "holiday": row.holiday,
            "temperature": row.temperature,
            "rain": row.rain,
            "wind": row.wind,
            "level": level(row.counter, row.timestamp.replace(hour=0, minute=0)),
            "last_week": known.get((row.counter, row.timestamp - WEEK)),
        }
        for row in asked
    ]


def quality(rows: Sequence[Count], predicted: Sequence[float]) -> Quality | None:
    """How good predictions are where there is a count; None with too few, or when all counts are equal."""
    pairs = [(row.count, value) for row, value in zip(rows, predicted, strict=True) if row.count is not None]
    if len(pairs) < FEWEST_SCORED:
        return None
    mean = sum(count for count, _ in pairs) / len(pairs)
    spread = sum((count - mean) ** 2 for count, _ in pairs)
    if spread == 0:
        return None
    squares = sum((count - value) ** 2 for count, value in pairs)
    return Quality(
        r2=1 - squares / spread,
        rmse=math.sqrt(squares / len(pairs)),
        mae=sum(abs(count - value) for count, value in pairs) / len(pairs),
        rows=len(pairs),
    )


def validate(predicted: Sequence[Predicted], expected: int, levels: Mapping[str, float]) -> None:
    """Check stored predictions before anybody relies on them.

    Args:
        expected: how many there should be.
        levels: mean count of each counter; a prediction of more than 100 times that is wrong.

    Raises:
        PipelineError: with every problem found.
    """
    problems = []
    if len(predicted) != expected:
        problems.append(f"{len(predicted)} predictions for {expected} hours")
    wrong = [one for one in predicted if not math.isfinite(one.prediction) or one.prediction < 0]
    if wrong:
        problems.append(f"{len(wrong)} are negative or not finite, such as {wrong[0].prediction}")
    far = [one for one in predicted if one.prediction > 100 * max(1.0, levels.get(one.counter, math.inf))]
    if far:
        problems.append(f"{len(far)} are beyond all reason, such as {far[0].prediction:.0f} at {far[0].counter}")
    if len({one.prediction for one in predicted}) == 1 and len(predicted) > 24:
        problems.append("all are equal")
    if problems:
        raise PipelineError("predictions: " + "; ".join(problems))


def mean_counts(rows: Sequence[Count]) -> dict[str, float]:
    """Mean count of each counter, where there is one."""
    held: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.count is not None:
            held[row.counter].append(row.count)
    return {counter: sum(counts) / len(counts) for counter, counts in held.items()}
