"""What the audit query's row means, and when the query has to run again. No engine is needed here."""

import dataclasses
import math
from array import array
from collections.abc import Mapping
from typing import Any

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import BadData
from exporter.snapshot import Grid, Observation, Reading, Sample
from exporter.sources.audit.answer import AuditAnswer, confirmed, read_row, recompute_at
from exporter.sources.audit.columns import Column
from exporter.sources.audit.query import (
    HOUR_US,
    AuditQuery,
    build_query,
    horizon_us,
)
from exporter.sources.audit.schema import STANDARD
from tests.sources.audit.duckdb_log import CATALOG, NOW

R2 = "bike_model_r2_champion_current"
EMPTY = AuditAnswer({}, (), (), 0, None, None)
ALL = [Column(column.name, column.type) for column in STANDARD]


def built(columns: list[Column] = ALL, **options: Any) -> AuditQuery:
    return build_query(CATALOG, columns, **{"table": "`p.d.t`", "env": None, "now": NOW, **options})


def without(*names: str) -> list[Column]:
    return [column for column in ALL if column.name not in names]


def row(query: AuditQuery, **values: Any) -> Mapping[str, Any]:
    """The row of an empty table, with some values in it."""
    tree = sqlglot.parse_one(query.sql, read="bigquery")
    return {name: 0 if name in ("rows", "undated", "future") else None for name in tree.named_selects} | values


# -- its row -----------------------------------------------------------------------------------------------------------


def test_a_row_becomes_values_with_their_times():
    query = built()
    index = next(gauge.index for gauge in query.gauges if R2 in gauge.metrics)
    deployments = next(count for count in query.counts if count.metric == "bike_model_deployments_total")
    numbers = {f"k{k}": 2 * position for position, (_, k) in enumerate(deployments.indexes)}
    numbers |= {f"newer{k}": position for position, (_, k) in enumerate(deployments.indexes)}
    answer = read_row(
        query, row(query, rows=3, newest=2_000_000, **{f"v{index}": 0.7, f"t{index}": 1_500_000}, **numbers)
    )
    assert answer.observations[R2] == Observation((Sample((), 0.7),), 1.5)
    decisions = [(("decision", value),) for value, _ in deployments.indexes]
    assert answer.observations["bike_model_deployments_total"] == Observation(
        Grid(((),), tuple((own, array("d", [2 * n])) for n, own in enumerate(decisions))),
        2.0,
        tuple(array("d", [n]) for n in range(len(decisions))),
    )
    assert (answer.rows, answer.last_record_at, answer.first_future_at) == (3, 2.0, None)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_a_finite_number_gives_no_sample_but_a_gap(value: float | None):
    query = built()
    index = next(gauge.index for gauge in query.gauges if R2 in gauge.metrics)
    answer = read_row(query, row(query, **{f"v{index}": value}))
    assert R2 not in answer.observations
    assert "column r2 holds no value yet" in [gap.reason for gap in answer.gaps if gap.metric == R2]


def test_rows_that_were_left_out_are_noted():
    query = built([*without("r2"), Column("r2", "STRING")])
    index = next(gauge.index for gauge in query.gauges if R2 in gauge.metrics)
    answer = read_row(query, row(query, rows=5, future=1, first_future=4e15, undated=2, **{f"b{index}": 3}))
    assert answer.notes == (
        "column r2: 3 rows with text that is not a number, left out",
        "1 row dated in the future: left out of values and counts until their time has come",
        "2 rows without a usable timestamp, left out",
    )
    assert answer.first_future_at == 4e9


def test_a_value_of_a_type_that_the_query_cannot_give_is_bad_data():
    query = built()
    with pytest.raises(BadData, match="rows"):
        read_row(query, row(query, rows=b"x"))


# -- running it again --------------------------------------------------------------------------------------------------

READING = Reading("audit", "id", "catalog", NOW, NOW, "token", {}, valid_until=NOW + 100)
SAME: Mapping[str, Any] = {"identity": "id", "catalog": "catalog", "token": "token", "now": NOW + 50, "max_age": 200}


def test_a_reading_is_confirmed_while_nothing_moved():
    assert confirmed(READING, **SAME) == dataclasses.replace(READING, read_at=SAME["now"])
    assert confirmed(READING, **{**SAME, "now": NOW}) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "other"},
        {"catalog": "other"},
        {"token": "other"},
        {"token": None},
        {"now": NOW - 1},
        {"now": NOW + 100},
        {"max_age": 50},
    ],
)
def test_a_reading_is_not_confirmed_once_something_moved(change: dict[str, Any]):
    assert confirmed(READING, **{**SAME, **change}) is None


def test_no_reading_and_one_of_an_unmarked_table_are_never_confirmed():
    assert confirmed(None, **SAME) is None
    assert confirmed(dataclasses.replace(READING, token=None), **{**SAME, "token": None}) is None


@given(now=st.floats(0, 4e9), ahead_us=st.integers(1, 10**15))
def test_the_query_runs_again_just_when_the_first_future_row_counts(now: float, ahead_us: int):
    first_us = horizon_us(now) + ahead_us
    again = recompute_at(dataclasses.replace(EMPTY, first_future_at=first_us / 1_000_000))
    assert again is not None
    assert now < again
    first_us = math.ceil(first_us / 1_000_000 * 1_000_000)  # as far as a float of seconds can say
    assert horizon_us(again) >= first_us > horizon_us(again - 1)


def test_without_rows_from_the_future_nothing_expires():
    assert recompute_at(EMPTY) is None


@given(now=st.floats(0, 4e9))
def test_rows_count_from_one_to_two_hours_ahead(now: float):
    ahead = horizon_us(now) - int(now * 1_000_000)
    assert HOUR_US < ahead <= 2 * HOUR_US
