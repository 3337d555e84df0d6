"""The audit query's text and parameters, what its row means, and when it has to run again. No engine is needed here:
what the query answers is tested on DuckDB and BigQuery."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData
from exporter.settings import Settings
from exporter.snapshot import Observation, Reading, Sample
from exporter.sources.audit import (
    HOUR_US,
    AuditAnswer,
    AuditQuery,
    Column,
    Parameter,
    audit_identity,
    audit_table,
    build_query,
    confirmed,
    horizon_us,
    quote,
    read_row,
    recompute_at,
)
from exporter.sources.audit_schema import STANDARD
from tests.sources.duckdb_log import CATALOG, NOW

ALL = [Column(column.name, column.type) for column in STANDARD]
R2 = "bike_model_r2_champion_current"
EMPTY = AuditAnswer({}, (), (), 0, None, None)


def built(columns: list[Column] = ALL, **options: Any) -> AuditQuery:
    return build_query(CATALOG, columns, **{"table": "`p.d.t`", "env": None, "now": NOW, **options})


def without(*names: str) -> list[Column]:
    return [column for column in ALL if column.name not in names]


def row(query: AuditQuery, **values: Any) -> Mapping[str, Any]:
    """The row of an empty table, with some values in it."""
    tree = sqlglot.parse_one(query.sql, read="bigquery")
    return {name: 0 if name in ("rows", "undated", "future") else None for name in tree.named_selects} | values


# -- the query ---------------------------------------------------------------------------------------------------------


def test_the_full_table_leaves_no_gap_and_is_read_once():
    query = built()
    assert (query.gaps, query.missing_columns) == ((), ())
    assert query.sql.count("`p.d.t`") == 1
    assert {metric for gauge in query.gauges for metric in gauge.metrics} | {
        count.metric for count in query.counts
    } == {metric.name for metric, _ in CATALOG.audit_metrics()}


def test_values_are_parameters_and_every_parameter_that_is_used_is_given_once():
    query = built(
        env="x' OR 1=1 --", filters=["`p` >= @low"], filter_parameters=[Parameter("low", "DATE", "2026-01-01")]
    )
    names = [parameter.name for parameter in query.parameters]
    assert len(set(names)) == len(names)
    assert set(re.findall(r"@(\w+)", query.sql)) <= set(names)
    assert "OR 1=1" not in query.sql
    assert Parameter("env", "STRING", "x' OR 1=1 --") in query.parameters
    assert "WHERE `p` >= @low AND `env` = @env" in query.sql


def test_the_text_stays_the_same_within_an_hour_so_that_a_result_cache_can_answer():
    start = NOW - NOW % 3600
    assert built(now=start) == built(now=start + 3599.9)
    assert built(now=start) != built(now=start + 3600)


@pytest.mark.parametrize("column", [column.name for column in ALL if column.name in CATALOG.audit_columns()[2:]])
def test_a_missing_column_costs_its_metrics_only(column: str):
    query = built(without(column))
    needing = {
        metric.name
        for metric, origin in CATALOG.audit_metrics()
        if column in (origin.column, getattr(origin, "where", None))
    }
    assert query.missing_columns == (column,)
    assert {gap.metric for gap in query.gaps} == needing
    assert {gap.reason for gap in query.gaps} == {f"the table has no column {column}"}
    assert f"`{column}`" not in query.sql


def test_a_type_that_cannot_be_read_costs_its_metrics_only_and_is_named():
    query = built([*without("r2"), Column("r2", "ARRAY<FLOAT64>")])
    assert [(gap.metric, gap.reason) for gap in query.gaps] == [
        (R2, "column r2 has type ARRAY<FLOAT64>, which cannot be read as a number")
    ]
    assert query.missing_columns == ()


def test_only_the_timestamp_must_exist():
    query = built([Column("timestamp", "TIMESTAMP")])
    assert (query.gauges, query.counts) == ((), ())
    assert len(query.gaps) == len(list(CATALOG.audit_metrics()))
    with pytest.raises(BadData, match="no column 'timestamp'"):
        built(without("timestamp"))
    with pytest.raises(BadData, match="has type INT64"):
        built([Column("timestamp", "INT64")])


def test_an_env_filter_needs_a_text_column():
    with pytest.raises(BadData, match="no column 'env'"):
        built(without("env"), env="prod")
    with pytest.raises(BadData, match="has type INT64, not STRING"):
        built([*without("env"), Column("env", "INT64")], env="prod")


def test_columns_are_found_whatever_their_case_and_named_as_the_table_spells_them():
    query = built([Column(column.name.upper(), column.type) for column in ALL])
    assert (query.gaps, query.missing_columns) == ((), ())
    assert "`RMSE`" in query.sql


def test_a_column_that_several_metrics_read_is_computed_once():
    catalog = parse_catalog(
        "version: 1\naudit: {table: a.b, timestamp: at}\nmetrics:\n"
        "- {name: one, type: gauge, help: One., from: [{audit: x}]}\n"
        "- {name: two, type: gauge, help: Two., from: [{audit: x}]}\n",
        "c",
    )
    query = build_query(catalog, [Column("at", "TIMESTAMP"), Column("x", "FLOAT64")], table="`a.b`", env=None, now=NOW)
    assert [gauge.metrics for gauge in query.gauges] == [("one", "two")]


@pytest.mark.parametrize(("name", "quoted"), [("a", "`a`"), ("a`b", "`a\\`b`"), ("a\\b", "`a\\\\b`")])
def test_identifiers_are_quoted(name: str, quoted: str):
    assert quote(name) == quoted


# -- its row -----------------------------------------------------------------------------------------------------------


def test_a_row_becomes_values_with_their_times():
    query = built()
    index = next(gauge.index for gauge in query.gauges if R2 in gauge.metrics)
    deployments = next(count for count in query.counts if count.metric == "bike_model_deployments_total")
    numbers = {f"k{k}": position for position, (_, k) in enumerate(deployments.indexes)}
    answer = read_row(
        query, row(query, rows=3, newest=2_000_000, **{f"v{index}": 0.7, f"t{index}": 1_500_000}, **numbers)
    )
    assert answer.observations[R2] == Observation((Sample((), 0.7),), 1.5)
    assert answer.observations["bike_model_deployments_total"] == Observation(
        tuple(Sample((("decision", value),), float(n)) for n, (value, _) in enumerate(deployments.indexes)), 2.0
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
    answer = read_row(query, row(query, future=1, first_future=4e15, undated=2, **{f"b{index}": 3}))
    assert answer.notes == (
        "column r2: 3 rows with text that is not a number, left out",
        "1 row dated in the future: counted, but they give no gauge until their time has come",
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


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "table"),
    [
        ({}, "monitoring_audit.logs"),
        ({"AUDIT_TABLE": "other.t"}, "other.t"),
        ({"AUDIT_TABLE": "project-one.other.t"}, "other.t"),
        ({"GOOGLE_CLOUD_PROJECT": "project-one"}, "project-one.monitoring_audit.logs"),
        ({"GOOGLE_CLOUD_PROJECT": "project-one", "AUDIT_TABLE": "project-two.d.t"}, "project-two.d.t"),
        ({"GOOGLE_CLOUD_PROJECT": "project-one", "AUDIT_URL": "a.duckdb"}, "monitoring_audit.logs"),
    ],
)
def test_the_tables_full_name(env: dict[str, str], table: str):
    assert audit_table(Settings.from_env(env), CATALOG) == table


def test_another_engine_place_table_or_filter_is_another_identity():
    environments = [
        {},
        {"AUDIT_URL": "a.duckdb"},
        {"AUDIT_URL": "b.duckdb"},
        {"AUDIT_URL": "a.csv"},
        {"AUDIT_TABLE": "other.t"},
        {"AUDIT_ENV": "prod"},
        {"GOOGLE_CLOUD_PROJECT": "project-one"},
        {"GOOGLE_CLOUD_PROJECT": "project-two"},
    ]
    identities = {audit_identity(Settings.from_env(env), CATALOG) for env in environments}
    assert len(identities) == len(environments)
