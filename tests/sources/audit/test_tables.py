"""Tables as teams have them, on DuckDB: times of every kind, any column name, paths into values, one metric a row.

`tests/integration/test_bigquery_tables.py` asks BigQuery's emulator for the same."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalog import Catalog
from exporter.catalog_parser import MAX_AUDIT_LABELS, parse_catalog
from exporter.errors import BadData
from exporter.snapshot import Reading
from tests.sources.audit.duckdb_log import NOW, counts, gauge, source_for, writing

AT = 1_782_000_000.0  # 2026-06-21 00:00:00 UTC


def catalogue(timestamp: str = "at", origin: str = "r2", audit: str = "") -> Catalog:
    return parse_catalog(
        f"version: 1\naudit: {{table: shop.runs, timestamp: {timestamp}{audit}}}\nmetrics:\n"
        f"- {{name: shop_r2, type: gauge, help: R2., from: [{{audit: {origin}}}]}}\n",
        "mine.yaml",
    )


def read(path: Path, select: str, catalog: Catalog, **env: str) -> Reading:
    """What the exporter reads of a table with the rows of a SELECT."""
    with writing(path) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
        connection.execute(f"CREATE OR REPLACE TABLE shop.runs AS {select}")
    return source_for(path, catalog, **env).read(None)


def last(reading: Reading) -> object:
    return reading.facts["last_record_at"]


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestamp", "value"),
    [
        ("{column: at}", "'2026-06-21T00:00:00Z'"),
        ("{column: at, zone: UTC}", "TIMESTAMP '2026-06-21 00:00:00'"),
        ("{column: at, zone: Europe/Berlin}", "TIMESTAMP '2026-06-21 02:00:00'"),
        ("{column: at, zone: Europe/Berlin}", "TIMESTAMPTZ '2026-06-21 00:00:00+00'"),
        ("{column: at, zone: Europe/Berlin}", "'2026-06-21 02:00:00'"),
        ("{column: at, zone: Europe/Berlin}", "'2026-06-21T02:00'"),
        ("{column: at, zone: Europe/Berlin}", "' 2026-06-21T02:00:00.000000 '"),
        ("{column: at, zone: Europe/Berlin}", "'2026-06-21T00:00:00Z'"),
        ("{column: at, zone: Europe/Berlin}", "'2026-06-20T20:00:00.000-0400'"),
        ("{column: at, zone: Europe/Berlin}", "'2026-06-21T05:30:00+05:30'"),
        ("{column: at, zone: Asia/Kolkata}", "'2026-06-21 05:30:00'"),
        ("{column: at, zone: Africa/Abidjan}", "DATE '2026-06-21'"),
        ("{column: at, unit: s}", "1782000000::INTEGER"),
        ("{column: at, unit: s}", "1782000000::UBIGINT"),
        ("{column: at, unit: s}", "1782000000.0::DOUBLE"),
        ("{column: at, unit: s}", "1782000000.0::DECIMAL(20, 3)"),
        ("{column: at, unit: s}", "'1782000000.0'"),
        ("{column: at, unit: ms}", "1782000000000"),
        ("{column: at, unit: ms}", "' 1782000000000 '"),
        ("{column: at, unit: us}", "1782000000000000::HUGEINT"),
        ("{column: at, format: '%d/%m/%Y'}", "'21/06/2026'"),
        ("{column: at, format: '%m/%d/%Y %I:%M %p'}", "'06/21/2026 12:00 AM'"),
        ("{column: at, format: '%d.%m.%Y %H:%M:%S.%f', zone: Europe/Berlin}", "'21.06.2026 02:00:00.000'"),
        ("{column: at, format: '%d %b %Y %H:%M %z', zone: Europe/Berlin}", "'21 Jun 2026 01:00 +0100'"),
        ("{column: at, path: run.when}", '\'{"run": {"when": "2026-06-21T00:00:00Z"}}\''),
        ("{column: at, path: run.when, unit: ms}", "{'run': {'when': 1782000000000}}"),
    ],
)
def test_times_of_every_kind_are_one_moment(tmp_path: Path, timestamp: str, value: str):
    reading = read(tmp_path / "log.duckdb", f"SELECT {value} AS at, 0.5 AS r2", catalogue(timestamp))
    assert last(reading) == AT
    assert gauge(reading, "shop_r2") == 0.5
    assert reading.notes == ()


@pytest.mark.parametrize(
    ("timestamp", "value", "why"),
    [
        ("at", "'03/04/2025'", "A text must be ISO 8601, such as 2026-03-01T06:00:00Z"),
        ("at", "'2025/03/04'", "audit.timestamp.format"),
        ("at", "'1782000000'", "for epoch numbers audit.timestamp.unit"),
        ("{column: at, format: '%d/%m/%Y'}", "'2026-06-21'", "texts such as %d/%m/%Y"),
        ("{column: at, unit: s}", "1782000000000", "numbers in s since 1970: check audit.timestamp.unit"),
        ("{column: at, unit: s}", "'nan'::DOUBLE", "numbers in s"),
        ("{column: at, unit: us}", "1e300", "numbers in us"),
        ("{column: at, path: when}", "'{\"when'", "A text must be ISO 8601"),
    ],
)
def test_a_log_whose_rows_are_all_undated_is_refused_with_the_reason(
    tmp_path: Path, timestamp: str, value: str, why: str
):
    select = f"SELECT {value} AS at, 0.5 AS r2, 'a' AS model FROM range(2)"
    for labels in ("", ", labels: {model: model}"):
        with pytest.raises(BadData, match="None of the log's 2 rows has a usable time in column at") as caught:
            read(tmp_path / "log.duckdb", select, catalogue(timestamp, audit=labels))
        assert why in str(caught.value)


HALF = [
    "2026-06-21 01:0", "2026-06-21 01:", "2026-06-21 01", "2026-06-21T", "2026-06-21 01:02:3", "2026-06-21 01:02:03.",
    "2026-06-21 00:00:00+02:0", "2026-06-21 00:00:00+", "2026-06-21 (BC)", "2026-06-21 12:00 AM", "2026-02-30",
    "2026-06-2", "20260621", "2026-06-21T25:00:00Z", "12026-06-21", "2026-W25", "21 Jun 2026",
]  # fmt: skip


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_half_a_time_and_times_that_only_one_engine_knows_are_none(tmp_path: Path, zone: str):
    rows = ", ".join(f"('{text}')" for text in ["2026-06-21 00:00:00Z", *HALF])
    select = f'SELECT t.*, 0.5 AS r2 FROM (VALUES {rows}) t("at")'
    reading = read(tmp_path / "log.duckdb", select, catalogue(f"{{column: at, zone: {zone}}}"))
    assert (reading.facts["rows"], last(reading)) == (1, AT)
    assert reading.notes == (f"{len(HALF)} rows without a usable timestamp, left out",)


def test_a_text_of_another_order_is_undated_and_noted_beside_rows_with_a_time(tmp_path: Path):
    rows = "('2026-06-21T00:00:00Z', 0.5), ('03/04/2026', 0.9), (NULL, 0.9)"
    select = f"SELECT c0 AS at, c1 AS r2 FROM (VALUES {rows}) t(c0, c1)"
    reading = read(tmp_path / "log.duckdb", select, catalogue())
    assert (last(reading), gauge(reading, "shop_r2")) == (AT, 0.5)
    assert reading.notes == ("2 rows without a usable timestamp, left out",)


@pytest.mark.parametrize(
    ("timestamp", "value", "why"),
    [
        ("at", "1782000000", r"timestamp: \{column: at, unit: s\} \(or ms, us\)"),
        ("at", "1.5::DOUBLE", "unit: s"),
        ("at", "true", "has type BOOL; a row's time must be"),
        ("{column: at, unit: s}", "TIMESTAMP '2026-06-21'", "has type DATETIME, but audit.timestamp.unit"),
        ("{column: at, format: '%d.%m.%Y'}", "DATE '2026-06-21'", "has type DATE, but audit.timestamp.format"),
        ("{column: at, path: a.b}", "DATE '2026-06-21'", "column at has type DATE, in which there is no path a.b"),
    ],
)
def test_a_column_that_does_not_go_with_the_catalogue_is_refused_with_advice(
    tmp_path: Path, timestamp: str, value: str, why: str
):
    with pytest.raises(BadData, match=why):
        read(tmp_path / "log.duckdb", f"SELECT {value} AS at, 0.5 AS r2", catalogue(timestamp))


@pytest.mark.parametrize("kind", ["TIMESTAMP", "VARCHAR"])
def test_local_times_follow_daylight_saving(tmp_path: Path, kind: str):
    catalog = catalogue("{column: at, zone: America/New_York}")
    for local, offset in [("2026-03-08 01:30:00", 5), ("2026-03-08 03:30:00", 4), ("2025-11-02 03:30:00", 5)]:
        reading = read(tmp_path / "log.duckdb", f"SELECT CAST('{local}' AS {kind}) AS at, 0.5 AS r2", catalog)
        assert last(reading) == datetime.fromisoformat(f"{local}-0{offset}:00").timestamp()


moments = st.datetimes(datetime(1990, 1, 1), datetime(2026, 9, 1)).map(lambda at: at.replace(microsecond=0))


@given(at=moments, zone=st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kolkata", "Australia/Lord_Howe"]))
@settings(max_examples=5, deadline=None)
def test_a_local_time_is_what_pythons_calendar_says(tmp_path_factory: pytest.TempPathFactory, at: datetime, zone: str):
    local = at.replace(tzinfo=ZoneInfo(zone))
    either = {local.replace(fold=fold).timestamp() for fold in (0, 1)}
    reading = read(
        tmp_path_factory.mktemp("log") / "log.duckdb",
        f"SELECT '{at.isoformat()}' AS at, 0.5 AS r2",
        catalogue(f"{{column: at, zone: {zone}}}"),
    )
    assert last(reading) in either


def test_rows_are_in_the_order_of_time_whatever_its_unit(tmp_path: Path):
    select = f"SELECT {NOW:.0f}000 - i * 1000 AS at, i / 10 AS r2 FROM range(5) t(i)"
    reading = read(tmp_path / "log.duckdb", select, catalogue("{column: at, unit: ms}"))
    assert (last(reading), gauge(reading, "shop_r2")) == (NOW, 0.0)


# -- columns and paths -------------------------------------------------------------------------------------------------

NAMES = [
    "R² (v1.2)", "größe m", "select", "a.b.c.d.e.f", ".a", "a..b", "`tick`", 'quo"te', "it's", "back\\slash", "1st",
    "@horizon", "e0", "--", "a;b", "日本", "at ", " x0", "%s", "{0}", "$1",
]  # fmt: skip


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_columns_may_have_any_name(tmp_path: Path):
    """Columns of metrics, and of as many labels as fit."""
    labelled = NAMES[:MAX_AUDIT_LABELS]
    labels = ", ".join(f"l{place}: {json.dumps(name + '!')}" for place, name in enumerate(labelled))
    metrics = "".join(
        f"- {{name: shop_{place}, type: gauge, help: H., from: [{{audit: {json.dumps(name)}}}]}}\n"
        for place, name in enumerate(NAMES)
    )
    audit = f"{{table: shop.runs, timestamp: moment, labels: {{{labels}}}}}"
    catalog = parse_catalog(f"version: 1\naudit: {audit}\nmetrics:\n{metrics}", "mine.yaml")
    columns = [f"{place}.5 AS {quoted(name)}, 'm{place}' AS {quoted(name + '!')}" for place, name in enumerate(NAMES)]
    reading = read(tmp_path / "log.duckdb", f"SELECT TIMESTAMP '2026-06-21' AS moment, {', '.join(columns)}", catalog)
    models = tuple((f"l{place}", f"m{place}") for place in range(len(labelled)))
    for place, name in enumerate(NAMES):
        (sample,) = reading.observations[f"shop_{place}"].samples
        assert (sample.value, sample.labels) == (place + 0.5, models), name
    assert reading.facts["missing_columns"] is None


@pytest.mark.parametrize("name", NAMES[::3])
def test_the_column_of_times_may_have_any_name(tmp_path: Path, name: str):
    select = f"SELECT TIMESTAMP '2026-06-21' AS {quoted(name)}, 0.5 AS r2"
    reading = read(tmp_path / "log.duckdb", select, catalogue(json.dumps(name)))
    assert (last(reading), gauge(reading, "shop_r2")) == (AT, 0.5)


REPORT = {"metrics": {"drift": {"share": 0.25, "found": True}}, "parts": [{"drift.share": "0.75"}], "n": None, "t": "x"}


@pytest.mark.parametrize("kind", ["JSON", "VARCHAR", "STRUCT"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metrics.drift.share", 0.25),
        ("metrics.drift.found", 1.0),
        ('[parts, 0, "drift.share"]', 0.75),
        ('"parts[0]"', None),
        ('"parts[1]"', None),
        ("metrics.nothing", None),
        ("metrics", None),
        ("n", None),
    ],
)
def test_a_path_leads_into_json_and_structs(tmp_path: Path, kind: str, path: str, expected: float | None):
    held = json.dumps(REPORT)
    value = {
        "JSON": f"'{held}'::JSON",
        "VARCHAR": f"'{held}'",
        "STRUCT": (
            "{'metrics': {'drift': {'share': 0.25, 'found': true}}, 'parts': [{'drift.share': '0.75'}], 'n': NULL::INT}"
        ),
    }[kind]
    catalog = catalogue(origin=f"{{column: report, path: {path}}}")
    reading = read(tmp_path / "log.duckdb", f"SELECT TIMESTAMP '2026-06-21' AS at, {value} AS report", catalog)
    assert gauge(reading, "shop_r2") == expected
    assert reading.notes == ()


def test_a_text_that_is_no_json_and_one_that_is_no_number_cost_their_row(tmp_path: Path):
    select = (
        "SELECT TIMESTAMP '2026-06-21' + i * INTERVAL 1 DAY AS at, r AS report FROM "
        """(VALUES (0, '{"a": 0.5}'), (1, '{"a": "n/a"}'), (2, '{"a": 0.'), (3, '')) t(i, r)"""
    )
    reading = read(tmp_path / "log.duckdb", select, catalogue(origin="{column: report, path: a}"))
    assert gauge(reading, "shop_r2") == 0.5
    assert reading.notes == ("column report, path a: 1 row with text that is not a number, left out",)


def test_a_path_into_a_column_without_parts_costs_its_metric_only(tmp_path: Path):
    reading = read(
        tmp_path / "log.duckdb",
        "SELECT TIMESTAMP '2026-06-21' AS at, 0.5 AS r2",
        catalogue(origin="{column: r2, path: a.b}"),
    )
    assert [gap.reason for gap in reading.gaps] == ["column r2 has type NUMERIC, in which there is no path a.b"]


@pytest.mark.parametrize("kind", ["JSON", "VARCHAR", "STRUCT"])
def test_labels_and_the_environment_may_be_nested(tmp_path: Path, kind: str):
    value = "{'tags': {'model': m}, 'env': [e]}"
    value = value if kind == "STRUCT" else f"CAST(to_json({value}) AS {kind})"
    rows = "('a', 1, 0.1), ('b', 1, 0.2), (' a ', 2, 0.3), (NULL, 1, 0.4)"
    select = f"SELECT TIMESTAMP '2026-06-21' AS at, {value} AS run, r2 FROM (VALUES {rows}) t(m, e, r2)"
    places = ", env: {column: run, path: 'env[0]'}, labels: {model: {column: RUN, path: tags.model}}"
    reading = read(tmp_path / "log.duckdb", select, catalogue(audit=places), AUDIT_ENV="1")
    samples = reading.observations["shop_r2"].samples
    assert {sample.labels: sample.value for sample in samples} == {(("model", "a"),): 0.1, (("model", "b"),): 0.2}
    assert [note[:47] for note in reading.notes] == ["1 row without a usable value for model (NULL, b"]
    with pytest.raises(BadData, match=r"audit\.env: column r2 has type NUMERIC, in which there is no path a"):
        read(tmp_path / "log.duckdb", select, catalogue(audit=", env: {column: r2, path: a}"), AUDIT_ENV="1")


@pytest.mark.parametrize(("kind", "env"), [("INTEGER", "1"), ("BOOLEAN", "true"), ("VARCHAR", "1")])
def test_an_environment_may_be_a_number_or_a_flag(tmp_path: Path, kind: str, env: str):
    select = f"SELECT TIMESTAMP '2026-06-21' AS at, CAST(i AS {kind}) AS env, i / 2 AS r2 FROM range(2) t(i)"
    reading = read(tmp_path / "log.duckdb", select, catalogue(audit=", env: env"), AUDIT_ENV=env)
    assert gauge(reading, "shop_r2") == 0.5


# -- one metric a row --------------------------------------------------------------------------------------------------

LONG = parse_catalog(
    """
version: 1
audit: {table: shop.runs, timestamp: at, missing: [{value: -1}]}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: {column: value, where: {key: r2, fold: 1}}}]}
  - {name: shop_rmse, type: gauge, help: RMSE., from: [{audit: {column: value, where: {key: rmse, live: true}}}]}
  - {name: shop_old, type: gauge, help: Old., from: [{audit: {column: value, where: {key: rmse, live: false}}}]}
  - {name: shop_none, type: gauge, help: None., from: [{audit: {column: value, where: {key: auc}}}]}
  - {name: shop_lost, type: gauge, help: Lost., from: [{audit: {column: value, where: {nothing: 1}}}]}
  - name: shop_verdicts_total
    type: counter
    help: Verdicts.
    labels: [verdict]
    from: [{audit: {count: text, values: {go: GO, stop: STOP}, where: {key: verdict}}}]
""",
    "long.yaml",
)
LONG_ROWS = """SELECT TIMESTAMP '2026-06-21' - i * INTERVAL 1 HOUR AS at, key, value, live, fold, text FROM (VALUES
    (0, 'rmse', '-1', true, 1, NULL), (0, 'verdict', 'n/a', NULL, NULL, 'go'), (1, ' R2 ', '0.5', true, 1, NULL),
    (1, 'r2', '0.9', true, 2, NULL), (1, 'rmse', '7', false, 1, NULL), (2, 'rmse', '6', true, 1, NULL),
    (2, 'note', 'x', true, 1, 'go'), (3, 'verdict', NULL, NULL, NULL, 'Stop'), (3, 'r2', 'bad', true, 1, NULL)
) t(i, key, value, live, fold, text)"""


def test_a_long_table_gives_each_metric_the_rows_that_name_it(tmp_path: Path):
    reading = read(tmp_path / "log.duckdb", LONG_ROWS, LONG)
    found = {name: gauge(reading, name) for name in ("shop_r2", "shop_rmse", "shop_old", "shop_none", "shop_lost")}
    assert found == {"shop_r2": 0.5, "shop_rmse": 6.0, "shop_old": 7.0, "shop_none": None, "shop_lost": None}
    assert counts(reading, "shop_verdicts_total") == {"go": 1.0, "stop": 1.0}
    assert reading.observations["shop_r2"].observed_at == AT - timedelta(hours=1).total_seconds()
    assert {gap.metric: gap.reason for gap in reading.gaps} == {
        "shop_none": "column value holds no value yet",
        "shop_lost": "the table has no column nothing",
    }
    assert reading.notes == ("column value: 1 row with text that is not a number, left out",)


def test_a_condition_that_the_columns_type_cannot_meet_costs_its_metric_and_says_so(tmp_path: Path):
    select = "SELECT TIMESTAMP '2026-06-21' AS at, 0.5 AS r2, DATE '2026-06-21' AS key"
    reading = read(tmp_path / "log.duckdb", select, catalogue(origin="{column: r2, where: {key: x}}"))
    assert [gap.reason for gap in reading.gaps] == ["column key has type DATE, which cannot be read as 'x'"]
