"""Each decision of the drift tests, on small data made for it. What they find in a city: `test_drift.py`."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from bike_pipeline.drift import (
    FEATURES,
    YEAR_DAYS,
    Day,
    Drift,
    FeatureTest,
    daily_features,
    detect,
    holm,
    two_sample_test,
)
from bike_pipeline.records import Count, PipelineError

MONDAY = date(2024, 1, 1)
AS_THEY_ARE = ("rain", "silent_share")
PARTS = ("night_share", "morning_share", "midday_share", "evening_share")


# -- one value a day and feature ---------------------------------------------------------------------------------------


def counted(count: float | None, hour: int = 0, counter: str = "A", day: date = MONDAY, **others: object) -> Count:
    """An hour at a counter, on the first of January at night unless told."""
    at = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return dataclasses.replace(Count(at, counter, count, 9.0, 0.0, 1.0, False), **others)  # type: ignore[arg-type]


def features(rows: Iterable[Count]) -> Mapping[str, float]:
    """The values of the only day."""
    (day,) = daily_features(rows)
    return dict(zip(FEATURES, day.values, strict=True))


def test_a_day_in_numbers():
    """Worked by hand: A counts 2 an hour on average and B 20. In hour h, A counts double from 6 on, B all the time."""
    rows = [counted(1.0 if hour < 12 else 3.0, hour) for hour in range(24)]
    rows += [counted(20.0, hour, "B", rain=0.5) for hour in range(24)]
    # Relative to its mean A counts 0.5 up to noon and 1.5 after it, and B 1: together 0.75 and 1.25.
    values = features(rows)
    assert values["traffic"] == pytest.approx(0.0)
    assert [values[part] for part in PARTS] == pytest.approx(
        [6 * 0.75 / 24, 4 * 0.75 / 24, (2 * 0.75 + 3 * 1.25) / 24, 5 * 1.25 / 24]
    )
    assert values["rain"] == pytest.approx(math.log(1 + 24 * 0.5)), "what fell in the hour, not at each counter"
    assert (values["temperature"], values["wind"], values["silent_share"]) == (9.0, 1.0, 0.0)


def test_weather_is_the_mean_of_the_hours_that_are_known():
    rows = [counted(1.0, hour, temperature=float(hour), wind=None if hour % 2 else 4.0) for hour in range(4)]
    rows.append(counted(1.0, 3, "B", temperature=None, rain=None, wind=None))
    values = features(rows)
    assert (values["temperature"], values["wind"], values["rain"]) == (1.5, 4.0, 0.0)


def test_weather_that_nobody_knows_is_unknown():
    values = features([counted(1.0, temperature=None, rain=None, wind=None)])
    assert all(math.isnan(values[name]) for name in ("temperature", "rain", "wind"))


def test_traffic_of_two_days_is_relative_to_what_each_counter_counts_over_all():
    rows = [counted(float(n), hour, day=MONDAY + timedelta(days=n)) for n in (3, 1) for hour in range(24)]
    rows += [counted(100.0, hour, "B", MONDAY + timedelta(days=3)) for hour in range(24)]
    first, second = daily_features(rows)
    assert [first.day, second.day] == [MONDAY + timedelta(days=1), MONDAY + timedelta(days=3)], "the oldest comes first"
    traffic = FEATURES.index("traffic")
    assert first.values[traffic] == pytest.approx(math.log(0.5))
    assert second.values[traffic] == pytest.approx(math.log((1.5 + 1) / 2))


@pytest.mark.parametrize(("hours", "known"), [(0, False), (11, False), (12, True)])
def test_a_day_of_too_few_hours_says_nothing_about_traffic(hours: int, known: bool):
    values = features(counted(5.0 if hour < hours else None, hour) for hour in range(24))
    assert {math.isnan(values[name]) for name in ("traffic", *PARTS)} == {not known}
    assert values["temperature"] == 9.0
    assert values["silent_share"] == pytest.approx((24 - hours) / 24)
    if known:
        assert [values[part] for part in PARTS] == pytest.approx([6 / 12, 4 / 12, 2 / 12, 0.0])


def test_missing_sensors_are_the_share_of_silent_rows_and_cost_the_others_nothing():
    rows = [counted(5.0, hour) for hour in range(24)] + [counted(None, hour, "B") for hour in range(24)]
    values = features(rows)
    assert values["silent_share"] == 0.5
    assert values["traffic"] == pytest.approx(0.0)


def test_a_counter_that_only_counts_zero_is_neither_silent_nor_traffic():
    dead = [counted(0.0, hour, "B") for hour in range(24)]
    values = features([counted(5.0, hour) for hour in range(24)] + dead)
    assert (values["silent_share"], values["traffic"]) == (0.0, pytest.approx(0.0))
    values = features(dead)
    assert values["silent_share"] == 0.0
    assert math.isnan(values["traffic"])


def test_a_day_without_any_traffic_has_no_shares_and_one_of_hardly_any_has():
    """Shares are of what passed, however little that is."""
    quiet, busy = MONDAY, MONDAY + timedelta(days=1)
    for count, known in ((0.0, False), (0.001, True)):
        rows = [counted(count, hour, day=quiet) for hour in range(24)]
        rows += [counted(50.0, hour, day=busy) for hour in range(24)]
        values = dict(zip(FEATURES, daily_features(rows)[0].values, strict=True))
        assert {math.isnan(values[name]) for name in ("traffic", *PARTS)} == {not known}


def test_a_counter_is_watched_however_little_it_counts():
    values = features(counted(0.01, hour) for hour in range(24))
    assert values["traffic"] == pytest.approx(0.0)


def test_a_day_is_a_holiday_if_one_of_its_rows_says_so():
    rows = [counted(1.0, hour, holiday=hour == 7) for hour in range(24)]
    assert [day.holiday for day in daily_features(rows)] == [True]
    assert [day.holiday for day in daily_features([counted(1.0)])] == [False]


# -- two samples -------------------------------------------------------------------------------------------------------


def kolmogorov(x: float) -> float:
    """The chance of a distance beyond x under Kolmogorov's distribution, by its series."""
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 50))


RAMP = [float(n) for n in range(60)]


@pytest.mark.parametrize(
    ("reference", "current", "distance", "days"),
    [
        # Days that alternate have no memory (their correlation is negative), nor has a series that never changes.
        ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 0], 3 / 8, (10, 8)),
        ([2.5] * 9, [2.5, 2.5, 2.5, 3.0], 1 / 4, (9, 4)),
        # Around the mean of 1/2 the products of neighbours are 6 · 1/4 − 1/4, the squares 8 · 1/4: ρ is 5/8.
        ([0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0], 3 / 8, (8 * 3 / 13, 8 * 3 / 13)),
        # A trend would leave less than a day: ρ is 0.8 at most, so a ninth of the days counts.
        (RAMP, [n + 12 for n in RAMP[:30]], 18 / 60, (60 / 9, 30 / 9)),
    ],
)  # fmt: skip
def test_the_p_value_counts_as_many_days_as_are_independent(
    reference: Sequence[float], current: Sequence[float], distance: float, days: tuple[float, float]
):
    # The numbers are relative to the spread, however small that is: shares move by less than a hundredth.
    for unit in (1.0, 1e-3):
        found = two_sample_test(np.array(reference) * unit, np.array(current) * unit)
        n, m = days
        assert found == pytest.approx((distance, kolmogorov(distance * math.sqrt(n * m / (n + m)))))


def test_what_differs_by_rounding_alone_has_no_memory():
    """A constant series is one after the calendar was taken out, but for the last bits of its values."""
    hardly = np.array(RAMP[:8]) * 1e-12
    distance, p_value = two_sample_test(hardly, hardly + 1)
    assert (distance, p_value) == (1.0, pytest.approx(kolmogorov(2.0)))


# -- several tests -----------------------------------------------------------------------------------------------------


def test_holm():
    # Worked by hand: 4 · 0.01, 3 · 0.02, 2 · 0.03, 1 · 0.04, each at least as large as the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("drifted", "detected"), [(0, False), (2, False), (3, True), (10, True)])
def test_drift_is_reported_from_three_tenths_of_the_features_on(drifted: int, detected: bool):
    tests = [FeatureTest(f"f{n}", 0.5, 0.01, 0.049 if n < drifted else 0.05) for n in range(10)]
    found = Drift(tuple(tests), 56, 14)
    assert (found.share, found.detected) == (drifted / 10, detected)
    assert found.drifted_features == tuple(f"f{n}" for n in range(drifted)), "a p-value on the limit is no drift"


def test_the_summary_that_is_pushed():
    adjusted = {"rain": 0.0123456, "wind": 0.98765, "traffic": 1.0}
    found = Drift(tuple(FeatureTest(name, 0.5, 0.001, value) for name, value in adjusted.items()), 56, 14)
    assert found.summary() == {
        "drift_share": 0.333333,
        "drifted_features": ["rain"],
        "drifted_features_count": 1,
        "p_values": {"rain": 0.0123, "wind": 0.988, "traffic": 1.0},
        "reference_days": 56,
        "current_days": 14,
    }
    assert json.loads(json.dumps(found.summary())) == found.summary()


# -- the calendar ------------------------------------------------------------------------------------------------------

Effect = Callable[[date, bool], float]
"""What a day's date, and whether it is a holiday, add to every feature."""


YEAR, REFERENCE, CURRENT = range(366), range(366, 422), range(422, 436)
NOISE = np.random.default_rng(4).normal(size=(CURRENT.stop, len(FEATURES))).tolist()


def a_day(number: int) -> date:
    return MONDAY + timedelta(days=number)


def series(numbers: Iterable[int], effect: Effect = lambda _day, _holiday: 0.0, shift: float = 0.0) -> list[Day]:
    """Days of noise, the same at every call. Every ninth is a holiday."""
    made = []
    for number in numbers:
        day, holiday = a_day(number), number % 9 == 0
        added = effect(day, holiday) + shift
        made.append(Day(day, holiday, tuple(noise + added for noise in NOISE[number])))
    return made


def known(days: Sequence[Day], feature: str, *unknown: int) -> list[Day]:
    """The days without what some of them, by their place, say of a feature."""
    index = FEATURES.index(feature)
    return [
        dataclasses.replace(day, values=(*day.values[:index], math.nan, *day.values[index + 1 :]))
        if place in unknown
        else day
        for place, day in enumerate(days)
    ]


def weekdays(day: date, _holiday: bool) -> float:
    return (1000.0, -300.0, 70.0, 5.0, -900.0, 400.0, 8000.0)[day.weekday()]


def holidays(day: date, holiday: bool) -> float:
    return 5000.0 if holiday and day.weekday() < 5 else 0.0


def wave(times: int, quarter: float) -> Effect:
    """A wave with some periods a year."""

    def effect(day: date, _holiday: bool) -> float:
        return 5000.0 * math.cos(2 * math.pi * (times * (day.timetuple().tm_yday / 365.25) - quarter))

    return effect


def of_features(found: Drift, without: Sequence[str] = AS_THEY_ARE) -> list[float]:
    return [value for test in found.tests if test.feature not in without for value in (test.distance, test.p_value)]


@pytest.mark.parametrize(
    "effect", [weekdays, holidays, wave(1, 0), wave(1, 0.25), wave(2, 0), wave(2, 0.25)],
    ids=["weekdays", "holidays", "year", "year, a quarter later", "half-year", "half-year, a quarter later"],
)  # fmt: skip
def test_what_the_calendar_explains_is_taken_out(effect: Effect):
    """However large it is, the noise that is left is that of the same days without it."""
    bare = detect(series(YEAR), series(REFERENCE), series(CURRENT, shift=0.5))
    found = detect(series(YEAR, effect), series(REFERENCE, effect), series(CURRENT, effect, 0.5))
    assert of_features(found) == pytest.approx(of_features(bare))
    assert len(bare.tests) == len(FEATURES)


@pytest.mark.parametrize(
    "effect",
    [wave(3, 0), lambda day, holiday: 5000.0 * (holiday and day.weekday() >= 5)],
    ids=["a third of a year", "holidays on a weekend"],
)
def test_what_the_calendar_does_not_explain_is_left_in(effect: Effect):
    bare = detect(series(YEAR), series(REFERENCE), series(CURRENT))
    found = detect(series(YEAR, effect), series(REFERENCE, effect), series(CURRENT, effect))
    assert of_features(found) != pytest.approx(of_features(bare), rel=1e-3)


def test_a_holiday_on_a_weekend_is_a_weekend():
    """A holiday's effect is that of a working day without work; a Saturday or Sunday has it already."""

    def with_holidays(weekdays: set[int]) -> Drift:
        current = [dataclasses.replace(day, holiday=day.day.weekday() in weekdays) for day in series(CURRENT, holidays)]
        return detect(series(YEAR, holidays), series(REFERENCE, holidays), current)

    ordinary = with_holidays(set())
    assert with_holidays({5, 6}) == ordinary
    assert with_holidays({4}) != ordinary


def test_features_that_are_mostly_zero_are_compared_as_they_are():
    reference, current = series(REFERENCE, weekdays), series(CURRENT, weekdays, 0.5)
    found = {test.feature: test for test in detect(series(YEAR, weekdays), reference, current).tests}
    for feature in AS_THEY_ARE:
        index = FEATURES.index(feature)
        before, now = (np.array([day.values[index] for day in days]) for days in (reference, current))
        assert (found[feature].distance, found[feature].p_value) == two_sample_test(before, now)


@pytest.mark.parametrize(
    ("days", "unknown", "learnt"),
    [
        (range(YEAR_DAYS), (), True),
        (range(YEAR_DAYS - 1), (), False),
        ([*range(200), *range(266, YEAR_DAYS)], (), True),  # of these days, 264, which are 80 %, are known
        ([*range(200), *range(267, YEAR_DAYS)], (), False),
        (range(YEAR_DAYS), (0,), False),
        (range(YEAR_DAYS + 1), (0,), True),
        (range(YEAR_DAYS), (YEAR_DAYS - 1,), False),
    ],
    ids=["11 months", "a day less", "gaps", "longer gaps", "begins unknown", "begins later", "ends unknown"],
)
def test_the_season_is_learnt_from_eleven_months_of_which_four_fifths_are_known(
    days: Sequence[int], unknown: tuple[int, ...], learnt: bool
):
    """Of less it could not be told from drift."""

    def wind(effect: Effect) -> Sequence[float]:
        history = known(series(days, effect), "wind", *unknown)
        found = detect(history, series(REFERENCE, effect), series(CURRENT, effect))
        return of_features(found, [feature for feature in FEATURES if feature != "wind"])

    plain = wind(lambda _day, _holiday: 0.0)
    assert (wind(wave(1, 0)) == pytest.approx(plain, rel=1e-3)) is learnt
    assert wind(weekdays) == pytest.approx(plain), "weekdays are learnt in any case"


def test_without_a_history_the_reference_days_stand_for_it():
    bare = detect([], series(REFERENCE), series(CURRENT, shift=0.5))
    assert detect(series(REFERENCE), series(REFERENCE), series(CURRENT, shift=0.5)) == bare
    found = detect([], series(REFERENCE, weekdays), series(CURRENT, weekdays, 0.5))
    assert of_features(found) == pytest.approx(of_features(bare))
    assert found != detect(series(YEAR), series(REFERENCE, weekdays), series(CURRENT, weekdays, 0.5))


def test_of_a_feature_that_the_history_does_not_know_nothing_is_taken_out():
    history = known(series(YEAR), "wind", *YEAR)
    reference, current = series(REFERENCE), series(CURRENT)
    found = {test.feature: test.distance for test in detect(history, reference, current).tests}
    index = FEATURES.index("wind")
    before, now = (np.array([day.values[index] for day in days]) for days in (reference, current))
    assert found["wind"] == two_sample_test(before, now)[0]


# -- enough days -------------------------------------------------------------------------------------------------------


def test_every_feature_is_tested_and_corrected_for_the_others():
    found = detect(series(YEAR), series(REFERENCE), series(CURRENT, shift=0.8))
    assert tuple(test.feature for test in found.tests) == FEATURES
    assert [test.adjusted for test in found.tests] == holm([test.p_value for test in found.tests])
    assert (found.reference_days, found.current_days) == (56, 14)
    assert all(0 < test.distance < 1 for test in found.tests)


def test_days_that_are_as_before_have_a_drift_share_of_exactly_0():
    found = detect(series(YEAR), series(REFERENCE), series(REFERENCE)[-14:])
    assert (found.share, found.drifted_features, found.detected) == (0.0, (), False)
    assert found.summary()["drift_share"] == 0.0


@pytest.mark.parametrize(
    ("reference", "current", "why"),
    [
        (7, 7, ""),
        (6, 7, "drift: 6 reference days, at least 7 are needed"),
        (7, 6, "drift: 6 current days, at least 7 are needed"),
        (0, 0, "drift: 0 reference days, at least 7 are needed"),
    ],
)
def test_seven_days_are_enough_and_six_are_not(reference: int, current: int, why: str):
    before, now = series(range(reference)), series(range(20, 20 + current))
    if why:
        with pytest.raises(PipelineError) as caught:
            detect(series(YEAR), before, now)
        assert str(caught.value) == why
    else:
        found = detect(series(YEAR), before, now)
        assert (found.reference_days, found.current_days) == (reference, current)


@pytest.mark.parametrize("side", ["reference", "current"])
@pytest.mark.parametrize(("unknown", "tested"), [(1, True), (2, False)])
def test_so_it_is_for_the_known_days_of_one_feature(side: str, unknown: int, tested: bool):
    days = {"reference": series(range(8)), "current": series(range(20, 28))}
    days[side] = known(days[side], "temperature", *range(unknown))
    found = detect(series(YEAR), **days)
    assert tuple(test.feature for test in found.tests) == FEATURES[not tested :], "the other features are tested"


def test_no_feature_that_can_be_tested_is_an_error():
    nothing = [dataclasses.replace(day, values=(math.nan,) * len(FEATURES)) for day in series(range(14))]
    with pytest.raises(PipelineError) as caught:
        detect(series(YEAR), nothing[:7], nothing[7:])
    assert str(caught.value) == "drift: no feature has enough known days to be tested"
