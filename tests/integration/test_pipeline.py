"""The closed loop, all of it real: Airflow runs the DAGs, the model is trained, drifts and is replaced, the audit log
gets its rows, and the exporter shows what happened."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
import yaml

from testbed import airflow as engine
from testbed.airflow import PASSWORD, VIEWER, Airflow
from testbed.exporter import ROOT, RunningExporter
from testbed.regmodel import RunningRegModel

pytestmark = pytest.mark.timeout(900)

DAGS = ROOT / "docker" / "airflow" / "dags"
EPISODE = {"start": "2025-05-05", "end": "2025-07-28", "demand": 0.6, "rush_hour_delay": 2, "temperature": 5}
CALM, DRIFTED, BETTER, RECOVERED = "2025-05-05", "2025-05-26", "2025-06-02", "2025-06-16"
"""Mondays, before the shift, three weeks into it, one week later, and two more."""
R2, SHARE = "bike_model_r2_champion_current", "bike_drift_share"
LIMITS = yaml.safe_load((ROOT / "grafana" / "thresholds.yml").read_text("utf-8"))


@dataclass
class Loop:
    """A running RegModel API and Airflow, and the files that they share."""

    regmodel: RunningRegModel
    airflow: Airflow
    audit: Path
    warehouse: Path

    def play(self, as_of: str) -> None:
        """A week of the pipeline: fetch and predict what is new, then monitor."""
        week = {"as_of": as_of, "days": 7}
        self.airflow.trigger("daily_fetch_bike_data", week)
        self.airflow.trigger("daily_prediction", week)
        self.airflow.trigger("monitor_and_fine_tune", {"as_of": as_of})

    def rows(self) -> list[dict[str, object]]:
        """The audit log, oldest row first."""
        with duckdb.connect(str(self.audit), read_only=True) as connection:
            found = connection.execute(
                "SELECT * EXCLUDE timestamp, strftime(timezone('UTC', timestamp), '%Y-%m-%d') AS day "
                "FROM monitoring_audit.logs ORDER BY timestamp"
            )
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.fixture(scope="module")
def loop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """The loop with one version of Airflow, which the test names."""
    engine.need(request.param)
    folder = tmp_path_factory.mktemp("loop")
    audit, warehouse = folder / "audit.duckdb", folder / "warehouse.duckdb"
    with ExitStack() as stack:
        regmodel = stack.enter_context(RunningRegModel(folder, [EPISODE]))
        environment = {
            "REGMODEL_URL": regmodel.url,
            "AUDIT_URL": f"duckdb://{audit}",
            "PIPELINE_WAREHOUSE": str(warehouse),
            "GOOGLE_CLOUD_PROJECT": "",
            "AUDIT_ENV": "test",
            "PIPELINE_RETRIES": "0",
            "PIPELINE_WAIT_SECONDS": "0",
        }
        airflow = stack.enter_context(engine.running(request.param, folder, dags=DAGS, environment=environment))
        yield Loop(regmodel, airflow, audit, warehouse)


def exporter_of(loop: Loop, folder: Path) -> RunningExporter:
    """An exporter that reads the loop's audit log and Airflow."""
    environment = {
        "EXPORTER_REFRESH_SECONDS": "1",
        "AIRFLOW_TIMEOUT_SECONDS": "20",
        "AUDIT_URL": f"duckdb://{loop.audit}",
        "AIRFLOW_BASE_URL": loop.airflow.url,
        "AIRFLOW_USERNAME": VIEWER,
        "AIRFLOW_PASSWORD": PASSWORD,
    }
    return RunningExporter(folder, environment)


def shows(exporter: RunningExporter, row: dict[str, object]) -> None:
    """The exporter shows this row's values, and takes them from the audit log."""
    exporter.wait_for("mlops_exporter_metric_source_info", 1, metric=R2, source="audit")
    exporter.wait_for(R2, float(row["r2"]))
    exposed = exporter.wait_for(SHARE, float(row["drift_share"]))
    assert exposed.value("bike_model_rmse_production") == row["rmse"]
    assert exposed.value("bike_drift_detected") == row["drift_detected"]
    assert exposed.value("bike_drifted_features_count") == row["drifted_features_count"]
    assert exposed.value("bike_model_r2_champion_baseline") == row["champion_r2_baseline"]


def play_a_calm_week(loop: Loop, exporter: RunningExporter) -> None:
    """The first week: good values, nothing to do, and the exporter shows them."""
    loop.play(CALM)
    (calm,) = loop.rows()
    assert calm["day"] == CALM
    assert calm["r2"] > LIMITS["r2"]["warning"]
    assert calm["rmse"] < LIMITS["rmse"]["critical"]
    assert (calm["drift_detected"], calm["deployment_decision"]) == (False, "not_triggered")
    assert (calm["fine_tune_triggered"], calm["env"], calm["error_message"]) == (False, "test", None)
    shows(exporter, calm)


def totals_of_airflow(loop: Loop, exporter: RunningExporter, *, weeks: int) -> None:
    """What the XComs of all runs add up to is what the pipeline has stored."""
    with duckdb.connect(str(loop.warehouse), read_only=True) as connection:
        ((counts,),) = connection.execute("SELECT count(*) FROM counts").fetchall()
        ((predictions,),) = connection.execute("SELECT count(*) FROM predictions").fetchall()
    exporter.wait_for("airflow_dag_runs_total", weeks, dag_id="monitor_and_fine_tune", state="success")
    exposed = exporter.wait_for("bike_predictions_generated_total", predictions)
    assert predictions == weeks * 7 * 24 * 6
    # Each run fetches from where the one before ended, at least its seven days.
    assert exposed.value("bike_records_ingested_total") == counts
    assert exposed.value("bike_prediction_r2") > LIMITS["r2"]["critical"]


@pytest.mark.parametrize("loop", [2], indirect=True, ids=["airflow2"])
def test_a_week_from_the_pipeline_to_the_exporter(loop: Loop, tmp_path: Path):
    with exporter_of(loop, tmp_path) as exporter:
        play_a_calm_week(loop, exporter)
        totals_of_airflow(loop, exporter, weeks=1)


@pytest.mark.parametrize("loop", [3], indirect=True, ids=["airflow3"])
def test_an_episode_of_drift_from_the_pipeline_to_the_exporter(loop: Loop, tmp_path: Path):
    """Before, during and after: the values cross the alerts' limits and the retraining brings them back."""
    with exporter_of(loop, tmp_path) as exporter:
        play_a_calm_week(loop, exporter)

        loop.play(DRIFTED)
        drifted = loop.rows()[-1]
        assert drifted["drift_share"] > LIMITS["drift_share"]["high"]
        assert drifted["r2"] < LIMITS["r2"]["critical"]
        assert drifted["rmse"] > LIMITS["rmse"]["critical"]
        assert drifted["deployment_decision"] == "deploy"
        assert drifted["model_improvement"] >= 0.02
        assert drifted["r2_baseline"] >= 0.60
        shows(exporter, drifted)

        loop.play(BETTER)
        better = loop.rows()[-1]
        assert better["deployment_decision"] == "deploy"
        shows(exporter, better)

        loop.play(RECOVERED)
        rows = loop.rows()
        recovered = rows[-1]
        assert recovered["r2"] > LIMITS["r2"]["warning"]
        assert recovered["rmse"] < LIMITS["rmse"]["critical"]
        assert recovered["drift_share"] < LIMITS["drift_share"]["high"]
        shows(exporter, recovered)
        assert len({row["run_id"] for row in rows}) == len(rows) == 4

        exposed = exporter.exposed()
        decisions = [row["deployment_decision"] for row in rows]
        assert exposed.value("bike_model_deployments_total", decision="deploy") == decisions.count("deploy") >= 2
        trained = sum(bool(row["fine_tune_triggered"]) for row in rows)
        assert exposed.value("bike_training_runs_total", status="success") == trained
        assert exposed.value("bike_training_runs_total", status="failed") == 0
        champion = loop.regmodel.get("/models").json()["champion"]["version"]
        assert recovered["model_uri"].endswith(champion)

        totals_of_airflow(loop, exporter, weeks=4)

        # Without the audit log the same values come from the last run's XComs.
        away = loop.audit.with_suffix(".away")
        loop.audit.rename(away)
        exporter.wait_for("mlops_exporter_source_up", 0, source="audit")
        exporter.wait_for("mlops_exporter_metric_source_info", 1, metric=R2, source="airflow")
        exposed = exporter.exposed()
        assert exposed.value(R2) == recovered["r2"]
        assert exposed.value(SHARE) == recovered["drift_share"]
        assert exposed.value("bike_drifted_features_count") == recovered["drifted_features_count"]
        away.rename(loop.audit)
        exporter.wait_for("mlops_exporter_metric_source_info", 1, metric=R2, source="audit")


@pytest.mark.parametrize("loop", [2, 3], indirect=True, ids=["airflow2", "airflow3"])
def test_a_run_that_fails_leaves_a_row_that_says_so(loop: Loop):
    """There are no counts of that time, and nobody waits for them: the row is there, and the run has failed."""
    before = len(loop.rows()) if loop.audit.exists() else 0
    printed = loop.airflow.trigger("monitor_and_fine_tune", {"as_of": "1999-01-04"}, check=False)
    rows = loop.rows()
    assert len(rows) == before + 1, printed[-2000:]
    row = rows[0]
    assert row["day"] == "1999-01-04"
    assert row["error_message"] == "failed: check_raw_data"
    assert (row["r2"], row["drift_detected"], row["deployment_decision"]) == (None, None, None)
    statement = "SELECT task_id, state FROM task_instance WHERE dag_id = 'monitor_and_fine_tune' AND run_id = ?"
    states = dict(loop.airflow.rows(statement, (row["run_id"],)))
    assert states["check_raw_data"] == states["end_monitoring"] == "failed"
