"""XComs: which are fetched, when, and what a bad one costs."""

from pathlib import Path
from typing import Any

import pytest

from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, source
from testbed.faults import FaultProxy, status
from tests.sources.airflow.readings import runs_total, value

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
FETCH, PREDICT, MONITOR = DAGS


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


AUDIT_BACKED = frozenset(metric.name for metric, _ in load_catalog().audit_metrics())


# -- XComs -------------------------------------------------------------------------------------------------------------


def monitored(fake: FakeAirflow, run_id: str = "r", end: float = NOW - 10, **pushed: Any) -> None:
    fake.run(MONITOR, run_id, start=end - 60, end=end, **pushed)


@BOTH
def test_gauges_come_from_the_newest_successful_run(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(PREDICT, "old", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse=9.0, predict_daily_data__r2=0.5)
    fake.run(PREDICT, "new", start=NOW - 50, end=NOW - 40, predict_daily_data__rmse="8.5", predict_daily_data__mae=2)
    fake.run(PREDICT, "bad", "failed", start=NOW - 30, end=NOW - 20, predict_daily_data__rmse=99.0)
    reading = source(proxy.url).read(None)
    assert value(reading, "bike_prediction_rmse") == 8.5
    assert value(reading, "bike_prediction_mae") == 2
    assert reading.observations["bike_prediction_rmse"].observed_at == NOW - 40
    assert "bike_prediction_r2" not in reading.observations
    gaps = {gap.metric: gap.reason for gap in reading.gaps}
    assert "XCom daily_prediction/predict_daily_data/r2 was not pushed" in gaps["bike_prediction_r2"]


def test_xcoms_are_fetched_only_when_wanted_and_once_a_run(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    monitored(fake, validate_model__r2=0.7, validate_model__rmse=50, monitor_drift__drift_detected="True")
    ledger = Ledger.open(tmp_path)
    airflow = source(proxy.url, ledger)
    reading = airflow.read(None)
    assert not [seen for seen in proxy.requests if "xcomEntries" in seen.path]
    assert not reading.gaps
    assert not AUDIT_BACKED & reading.observations.keys()
    reading = airflow.read(None, AUDIT_BACKED)
    assert value(reading, "bike_model_r2_champion_current") == 0.7
    assert value(reading, "bike_drift_detected") == 1
    assert reading.observations["bike_drift_detected"].observed_at == NOW - 10
    proxy.forget()
    airflow.read(None, AUDIT_BACKED)
    restarted = source(proxy.url, ledger)
    assert value(restarted.read(None, AUDIT_BACKED), "bike_drift_detected") == 1
    assert not [seen for seen in proxy.requests if "xcomEntries" in seen.path]
    monitored(fake, "r2", NOW - 5, validate_new_champion__new_champion_r2=0.9, validate_model__r2=0.6)
    reading = airflow.read(None, AUDIT_BACKED)
    assert value(reading, "bike_model_r2_champion_current") == 0.9
    assert "bike_drift_detected" not in reading.observations


def test_only_what_is_wanted_is_fetched_and_an_alias_counts_for_its_metric(fake: FakeAirflow, proxy: FaultProxy):
    monitored(fake, validate_new_champion__new_champion_r2=0.9, monitor_drift__drift_detected=False)
    airflow = source(proxy.url)
    reading = airflow.read(None, frozenset({"bike_model_r2_production"}))
    assert value(reading, "bike_model_r2_champion_current") == 0.9
    assert sum("xcomEntries" in seen.path for seen in proxy.requests) == 1


@BOTH
def test_drift_from_a_dict_as_text(api: str, fake: FakeAirflow, proxy: FaultProxy):
    summary = {"drift_share": 0.25, "drifted_features": ["a", "b"], "p": float("inf")}
    monitored(fake, monitor_drift__drift_summary=str(summary))
    airflow = source(proxy.url)
    reading = airflow.read(None, AUDIT_BACKED)
    assert value(reading, "bike_drift_share") == 0.25
    assert value(reading, "bike_drifted_features_count") == 2
    assert sum(seen.path.endswith("drift_summary") for seen in proxy.requests) == 1


@BOTH
def test_one_bad_xcom_costs_one_value_and_is_named(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(
        PREDICT,
        "r",
        start=NOW - 90,
        end=NOW - 80,
        predict_daily_data__rmse="nan",
        predict_daily_data__mae="x" * 10_000_000,
        predict_daily_data__r2=0.5,
        predict_daily_data__predictions_count="many",
    )
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    airflow = source(proxy.url)
    for _ in range(4):
        reading = airflow.read(None)
    assert value(reading, "bike_prediction_r2") == 0.5
    assert value(reading, "bike_records_ingested_total") == 4
    assert value(reading, "bike_predictions_generated_total") == 0
    assert {"bike_prediction_rmse", "bike_prediction_mae"}.isdisjoint(reading.observations)
    for metric, why in (("rmse", "not a number"), ("mae", "longer than"), ("predictions_generated_total", "many")):
        assert any(metric in note and why in note for note in reading.notes), (metric, reading.notes)
    proxy.forget()
    airflow.read(None)
    assert not [seen for seen in proxy.requests if "xcomEntries" in seen.path]


def test_a_user_who_may_not_read_xcoms_loses_only_those(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(PREDICT, "r", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse=4)
    fake.forbidden = "xcomEntries"
    airflow = source(proxy.url)
    reading = airflow.read(None)
    assert runs_total(reading, FETCH, "success") == 1
    gaps = {gap.metric: gap.reason for gap in reading.gaps}
    assert "may not read XCom" in gaps["bike_prediction_rmse"]
    assert "may not read XCom" in gaps["bike_records_ingested_total"]
    fake.forbidden = None
    assert value(airflow.read(None), "bike_records_ingested_total") == 4


def test_the_look_back_is_shown_when_it_is_complete(fake: FakeAirflow, proxy: FaultProxy):
    """Otherwise a counter would grow by the past, which looks to `increase()` like the present."""
    for number in range(5):
        fake.run(FETCH, f"r{number}", start=NOW - 900, end=NOW - 800 - number, fetch_to_bigquery__records_count=4)
    airflow = source(proxy.url)
    proxy.add(status(500, {}), path="r3/", times=1)
    reading = airflow.read(None)
    assert "bike_records_ingested_total" not in reading.observations
    assert value(airflow.read(reading), "bike_records_ingested_total") == 20
