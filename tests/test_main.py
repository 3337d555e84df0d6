"""The command line: in the test's process, but where the process is what matters."""

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from exporter import __version__
from exporter.__main__ import main
from exporter.catalog_parser import load_catalog
from exporter.settings import VARIABLES
from exporter.sources.audit.schema import STANDARD
from testbed.exposed import Exposed
from tests.command_line import run

ROOT = Path(__file__).resolve().parent.parent


def test_help_is_worth_reading(tmp_path: Path):
    text = run(tmp_path, "--help").stdout
    for word in ("serve", "once", "check", "init-audit", "GOOGLE_CLOUD_PROJECT", "AUDIT_URL", "EXPORTER_PORT"):
        assert word in text
    assert "never drops" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 120


def in_a_process(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """What a shell's command does; $exporter is the command line."""
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "exporter": f"{sys.executable} -m exporter"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_exit_code_of_a_process(tmp_path: Path):
    ran = in_a_process(tmp_path, "$exporter --version; AUDIT_URL=nonsense exec $exporter check")
    assert (ran.returncode, ran.stdout) == (2, f"mlops-exporter {__version__}\n")
    assert ran.stderr.startswith("error: AUDIT_URL")


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("once", "--nonsense")])
def test_wrong_arguments_exit_2(tmp_path: Path, arguments: tuple[str, ...]):
    ran = run(tmp_path, *arguments)
    assert ran.returncode == 2
    assert "usage:" in ran.stderr


def test_once_prints_the_exposition(tmp_path: Path):
    ran = run(tmp_path, "once")
    assert ran.returncode == 0
    assert Exposed(ran.stdout).value("mlops_exporter_source_up", source="audit") == 1
    assert "SAMPLE DATA" in ran.stderr
    again = run(tmp_path, "once", "--openmetrics", WEB_CONCURRENCY="")  # an empty variable counts as unset
    assert again.stdout.endswith("# EOF\n")
    assert "SAMPLE DATA" not in again.stderr


def test_once_exits_1_when_a_source_failed_and_prints_what_it_has(tmp_path: Path):
    ran = run(tmp_path, "once", AUDIT_URL="duckdb:nowhere.duckdb")
    assert ran.returncode == 1
    assert Exposed(ran.stdout).value("mlops_exporter_source_up", source="audit") == 0
    assert "init-audit" in ran.stderr


def test_once_into_a_pipe_that_closes_early_is_no_error(tmp_path: Path):
    ran = in_a_process(tmp_path, "$exporter once | head -1")
    assert "Traceback" not in ran.stderr
    assert ran.stdout.startswith("# HELP")


def test_all_problems_of_settings_and_catalogue_are_reported_and_exit_2(tmp_path: Path):
    ran = run(tmp_path, "check", EXPORTER_PORT="x", EXPORTER_REFRESH_SECONDS="-1", AUDIT_URL="nonsense")
    assert ran.returncode == 2
    assert ran.stderr.count("error: ") == 3
    (tmp_path / "catalog.yaml").write_text("version: 1\naudit: {table: x}\nmetrics: [{nme: a}]\n")
    ran = run(tmp_path, "check", EXPORTER_CATALOG="catalog.yaml")
    assert ran.returncode == 2
    assert "catalog.yaml:2:" in ran.stderr
    assert "catalog.yaml:3:" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("count", ["two", "\u00b2", "1.0", "1" * 5000])
def test_a_number_of_workers_that_is_none_is_one_clear_sentence(
    count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """gunicorn makes a number of it while it is imported, and would end with a traceback."""
    monkeypatch.setattr("exporter.__main__.configure_logging", lambda *_: None)
    monkeypatch.setenv("WEB_CONCURRENCY", count)
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: WEB_CONCURRENCY: expected 1, not '")
    assert len(line) < 300


def test_serving_on_another_machines_address_is_refused_and_exits_2(tmp_path: Path):
    ran = in_a_process(tmp_path, "EXPORTER_HOST=192.0.2.1 exec $exporter serve")
    assert ran.returncode == 2
    (error,) = [line for line in ran.stderr.splitlines() if "rror" in line]
    assert error.startswith("error: EXPORTER_HOST: cannot listen on 192.0.2.1: ")


@pytest.mark.parametrize("kind", ["folder", "named pipe"])
def test_a_catalogue_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str):
    if kind == "folder":
        (tmp_path / "mine.yaml").mkdir()
    else:
        os.mkfifo(tmp_path / "mine.yaml")
    ran = run(tmp_path, "check", EXPORTER_CATALOG="mine.yaml")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"error: EXPORTER_CATALOG: cannot read mine.yaml: it is a {kind}, not a file\n"


@pytest.mark.parametrize("kind", ["folder", "named pipe"])
def test_a_key_file_that_is_no_file_does_not_hold_up_the_start(tmp_path: Path, kind: str):
    if kind == "folder":
        (tmp_path / "key.json").mkdir()
    else:
        os.mkfifo(tmp_path / "key.json")
    ran = run(tmp_path, "once", AUDIT_URL="nowhere.csv", GOOGLE_APPLICATION_CREDENTIALS="key.json")
    assert ran.returncode == 1
    assert Exposed(ran.stdout).value("mlops_exporter_source_up", source="audit") == 0
    assert "Traceback" not in ran.stderr


def test_check_of_the_sample_is_fine_and_says_that_it_is_a_sample(tmp_path: Path):
    ran = run(tmp_path, "check")
    assert ran.returncode == 0
    assert "26 rows" in ran.stdout
    assert "sample history" in ran.stdout
    assert "nothing is billed" in ran.stdout


def test_check_names_missing_columns_without_failing(tmp_path: Path):
    (tmp_path / "log.csv").write_text("timestamp,r2\n2026-01-01T00:00:00Z,0.5\n")
    ran = run(tmp_path, "check", AUDIT_URL="log.csv")
    assert ran.returncode == 0
    assert "missing: env, champion_r2_baseline" in ran.stdout
    assert "bike_drift_share" in ran.stdout


def test_check_fails_when_the_log_cannot_be_read(tmp_path: Path):
    ran = run(tmp_path, "check", AUDIT_URL="nowhere.csv")
    assert ran.returncode == 1
    assert "PROBLEM" in ran.stdout
    assert "not_found" in ran.stdout


def test_check_shows_warnings_about_unknown_variables(tmp_path: Path):
    ran = run(tmp_path, "check", AUDIT_URL="nowhere.csv", EXPORTER_REFRESH_SECOND="5")
    assert "did you mean EXPORTER_REFRESH_SECONDS?" in ran.stdout


def test_init_audit_creates_then_adds_what_is_missing_and_drops_nothing(tmp_path: Path):
    ran = run(tmp_path, "init-audit", AUDIT_URL="duckdb:data/audit.duckdb")
    assert ran.returncode == 0
    assert "created table monitoring_audit.logs" in ran.stdout
    with duckdb.connect(str(tmp_path / "data/audit.duckdb")) as connection:
        connection.execute("INSERT INTO monitoring_audit.logs (timestamp, r2) VALUES ('2026-01-01 00:00:00+00', 0.5)")
        connection.execute("ALTER TABLE monitoring_audit.logs DROP COLUMN drift_share")
        connection.execute("ALTER TABLE monitoring_audit.logs ALTER rmse TYPE VARCHAR")
        connection.execute("ALTER TABLE monitoring_audit.logs ADD COLUMN mine VARCHAR")
    ran = run(tmp_path, "init-audit", AUDIT_URL="duckdb:data/audit.duckdb")
    assert "added to table monitoring_audit.logs in data/audit.duckdb: drift_share" in ran.stdout
    assert "left alone: column rmse is STRING, expected FLOAT64" in ran.stdout
    with duckdb.connect(str(tmp_path / "data/audit.duckdb"), read_only=True) as connection:
        names = {row[0] for row in connection.execute("SELECT column_name FROM duckdb_columns()").fetchall()}
        assert names >= {column.name for column in STANDARD} | {"mine"}
        assert connection.execute("SELECT r2 FROM monitoring_audit.logs").fetchall() == [(0.5,)]
    ran = run(tmp_path, "init-audit", AUDIT_URL="duckdb:data/audit.duckdb")
    assert "nothing was changed" in ran.stdout
    assert (
        Exposed(run(tmp_path, "once", AUDIT_URL="duckdb:data/audit.duckdb").stdout).value(
            "bike_model_r2_champion_current"
        )
        == 0.5
    )


def test_init_audit_refuses_plain_files(tmp_path: Path):
    ran = run(tmp_path, "init-audit", AUDIT_URL="log.csv")
    assert ran.returncode == 2
    assert "AUDIT_URL" in ran.stderr


def test_the_audit_table_has_every_column_that_the_built_in_catalogue_names():
    assert {column.name for column in STANDARD} >= set(load_catalog().audit_columns())


def test_every_variable_has_a_help_text_that_ends_a_sentence():
    assert all(variable.help.rstrip("`)").endswith((".", "BigQuery", "md")) for variable in VARIABLES)
