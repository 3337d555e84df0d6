"""A simulated city: hourly bicycle counts with season, week, rush hours, holidays, weather, failing sensors, shifts.

Everything follows from the seed, and the value of an hour does not depend on the window that is asked for. What makes a
count, hour by hour and counter by counter:

    count ~ Poisson(gamma noise · size of the counter · season · hour of the week · weather · common noise · shifts)

- **Season**: traffic is highest in June and lowest in January; temperature swings 8 °C about a mean of 12 °C.
- **Week and day**: on working days two rush hours, whose weight differs by counter (commuter and leisure streets); on
  weekends and public holidays one broad afternoon.
- **Weather**: the day's departure from the season is an AR(1) process, rain comes in wet days, wind in gusts. Warmth
  brings cyclists, rain and wind keep them away.
- **Noise**: a city-wide AR(1) factor day by day (events, school holidays), a gamma factor an hour (so that the variance
  grows with the square of the mean, as real counts do), and Poisson.
- **Sensors** fail: outages begin at random, last hours to days, and leave no count.
- **Shifts** change all this for some time: see `Shift`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmodel.counts import CountTable

Floats = NDArray[np.float64]

SEASON_PEAK_DAY: Final = 172
"""21 June."""
COUNTERS: Final = (
    # name, bicycles in a mean hour, share of commuters
    ("Bridge North", 210.0, 0.75),
    ("Canal Path", 120.0, 0.35),
    ("Central Station", 260.0, 0.85),
    ("Market Street", 160.0, 0.60),
    ("River Park", 90.0, 0.15),
    ("University", 180.0, 0.70),
)
FIXED_HOLIDAYS: Final = ((1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25))
"""Month and day. Holidays whose date moves with Easter are in `easter_holidays`."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of the world from `start` (included) to `end` (excluded; None for good). The defaults change nothing.

    Attributes:
        demand: factor on every count, above 0: a strike on the underground, a new cycle lane.
        rush_hour_delay: hours by which the working day's rhythm moves (-12 to 12): later office hours.
        temperature: degrees Celsius added to the weather.
        rain_sensitivity: factor on how much rain and wind keep people away.
        sensor_failures: share of hours (0 to 1) in which a sensor is silent on top of the usual failures.
    """

    start: date
    end: date | None = None
    demand: float = 1.0
    rush_hour_delay: float = 0.0
    temperature: float = 0.0
    rain_sensitivity: float = 1.0
    sensor_failures: float = 0.0


class BadShift(ValueError):
    """A description of shifts cannot be used. The message lists every problem."""


def parse_shifts(described: Any) -> tuple[Shift, ...]:
    """Shifts from what JSON gives: a list of objects with the fields of `Shift`, dates as `YYYY-MM-DD`.

    Raises:
        BadShift: with all problems.
    """
    if not isinstance(described, list):
        raise BadShift("shifts must be a list of objects")
    problems: list[str] = []
    shifts = []
    limits = {
        "demand": (0.01, 100.0),
        "rush_hour_delay": (-12.0, 12.0),
        "temperature": (-50.0, 50.0),
        "rain_sensitivity": (0.0, 10.0),
        "sensor_failures": (0.0, 1.0),
    }
    for position, one in enumerate(described):
        where = f"shift {position + 1}"
        if not isinstance(one, dict):
            problems.append(f"{where}: not an object")
            continue
        unknown = sorted(set(one) - {"start", "end", *limits})
        if unknown:
            problems.append(f"{where}: unknown {', '.join(unknown)} (known: start, end, {', '.join(limits)})")
        dates: dict[str, date | None] = {"start": None, "end": None}
        for name in dates:
            if one.get(name) is None:
                if name == "start":
                    problems.append(f"{where}: start is missing")
                continue
            try:
                dates[name] = date.fromisoformat(one[name])
            except (TypeError, ValueError):
                problems.append(f"{where}: {name} is not a date YYYY-MM-DD: {one[name]!r}")
        if dates["start"] and dates["end"] and dates["end"] <= dates["start"]:
            problems.append(f"{where}: end is not after start")
        numbers = {}
        for name, (low, high) in limits.items():
            value = one.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                problems.append(f"{where}: {name} must be a number from {low:g} to {high:g}, not {value!r}")
                continue
            numbers[name] = float(value)
        if dates["start"]:
            shifts.append(Shift(dates["start"], dates["end"], **numbers))
    if problems:
        raise BadShift("; ".join(problems))
    return tuple(shifts)


def easter(year: int) -> date:
    """Easter Sunday in the Gregorian calendar (the anonymous algorithm, Nature 1876)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    l = (32 + 2 * e + 2 * i - h - k) % 7  # noqa: E741 -- the algorithm's own letters
    m = (a + 11 * h + 22 * l) // 451
    month, day = divmod(h + l - 7 * m + 114, 31)
    return date(year, month, day + 1)


def holidays(first_year: int, last_year: int) -> frozenset[date]:
    """Public holidays of the simulated city."""
    days: set[date] = set()
    for year in range(first_year, last_year + 1):
        days.update(date(year, month, day) for month, day in FIXED_HOLIDAYS)
        days.update(easter(year) + timedelta(days=after) for after in (1, 39, 50))
    return frozenset(days)


def simulate(start: date, end: date, *, seed: int = 20, shifts: Sequence[Shift] = ()) -> CountTable:
    """Counts of the simulated city from `start` (included) to `end` (excluded), both at midnight UTC.

    The same seed, start and shifts give the same values; a later end only appends. A shift changes no hour before it
    begins, and none after it ends.
    """
    days = (end - start).days
    if days <= 0:
        raise ValueError("end must be after start")
    # A stream of its own for every array that is drawn: its first numbers are the same however long it gets.
    streams = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3 + 4 * len(COUNTERS)))
    midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
    timestamps = pd.date_range(midnight, periods=days * 24, freq="h")
    day_of_year = np.repeat([(start + timedelta(days=day)).timetuple().tm_yday for day in range(days)], 24)
    hour = np.tile(np.arange(24.0), days)
    season = np.cos(2 * math.pi * (day_of_year - SEASON_PEAK_DAY) / 365.25)
    free_days = holidays(start.year, end.year)
    holiday = np.repeat([start + timedelta(days=day) in free_days for day in range(days)], 24)
    weekend = np.repeat([(start + timedelta(days=day)).weekday() >= 5 for day in range(days)], 24) | holiday

    effects = _effects(timestamps, shifts)
    temperature, rain, wind = _weather(next(streams), next(streams), days, season, hour)
    temperature = temperature + effects["temperature"]
    busy = np.repeat(_autoregressive(next(streams).normal(size=days), 0.5) * 0.06, 24)
    working_hour = (hour - effects["rush_hour_delay"]) % 24
    weather = np.exp(
        0.022 * np.clip(temperature - 12.0, -15, 14)
        - 0.05 * np.clip(temperature - 28.0, 0, None)
        - effects["rain_sensitivity"] * (0.22 * np.minimum(rain, 4.0) + 0.03 * np.clip(wind - 4.0, 0, None))
    )
    parts = []
    for _, size, commuters in COUNTERS:
        rush = 2.6 * _bump(working_hour, 8.0, 1.1) + 2.4 * _bump(working_hour, 17.6, 1.5)
        leisure = 1.7 * _bump(hour, 15.0, 3.6)
        day = 0.10 + 0.75 * _bump(working_hour, 13.0, 3.5) + commuters * rush + (1 - commuters) * leisure
        free = 0.12 + 0.25 * _bump(hour, 0.5, 1.5) + (1.15 - 0.55 * commuters) * leisure
        rhythm = np.where(weekend, free, day)
        expected = size * rhythm * np.exp(0.18 * season + busy) * weather * effects["demand"]
        # A draw an hour and not as many as the expected count needs, so that a shift leaves later hours as they were.
        noise = next(streams).gamma(40.0, 1 / 40.0, size=len(hour))
        count = _poisson(next(streams).random(len(hour)), expected * noise)
        silent = _outages(next(streams), days) | (next(streams).random(len(hour)) < effects["sensor_failures"])
        parts.append(np.where(silent, np.nan, count))
    table = pd.DataFrame(
        {
            "timestamp": np.repeat(timestamps, len(COUNTERS)),
            "counter": [name for name, *_ in COUNTERS] * len(timestamps),
            "count": np.column_stack(parts).ravel(),
            "temperature": np.repeat(temperature.round(1), len(COUNTERS)),
            "rain": np.repeat(rain.round(1), len(COUNTERS)),
            "wind": np.repeat(wind.round(1), len(COUNTERS)),
            "holiday": np.repeat(holiday, len(COUNTERS)),
        }
    )
    return CountTable(table)


def _effects(timestamps: pd.DatetimeIndex, shifts: Sequence[Shift]) -> dict[str, Floats]:
    """Each effect hour by hour: factors multiply, amounts add up."""
    ones, zeros = np.ones(len(timestamps)), np.zeros(len(timestamps))
    effects = {
        "demand": ones.copy(),
        "rain_sensitivity": ones.copy(),
        "rush_hour_delay": zeros.copy(),
        "temperature": zeros.copy(),
        "sensor_failures": zeros.copy(),
    }
    for shift in shifts:
        during = timestamps >= pd.Timestamp(shift.start, tz="UTC")
        if shift.end is not None:
            during &= timestamps < pd.Timestamp(shift.end, tz="UTC")
        for name in ("demand", "rain_sensitivity"):
            effects[name][during] *= getattr(shift, name)
        for name in ("rush_hour_delay", "temperature", "sensor_failures"):
            effects[name][during] += getattr(shift, name)
    return effects


def _weather(
    by_day: np.random.Generator, by_hour: np.random.Generator, days: int, season: Floats, hour: Floats
) -> tuple[Floats, Floats, Floats]:
    """Temperature (°C), rain (mm an hour) and wind (m/s), hour by hour."""
    daily = by_day.normal(size=(days, 3))
    chance = by_hour.random(days * 24)
    departure = np.repeat(_autoregressive(daily[:, 0], 0.6) * 3.0, 24)
    temperature = 12.0 + 8.0 * season + departure + 3.5 * np.cos(2 * math.pi * (hour - 15.0) / 24)
    wet = np.repeat(_autoregressive(daily[:, 1], 0.4) > 0.5, 24)
    # Of a wet day's hours 35 % have rain, exponentially distributed with a mean of 1.2 mm.
    rain = np.where(wet, -1.2 * np.log(np.clip(chance / 0.35, 1e-6, 1.0)), 0.0)
    wind = np.repeat(np.exp(1.2 + 0.35 * _autoregressive(daily[:, 2], 0.5)), 24)
    return temperature, rain + 0.0, wind


def _autoregressive(shocks: Floats, memory: float) -> Floats:
    """An AR(1) process with variance 1."""
    scaled = shocks * math.sqrt(1 - memory**2)
    scaled[0] = shocks[0]
    return np.fromiter(itertools.accumulate(scaled, lambda before, shock: memory * before + shock), dtype=float)


def _bump(hour: Floats, centre: float, width: float) -> Floats:
    """A bell about an hour of the day, on the circle of 24 hours."""
    distance = (hour - centre + 12) % 24 - 12
    bell: Floats = np.exp(-0.5 * (distance / width) ** 2)
    return bell


def _poisson(uniform: Floats, mean: Floats) -> Floats:
    """Poisson counts from one uniform number each, by the normal approximation with a square-root transform.

    (√mean + z/2)² has mean and variance within 1 % of the Poisson's above a mean of 5, and is never negative.
    """
    from scipy.special import ndtri

    z = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    counts: Floats = np.round((np.sqrt(mean) + z / 2) ** 2)
    return counts


def _outages(rng: np.random.Generator, days: int) -> NDArray[np.bool_]:
    """The hours in which a sensor is silent: an outage a month on average, 18 hours long on average."""
    draws = rng.random(size=(days * 24, 2))
    begins = np.flatnonzero(draws[:, 0] < 1 / (30 * 24))
    silent = np.zeros(days * 24, dtype=bool)
    for begin in begins:
        length = 1 + int(-18 * math.log(1 - draws[begin, 1] + 1e-12))
        silent[begin : begin + length] = True
    return silent
