"""The columns that `init-audit` creates, and what it does to a DuckDB file that exists."""

import re
from pathlib import Path

import duckdb
import pytest

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData, ConfigError, SourceUnavailable
from exporter.sources.audit.duckdb_init import init_duckdb
from exporter.sources.audit.schema import STANDARD, InitReport, TableColumn, compare, table_columns
from tests.sources.audit.duckdb_log import CATALOG, NOW, TABLE, Log, settings_for, source_for

OTHER = parse_catalog(
    """
version: 1
audit: {table: shop.runs, timestamp: recorded_at, env: stage, missing: [{mae: -1}]}
metrics:
  - {name: shop_r2, type: gauge, help: R² now., from: [{audit: r2}]}
  - {name: shop_mae, type: gauge, help: Error now., from: [{audit: mae}]}
  - {name: shop_drifted, type: gauge, help: Drifted features., from: [{audit: drifted_features_count}]}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [outcome]
    from: [{audit: {count: outcome, values: {out: released, held: kept}}}]
  - name: shop_trainings_total
    type: counter
    help: Trainings.
    labels: [status]
    from: [{audit: {count: trained_well, values: {success: true, failed: false}, where: trained}}]
""",
    "other.yaml",
)


NESTED = parse_catalog(
    """
version: 1
audit:
  table: shop.runs
  timestamp: {column: "ts (ms)", unit: ms}
  env: {column: run, path: env}
  labels: {model: model, region: {column: place, path: region}}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: {column: value, where: {key: r2, fold: 1, live: true}}}]}
  - {name: shop_share, type: gauge, help: Share., from: [{audit: {column: report, path: drift.share}}]}
""",
    "nested.yaml",
)


def columns_of(path: Path, schema: str = "monitoring_audit", table: str = "logs") -> dict[str, str]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return dict(
            connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = ? AND table_name = ?",
                [schema, table],
            ).fetchall()
        )


def init(path: Path, catalog: Catalog = CATALOG, **env: str) -> InitReport:
    return init_duckdb(settings_for(f"duckdb:{path}", **env), catalog)


def test_the_built_in_catalogue_gets_the_standard_table():
    assert table_columns(CATALOG) == STANDARD


def test_another_catalogue_gets_the_columns_that_it_names_and_no_others():
    columns = {column.name: column.type for column in table_columns(OTHER)}
    assert next(iter(columns)) == "recorded_at"
    assert columns == {
        "recorded_at": "TIMESTAMP",
        "stage": "STRING",
        "r2": "FLOAT64",
        "mae": "FLOAT64",
        "drifted_features_count": "INT64",
        "outcome": "STRING",
        "trained_well": "BOOL",
        "trained": "BOOL",
    }


@pytest.mark.parametrize(
    ("timestamp", "kind"),
    [("at", "TIMESTAMP"), ("{column: at, zone: Europe/Berlin}", "DATETIME"), ("{column: at, unit: s}", "INT64"),
     ("{column: at, format: '%d.%m.%Y'}", "STRING"), ("{column: at, path: a.b}", "JSON")],
)  # fmt: skip
def test_the_columns_types_are_those_that_the_catalogue_reads(timestamp: str, kind: str):
    text = f"version: 1\naudit: {{table: a.b, timestamp: {timestamp}}}\nmetrics:\n"
    metric = "- {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}\n"
    columns = [(column.name, column.type) for column in table_columns(parse_catalog(text + metric, "c"))]
    assert columns == [("at", kind), ("r2", "FLOAT64")]
    assert {column.name: column.type for column in table_columns(NESTED)} == {
        "ts (ms)": "INT64", "run": "JSON", "model": "STRING", "place": "JSON", "value": "FLOAT64", "key": "STRING",
        "fold": "FLOAT64", "live": "BOOL",
        "report": "JSON",
    }  # fmt: skip


def test_a_sentinel_says_nothing_of_a_column_whose_type_is_known():
    """What it compares with is a number, and the column that it names may be a text that holds one, or a flag."""
    text = """
version: 1
audit: {table: a.b, timestamp: at, missing: [{verdict: -1, drifted: 0, live: 0, mae: 999}]}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: {column: r2, where: {live: true}}}]}
  - name: shop_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: verdict, values: {yes: GO}}}]
  - name: shop_drifts_total
    type: counter
    help: Drifts.
    labels: [drift]
    from: [{audit: {count: drifted, values: {yes: true}}}]
"""
    columns = {column.name: column.type for column in table_columns(parse_catalog(text, "c"))}
    assert columns == {
        "at": "TIMESTAMP", "r2": "FLOAT64", "live": "BOOL", "verdict": "STRING", "drifted": "BOOL", "mae": "FLOAT64",
    }  # fmt: skip


def test_a_tables_columns_are_compared_whatever_their_case():
    wanted = (TableColumn("a", "INT64", ""), TableColumn("B", "STRING", ""), TableColumn("C", "BOOL", ""))
    assert compare(wanted, {"b": "STRING", "c": "INT64"}) == (
        [wanted[0]],
        ("column C is INT64, expected BOOL",),
    )


@pytest.mark.parametrize("catalog", [CATALOG, OTHER, NESTED])
def test_a_table_that_was_created_satisfies_its_catalogue(tmp_path: Path, catalog: Catalog):
    path = tmp_path / "new" / "folder" / "audit.duckdb"
    report = init(path, catalog)
    assert report.created
    assert report.mismatched == ()
    assert report.added == tuple(columns_of(path, *catalog.audit.table.split(".")))
    reading = source_for(path, catalog).read(None)
    assert (reading.facts["rows"], reading.facts["missing_columns"], reading.facts["sample_data"]) == (0, None, False)
    assert {re.sub(r", path \S+", "", gap.reason) for gap in reading.gaps} <= {
        f"column {column.name} holds no value yet" for column in table_columns(catalog)
    }


def test_a_second_time_changes_nothing(tmp_path: Path):
    path = tmp_path / "audit.duckdb"
    init(path)
    before = path.read_bytes()
    report = init(path)
    assert (report.created, report.added, report.mismatched) == (False, (), ())
    assert path.read_bytes() == before


def test_missing_columns_are_added_and_the_rest_is_left_alone(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMP", "R2": "VARCHAR", "mine": "INTEGER"})
    log.run(f"INSERT INTO {TABLE} VALUES ('2026-01-01', '0.5', 7)")
    report = init(log.path)
    assert not report.created
    assert report.added == tuple(column.name for column in STANDARD if column.name not in ("timestamp", "r2"))
    assert report.mismatched == (
        "column timestamp is DATETIME, expected TIMESTAMP",
        "column r2 is STRING, expected FLOAT64",
    )
    found = columns_of(log.path)
    assert list(found)[:3] == ["timestamp", "R2", "mine"]
    assert (found["R2"], found["drift_share"], found["drift_detected"]) == ("VARCHAR", "DOUBLE", "BOOLEAN")
    with duckdb.connect(str(log.path), read_only=True) as connection:
        assert connection.execute(f"SELECT R2, mine, rmse FROM {TABLE}").fetchall() == [("0.5", 7, None)]


def test_another_table_in_the_same_file_stays(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ"})
    log.add([{"at": NOW}])
    assert init(log.path, AUDIT_TABLE="elsewhere.log").created
    assert columns_of(log.path) == {"timestamp": "TIMESTAMP WITH TIME ZONE"}
    assert source_for(log.path).read(None).facts["rows"] == 1


def test_what_cannot_be_done_says_why(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"AUDIT_URL: init-audit creates a table in a \.duckdb file"):
        init_duckdb(settings_for(str(tmp_path / "*.csv")), CATALOG)
    (tmp_path / "text.duckdb").write_text("not a database" * 1000)
    with pytest.raises(BadData, match="is not a DuckDB database"):
        init(tmp_path / "text.duckdb")
    assert (tmp_path / "text.duckdb").read_text() == "not a database" * 1000
    with pytest.raises(SourceUnavailable):
        init(tmp_path / "text.duckdb" / "below" / "audit.duckdb")


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (InitReport("a.b", True, ("x", "y"), ()), "created table a.b with 2 columns"),
        (InitReport("a.b", False, ("x", "y"), ()), "added to table a.b: x, y"),
        (
            InitReport("a.b", False, (), ("column z is INT64, expected BOOL",)),
            "table a.b has every column already; nothing was changed\nleft alone: column z is INT64, expected BOOL",
        ),
    ],
)
def test_the_report_in_words(report: InitReport, text: str):
    assert str(report) == text
