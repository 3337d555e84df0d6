"""Training and judging the regressor, and the two test sets on which models are compared.

The **baseline** is the first `weeks` weeks of the counts. Every sixth week of it is kept aside as **test_baseline**: it
covers all seasons and never changes, so that a model which forgets the past is seen. **test_current** is a window that
the caller names, usually the newest two weeks. A challenger is trained on the rest of the baseline and on everything
from there to its cut-off; its newest weeks count more, so that it can learn a world that has changed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from regmodel.counts import Counts
from regmodel.features import COUNTER, LOOK_BACK_DAYS, Matrix, matrix, with_lags

TEST_EVERY: Final = 6
"""Of the baseline's weeks, one in so many is test_baseline."""
WARM_UP_WEEKS: Final = 2
"""The first weeks have no week before them, so they are neither trained nor tested on."""
RECENT_WEEKS: Final = 8
RECENT_WEIGHT: Final = 5.0
"""Rows of the last RECENT_WEEKS before the cut-off count so many times."""
FEWEST_TRAINING_ROWS: Final = 1000
FEWEST_TEST_ROWS: Final = 24


class NotEnoughCounts(ValueError):
    """A window holds too few known counts to train or judge a model on."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How good predictions are: R², RMSE and MAE in bicycles an hour, over so many hours with a count."""

    r2: float
    rmse: float
    mae: float
    rows: int


@dataclass(frozen=True)
class Model:
    """A trained regressor and the counters that it knows."""

    regressor: Any
    counters: tuple[str, ...]

    def predict(self, table: pd.DataFrame) -> Matrix:
        """Bicycles in each hour of a table that has every feature's column; never negative."""
        predicted: Matrix = np.clip(self.regressor.predict(matrix(table, self.counters)), 0.0, None)
        return predicted


@dataclass(frozen=True, slots=True)
class Baseline:
    """The fixed period that no model may forget: its first week's beginning, and its length in weeks."""

    start: datetime
    weeks: int

    @classmethod
    def of(cls, counts: Counts, weeks: int) -> "Baseline":
        """The baseline of some counts: it begins with their first whole Monday week, after the warm-up.

        Raises:
            NotEnoughCounts: the counts end before the baseline does.
        """
        midnight = counts.first.replace(hour=0, minute=0, second=0, microsecond=0)
        monday = midnight + timedelta(days=(7 - midnight.weekday()) % 7)
        baseline = cls(monday + timedelta(weeks=WARM_UP_WEEKS), weeks)
        if baseline.end > counts.last:
            have = max(0, (counts.last - baseline.start).days // 7)
            raise NotEnoughCounts(
                f"the counts cover {have} whole weeks after {WARM_UP_WEEKS} weeks of warm-up, and the baseline needs "
                f"{weeks}: set REGMODEL_BASELINE_WEEKS to {have} or less, or give more counts"
            )
        return baseline

    @property
    def end(self) -> datetime:
        """End of the baseline (excluded)."""
        return self.start + timedelta(weeks=self.weeks)

    def is_test(self, times: "pd.Series[pd.Timestamp]") -> "pd.Series[bool]":
        """Which hours belong to test_baseline."""
        weeks = (times - pd.Timestamp(self.start)) // pd.Timedelta(weeks=1)
        inside: pd.Series[bool] = weeks.between(0, self.weeks - 1) & (weeks % TEST_EVERY == TEST_EVERY // 2)
        return inside


def window(counts: Counts, start: datetime, end: datetime) -> pd.DataFrame:
    """The counts of a window, with lags, without the hours that have no count."""
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    table = with_lags(counts.between(midnight - timedelta(days=LOOK_BACK_DAYS), end))
    return table[(table["timestamp"] >= pd.Timestamp(start)) & table["count"].notna()].reset_index(drop=True)


def train(counts: Counts, baseline: Baseline, cut_off: datetime, *, seed: int) -> tuple[Model, int, Scores]:
    """Train on all that is known before the cut-off, except test_baseline.

    Returns:
        The model, the number of rows that it was trained on, and its scores on them.

    Raises:
        NotEnoughCounts: there are too few rows.
    """
    table = window(counts, baseline.start, cut_off)
    table = table[~baseline.is_test(table["timestamp"])]
    if len(table) < FEWEST_TRAINING_ROWS:
        raise NotEnoughCounts(
            f"{len(table)} hours with a count to train on between {baseline.start:%Y-%m-%d} and "
            f"{cut_off:%Y-%m-%d}; at least {FEWEST_TRAINING_ROWS} are needed"
        )
    recent = pd.Timestamp(max(baseline.end, cut_off - timedelta(weeks=RECENT_WEEKS)))
    weights = np.where(table["timestamp"] >= recent, RECENT_WEIGHT, 1.0)
    regressor = HistGradientBoostingRegressor(
        max_iter=200,
        learning_rate=0.1,
        min_samples_leaf=20,
        early_stopping=False,
        categorical_features=[COUNTER],
        random_state=seed,
    )
    counters = counts.counters
    regressor.fit(matrix(table, counters), table["count"].to_numpy(), sample_weight=weights)
    model = Model(regressor, counters)
    return model, len(table), judge(model, table)


def judge(model: Model, table: pd.DataFrame) -> Scores:
    """Scores of a model on a table of known counts with lags.

    Raises:
        NotEnoughCounts: there are too few rows, or all counts are equal, so that R² has no meaning.
    """
    counted = table["count"].to_numpy()
    _check(counted)
    return _scores(counted, model.predict(table))


def judge_naive(table: pd.DataFrame) -> Scores:
    """Scores of the seasonal naive forecast, the same hour a week before, on the rows where there is one.

    Raises:
        NotEnoughCounts: as for `judge`.
    """
    known = table[table["last_week"].notna()]
    counted = known["count"].to_numpy()
    _check(counted)
    return _scores(counted, known["last_week"].to_numpy())


def _check(counted: Matrix) -> None:
    if len(counted) < FEWEST_TEST_ROWS:
        raise NotEnoughCounts(
            f"{len(counted)} hours with a count in the window; at least {FEWEST_TEST_ROWS} are needed"
        )
    if float(np.ptp(counted)) == 0.0:
        raise NotEnoughCounts(f"all {len(counted)} counts in the window are {counted[0]:g}, so R² has no meaning")


def _scores(counted: Matrix, predicted: Matrix) -> Scores:
    return Scores(
        r2=float(r2_score(counted, predicted)),
        rmse=float(mean_squared_error(counted, predicted) ** 0.5),
        mae=float(mean_absolute_error(counted, predicted)),
        rows=len(counted),
    )


def baseline_rows(counts: Counts, baseline: Baseline) -> pd.DataFrame:
    """The rows of test_baseline, with lags."""
    table = window(counts, baseline.start, baseline.end)
    return table[baseline.is_test(table["timestamp"])].reset_index(drop=True)
