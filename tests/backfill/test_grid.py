"""Which moments a backfill writes."""

import itertools

import pytest

from exporter.backfill.grid import BLOCK_SECONDS, Grid, parse_grid
from exporter.errors import ConfigError

NOW = 1_790_000_017.0


@pytest.mark.parametrize(
    ("since", "until", "step", "first", "last", "every"),
    [
        ("1d", "now", "30s", 1_789_913_640, 1_790_000_010, 30),
        ("180d", "3h", "5m", 1_774_448_100, 1_789_989_000, 300),
        ("2026-03-01", "2026-03-02T00:00:00Z", "1m", 1_772_323_200, 1_772_409_600, 60),
        ("2026-03-01T01:00:00+01:00", "2026-03-02", "1m", 1_772_323_200, 1_772_409_600, 60),
    ],
)
def test_moments_are_multiples_of_the_step_inside_the_range(since, until, step, first, last, every):
    grid = parse_grid(since, until, step, NOW)
    assert (grid.start, grid.last, grid.step) == (first, last, every)


@pytest.mark.parametrize(
    ("since", "until", "step", "said"),
    [
        (
            "soon",
            "now",
            "30s",
            "--since: expected a duration before now such as 180d, or a date such as 2026-03-01, not",
        ),
        ("180", "now", "30s", "--since"),
        ("-3d", "now", "30s", "--since"),
        ("99999d", "now", "30s", "--since"),
        ("1d", "tomorrow", "30s", "--until"),
        ("1d", "2099-01-01", "30s", "--until: 2099-01-01 lies in the future"),
        ("1h", "3h", "30s", "--since: 1h is not before --until (3h)"),
        ("1d", "now", "6m", "--step: at most 5m"),
        ("1d", "now", "0s", "--step: expected"),
        ("1d", "now", "often", "--step: expected"),
        ("3s", "now", "5m", "--since: no multiple of 5m"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(since, until, step, said):
    with pytest.raises(ConfigError) as raised:
        parse_grid(since, until, step, NOW)
    (problem,) = raised.value.problems
    assert problem.startswith(said)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as raised:
        parse_grid("a", "b", "c", NOW)
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize("step", [1, 7, 30, 300])
def test_windows_cover_every_moment_once_and_never_cross_a_block(step: int):
    grid = Grid(1_789_999_999 // step * step, step, 2_000_000 // step)
    windows = grid.windows()
    assert windows[0][0] == 0
    assert windows[-1][1] == grid.count
    assert all(before[1] == after[0] for before, after in itertools.pairwise(windows))
    for first, after in windows:
        assert grid.at(first) // BLOCK_SECONDS == grid.at(after - 1) // BLOCK_SECONDS


def test_a_row_shows_from_the_first_moment_that_is_not_before_it():
    grid = Grid(1000, 30, 10)
    at = {1000.0: 0, 999.0: 0, 5.0: 0, 1000.000001: 1, 1029.9: 1, 1030.0: 1, 1030.000001: 2}
    assert {seconds: grid.first_from(round(seconds * 1_000_000)) for seconds in at} == at
