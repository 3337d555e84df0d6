"""The whole exporter over a DuckDB audit log and a real Airflow, scraped by a real Prometheus: the log is cut and comes
back, and what Prometheus has seen has no gap, no doubled series and no counter that stepped back."""

import re
import time
from pathlib import Path

import duckdb
import pytest

from tests.engines.airflow import PASSWORD, VIEWER, Airflow
from tests.engines.exporter import RunningExporter
from tests.integration.test_prometheus import RunningPrometheus
from tests.sources.duckdb_log import Log

COLUMNS = {
    "timestamp": "TIMESTAMPTZ",
    "r2": "DOUBLE",
    "rmse": "DOUBLE",
    "drift_detected": "BOOLEAN",
    "deployment_decision": "VARCHAR",
}
R2 = "bike_model_r2_champion_current"
INTERVAL = 2.0
COUNTER = re.compile(r"(bike|airflow)_.+_(total|count|bucket)$")


@pytest.fixture(params=["airflow2", "airflow3"])
def airflow(request: pytest.FixtureRequest) -> Airflow:
    found: Airflow = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """An older audit table: it has no drift_share. Its row is newer than Airflow's runs can be."""
    made = Log(tmp_path / "audit.duckdb", COLUMNS)
    made.add([{"at": time.time() - 86400, "r2": 0.71, "rmse": 61.0, "deployment_decision": "deploy"}])
    return made


def test_the_audit_log_is_cut_and_comes_back(airflow: Airflow, log: Log, tmp_path: Path):
    for dag in ("daily_fetch_bike_data", "daily_prediction", "monitor_and_fine_tune"):
        airflow.trigger(dag)
    environment = {
        "EXPORTER_REFRESH_SECONDS": str(INTERVAL),
        "AUDIT_URL": str(log.path),
        "AIRFLOW_BASE_URL": airflow.url,
        "AIRFLOW_USERNAME": VIEWER,
        "AIRFLOW_PASSWORD": PASSWORD,
    }
    with RunningExporter(tmp_path, environment) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        exporter.wait_for("mlops_exporter_source_up", 1, source="airflow")
        # The log lacks drift_share, so that one comes from XCom while all else comes from the log.
        exposed = exporter.wait_for("bike_drift_share", 0.375)
        assert exposed.value(R2) == 0.71
        assert exposed.value("mlops_exporter_metric_source_info", metric=R2) == 1
        assert exposed.value("mlops_exporter_metric_source_info", metric=R2, source="audit") == 1
        assert exposed.value("mlops_exporter_metric_source_info", metric="bike_drift_share", source="airflow") == 1
        prometheus = RunningPrometheus(tmp_path / "prometheus", {"a": exporter.url.removeprefix("http://")})
        with prometheus.server:
            prometheus.wait_for(R2, {"a": 0.71})

            gone = log.path.with_name("gone")
            log.path.rename(gone)
            cut = time.monotonic()
            exporter.wait_for("mlops_exporter_source_up", 0, source="audit", within=INTERVAL * 1.1 + 1)
            exporter.wait_for(R2, 0.825, within=INTERVAL + 2)
            assert time.monotonic() - cut < 2 * INTERVAL + 3
            exposed = exporter.exposed()
            assert exposed.value("bike_model_rmse_production") == 44.25
            assert exposed.value("bike_drift_detected") == 1
            assert exposed.value("bike_model_deployments_total", decision="deploy") == 1
            assert exposed.value("mlops_exporter_metric_source_info", metric=R2, source="airflow") == 1
            prometheus.wait_for(R2, {"a": 0.825})

            gone.rename(log.path)
            with duckdb.connect(str(log.path)) as connection:
                connection.execute("SELECT 1")
            exporter.wait_for(R2, 0.71, within=INTERVAL * 1.1 + 3)
            prometheus.wait_for(R2, {"a": 0.71})

            airflow.trigger("daily_fetch_bike_data", {"fetch_to_bigquery.records_count": 30})
            ((runs,),) = airflow.rows(
                "SELECT count(*) FROM dag_run WHERE state = 'success' AND dag_id = 'daily_fetch_bike_data'"
            )
            labels = {"dag_id": "daily_fetch_bike_data", "state": "success"}
            exporter.wait_for("airflow_dag_runs_total", runs, **labels)
            prometheus.wait_for('airflow_dag_runs_total{dag_id="daily_fetch_bike_data",state="success"}', {"a": runs})

            assert prometheus.query("min_over_time(up[10m])") == {"a": 1.0}
            # A scrape that lacked the series would leave a gap, and one with a doubled series would have failed.
            scrapes = prometheus.query("count_over_time(up[10m])")["a"]
            assert prometheus.query(f"count_over_time({R2}[10m])")["a"] >= scrapes - 1
            counters = [name for name in exporter.exposed().names() if COUNTER.match(name)]
            assert len(counters) > 8
            for name in counters:
                assert prometheus.query(f"sum by (job) (resets({name}[10m]))") == {"a": 0.0}, name
