"""The audit query's text and parameters, what its row means, and when it has to run again. No engine is needed here:
what the query answers is tested on DuckDB and BigQuery."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import sqlglot

from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData
from exporter.settings import Settings
from exporter.sources.audit.answer import AuditAnswer
from exporter.sources.audit.columns import Column, quote
from exporter.sources.audit.query import AuditQuery, Parameter, audit_identity, audit_table, build_query
from exporter.sources.audit.schema import STANDARD
from tests.sources.audit.duckdb_log import CATALOG, NOW

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


def test_the_text_is_the_same_whichever_row_is_the_newest_and_a_parameter_says_which():
    one, other = built(since=NOW - 0.000001), built(since=NOW)
    assert one.sql == other.sql == built().sql
    assert Parameter("since", "INT64", 1_789_999_999_999_999) in one.parameters
    assert Parameter("since", "INT64", 1_790_000_000_000_000) in other.parameters


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
    with pytest.raises(BadData, match=r"no column 'timestamp'.*Its columns: drift_detected, drift_share, "):
        built(without("timestamp"))
    with pytest.raises(BadData, match="has type INT64"):
        built([Column("timestamp", "INT64")])


def test_an_env_filter_needs_a_column_of_texts_whole_numbers_or_flags():
    with pytest.raises(BadData, match="no column 'env'"):
        built(without("env"), env="prod")
    with pytest.raises(BadData, match="has type FLOAT64, not STRING, INT64 or BOOL"):
        built([*without("env"), Column("env", "FLOAT64")], env="1")


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
