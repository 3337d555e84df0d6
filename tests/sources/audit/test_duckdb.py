"""The embedded audit log on real files: values and types, and change detection."""

import dataclasses
from pathlib import Path

import pytest

from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData, SourceUnavailable
from exporter.sources.audit.duckdb import DuckDBAudit
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, TABLE, Here, Log, counts, gauge, settings_for, source_for

R2 = "bike_model_r2_champion_current"
COLUMNS = {
    "timestamp": "TIMESTAMPTZ",
    "r2": "DOUBLE",
    "rmse": "DOUBLE",
    "deployment_decision": "VARCHAR",
    "env": "VARCHAR",
}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path / "audit.duckdb", COLUMNS)
    made.add([{"at": NOW - DAY, "r2": 0.7, "rmse": 60.0, "deployment_decision": "deploy", "env": "prod"}])
    return made


# -- values and types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "literal", "expected"),
    [
        ("DOUBLE", "0.5", 0.5),
        ("FLOAT", "0.5", 0.5),
        ("DECIMAL(10, 4)", "0.5", 0.5),
        ("TINYINT", "1", 1.0),
        ("BIGINT", "-3", -3.0),
        ("HUGEINT", "3", 3.0),
        ("UBIGINT", "3", 3.0),
        ("BOOLEAN", "true", 1.0),
        ("VARCHAR", "' 0.5 '", 0.5),
        ("VARCHAR", "'FALSE'", 0.0),
        ("ENUM ('0.5', 'x')", "'0.5'", 0.5),
        ("DOUBLE", "'nan'", None),
        ("DOUBLE", "'inf'", None),
        ("DOUBLE", "'-inf'", None),
        ("FLOAT", "'nan'", None),
        ("VARCHAR", "'nan'", None),
        ("VARCHAR", "''", None),
        ("DOUBLE", "NULL", None),
    ],
)
def test_every_type_that_makes_sense_is_taken(tmp_path: Path, kind: str, literal: str, expected: float | None):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": kind})
    log.run(f"INSERT INTO {TABLE} VALUES ('2026-01-01 00:00:00+00', {literal})")
    reading = source_for(log.path).read(None)
    assert gauge(reading, R2) == expected
    assert reading.notes == ()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("DATE", "DATE"),
        ("TIMESTAMP", "DATETIME"),
        ("UUID", "UUID"),
        ("INTEGER[]", "INTEGER[]"),
        ("STRUCT(a INTEGER)", "STRUCT(a INTEGER)"),
        ("BLOB", "BLOB"),
        ("DECIMAL(3, 1)[]", "DECIMAL(3,1)[]"),
    ],
)
def test_a_type_that_makes_no_sense_costs_only_its_metric_and_is_named(tmp_path: Path, kind: str, named: str):
    log = Log(tmp_path / "audit.duckdb", {**COLUMNS, "r2": kind})
    log.add([{"at": NOW - DAY, "rmse": 60.0}])
    reading = source_for(log.path).read(None)
    assert gauge(reading, "bike_model_rmse_production") == 60.0
    assert gauge(reading, R2) is None
    (gap,) = [gap for gap in reading.gaps if gap.metric == R2]
    assert gap.reason == f"column r2 has type {named}, which cannot be read as a number"


@pytest.mark.parametrize(
    ("kind", "literal"),
    [
        ("TIMESTAMPTZ", "'2026-09-01 02:00:00+02'"),
        ("TIMESTAMP", "'2026-09-01 00:00:00'"),
        ("TIMESTAMP_S", "'2026-09-01 00:00:00'"),
        ("TIMESTAMP_MS", "'2026-09-01 00:00:00'"),
        ("TIMESTAMP_NS", "'2026-09-01 00:00:00'"),
        ("DATE", "'2026-09-01'"),
        ("VARCHAR", "'2026-09-01T00:00:00Z'"),
        ("VARCHAR", "'2026-09-01 00:00:00'"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_the_timestamp_is_read_as_utc_whatever_its_type_and_the_machines_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, literal: str, zone: str
):
    monkeypatch.setenv("TZ", zone)
    log = Log(tmp_path / "audit.duckdb", {"timestamp": kind, "r2": "DOUBLE"})
    log.run(f"INSERT INTO {TABLE} VALUES ({literal}, 0.5)")
    reading = source_for(log.path).read(None)
    assert reading.facts["last_record_at"] == 1_788_220_800.0
    assert gauge(reading, R2) == 0.5


def test_rows_without_a_usable_timestamp_are_left_out_and_counted_in_a_note(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {**COLUMNS, "timestamp": "VARCHAR"})
    log.run(
        f"INSERT INTO {TABLE} (timestamp, r2, deployment_decision) VALUES ('2026-01-01', 0.5, 'deploy'), "
        "('yesterday', 0.9, 'deploy'), (NULL, 0.8, 'deploy')"
    )
    reading = source_for(log.path).read(None)
    assert gauge(reading, R2) == 0.5
    assert counts(reading, "bike_model_deployments_total")["deploy"] == 1
    assert reading.notes == ("2 rows without a usable timestamp, left out",)


def test_a_timestamp_of_a_wrong_type_and_a_missing_one_say_what_to_do(tmp_path: Path):
    wrong = Log(tmp_path / "wrong.duckdb", {**COLUMNS, "timestamp": "BIGINT"})
    with pytest.raises(BadData, match="'timestamp' has type INT64"):
        source_for(wrong.path).read(None)
    missing = Log(tmp_path / "missing.duckdb", {"at": "TIMESTAMPTZ", "r2": "DOUBLE"})
    with pytest.raises(BadData, match=r"no column 'timestamp'.*audit\.timestamp"):
        source_for(missing.path).read(None)


def test_an_empty_table_gives_no_gauge_and_counters_at_zero(tmp_path: Path):
    reading = source_for(Log(tmp_path / "audit.duckdb", COLUMNS).path).read(None)
    assert set(reading.observations) == {"bike_model_deployments_total"}
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 0, "skip": 0, "reject": 0}
    assert reading.facts["rows"] == 0
    assert reading.facts["last_record_at"] is None


def test_sentinels_mean_missing_only_together(log: Log):
    log.add([{"at": NOW - 600, "r2": 0.0, "rmse": 999.0}])
    reading = source_for(log.path).read(None)
    assert (gauge(reading, R2), gauge(reading, "bike_model_rmse_production")) == (0.7, 60.0)
    log.add([{"at": NOW - 500, "r2": 0.0, "rmse": 80.0}, {"at": NOW - 400, "r2": 0.1, "rmse": 999.0}])
    reading = source_for(log.path).read(None)
    assert (gauge(reading, R2), gauge(reading, "bike_model_rmse_production")) == (0.1, 999.0)


def test_only_rows_of_the_env_count(log: Log):
    log.add([{"at": NOW - 60, "r2": 0.2, "deployment_decision": "skip", "env": "dev"}])
    reading = source_for(log.path, AUDIT_ENV="prod").read(None)
    assert gauge(reading, R2) == 0.7
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 1, "skip": 0, "reject": 0}


def test_an_env_filter_without_its_column_is_refused(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})
    with pytest.raises(BadData, match=r"AUDIT_ENV is 'prod'.*no column 'env'"):
        source_for(log.path, AUDIT_ENV="prod").read(None)


def test_a_value_that_looks_like_sql_is_only_a_value(log: Log):
    reading = source_for(log.path, AUDIT_ENV="' OR 1=1 --").read(None)
    assert reading.facts["rows"] == 0


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT"])
def test_a_flag_that_is_nan_or_infinite_says_neither_yes_nor_no(tmp_path: Path, kind: str):
    log = Log(
        tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "fine_tune_triggered": kind, "fine_tune_success": kind}
    )
    nan, inf = float("nan"), float("inf")
    log.add(
        {"at": NOW, "fine_tune_triggered": triggered, "fine_tune_success": success}
        for triggered, success in [(1.0, 1.0), (1.0, 0.0), (nan, 1.0), (1.0, nan), (1.0, inf), (0.0, 1.0)]
    )
    assert counts(source_for(log.path).read(None), "bike_training_runs_total") == {"success": 1, "failed": 1}


def test_the_tables_name_matches_whatever_its_case(log: Log):
    assert source_for(log.path, AUDIT_TABLE="Monitoring_Audit.LOGS").read(None).facts["rows"] == 1


def test_a_view_is_read_and_a_broken_one_is_bad_data(log: Log):
    log.run("CREATE VIEW monitoring_audit.recent AS SELECT * FROM monitoring_audit.logs")
    assert gauge(source_for(log.path, AUDIT_TABLE="monitoring_audit.recent").read(None), R2) == 0.7
    log.run(f"ALTER TABLE {TABLE} RENAME TO moved")
    with pytest.raises(BadData, match="logs does not exist"):
        source_for(log.path, AUDIT_TABLE="monitoring_audit.recent").read(None)


def test_column_names_match_whatever_their_case_and_may_be_reserved_words(tmp_path: Path):
    log = Log(
        tmp_path / "audit.duckdb", {"TimeStamp": "TIMESTAMPTZ", "SELECT": "DOUBLE", "n": "DOUBLE", "at": "DOUBLE"}
    )
    log.run(f"INSERT INTO {TABLE} VALUES ('2026-01-01 00:00:00+00', 0.5, 0.25, 0.125)")
    catalog = parse_catalog(
        """
version: 1
audit: {table: monitoring_audit.logs, timestamp: timestamp}
metrics:
  - {name: a, type: gauge, help: h, from: [{audit: select}]}
  - {name: b, type: gauge, help: h, from: [{audit: N}]}
  - {name: c, type: gauge, help: h, from: [{audit: at}]}
  - {name: d, type: gauge, help: h, from: [{audit: at}]}
""",
        "test",
    )
    reading = source_for(log.path, catalog).read(None)
    assert {name: gauge(reading, name) for name in "abcd"} == {"a": 0.5, "b": 0.25, "c": 0.125, "d": 0.125}


# -- change detection --------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def test_an_unchanged_file_is_not_opened_and_a_new_row_shows_at_once(log: Log):
    clock = Clock()
    here = Here()
    source = DuckDBAudit(settings_for(str(log.path)), CATALOG, clock, here)
    first = source.read(None)
    clock.now += 60
    assert source.read(first) == dataclasses.replace(first, read_at=clock.now)
    assert here.reads == 1
    log.add([{"at": NOW, "r2": 0.9}])
    assert gauge(source.read(first), R2) == 0.9
    assert here.reads == 2


def test_the_query_runs_again_after_its_maximum_age_and_when_the_clock_stepped_back(log: Log):
    clock = Clock()
    here = Here()
    source = DuckDBAudit(settings_for(str(log.path), AUDIT_MAX_QUERY_AGE_SECONDS="3600"), CATALOG, clock, here)
    first = source.read(None)
    clock.now += 3600
    second = source.read(first)
    assert here.reads == 2
    clock.now -= 7200
    source.read(second)
    assert here.reads == 3


def test_a_reading_of_another_catalogue_or_filter_is_not_reused(log: Log):
    first = source_for(log.path).read(None)
    here = Here()
    other = DuckDBAudit(settings_for(str(log.path), AUDIT_ENV="prod"), CATALOG, Clock(), here)
    other.read(first)
    assert here.reads == 1
    here = Here()
    same = DuckDBAudit(settings_for(str(log.path)), CATALOG, Clock(), here)
    same.read(dataclasses.replace(first, catalog="another"))
    assert here.reads == 1


def test_columns_may_come_and_go_and_the_table_too(log: Log):
    source = source_for(log.path)
    first = source.read(None)
    log.run(f"ALTER TABLE {TABLE} DROP COLUMN rmse", f"ALTER TABLE {TABLE} ADD COLUMN drift_share DOUBLE DEFAULT 0.5")
    second = source.read(first)
    assert gauge(second, "bike_model_rmse_production") is None
    assert gauge(second, "bike_drift_share") == 0.5
    log.run(f"ALTER TABLE {TABLE} ALTER r2 TYPE VARCHAR")
    assert gauge(source.read(second), R2) == 0.7
    log.run(f"DROP TABLE {TABLE}")
    with pytest.raises(SourceUnavailable, match=r"no table monitoring_audit\.logs") as caught:
        source.read(second)
    assert caught.value.reason == "not_found"
    log.run(f"CREATE TABLE {TABLE} AS SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00' AS timestamp, 0.8 AS r2")
    assert gauge(source.read(second), R2) == 0.8


def test_rows_from_the_future_wait_for_their_time(log: Log):
    clock = Clock()
    here = Here()
    source = DuckDBAudit(settings_for(str(log.path)), CATALOG, clock, here)
    log.add([{"at": NOW + DAY, "r2": 0.1, "deployment_decision": "deploy"}, {"at": 4e9, "r2": 0.2}])
    reading = source.read(None)
    assert gauge(reading, R2) == 0.7
    assert reading.facts["last_record_at"] == NOW - DAY
    assert counts(reading, "bike_model_deployments_total")["deploy"] == 1
    assert reading.notes == ("2 rows dated in the future: left out of values and counts until their time has come",)
    clock.now += 3600
    assert source.read(reading).queried_at == NOW
    clock.now = NOW + DAY
    reading = source.read(dataclasses.replace(reading, queried_at=clock.now - 60))
    assert gauge(reading, R2) == 0.1
    assert counts(reading, "bike_model_deployments_total")["deploy"] == 2
    assert reading.notes == ("1 row dated in the future: left out of values and counts until their time has come",)


def test_a_look_says_whether_the_file_was_written_and_reads_nothing(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})
    log.add([{"at": NOW - 60, "r2": 0.5}])
    source = source_for(log.path)
    reading = source.read(None)
    assert not source.changed(reading)
    log.add([{"at": NOW - 30, "r2": 0.6}])
    assert source.changed(reading)
    assert not source.changed(source.read(reading))
    log.path.unlink()
    with pytest.raises(SourceUnavailable):
        source.changed(reading)
