"""The pipeline's stores in BigQuery: the audit row that it writes is the one that the exporter reads."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from bike_pipeline.audit import BigQueryAuditLog
from bike_pipeline.bigquery_client import BigQueryTrouble
from bike_pipeline.records import Predicted
from bike_pipeline.settings import Settings
from bike_pipeline.warehouse import BigQueryWarehouse
from exporter.catalog_parser import load_catalog
from exporter.settings import Settings as ExporterSettings
from exporter.sources.audit.bigquery import BigQueryAudit
from testbed import faults
from testbed.bigquery import BigQueryEmulator
from tests.pipeline.test_audit import FULL
from tests.pipeline.test_tasks import ROWS

PROJECT = "test-project"
START, DAY = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)


@pytest.fixture
def emulator(bigquery_emulator: BigQueryEmulator, monkeypatch: pytest.MonkeyPatch) -> BigQueryEmulator:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery_emulator.url)
    return bigquery_emulator


def test_a_run_has_one_row_and_the_exporter_reads_it(emulator: BigQueryEmulator):
    settings = Settings(google_project=PROJECT, audit_table="pipeline_audit.logs")
    log = BigQueryAuditLog(settings)
    log.write(dataclasses.replace(FULL, deployment_decision="reject"))
    log.write(dataclasses.replace(FULL, run_id="manual__0", timestamp=FULL.timestamp - 7 * DAY, r2=0.1))
    log.write(FULL)
    rows = emulator.query(f"SELECT run_id, deployment_decision, r2 FROM `{PROJECT}.pipeline_audit.logs` ORDER BY 1")
    assert rows == [
        {"run_id": "manual__0", "deployment_decision": "deploy", "r2": 0.1},
        {"run_id": "manual__1", "deployment_decision": "deploy", "r2": 0.7},
    ]
    environment = {
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "BIGQUERY_EMULATOR_HOST": emulator.url,
        "AUDIT_TABLE": settings.audit_table,
    }
    reading = BigQueryAudit(ExporterSettings.from_env(environment), load_catalog()).read(None)
    assert reading.facts["missing_columns"] is None

    def value(metric: str) -> float:
        (sample,) = reading.observations[metric].samples
        return sample.value

    assert value("bike_model_r2_champion_current") == FULL.r2
    assert value("bike_drift_share") == FULL.drift_share
    assert value("bike_drifted_features_count") == FULL.drifted_features_count
    decisions = {
        dict(one.labels)["decision"]: one.value for one in reading.observations["bike_model_deployments_total"].samples
    }
    assert decisions == {"deploy": 2, "skip": 0, "reject": 0}


def test_counts_and_predictions_come_back_as_they_were(emulator: BigQueryEmulator):
    warehouse = BigQueryWarehouse(Settings(google_project=PROJECT, warehouse_dataset="pipeline_warehouse"))
    assert warehouse.last_hour() is None
    rows = [row for row in ROWS if row.timestamp < START + 2 * DAY]
    assert any(row.count is None for row in ROWS)
    rows[5] = dataclasses.replace(rows[5], count=None, wind=None)
    for _ in range(2):
        warehouse.replace_counts(START, START + 2 * DAY, rows)
    assert warehouse.counts(START, START + 2 * DAY) == rows
    assert warehouse.counts(START + DAY, START + 2 * DAY) == [row for row in rows if row.timestamp >= START + DAY]
    assert warehouse.last_hour() == START + 2 * DAY - timedelta(hours=1)
    predicted = [Predicted(row.timestamp, row.counter, 5.5, "v0001") for row in rows]
    warehouse.replace_predictions(START, START + 2 * DAY, predicted)
    assert warehouse.predictions(START, START + 2 * DAY) == predicted


def test_a_refusal_is_one_clear_error(emulator: BigQueryEmulator, monkeypatch: pytest.MonkeyPatch):
    with faults.FaultProxy(emulator.url) as proxy:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)
        proxy.add(faults.google_error(403, "Access Denied: no bigquery.datasets.create"), method="POST")
        with pytest.raises(BigQueryTrouble, match=r"making the audit table: Forbidden: .*Access Denied"):
            BigQueryAuditLog(Settings(google_project=PROJECT)).write(FULL)
