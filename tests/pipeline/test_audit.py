"""The audit log's writer: validated rows, one a run, and the table that the exporter expects."""

import dataclasses
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pytest

from bike_pipeline import audit, duckdb_file
from bike_pipeline.audit import COLUMNS, AuditRow, BadRow, DuckDBAuditLog
from bike_pipeline.settings import Settings
from exporter.sources.audit.schema import STANDARD

NOW = datetime(2025, 5, 26, tzinfo=UTC)
FULL = AuditRow(
    timestamp=NOW,
    run_id="manual__1",
    env="test",
    drift_detected=True,
    drift_share=0.5,
    drifted_features_count=4,
    r2=0.7,
    rmse=61.5,
    champion_r2_baseline=0.9,
    r2_current=0.75,
    r2_baseline=0.88,
    r2_train=0.95,
    model_improvement=0.05,
    fine_tune_triggered=True,
    fine_tune_success=True,
    double_evaluation_enabled=True,
    baseline_regression=False,
    deployment_decision="deploy",
    error_message=None,
    model_uri="http://regmodel/models#v0002",
)


def log_in(folder: Path) -> tuple[DuckDBAuditLog, Path]:
    path = folder / "audit" / "audit.duckdb"
    return DuckDBAuditLog(Settings(audit_file=path)), path


def rows(path: Path) -> list[dict[str, object]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        # The client needs another package for times with a zone.
        columns = "* EXCLUDE timestamp, epoch(timestamp) AS seconds"
        found = connection.execute(f"SELECT {columns} FROM monitoring_audit.logs ORDER BY timestamp, run_id")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_the_table_is_the_one_that_the_exporter_expects():
    assert {column.name: column.type for column in STANDARD} == COLUMNS


def test_a_row_is_written_whole(tmp_path: Path):
    log, path = log_in(tmp_path)
    log.write(FULL)
    (row,) = rows(path)
    assert row["seconds"] == NOW.timestamp()
    for name in COLUMNS:
        if name != "timestamp":
            assert row[name] == getattr(FULL, name), name


def test_a_run_has_one_row_however_often_it_writes(tmp_path: Path):
    log, path = log_in(tmp_path)
    log.write(FULL)
    log.write(dataclasses.replace(FULL, run_id="manual__2"))
    log.write(dataclasses.replace(FULL, deployment_decision="reject", baseline_regression=True))
    log.write(FULL)
    assert [(row["run_id"], row["deployment_decision"]) for row in rows(path)] == [
        ("manual__1", "deploy"),
        ("manual__2", "deploy"),
    ]


def test_times_are_stored_in_utc(tmp_path: Path):
    log, path = log_in(tmp_path)
    log.write(dataclasses.replace(FULL, timestamp=datetime(2025, 5, 26, 2, tzinfo=timezone(timedelta(hours=2)))))
    assert rows(path)[0]["seconds"] == NOW.timestamp()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r2": float("nan")}, "r2 is nan"),
        ({"r2": "0.7"}, "r2 is str '0.7', not FLOAT64"),
        ({"rmse": True}, "rmse is bool True, not FLOAT64"),
        ({"drift_detected": 1}, "drift_detected is int 1, not BOOL"),
        ({"drifted_features_count": 4.0}, "drifted_features_count is float 4.0, not INT64"),
        ({"drift_share": 1.5}, "drift_share is 1.5, not between 0 and 1"),
        ({"r2_current": 1.01}, "r2_current is 1.01, above 1"),
        ({"rmse": -1.0}, "rmse is -1.0, below 0"),
        ({"timestamp": datetime(2025, 5, 26)}, "timestamp needs a time zone"),
        ({"run_id": ""}, "run_id must be 1 to 2000 characters"),
        ({"env": ""}, "env is empty"),
        ({"deployment_decision": "maybe"}, "deployment_decision is 'maybe', not one of deploy, skip, reject"),
        ({"deployment_decision": "not_triggered"}, "but fine_tune_triggered is true"),
        ({"fine_tune_triggered": False}, "but fine_tune_triggered is not true"),
        ({"fine_tune_triggered": None, "deployment_decision": None}, "fine_tune_success is true, but"),
    ],
)
def test_what_cannot_be_true_is_not_written(tmp_path: Path, change: dict[str, object], said: str):
    log, path = log_in(tmp_path)
    with pytest.raises(BadRow) as caught:
        log.write(dataclasses.replace(FULL, **change))
    assert said in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        dict.fromkeys(("r2", "champion_r2_baseline", "r2_current", "r2_baseline", "r2_train"), 1.0),
        {"drift_share": 0.0, "drifted_features_count": 0, "drift_detected": False},
        {"drift_share": 1.0},
        {"rmse": 0.0},
        {"r2": -3.5, "model_improvement": -4.5},
    ],
    ids=["r2 of 1", "no drift", "all drifted", "rmse of 0", "worse than the mean"],
)
def test_a_value_on_its_limit_is_written(tmp_path: Path, change: dict[str, object]):
    log, path = log_in(tmp_path)
    log.write(dataclasses.replace(FULL, **change))
    (row,) = rows(path)
    assert {name: row[name] for name in change} == change


def test_every_problem_of_a_row_is_named():
    row = dataclasses.replace(FULL, rmse=-1.0, drift_share=2.0, env="")
    with pytest.raises(BadRow, match=r"env is empty; .*rmse is -1.0.*; drift_share is 2.0"):
        row.values()


def test_what_is_unknown_is_null(tmp_path: Path):
    log, path = log_in(tmp_path)
    log.write(AuditRow(timestamp=NOW, run_id="r", env="test", error_message="x" * 5000))
    (row,) = rows(path)
    assert row["r2"] is None
    assert row["deployment_decision"] is None
    assert len(row["error_message"]) == 2000


def test_a_writer_waits_for_another_process_and_gives_up_in_words(tmp_path: Path):
    log, path = log_in(tmp_path)
    log.prepare()
    # The lock is a process's, so another one has to hold it.
    import subprocess
    import sys

    program = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(duckdb_file.FileTrouble, match="another process held its lock for 0 s"),
            duckdb_file.opened(path, wait_seconds=0.3),
        ):
            pass
        writer = threading.Thread(target=log.write, args=(FULL,))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
    finally:
        holder.communicate(b"")
    writer.join(30)
    assert len(rows(path)) == 1


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    log, path = log_in(tmp_path)
    path.parent.mkdir()
    path.write_text("not a database, but long enough to be looked at as one" * 400)
    with pytest.raises(duckdb_file.FileTrouble, match=r"audit\.duckdb"):
        log.write(FULL)


def test_the_table_can_be_made_before_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUDIT_URL", f"duckdb://{tmp_path}/made.duckdb")
    audit.main()
    audit.main()
    assert rows(tmp_path / "made.duckdb") == []
