"""The embedded audit log: values and types, change detection, files, writers in other processes, and faults."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData, SourceTimeout, SourceUnavailable
from exporter.sources.duckdb import DuckDBAudit, google_type
from exporter.sources.duckdb_init import create_sample
from exporter.sources.sample import sample_rows
from tests.sources.duckdb_log import CATALOG, DAY, NOW, TABLE, Log, counts, gauge, settings_for, source_for

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
    "kind", ["DATE", "TIMESTAMP", "UUID", "INTEGER[]", "STRUCT(a INTEGER)", "BLOB", "DECIMAL(3, 1)[]"]
)
def test_a_type_that_makes_no_sense_costs_only_its_metric_and_is_named(tmp_path: Path, kind: str):
    log = Log(tmp_path / "audit.duckdb", {**COLUMNS, "r2": kind})
    log.add([{"at": NOW - DAY, "rmse": 60.0}])
    reading = source_for(log.path).read(None)
    assert gauge(reading, "bike_model_rmse_production") == 60.0
    assert gauge(reading, R2) is None
    (gap,) = [gap for gap in reading.gaps if gap.metric == R2]
    assert f"type {google_type(kind)}" in gap.reason or "type" in gap.reason


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


class CountingSource(DuckDBAudit):
    opened = 0

    def _connect(self) -> duckdb.DuckDBPyConnection:
        self.opened += 1
        return super()._connect()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def test_an_unchanged_file_is_not_opened_and_a_new_row_shows_at_once(log: Log):
    clock = Clock()
    source = CountingSource(settings_for(str(log.path)), CATALOG, clock)
    first = source.read(None)
    clock.now += 60
    assert source.read(first) == dataclasses.replace(first, read_at=clock.now)
    assert source.opened == 1
    log.add([{"at": NOW, "r2": 0.9}])
    assert gauge(source.read(first), R2) == 0.9
    assert source.opened == 2


def test_the_query_runs_again_after_its_maximum_age_and_when_the_clock_stepped_back(log: Log):
    clock = Clock()
    source = CountingSource(settings_for(str(log.path), AUDIT_MAX_QUERY_AGE_SECONDS="3600"), CATALOG, clock)
    first = source.read(None)
    clock.now += 3600
    second = source.read(first)
    assert source.opened == 2
    clock.now -= 7200
    source.read(second)
    assert source.opened == 3


def test_a_reading_of_another_catalogue_or_filter_is_not_reused(log: Log):
    first = source_for(log.path).read(None)
    other = CountingSource(settings_for(str(log.path), AUDIT_ENV="prod"), CATALOG, Clock())
    other.read(first)
    assert other.opened == 1
    same = CountingSource(settings_for(str(log.path)), CATALOG, Clock())
    same.read(dataclasses.replace(first, catalog="another"))
    assert same.opened == 1


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
    source = CountingSource(settings_for(str(log.path)), CATALOG, clock)
    log.add([{"at": NOW + DAY, "r2": 0.1, "deployment_decision": "deploy"}, {"at": 4e9, "r2": 0.2}])
    reading = source.read(None)
    assert gauge(reading, R2) == 0.7
    assert reading.facts["last_record_at"] == NOW - DAY
    assert counts(reading, "bike_model_deployments_total")["deploy"] == 2
    assert reading.notes == ("2 rows dated in the future: counted, but they give no gauge until their time has come",)
    clock.now += 3600
    assert source.read(reading).queried_at == NOW
    clock.now = NOW + DAY
    reading = source.read(dataclasses.replace(reading, queried_at=clock.now - 60))
    assert gauge(reading, R2) == 0.1
    assert reading.notes == ("1 row dated in the future: counted, but they give no gauge until their time has come",)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_files_by_path_and_glob_with_columns_that_differ(tmp_path: Path, kind: str):
    with duckdb.connect() as connection:
        for name, columns in [("a", "0.5 AS r2"), ("b", "0.9 AS r2, 60 AS rmse")]:
            day = {"a": "2026-01-01", "b": "2026-01-02"}[name]
            option = {"parquet": "", "csv": "(HEADER)", "jsonl": "(FORMAT json)"}[kind]
            connection.execute(
                f"COPY (SELECT TIMESTAMP '{day}' AS timestamp, {columns}) TO '{tmp_path}/{name}.{kind}' {option}"
            )
    one = source_for(tmp_path / f"a.{kind}").read(None)
    assert gauge(one, R2) == 0.5
    both = source_for(tmp_path / f"*.{kind}")
    reading = both.read(None)
    assert (gauge(reading, R2), gauge(reading, "bike_model_rmse_production"), reading.facts["rows"]) == (0.9, 60, 2)
    (tmp_path / f"b.{kind}").unlink()
    assert both.read(reading).facts["rows"] == 1


def test_no_matching_file_and_files_that_cannot_be_read(tmp_path: Path):
    for pattern in ("none.csv", "*.csv"):
        with pytest.raises(SourceUnavailable, match="No file matches") as caught:
            source_for(tmp_path / pattern).read(None)
        assert caught.value.reason == "not_found"
    (tmp_path / "bad.parquet").write_text("junk")
    with pytest.raises(BadData, match=r"bad\.parquet cannot be read"):
        source_for(tmp_path / "bad.parquet").read(None)


def test_a_json_line_that_is_half_written_costs_itself_only(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"timestamp": "2026-01-01T00:00:00Z", "r2": 0.5}\n{"timestamp": "2026-01-0')
    reading = source_for(tmp_path / "log.jsonl").read(None)
    assert gauge(reading, R2) == 0.5
    assert reading.notes == ("1 row without a usable timestamp, left out",)


def test_many_json_files_are_read_within_the_memory_limit_and_their_columns_may_differ(tmp_path: Path):
    for day in range(1, 29):
        (tmp_path / f"{day:02}.jsonl").write_text(f'{{"timestamp": "2026-01-{day:02}T00:00:00Z", "r2": 0.{day:02}}}\n')
    (tmp_path / "29.jsonl").write_text('{"timestamp": "2026-01-29T00:00:00Z", "r2": "n/a", "rmse": 50}\n')
    reading = source_for(tmp_path / "*.jsonl").read(None)
    assert (gauge(reading, R2), gauge(reading, "bike_model_rmse_production"), reading.facts["rows"]) == (0.28, 50, 29)
    assert reading.notes == ("column r2: 1 row with text that is not a number, left out",)


def test_a_json_column_without_values_or_of_mixed_types_is_read_as_text(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text(
        '{"timestamp": "2026-01-01T00:00:00Z", "r2": 0.5, "deployment_decision": null}\n'
        '{"timestamp": "2026-01-02T00:00:00Z", "r2": "0.6", "deployment_decision": null}\n'
    )
    reading = source_for(tmp_path / "log.jsonl").read(None)
    assert gauge(reading, R2) == 0.6
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 0, "skip": 0, "reject": 0}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_text_in_a_late_row_costs_that_value_only(tmp_path: Path, kind: str):
    good, bad = {
        "csv": ("2026-01-01T00:00:00Z,0.5\n", "2026-01-02T00:00:00Z,oops\n"),
        "jsonl": (
            '{"timestamp": "2026-01-01T00:00:00Z", "r2": 0.5}\n',
            '{"timestamp": "2026-01-02T00:00:00Z", "r2": "oops"}\n',
        ),
    }[kind]
    (tmp_path / f"log.{kind}").write_text(("timestamp,r2\n" if kind == "csv" else "") + good * 25_000 + bad)
    reading = source_for(tmp_path / f"log.{kind}").read(None)
    assert (gauge(reading, R2), reading.facts["rows"]) == (0.5, 25_001)
    assert reading.notes == ("column r2: 1 row with text that is not a number, left out",)


def test_a_path_with_quotes_and_blanks(tmp_path: Path):
    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    (folder / "log.csv").write_text("timestamp,r2\n2026-01-01T00:00:00Z,0.5\n")
    assert gauge(source_for(folder / "*.csv").read(None), R2) == 0.5


def test_missing_corrupt_and_foreign_database_files(tmp_path: Path):
    with pytest.raises(SourceUnavailable, match=r"init-audit.*AUDIT_SAMPLE_DATA") as caught:
        source_for(tmp_path / "none.duckdb").read(None)
    assert caught.value.reason == "not_found"
    assert not (tmp_path / "none.duckdb").exists()
    (tmp_path / "bad.duckdb").write_bytes(b"\x00" * 10_000)
    with pytest.raises(BadData, match="not a DuckDB database"):
        source_for(tmp_path / "bad.duckdb").read(None)


def test_a_damaged_database_is_an_error_not_a_crash(log: Log):
    log.run("CHECKPOINT")
    content = bytearray(log.path.read_bytes())
    content[4096:20_000] = os.urandom(20_000 - 4096)
    log.path.write_bytes(content)
    with pytest.raises((BadData, SourceUnavailable)):
        source_for(log.path).read(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that may not read")
def test_a_file_that_may_not_be_read_says_so(log: Log):
    code = (
        "import os, sys, duckdb\nfrom tests.sources.duckdb_log import source_for\n"
        "source = source_for(sys.argv[1])\nimport exporter.sources.audit_schema, sqlglot\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: source.read(None)\nexcept Exception as error: print(type(error).__name__, error.reason, error)"
    )
    for folder in log.path.parents:
        if str(folder).startswith("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    log.path.chmod(0o600)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(log.path)],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "SourceUnavailable permission" in ran.stdout, ran.stdout + ran.stderr


# -- writers in other processes ----------------------------------------------------------------------------------------

WRITER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("INSERT INTO monitoring_audit.logs (timestamp, r2) VALUES ('2026-09-21 00:00:00+00', 0.95)")
print("locked", flush=True)
sys.stdin.readline()
connection.close()
"""


@pytest.fixture
def writer(log: Log):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(log.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_writer_that_keeps_the_file_locked_is_named_after_the_deadline(log: Log, writer):
    source = source_for(log.path, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match=rf"locked by a writer \(process {writer.pid}\)"):
        source.read(None)
    assert time.monotonic() - began < 20


def test_a_writer_that_ends_in_time_is_waited_for(log: Log, writer):
    pauses = []

    def pause(event: threading.Event, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            writer.communicate("\n", timeout=30)

    source = DuckDBAudit(settings_for(str(log.path)), CATALOG, lambda: NOW, pause)
    assert gauge(source.read(None), R2) == 0.95
    assert len(pauses) >= 2


def test_a_writer_can_write_right_after_a_read(log: Log):
    source = source_for(log.path)
    for _ in range(5):
        source.read(None)
        code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE OR REPLACE TABLE other (a INTEGER)')"
        subprocess.run([sys.executable, "-c", code, str(log.path)], check=True, timeout=30)


def test_a_write_ahead_log_left_by_a_killed_writer_is_read(log: Log, writer):
    before = source_for(log.path, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    writer.kill()
    writer.communicate()
    assert log.path.with_name("audit.duckdb.wal").exists()
    assert gauge(before.read(None), R2) == 0.95


# -- deadlines ---------------------------------------------------------------------------------------------------------


class SlowSource(DuckDBAudit):
    """Runs a query that would take hours before its own."""

    def _columns(self, connection):
        self.running.set()
        connection.execute("SELECT count(*) FROM range(1000000000) a, range(1000000000) b").fetchall()
        return super()._columns(connection)

    running = threading.Event()


def test_a_query_that_does_not_end_is_given_up_at_the_deadline(log: Log):
    source = SlowSource(
        settings_for(str(log.path), AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1"), CATALOG
    )
    began = time.monotonic()
    with pytest.raises(SourceTimeout, match="within 1 s"):
        source.read(None)
    assert time.monotonic() - began < 20


def test_interrupt_from_another_thread_ends_a_query_and_the_next_read_works(log: Log):
    source = SlowSource(settings_for(str(log.path)), CATALOG)
    source.running.clear()
    ended: list[BaseException] = []

    def read() -> None:
        with pytest.raises(SourceTimeout) as caught:
            source.read(None)
        ended.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    assert source.running.wait(60)
    source.interrupt()
    thread.join(60)
    assert ended
    assert gauge(source_for(log.path).read(None), R2) == 0.7


# -- the sample --------------------------------------------------------------------------------------------------------


def test_the_sample_is_made_once_named_as_such_and_recent(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    source = DuckDBAudit(settings_for(""), CATALOG, lambda: NOW)
    reading = source.read(None)
    assert "SAMPLE DATA" in caplog.text
    assert reading.facts["sample_data"] is True
    assert "sample history" in reading.notes[0]
    assert reading.facts["rows"] == 26
    assert 0 <= NOW - reading.facts["last_record_at"] < 7 * DAY
    assert {metric.name for metric, _ in CATALOG.audit_metrics()} == set(reading.observations)
    caplog.clear()
    content = (tmp_path / "audit.duckdb").read_bytes()
    assert source.read(None).observations == reading.observations
    assert (tmp_path / "audit.duckdb").read_bytes() == content
    assert caplog.text == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.duckdb"]


def test_the_sample_is_made_at_another_place_only_when_asked_for(tmp_path: Path):
    path = tmp_path / "sub" / "log.duckdb"
    with pytest.raises(SourceUnavailable):
        source_for(path).read(None)
    reading = source_for(path, AUDIT_SAMPLE_DATA="true", AUDIT_TABLE="mine.runs").read(None)
    assert reading.facts["rows"] == 26
    assert reading.facts["table"] == "mine.runs"


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path):
    path = tmp_path / "audit.duckdb"
    path.write_text("somebody else's")
    assert create_sample(path, "monitoring_audit", "logs", NOW) is False
    assert path.read_text() == "somebody else's"


def test_of_several_that_make_the_sample_at_once_one_does(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from exporter.sources.duckdb_init import create_sample\n"
        f"print('ready', flush=True); sys.stdin.readline()\n"
        f"print(create_sample(Path(sys.argv[1]), 'monitoring_audit', 'logs', {NOW}))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "audit.duckdb")],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert sorted(made) == ["False", "False", "False", "True"]
    assert [path.name for path in tmp_path.iterdir()] == ["audit.duckdb"]
    assert source_for(tmp_path / "audit.duckdb").read(None).facts["rows"] == 26


def test_the_sample_tells_the_story_that_it_should(tmp_path: Path):
    rows = sample_rows(NOW)
    decisions = {row["deployment_decision"] for row in rows}
    assert decisions == {"deploy", "skip", "reject", "not_triggered"}
    assert any(row["rmse"] == "999.0" and row["r2"] == "0.0" for row in rows)
    assert any(row["fine_tune_success"] == "false" for row in rows)
    assert max(float(row["drift_share"]) for row in rows) > 0.5
    assert all(str(row["run_id"]).startswith("sample-") for row in rows)
    for row in rows:
        if row["model_improvement"]:
            assert float(row["model_improvement"]) == pytest.approx(float(row["r2_current"]) - float(row["r2"]))
        if row["deployment_decision"] == "deploy":
            assert float(row["model_improvement"]) >= 0.02


def test_a_file_made_here_can_be_opened_by_older_duckdb(tmp_path: Path):
    create_sample(tmp_path / "audit.duckdb", "monitoring_audit", "logs", NOW)
    with duckdb.connect(str(tmp_path / "audit.duckdb"), read_only=True) as connection:
        tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'audit'").fetchone()
    assert "v1.0.0" in str(tags)


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
