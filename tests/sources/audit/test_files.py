"""The files of the embedded log: which are read, what is wrong with them, writers in other processes, deadlines."""

import errno
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from exporter.errors import BadData, SourceTimeout, SourceUnavailable
from exporter.sources.audit import duckdb_reader, pattern
from exporter.sources.audit.duckdb import DuckDBAudit
from exporter.sources.audit.duckdb_access import open_files
from exporter.sources.audit.spill import PREFIX, spill_folder, sweep
from tests.sources.audit.duckdb_log import (
    CATALOG,
    DAY,
    NOW,
    ROOT,
    Here,
    Log,
    counts,
    engine,
    gauge,
    settings_for,
    source_for,
)

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
    with engine() as connection:
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
    for name in ("none.csv", "*.csv"):
        with pytest.raises(SourceUnavailable, match="No file matches") as caught:
            source_for(tmp_path / name).read(None)
        assert caught.value.reason == "not_found"
    (tmp_path / "bad.parquet").write_text("junk")
    with pytest.raises(BadData, match=r"bad\.parquet is no whole Parquet file: it is damaged"):
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
    content[4096:20_000] = random.Random(4).randbytes(20_000 - 4096)
    log.path.write_bytes(content)
    with pytest.raises(BadData, match="cannot be read: Corrupt database file"):
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

    source = DuckDBAudit(settings_for(str(log.path)), CATALOG, lambda: NOW, Here(pause))
    assert gauge(source.read(None), R2) == 0.95
    assert len(pauses) >= 2


def test_a_writer_can_write_right_after_a_read(log: Log):
    source = source_for(log.path)
    for _ in range(2):
        source.read(None)
        code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE OR REPLACE TABLE other (a INTEGER)')"
        wrote = subprocess.run([sys.executable, "-c", code, str(log.path)], check=False, timeout=30)
        assert wrote.returncode == 0


def test_a_write_ahead_log_left_by_a_killed_writer_is_read(log: Log, writer):
    before = source_for(log.path)
    writer.kill()
    writer.communicate()
    assert log.path.with_name("audit.duckdb.wal").exists()
    assert gauge(before.read(None), R2) == 0.95


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_query_that_does_not_end_is_given_up_at_the_deadline(log: Log):
    log.run(
        "CREATE VIEW monitoring_audit.slow AS SELECT CAST(max(a.range + b.range) AS DOUBLE) AS r2, "
        "make_timestamptz(1789999999000000) AS timestamp FROM range(1000000000) a, range(1000000000) b"
    )
    short = {"AUDIT_TIMEOUT_SECONDS": "1", "AUDIT_CONNECT_TIMEOUT_SECONDS": "1"}
    began = time.monotonic()
    with pytest.raises(SourceTimeout, match="within 1 s"):
        source_for(log.path, AUDIT_TABLE="monitoring_audit.slow", **short).read(None)
    assert time.monotonic() - began < 20


# -- a log is data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reads",
    [
        "SELECT content AS env FROM read_text('/proc/self/environ')",
        "SELECT column0 AS env FROM read_csv('/etc/passwd', header = false, sep = ':')",
        "SELECT file AS env FROM glob('/root/*')",
        "SELECT env FROM read_parquet('{beside}')",
        "SELECT env FROM '{beside}'",
    ],
)
def test_a_view_over_other_files_is_refused_and_says_why(tmp_path: Path, reads: str):
    beside = tmp_path / "beside.parquet"
    with engine() as connection:
        connection.execute(f"COPY (SELECT 'prod' AS env) TO '{beside}'")
    log = Log(tmp_path / "audit.duckdb", COLUMNS)
    log.run(f"CREATE VIEW monitoring_audit.v AS SELECT now() AS timestamp, * FROM ({reads.format(beside=beside)})")
    with pytest.raises(BadData, match=r"has a view that reads other files\..*Point AUDIT_URL at those files"):
        source_for(log.path, AUDIT_TABLE="monitoring_audit.v").read(None)


def test_a_query_that_needs_more_than_its_memory_uses_a_folder_that_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The folders of a read that was killed go with the next one; those of one that is under way stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{PREFIX}killed").mkdir()
    (tmp_path / f"{PREFIX}killed" / "duckdb_temp_storage").write_bytes(b"spilled")
    with spill_folder() as used:
        assert used is not None
        assert list(tmp_path.iterdir()) == [used]
        connection = open_files([], used)
        connection.execute(
            "CREATE TEMP TABLE big AS SELECT range, repeat('x', 200) || range AS t FROM range(6_000_000)"
        )
        assert any(used.iterdir())
        with spill_folder() as other:
            assert other is not None
            assert {used, other} == set(tmp_path.iterdir())
        connection.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "call"), [("os", "open"), ("fcntl", "flock")])
def test_a_folder_that_another_exporter_swept_away_before_it_was_locked_is_made_anew(
    module: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two exporters may share the system's folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = getattr(sys.modules[module], call)
    swept = []

    def late(*args, **kwargs):
        if not swept and (found := list(tmp_path.iterdir())):
            swept.append(found)
            sweep()
        return real(*args, **kwargs)

    monkeypatch.setattr(f"exporter.sources.audit.spill.{module}.{call}", late)
    with spill_folder() as used:
        assert used is not None
        assert list(tmp_path.iterdir()) == [used]
        sweep()
        assert used.exists()
    assert len(swept) == 1
    assert list(tmp_path.iterdir()) == []


def test_on_a_file_system_without_locks_nothing_is_spilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("exporter.sources.audit.spill.fcntl.flock", refused)
    with spill_folder() as used:
        assert used is None
    assert list(tmp_path.iterdir()) == []


# -- things that are no files, and names that are patterns -------------------------------------------------------------


@pytest.mark.parametrize("name", ["audit.duckdb", "audit.csv"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(SourceUnavailable, match=f"{name} is a named pipe, not a file"):
        source_for(path).read(None)
    path.unlink()
    path.mkdir()
    with pytest.raises(SourceUnavailable, match="is a folder, not a file"):
        source_for(path).read(None)
    path.rmdir()
    path.symlink_to("/dev/zero")
    with pytest.raises(SourceUnavailable, match="is a device, not a file"):
        source_for(path).read(None)


def test_of_a_patterns_matches_only_files_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text("timestamp,r2\n2026-01-01T00:00:00Z,0.5\n")
    (tmp_path / "b.csv").mkdir()
    os.mkfifo(tmp_path / "c.csv")
    (tmp_path / "d.csv").symlink_to("nowhere")
    (tmp_path / ".e.csv").write_text("hidden")
    assert source_for(tmp_path / "*.csv").read(None).facts["rows"] == 1


def test_links_in_circles_end_and_no_row_counts_twice(tmp_path: Path):
    deep = tmp_path / "2026" / "01"
    deep.mkdir(parents=True)
    (deep / "log.csv").write_text("timestamp,r2\n2026-01-01T00:00:00Z,0.5\n")
    (tmp_path / "top.csv").write_text("timestamp,r2\n2026-01-02T00:00:00Z,0.6\n")
    for number in range(20):
        (deep / f"again{number}").symlink_to(tmp_path)
    (tmp_path / "latest.csv").symlink_to(deep / "log.csv")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "itself.csv").symlink_to("itself.csv")
    reading = source_for(tmp_path / "**" / "*.csv").read(None)
    assert reading.facts["rows"] == 2
    assert source_for(tmp_path / "*" / "01" / "*.csv").read(None).facts["rows"] == 1


def test_a_file_whose_name_is_no_text_is_named(tmp_path: Path):
    (tmp_path / "good.csv").write_text("timestamp,r2\n2026-01-01,0.5\n")
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_text("timestamp,r2\n2026-01-02,0.9\n")
    source = source_for(tmp_path / "*.csv")
    with pytest.raises(BadData, match=r"caf\\udce9\.csv is not UTF-8: rename the file, or its folder"):
        source.read(None)


def test_a_table_of_too_many_columns_is_refused(log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duckdb_reader, "MAX_COLUMNS", 4)
    with pytest.raises(BadData, match=r"audit\.duckdb has 5 columns; at most 4 are read"):
        source_for(log.path).read(None)


def test_a_pattern_that_goes_through_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern, "MAX_ENTRIES", 10)
    for number in range(11):
        (tmp_path / f"{number}.csv").touch()
    with pytest.raises(SourceUnavailable, match="goes through more than 10 entries"):
        source_for(tmp_path / "*.csv").read(None)
    monkeypatch.setattr(pattern, "MAX_ENTRIES", 100)
    monkeypatch.setattr(pattern, "MAX_FILES", 10)
    with pytest.raises(SourceUnavailable, match="matches more than 10 files"):
        source_for(tmp_path / "*.csv").read(None)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path, kind: str):
    option = {"parquet": "", "csv": "(HEADER)", "jsonl": "(FORMAT json)"}[kind]
    with engine() as connection:
        for name, value in [("a", 0.1), ("star", 0.2)]:
            made = tmp_path / f"{name}.{kind}"
            connection.execute(f"COPY (SELECT TIMESTAMP '2026-01-01' AS timestamp, {value} AS r2) TO '{made}' {option}")
    (tmp_path / f"star.{kind}").rename(tmp_path / f"[*]?.{kind}")
    (tmp_path / "folder[1]").mkdir()
    (tmp_path / f"a.{kind}").rename(tmp_path / "folder[1]" / f"a.{kind}")
    reading = source_for(tmp_path / "**" / f"*.{kind}").read(None)
    assert reading.facts["rows"] == 2
