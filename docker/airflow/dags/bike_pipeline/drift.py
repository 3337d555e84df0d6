"""Has the world changed since the model was trained? Two-sample tests, feature by feature.

Hours of one day resemble each other, and so do days that follow each other, so a test that took every hour for a new
fact would find drift every week. Therefore:

1. Counts and weather become one value a day and feature (`daily_features`).
2. What the calendar explains (season, weekday, holiday) is taken out by least squares fitted on the first year.
3. A feature's newest days are compared with its reference days by the Kolmogorov-Smirnov statistic. Its p-value counts
   only as many independent days as there are, from the autocorrelation of the reference: n · (1 - ρ) / (1 + ρ), the
   effective sample size of an AR(1) process.
4. Holm's method keeps the chance of a single false finding among all features under ALPHA.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bike_pipeline.records import Count, PipelineError

Floats = NDArray[np.float64]

PARTS: Final = {"night": range(6), "morning": range(6, 10), "midday": range(10, 15), "evening": range(15, 20)}
"""Parts of the day whose share of the traffic is watched. The rest of the day follows from them."""
FEATURES: Final = ("temperature", "rain", "wind", "traffic", *(f"{part}_share" for part in PARTS), "silent_share")
ALPHA: Final = 0.05
DRIFT_SHARE: Final = 0.3
"""Drift is reported when at least this share of the features drifted."""
AS_THEY_ARE: Final = frozenset({"rain", "silent_share"})
"""Features that are zero on most days. Taking a season out would turn equal zeros into different values."""
FEWEST_DAYS: Final = 7
YEAR_DAYS: Final = 330
"""With fewer days than these to fit on, the season is left in: it could not be told from drift."""
FEWEST_HOURS: Final = 12
"""A day with fewer hours of counts than these says nothing about traffic."""


@dataclass(frozen=True, slots=True)
class Day:
    """One day: its values in the order of FEATURES (NaN where unknown), and whether it was a public holiday."""

    day: date
    holiday: bool
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FeatureTest:
    """One feature's test: the KS distance (0 to 1), its p-value and the p-value after Holm's correction."""

    feature: str
    distance: float
    p_value: float
    adjusted: float

    @property
    def drifted(self) -> bool:
        """Whether the feature drifted."""
        return self.adjusted < ALPHA


@dataclass(frozen=True, slots=True)
class Drift:
    """The tests of all features that could be tested."""

    tests: tuple[FeatureTest, ...]
    reference_days: int
    current_days: int

    @property
    def drifted_features(self) -> tuple[str, ...]:
        """Names of the features that drifted."""
        return tuple(test.feature for test in self.tests if test.drifted)

    @property
    def share(self) -> float:
        """Share of the tested features that drifted, 0 to 1."""
        return len(self.drifted_features) / len(self.tests)

    @property
    def detected(self) -> bool:
        """Whether enough features drifted to call it drift."""
        return self.share >= DRIFT_SHARE

    def summary(self) -> dict[str, object]:
        """What is pushed as the XCom `drift_summary`."""
        return {
            "drift_share": round(self.share, 6),
            "drifted_features": list(self.drifted_features),
            "drifted_features_count": len(self.drifted_features),
            "p_values": {test.feature: float(f"{test.adjusted:.3g}") for test in self.tests},
            "reference_days": self.reference_days,
            "current_days": self.current_days,
        }


def daily_features(counts: Iterable[Count]) -> list[Day]:
    """One value a day and feature, by day. Counters weigh alike: each counts relative to its own mean."""
    rows = list(counts)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        if row.count is not None:
            sums[row.counter][0] += row.count
            sums[row.counter][1] += 1
    means = {counter: total / known for counter, (total, known) in sums.items() if total > 0}
    by_day: dict[date, list[Count]] = defaultdict(list)
    for row in rows:
        by_day[row.timestamp.date()].append(row)
    return [_day(day, by_day[day], means) for day in sorted(by_day)]


def _day(day: date, rows: Sequence[Count], means: Mapping[str, float]) -> Day:
    weather: dict[str, dict[int, float]] = {"temperature": {}, "rain": {}, "wind": {}}
    traffic: dict[int, list[float]] = defaultdict(list)
    silent = 0
    for row in rows:
        hour = row.timestamp.hour
        for name, by_hour in weather.items():
            value = getattr(row, name)
            if value is not None:
                by_hour[hour] = value
        if row.count is None:
            silent += 1
        elif row.counter in means:
            traffic[hour].append(row.count / means[row.counter])
    hourly = {hour: sum(values) / len(values) for hour, values in traffic.items()}
    total = sum(hourly.values())
    values = {
        "temperature": _mean(weather["temperature"].values()),
        "rain": math.log1p(sum(weather["rain"].values())) if weather["rain"] else math.nan,
        "wind": _mean(weather["wind"].values()),
        "silent_share": silent / len(rows),
    }
    if len(hourly) >= FEWEST_HOURS and total > 0:
        values["traffic"] = math.log(total / len(hourly))
        for part, hours in PARTS.items():
            values[f"{part}_share"] = sum(hourly.get(hour, 0.0) for hour in hours) / total
    return Day(day, any(row.holiday for row in rows), tuple(values.get(name, math.nan) for name in FEATURES))


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return sum(held) / len(held) if held else math.nan


def detect(history: Sequence[Day], reference: Sequence[Day], current: Sequence[Day]) -> Drift:
    """Test every feature of the current days against the reference days.

    Args:
        history: the days from which the calendar's effects are learnt, usually the first year.

    Raises:
        PipelineError: there are fewer than FEWEST_DAYS reference or current days, or no feature can be tested.
    """
    for name, days in (("reference", reference), ("current", current)):
        if len(days) < FEWEST_DAYS:
            raise PipelineError(f"drift: {len(days)} {name} days, at least {FEWEST_DAYS} are needed")
    found: list[tuple[str, float, float]] = []
    for index, feature in enumerate(FEATURES):
        normal = _Normal.fit(() if feature in AS_THEY_ARE else (history or reference), index)
        before, now = normal.residuals(reference, index), normal.residuals(current, index)
        if len(before) < FEWEST_DAYS or len(now) < FEWEST_DAYS:
            continue
        distance, p_value = two_sample_test(before, now)
        found.append((feature, distance, p_value))
    if not found:
        raise PipelineError("drift: no feature has enough known days to be tested")
    adjusted = holm([p_value for _, _, p_value in found])
    tests = tuple(FeatureTest(*one, value) for one, value in zip(found, adjusted, strict=True))
    return Drift(tests, len(reference), len(current))


def two_sample_test(reference: Floats, current: Floats) -> tuple[float, float]:
    """The KS distance of two series of daily values, and its p-value for as many independent days as they hold."""
    # Airflow imports this file each time it parses the DAG, and scipy.stats takes a second of CPU.
    from scipy import stats

    distance = float(stats.ks_2samp(reference, current, method="asymp").statistic)
    memory = _memory(reference)
    sizes = [len(values) * (1 - memory) / (1 + memory) for values in (reference, current)]
    scale = math.sqrt(sizes[0] * sizes[1] / (sizes[0] + sizes[1]))
    return distance, float(stats.kstwobign.sf(distance * scale))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's step-down correction (Scand. J. Statist. 6, 1979), in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def _memory(values: Floats) -> float:
    """Lag-1 autocorrelation, between 0 and 0.8; a constant series has none."""
    centred = values - values.mean()
    spread = float(centred @ centred)
    if spread <= 1e-12:
        return 0.0
    return min(0.8, max(0.0, float(centred[1:] @ centred[:-1]) / spread))


@dataclass(frozen=True, slots=True)
class _Normal:
    """What the calendar explains of one feature."""

    coefficients: Floats
    with_season: bool

    @classmethod
    def fit(cls, days: Sequence[Day], index: int) -> "_Normal":
        known = [day for day in days if not math.isnan(day.values[index])]
        with_season = len(known) >= YEAR_DAYS * 0.8 and (known[-1].day - known[0].day).days + 1 >= YEAR_DAYS
        values = np.array([day.values[index] for day in known])
        # Without any known day the coefficients are 0: nothing is explained.
        coefficients, *_ = np.linalg.lstsq(_design(known, with_season), values)
        return cls(coefficients, with_season)

    def residuals(self, days: Sequence[Day], index: int) -> Floats:
        known = [day for day in days if not math.isnan(day.values[index])]
        explained = _design(known, self.with_season) @ self.coefficients
        residuals: Floats = np.array([day.values[index] for day in known]) - explained
        return residuals


def _design(days: Sequence[Day], with_season: bool) -> Floats:
    """A row a day: constant, weekdays, holiday, and two waves of the year."""
    rows = [_explanations(day.day, day.holiday, with_season) for day in days]
    return np.array(rows).reshape(len(rows), 12 if with_season else 8)


@functools.lru_cache(maxsize=4096)
def _explanations(day: date, holiday: bool, with_season: bool) -> tuple[float, ...]:
    weekday = day.weekday()
    row = (1.0, *(float(weekday == number) for number in range(1, 7)), float(holiday and weekday < 5))
    if not with_season:
        return row
    angle = 2 * math.pi * day.timetuple().tm_yday / 365.25
    return (*row, math.cos(angle), math.sin(angle), math.cos(2 * angle), math.sin(2 * angle))
