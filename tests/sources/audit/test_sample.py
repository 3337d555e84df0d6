"""The sample history that a first start makes."""

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from exporter.errors import SourceUnavailable
from exporter.sources.audit.duckdb import DuckDBAudit
from exporter.sources.audit.duckdb_init import create_sample
from exporter.sources.audit.sample import sample_rows
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, ROOT, Here, settings_for, source_for


def test_the_sample_is_made_once_named_as_such_and_recent(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    source = DuckDBAudit(settings_for(""), CATALOG, lambda: NOW, Here())
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
        "import sys; from pathlib import Path; from exporter.sources.audit.duckdb_init import create_sample\n"
        f"print('ready', flush=True); sys.stdin.readline()\n"
        f"print(create_sample(Path(sys.argv[1]), 'monitoring_audit', 'logs', {NOW}))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "audit.duckdb")],
            cwd=ROOT,
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


def test_its_times_are_moved_by_whole_weeks_and_nothing_else_is():
    before = sample_rows(NOW)
    newest = max(datetime.fromisoformat(str(row["timestamp"])).timestamp() for row in before)
    for now, weeks in ((newest, 0), (newest + 7 * DAY - 1, 0), (newest + 7 * DAY, 1), (newest - 1, -1)):
        after = sample_rows(now)
        assert [{**row, "timestamp": ""} for row in after] == [{**row, "timestamp": ""} for row in before]
        moved = {
            datetime.fromisoformat(str(row["timestamp"])) - datetime.fromisoformat(str(old["timestamp"]))
            for row, old in zip(after, before, strict=True)
        }
        assert moved == {timedelta(weeks=weeks)}
    assert "" not in {value for row in before for value in row.values()}, "an empty field is NULL"
