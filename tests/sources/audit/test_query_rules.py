"""What the audit query answers, rule by rule, over tables of a few rows in DuckDB's memory."""

import pytest

from exporter.catalog_parser import load_catalog
from exporter.errors import BadData
from exporter.settings import Settings
from exporter.snapshot import Gap
from exporter.sources.audit.answer import read_rows
from exporter.sources.audit.columns import FLOAT_MAX, Column
from exporter.sources.audit.query import HOUR_US, Parameter, audit_identity, build_query
from tests.sources.audit.memory_log import (
    HORIZON,
    NOW,
    PLAIN,
    answered,
    asked,
    catalogue,
    counter,
    gauge,
    history,
    newer,
    rows,
    shown,
)

# -- which rows count --------------------------------------------------------------------------------------------------


def test_a_row_on_the_horizon_counts_and_one_a_microsecond_later_waits():
    table = rows("x, k", "7200.0, 1.0, 'Y'", "7200.000001, 2.0, 'Y'", "9000.0, 3.0, 'N'")
    answer = answered(PLAIN, table)
    assert (shown(answer), shown(answer, "rows_total")) == ({(): 1.0}, {("yes",): 1.0, ("no",): 0.0})
    assert answer.notes == ("2 rows dated in the future: left out of values and counts until their time has come",)
    assert (answer.rows, answer.last_record_at, answer.first_future_at) == (3, HORIZON, HORIZON + 0.000001)


def test_a_row_counts_as_newer_beyond_the_newest_that_was_ever_counted():
    table = rows("x, k", "-10.0, 1.0, 'Y'", "-9.999999, 1.0, 'Y'", "0.0, 1.0, 'N'", "9000.0, 1.0, 'N'")
    assert newer(answered(PLAIN, table, since=NOW - 10)) == [[1.0], [1.0]]
    assert newer(answered(PLAIN, table)) == [[2.0], [1.0]], "none was counted before"
    assert newer(answered(PLAIN, table, since=NOW)) == [[0.0], [0.0]]
    year_1 = "SELECT TIMESTAMPTZ '0001-01-01 00:00:00.000001+00' AS at, 1.0 AS x, 'Y' AS k"
    assert newer(answered(PLAIN, year_1)) == [[1.0], [0.0]]


def test_rows_without_a_time_are_counted_apart():
    table = rows("x, k", "-5.0, 1.0, 'Y'", "NULL, 2.0, 'Y'", "NULL, 3.0, 'N'")
    answer = answered(PLAIN, table)
    assert (answer.rows, answer.last_record_at, answer.first_future_at) == (1, NOW - 5, None)
    assert answer.notes == ("2 rows without a usable timestamp, left out",)
    assert (shown(answer), shown(answer, "rows_total")) == ({(): 1.0}, {("yes",): 1.0, ("no",): 0.0})


def test_the_newest_value_is_shown_with_its_own_time_and_the_larger_of_two_equally_new():
    table = rows("x, k", "-5.0, 4.0, 'Y'", "-5.0, 9.0, 'N'", "-5.0, 3.0, 'N'", "-1.0, NULL, 'N'", "-7.0, 10.0, 'N'")
    answer = answered(PLAIN, table)
    assert answer.observations["gauge"].observed_at == NOW - 5
    assert answer.observations["rows_total"].observed_at == NOW - 1
    assert shown(answer) == {(): 9.0}


def test_no_value_at_all_is_a_gap():
    answer = answered(PLAIN, rows("x, k", "-5.0, NULL::DOUBLE, 'Y'"))
    assert answer.gaps == (Gap("gauge", "column x holds no value yet"),)
    assert shown(answer, "rows_total") == {("yes",): 1.0, ("no",): 0.0}


def test_text_that_is_no_number_is_counted_in_rows_with_a_time():
    table = rows(
        "x, k", "-5.0, '1.5', NULL", "-4.0, 'n/a', NULL", "-3.0, ' ', 'Y'", "NULL, '?', 'Y'", "9000.0, '-', ''"
    )
    answer = answered(PLAIN, table)
    assert shown(answer) == {(): 1.5}
    assert answer.notes[0] == "column x: 2 rows with text that is not a number, left out"


@pytest.mark.parametrize("value", ["'nan'::DOUBLE", "'inf'::DOUBLE", "'-inf'::DOUBLE", "NULL::DOUBLE"])
def test_what_is_not_finite_leaves_the_value_before_it(value: str):
    assert shown(answered(PLAIN, rows("x, k", f"-1.0, {value}, 'Y'", "-5.0, -1.7976931348623157e308, 'Y'"))) == {
        (): -1.7976931348623157e308
    }


# -- conditions --------------------------------------------------------------------------------------------------------


def test_a_count_takes_the_rows_whose_flag_is_set_and_whose_other_columns_hold_what_is_asked():
    catalog = catalogue(
        counter("{count: k, values: {yes: Y, no: N}, where: done}"),
        counter(
            "{count: ok, values: {good: true, bad: false}, where: {stage: PROD, fold: 2, live: false}}", "flags_total"
        ),
        counter("{count: n, values: {one: '1', two: '2'}}", "numbers_total"),
    )
    table = rows(
        "k, done, ok, stage, fold, live, n",
        "-1.0, ' y ', true, true, 'prod', 2, false, 1",
        "-2.0, 'y', false, false, ' Prod ', 2, false, 2",
        "-3.0, 'Y', NULL, false, 'prod', 2, NULL, 3",
        "-4.0, 'n', true, true, 'prod', 3, false, 2",
        "-5.0, 'N', true, true, 'dev', 2, false, NULL",
        "-6.0, 'other', true, true, 'prod', 2, true, 2",
        "-7.0, 'other', true, true, 'prod', 2, false, 0",
    )
    answer = answered(catalog, table)
    assert shown(answer, "rows_total") == {("yes",): 1.0, ("no",): 2.0}
    assert shown(answer, "flags_total") == {("good",): 2.0, ("bad",): 1.0}
    assert shown(answer, "numbers_total") == {("one",): 1.0, ("two",): 3.0}
    assert newer(answer, "numbers_total") == [[1.0], [3.0]]
    grid = answer.observations["rows_total"].samples
    assert [sample.labels for sample in grid] == [(("kind", "yes"),), (("kind", "no"),)]


def test_a_condition_asks_for_a_flag_or_a_number_however_the_table_writes_it():
    catalog = catalogue(
        gauge("{column: x, where: {live: true}}"),
        gauge("{column: x, where: {live: false}}", "off"),
        gauge("{column: x, where: {fold: 1}}", "first"),
    )
    table = rows("x, live, fold", "-1.0, 1.0, NULL, 'n/a'", "-2.0, 2.0, true, ' TRUE '", "-3.0, 3.0, false, '1'")
    answer = answered(catalog, table)
    assert [shown(answer, name)[()] for name in ("gauge", "off", "first")] == [2.0, 3.0, 2.0]


def test_equal_conditions_of_several_metrics_are_one_parameter():
    catalog = catalogue(
        gauge("{column: x, where: {stage: prod}}"),
        gauge("{column: x, where: {stage: dev}}", "other"),
        gauge("{column: y, where: {other: prod, fold: 1}}", "third"),
        gauge("{column: y, where: {other: '1', fold: 2}}", "fourth"),
    )
    table = rows(
        "x, y, stage, other, fold",
        "-1.0, 1.0, 10.0, 'prod', 'prod', 2",
        "-2.0, 2.0, 20.0, 'dev', '1', 2",
        "-3.0, 3.0, 30.0, 'x', 'Prod', 1",
    )
    query, found = asked(catalog, table)
    answer = read_rows(query, found)
    assert {name: shown(answer, name)[()] for name in ("gauge", "other", "third", "fourth")} == {
        "gauge": 1.0, "other": 2.0, "third": 30.0, "fourth": 20.0,
    }  # fmt: skip
    given = [(p.type, p.value) for p in query.parameters if p.name.startswith("only")]
    assert given == [("STRING", "prod"), ("STRING", "dev"), ("FLOAT64", 1.0), ("STRING", "1"), ("FLOAT64", 2.0)]


def test_parameters_have_googles_types():
    """DuckDB does not ask for them; BigQuery refuses a query whose parameters have others."""
    audit = ", env: env, labels: {model: m}, missing: [{x: 0, y: 1}, {x: 2}]"
    catalog = catalogue(gauge("{column: x, where: {k: A, y: 3}}"), counter("{count: k, values: {yes: Y}}"), audit=audit)
    kinds = {"at": "TIMESTAMP", "env": "STRING", "m": "STRING", "x": "FLOAT64", "y": "INT64", "k": "STRING"}
    columns = [Column(name, kind) for name, kind in kinds.items()]
    query = build_query(catalog, columns, table="t", env="prod", now=NOW, since=1.5)
    assert {p.name: (p.type, p.value) for p in query.parameters} == {
        "env": ("STRING", "prod"),
        "horizon": ("INT64", HORIZON * 1_000_000),
        "since": ("INT64", 1_500_000),
        "float_max": ("FLOAT64", FLOAT_MAX),
        "value0": ("STRING", "y"),
        "only5": ("STRING", "a"),
        "only6": ("FLOAT64", 3.0),
        "missing0_0": ("FLOAT64", 0.0),
        "missing0_1": ("FLOAT64", 1.0),
        "missing1_0": ("FLOAT64", 2.0),
    }


def test_a_path_leads_to_a_value_and_to_what_is_counted():
    catalog = catalogue(gauge("{column: doc, path: a.b}"), counter("{count: doc, path: k, values: {yes: Y, no: N}}"))
    answer = answered(catalog, rows("doc", """-1.0, '{"a": {"b": 0.5}, "k": "Y"}'"""))
    assert (shown(answer), shown(answer, "rows_total")) == ({(): 0.5}, {("yes",): 1.0, ("no",): 0.0})


def test_several_sentinels_are_each_judged_as_a_whole():
    """The second names a column that the table lacks, so it never holds; the third is of one column."""
    audit = ", missing: [{x: 0, Y: 999}, {x: 1, lost: 1}, {y: -1}]"
    catalog = catalogue(gauge("x"), gauge("y", "other"), gauge("z", "third"), audit=audit)
    cases = {
        "0, 999, 5": (8.0, 9.0, 5.0),
        "0, 998, 5": (0.0, 998.0, 5.0),
        "1, 999, 5": (1.0, 999.0, 5.0),
        "2, -1, 5": (2.0, 9.0, 5.0),
        "0, NULL, 5": (0.0, 9.0, 5.0),
    }
    for newest, expected in cases.items():
        answer = answered(catalog, rows("x, y, z", f"-1.0, {newest}", "-2.0, 8, 9, 7"))
        assert tuple(shown(answer, name)[()] for name in ("gauge", "other", "third")) == expected, newest


def test_a_sentinel_may_be_a_text_that_holds_its_number_but_no_flag():
    audit = ", missing: [{x: 0, t: 999}, {x: 5, f: 1}]"
    catalog = catalogue(gauge("x"), audit=audit)
    table = rows("x, t, f", "-1.0, 0, ' 999.0 ', false", "-2.0, 5, 'x', true", "-3.0, 7, 'x', true")
    assert shown(answered(catalog, table)) == {(): 5.0}


def test_an_environment_is_a_condition_beside_those_of_the_engine():
    catalog = catalogue(gauge("x"), audit=", env: {column: stage}")
    table = rows("x, stage, p", "-1.0, 1.0, 'dev', 9", "-2.0, 2.0, 'prod', 1", "-3.0, 3.0, 'prod', 2")
    low = Parameter("low", "INT64", 2)
    answer = answered(catalog, table, env="prod", filters=["`p` >= @low"], filter_parameters=[low])
    assert (shown(answer), answer.rows) == ({(): 3.0}, 1)
    assert answered(catalog, table, env="prod").rows == 2
    assert answered(catalog, table).rows == 3


# -- what a table cannot give ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (gauge("X"), ""),
        (gauge("lost"), "the table has no column lost"),
        (gauge("day"), "column day has type DATE, which cannot be read as a number"),
        (gauge("{column: x, path: a}"), "column x has type FLOAT64, in which there is no path a"),
        (gauge("{column: day, path: a}"), "column day has type DATE, in which there is no path a"),
        (gauge("{column: doc, path: a}"), ""),
        (gauge("{column: lost, path: a}"), "the table has no column lost"),
        (gauge("{column: x, where: {K: y}}"), ""),
        (gauge("{column: x, where: {lost: y}}"), "the table has no column lost"),
        (gauge("{column: lost, where: {missing: y}}"), "the table has no column lost"),
        (gauge("{column: x, where: {day: y}}"), "column day has type DATE, which cannot be read as 'y'"),
        (gauge("{column: x, where: {day: 1}}"), "column day has type DATE, which cannot be read as 1.0"),
        (gauge("{column: x, where: {x: y}}"), "column x has type FLOAT64, which cannot be read as 'y'"),
        (gauge("{column: x, where: {x: 1, k: 1, flag: 1}}"), ""),
        (gauge("{column: x, where: {x: true, k: true, flag: true}}"), ""),
        (counter("{count: k, values: {yes: Y}}"), ""),
        (counter("{count: flag, values: {yes: Y}}"), ""),
        (counter("{count: n, values: {yes: Y}}"), ""),
        (counter("{count: x, values: {a: Y, b: N}}"), "column x has type FLOAT64, which cannot be read as one of y, n"),
        (counter("{count: x, values: {yes: true, no: false}}"), ""),
        (counter("{count: k, values: {yes: true, no: false}}"), ""),
        (counter("{count: flag, values: {yes: true, no: false}}"), ""),
        (counter("{count: day, values: {yes: true}}"), "column day has type DATE, which cannot be read as one of true"),
        (counter("{count: k, values: {yes: Y}, where: lost}"), "the table has no column lost"),
        (counter("{count: k, values: {yes: Y}, where: X}"), ""),
        (counter("{count: k, values: {yes: Y}, where: flag}"), ""),
        (counter("{count: k, values: {yes: Y}, where: K}"), ""),
        (counter("{count: k, values: {a: Y}, where: day}"), "column day has type DATE, which cannot be read as a flag"),
        (gauge("hidden"), "column hidden is behind a policy"),
        (gauge("{column: x, where: {hidden: y}}"), "column hidden is behind a policy"),
        (counter("{count: k, values: {yes: Y}, where: hidden}"), "column hidden is behind a policy"),
    ],
)  # fmt: skip
def test_a_metric_that_the_table_cannot_give_is_a_gap_with_its_reason(metric: str, reason: str):
    kinds = {"at": "TIMESTAMP", "x": "FLOAT64", "k": "STRING", "flag": "BOOL", " n ": "INT64", "day": "DATE"}
    columns = [Column(name, kind) for name, kind in (kinds | {"doc": "JSON"}).items()]
    columns.append(Column("hidden", "STRING", protected="column hidden is behind a policy"))
    query = build_query(catalogue(metric), columns, table="t", env=None, now=NOW)
    assert [gap.reason for gap in query.gaps] == ([reason] if reason else [])
    assert len(query.gauges) + len(query.counts) == (not reason)


def test_a_key_that_the_table_lacks_is_named():
    for audit, why in (
        (", env: at, labels: {model: m}", "no column 'm', which says the label 'model'"),
        (", env: stage", "AUDIT_ENV is 'prod', but the audit table has no column 'stage'"),
    ):
        catalog = catalogue(gauge("x"), audit=audit)
        with pytest.raises(BadData, match=why):
            build_query(catalog, [Column("at", "TIMESTAMP")], table="t", env="prod", now=NOW)


def test_a_sentinel_whose_column_may_not_be_read_is_none():
    columns = [Column("at", "TIMESTAMP"), Column("x", "FLOAT64"), Column("y", "FLOAT64", protected="no")]
    query = build_query(catalogue(gauge("x"), audit=", missing: [{x: 0, y: 1}]"), columns, table="t", env=None, now=NOW)
    assert "`y`" not in query.sql
    assert [p.name for p in query.parameters] == ["horizon", "since", "float_max"]


def test_metrics_of_one_column_are_one_output_whatever_the_case_that_they_write_it_in():
    query, found = asked(catalogue(gauge("x"), gauge("X", "other"), gauge("y", "third")), rows("x, y", "-1.0, 2, 3"))
    assert [(each.index, each.column, each.metrics, each.is_text) for each in query.gauges] == [
        (0, "x", ("gauge", "other"), False),
        (1, "y", ("third",), False),
    ]
    answer = read_rows(query, found)
    assert (shown(answer), shown(answer, "other"), shown(answer, "third")) == ({(): 2.0}, {(): 2.0}, {(): 3.0})


def test_columns_that_the_catalogue_names_and_the_table_lacks_are_listed():
    query, _ = asked(
        catalogue(gauge("X"), gauge("lost", "other"), counter("{count: k, values: {yes: Y}}")), rows("x", "-1.0, 2")
    )
    assert query.missing_columns == ("lost", "k")


# -- the history -------------------------------------------------------------------------------------------------------


def test_the_history_is_every_moment_oldest_first_up_to_a_time():
    table = rows("x, k", "0.0, 3.0, 'Y'", "-5.0, 1.0, 'Y'", "-5.0, 2.0, 'N'", "0.000001, 4.0, 'Y'", "NULL, 5.0, 'Y'")
    now = round(NOW) * 1_000_000
    found = history(PLAIN, table, NOW)
    assert found == [
        {"at": now - 5_000_000, "n": 2, "x0": 2.0, "c0": 1, "c1": 1},
        {"at": now, "n": 1, "x0": 3.0, "c0": 1, "c1": 0},
    ]


def test_only_the_horizon_differs_from_the_query_of_now():
    query = build_query(PLAIN, [Column("at", "TIMESTAMP")], table="t", env=None, now=NOW)
    history = query.history(NOW + 0.5)
    wanted = {"horizon": round(NOW * 1_000_000) + 500_000}
    assert history.parameters == tuple(Parameter(p.name, p.type, wanted.get(p.name, p.value)) for p in query.parameters)
    assert Parameter("horizon", "INT64", HORIZON * 1_000_000) in query.parameters
    assert HORIZON * 1_000_000 % HOUR_US == 0


# -- what a reading is made of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "identity"),
    [
        ({"GOOGLE_CLOUD_PROJECT": "project-1", "AUDIT_ENV": "prod"}, "6256244a3df47aa0"),
        ({"AUDIT_URL": "/data/audit.duckdb"}, "6c8c7f7fdbea7f50"),
    ],
)
def test_a_new_version_goes_on_from_what_an_old_one_kept(env: dict[str, str], identity: str):
    """Of another identity nothing is shown, and counters do not go on from it."""
    assert audit_identity(Settings.from_env(env), load_catalog()) == identity
