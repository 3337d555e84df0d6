"""What the model sees of an hour: the calendar, the weather, the counter, and what was counted before.

Two features look back, and both are known when the day begins, so that a whole day can be predicted at midnight:

- `level`: mean count of the counter in the 168 hours before midnight, where at least LEVEL_HOURS of them are known;
- `last_week`: its count in the same hour a week before.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

FEATURES: Final = (
    *("hour", "weekday", "free_day", "year_cos", "year_sin"),
    *("temperature", "rain", "wind", "counter", "level", "last_week"),
)
COUNTER: Final = FEATURES.index("counter")
WEEK_HOURS: Final = 168
LEVEL_HOURS: Final = 72
LOOK_BACK_DAYS: Final = 7


def with_lags(table: pd.DataFrame) -> pd.DataFrame:
    """The table of counts with the columns `level` and `last_week`; NaN where too little came before."""
    if table.empty:
        return table.assign(level=np.empty(0), last_week=np.empty(0))
    wide = table.pivot(index="timestamp", columns="counter", values="count")
    hours = pd.date_range(wide.index[0].floor("D"), wide.index[-1], freq="h", name="timestamp")
    wide = wide.reindex(hours)
    means = wide.rolling(WEEK_HOURS, min_periods=LEVEL_HOURS).mean().shift(1)
    level = means.loc[hours.hour == 0].reindex(hours.floor("D")).set_axis(hours)
    rows = wide.index.get_indexer(pd.DatetimeIndex(table["timestamp"]))
    columns = wide.columns.get_indexer(pd.Index(table["counter"]))
    return table.assign(
        level=level.to_numpy()[rows, columns], last_week=wide.shift(WEEK_HOURS).to_numpy()[rows, columns]
    )


def matrix(table: pd.DataFrame, counters: Sequence[str]) -> Matrix:
    """A row of features (in the order of FEATURES) for every row of a table with lags.

    Args:
        counters: the counters that the model knows; another one is unknown to it (NaN), not an error.
    """
    times = table["timestamp"].dt
    angle = 2 * np.pi * times.day_of_year / 365.25
    known = {name: number for number, name in enumerate(counters)}
    values = {
        "hour": times.hour,
        "weekday": times.day_of_week,
        "free_day": (times.day_of_week >= 5) | table["holiday"],
        "year_cos": np.cos(angle),
        "year_sin": np.sin(angle),
        "counter": table["counter"].map(known),
    }
    columns = [values[name] if name in values else table[name] for name in FEATURES]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
