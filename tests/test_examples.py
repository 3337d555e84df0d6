"""The worked examples in docs/examples: each exposes what it says, and `check` finds all well.

Those on BigQuery, which have a `schema.json`, run in tests/integration/test_bigquery_tables.py.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from exporter.backfill.command import backfill
from exporter.backfill.request import Request
from exporter.catalog_parser import load_catalog
from exporter.check import PROBLEM, check
from exporter.errors import ConfigError
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.sources import build_sources
from testbed.fake_airflow import PASSWORD, USERNAME, FakeAirflow
from testbed.fake_airflow import settings as fake_settings
from testbed.faults import FaultProxy
from tests import command_line

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/catalogue.yaml"))
NOT_LOGS = ("catalogue.yaml", "metrics.txt", "airflow.json", "schema.json")


def run(folder: Path, command: str, cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    return command_line.run(cwd, command, EXPORTER_CATALOG=str(folder / "catalogue.yaml"), **env)


def holds(folder: Path, cwd: Path, env: Mapping[str, str]) -> None:
    """The example exposes what it says, and `check` finds all well."""
    checked = run(folder, "check", cwd, env)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "PROBLEM" not in checked.stdout
    assert "warning" not in checked.stdout, checked.stdout
    once = run(folder, "once", cwd, env)
    assert once.returncode == 0, once.stderr
    expected = (folder / "metrics.txt").read_text("utf-8").splitlines()
    assert expected
    assert set(expected) - set(once.stdout.splitlines()) == set()


def filled(path: Path) -> FakeAirflow:
    """An Airflow 3 that holds an example's runs: when each ended, how long it took, and what its tasks pushed."""
    fake = FakeAirflow(now=float(int(time.time())), dags=[])
    for one in json.loads(path.read_text("utf-8")):
        end = fake.now - one["hours_ago"] * 3600
        fake.run(one["dag"], one["run"], one["state"], start=end - one["minutes"] * 60, end=end)
        for task, pushed in one["xcoms"].items():
            for key, value in pushed.items():
                fake.xcom(one["dag"], one["run"], task, key, value, written=end)
    fake.dags = sorted({run["dag_id"] for run in fake.runs})
    return fake


@pytest.mark.parametrize(
    "folder", [one for one in FOLDERS if not (one / "schema.json").exists()], ids=lambda folder: folder.name
)
def test_an_example_exposes_what_it_says_and_check_finds_all_well(folder: Path, tmp_path: Path):
    logs = [path for path in folder.iterdir() if path.name not in NOT_LOGS]
    if logs:
        (log,) = logs
        holds(folder, tmp_path, {"AUDIT_URL": str(log)})
        return
    with FaultProxy(script=filled(folder / "airflow.json")) as airflow:
        login = {"AIRFLOW_USERNAME": USERNAME, "AIRFLOW_PASSWORD": PASSWORD}
        holds(folder, tmp_path, {"AIRFLOW_BASE_URL": airflow.url, **login})
    assert list(tmp_path.glob("*.duckdb")) == []


WITHOUT_AUDIT = load_catalog(EXAMPLES / "airflow_only" / "catalogue.yaml")


def test_without_an_audit_log_and_an_airflow_there_is_nothing_to_read(tmp_path: Path):
    settings = Settings.from_env({"EXPORTER_STATE_DIR": "none"})
    with pytest.raises(ConfigError, match="AIRFLOW_BASE_URL is not set, so there is nothing to read"):
        build_sources(settings, WITHOUT_AUDIT, Ledger.open(None))
    assert [finding.subject for finding in check(settings, WITHOUT_AUDIT) if finding.state == PROBLEM] == ["airflow"]
    made = run(EXAMPLES / "airflow_only", "init-audit", tmp_path, {})
    assert (made.returncode, made.stderr) == (
        2,
        "error: the catalogue has no audit log, so there is no table to make\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_history_is_written_without_an_audit_log(tmp_path: Path):
    fake = filled(EXAMPLES / "airflow_only" / "airflow.json")
    said: list[str] = []
    with FaultProxy(script=fake) as airflow:
        settings = fake_settings(airflow.url, EXPORTER_STATE_DIR="none")
        backfill(Request("10d", tmp_path / "out"), settings, WITHOUT_AUDIT, said.append, clock=lambda: fake.now)
    assert "Read 3 finished runs from Airflow" in "\n".join(said)
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "out").glob("*.om"))
    assert 'airflow_dag_runs_total{dag_id="forecast_daily",state="success"' in written


def test_every_example_is_listed():
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert [folder.name for folder in FOLDERS if f"({folder.name}/catalogue.yaml)" not in page] == []
    assert len(FOLDERS) >= 7
