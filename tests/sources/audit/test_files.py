"""The files of the embedded log: which are read, what is wrong with them, writers in other processes, deadlines."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from exporter.errors import BadData, SourceTimeout, SourceUnavailable
from exporter.sources.audit.duckdb import DuckDBAudit
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, ROOT, Log, counts, gauge, settings_for, source_for

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
        "import os, sys, duckdb\nfrom tests.sources.audit.duckdb_log import source_for\n"
        "source = source_for(sys.argv[1])\nimport exporter.sources.audit.schema, sqlglot\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: source.read(None)\nexcept Exception as error: print(type(error).__name__, error.reason, error)"
    )
    for folder in log.path.parents:
        if str(folder).startswith("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    log.path.chmod(0o600)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(log.path)],
        cwd=ROOT,
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
