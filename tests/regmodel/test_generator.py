"""The simulated city: what its documentation promises."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from regmodel.counts import COLUMNS
from regmodel.generator import COUNTERS, BadShift, Shift, easter, holidays, parse_shifts, simulate

START, END = date(2024, 1, 1), date(2025, 1, 1)


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    return simulate(START, END).table


def test_a_row_an_hour_and_counter(year: pd.DataFrame):
    assert list(year.columns) == list(COLUMNS)
    assert len(year) == 366 * 24 * len(COUNTERS)
    assert str(year["timestamp"].dt.tz) == "UTC"
    assert not year.duplicated(["timestamp", "counter"]).any()
    assert (year["count"].dropna() >= 0).all()
    assert (year["count"].dropna() % 1 == 0).all()
    assert (year["rain"] >= 0).all()


def test_the_same_seed_gives_the_same_city_and_another_seed_another(year: pd.DataFrame):
    pd.testing.assert_frame_equal(simulate(START, END).table, year)
    assert not simulate(START, END, seed=21).table["count"].equals(year["count"])


def test_a_later_end_only_appends(year: pd.DataFrame):
    longer = simulate(START, date(2025, 3, 1)).table
    pd.testing.assert_frame_equal(longer.iloc[: len(year)], year)


def test_a_shift_changes_its_own_days_and_no_others(year: pd.DataFrame):
    shift = Shift(date(2024, 5, 1), date(2024, 6, 1), demand=0.5, rush_hour_delay=2, temperature=5, sensor_failures=0.1)
    shifted = simulate(START, END, shifts=[shift]).table
    during = year["timestamp"].between("2024-05-01", "2024-05-31 23:59")
    pd.testing.assert_frame_equal(shifted[~during], year[~during])
    # Half the demand, and five warmer degrees that bring some of it back.
    ratio = shifted.loc[during, "count"].mean() / year.loc[during, "count"].mean()
    assert 0.5 < ratio < 0.6
    assert (shifted.loc[during, "temperature"] - year.loc[during, "temperature"]).mean() == pytest.approx(5, abs=0.01)
    assert shifted.loc[during, "count"].isna().mean() > year.loc[during, "count"].isna().mean() + 0.08

    def busiest_morning_hour(table: pd.DataFrame) -> int:
        morning = table[during & (table["timestamp"].dt.day_of_week < 5) & (table["timestamp"].dt.hour < 13)]
        return int(morning.groupby(morning["timestamp"].dt.hour)["count"].mean().idxmax())

    assert busiest_morning_hour(shifted) == busiest_morning_hour(year) + 2


def test_season_week_weather_and_holidays_are_in_the_counts(year: pd.DataFrame):
    by_month = year.groupby(year["timestamp"].dt.month)["count"].mean()
    assert by_month[6] > 1.5 * by_month[1]
    working = (year["timestamp"].dt.day_of_week < 5) & ~year["holiday"]
    eight = year["timestamp"].dt.hour == 8
    assert year[working & eight]["count"].mean() > 4 * year[~working & eight]["count"].mean()
    noon = year[(year["timestamp"].dt.hour == 13) & working]
    assert noon[noon["rain"] > 1]["count"].mean() < 0.85 * noon[noon["rain"] == 0]["count"].mean()
    silent = year["count"].isna().mean()
    assert 0.01 < silent < 0.05


def test_holidays_move_with_easter():
    # https://www.census.gov/data/software/x13as/genhol/easter-dates.html
    known = {2024: (3, 31), 2025: (4, 20), 2026: (4, 5), 2038: (4, 25)}
    assert {year: (easter(year).month, easter(year).day) for year in known} == known
    assert {date(2025, 4, 21), date(2025, 5, 29), date(2025, 6, 9), date(2025, 12, 25)} <= holidays(2025, 2025)


def test_shifts_are_read_from_json():
    assert parse_shifts([{"start": "2025-05-05", "end": "2025-07-28", "demand": 0.6}]) == (
        Shift(date(2025, 5, 5), date(2025, 7, 28), demand=0.6),
    )
    assert parse_shifts([{"start": "2025-05-05"}])[0].end is None


def test_every_problem_of_the_shifts_is_reported():
    with pytest.raises(BadShift) as caught:
        parse_shifts(
            [
                {"start": "2025-05-05", "end": "2025-05-05", "demand": 0},
                {"demnad": 2},
                {"start": "yesterday", "temperature": "warm", "sensor_failures": True},
                7,
            ]
        )
    for said in (
        "shift 1: end is not after start",
        "shift 1: demand must be a number from 0.01 to 100, not 0",
        "shift 2: unknown demnad",
        "shift 2: start is missing",
        "shift 3: start is not a date YYYY-MM-DD: 'yesterday'",
        "shift 3: temperature must be",
        "shift 3: sensor_failures must be",
        "shift 4: not an object",
    ):
        assert said in str(caught.value)
    with pytest.raises(BadShift, match="list of objects"):
        parse_shifts({"start": "2025-05-05"})


def test_poisson_counts_have_the_variance_of_their_mean():
    table = simulate(START, END, seed=5).table
    night = table[(table["timestamp"].dt.hour == 3) & (table["counter"] == "Central Station")]["count"].dropna()
    assert np.var(night) > night.mean()
