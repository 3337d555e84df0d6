"""Faults in mid refresh, what is said of them, and what `check` is told."""

import time
from pathlib import Path

import pytest

from exporter.errors import SourceError, SourceTimeout
from exporter.ledger import Ledger
from testbed.fake_airflow import DAGS, NOW, PASSWORD, FakeAirflow, source
from testbed.faults import FaultProxy, drip, hang, html, status
from tests.sources.airflow.readings import runs_total, task_durations, value

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
FETCH, PREDICT, MONITOR = DAGS


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "times"), [(hang(), 1), (drip(50), 1), (status(500), 2), (html(), 2), (status(401), 2), (status(429), 2)]
)
def test_a_fault_in_mid_refresh_loses_and_doubles_nothing(fault, times: int, fake: FakeAirflow, proxy: FaultProxy):
    """Those that take a second, the whole deadline, happen once."""
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.task(FETCH, "r", "t", start=NOW - 90, end=NOW - 80)
    for path in ("/dagRuns/list", "taskInstances/list", "xcomEntries"):
        airflow = source(proxy.url, AIRFLOW_TIMEOUT_SECONDS="1")
        proxy.add(fault, path=path, times=times)
        said: list[str] = []
        for _ in range(4):
            try:
                reading = airflow.read(None)
            except SourceError as error:
                said.append(str(error))
        proxy.clear()
        assert PASSWORD not in "".join(said)
        assert runs_total(reading, FETCH, "success") == 1
        assert task_durations(reading, FETCH, "t", "success") == (1, 10.0)
        assert value(reading, "bike_records_ingested_total") == 4


def test_a_hung_airflow_is_cut_off_by_interrupt(proxy: FaultProxy):
    airflow = source(proxy.url)
    airflow.read(None)
    proxy.forget()
    proxy.add(hang())
    import threading

    threading.Thread(target=lambda: (proxy.wait_for_requests(1), airflow.interrupt())).start()
    began = time.monotonic()
    with pytest.raises(SourceTimeout):
        airflow.read(None)
    assert time.monotonic() - began < 20, "the deadline is 30 s"


def test_requests_are_counted_by_code(fake: FakeAirflow, proxy: FaultProxy):
    airflow = source(proxy.url)
    assert airflow.telemetry() == {"mlops_exporter_airflow_requests_total": ()}
    proxy.add(status(503), path="/dags", times=1)
    airflow.read(None)
    samples = airflow.telemetry()["mlops_exporter_airflow_requests_total"]
    assert {dict(sample.labels)["code"]: sample.value for sample in samples} == {"200": 5.0, "201": 1.0, "503": 1.0}


def test_no_secret_in_what_is_kept(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    airflow = source(proxy.url, ledger)
    reading = airflow.read(None)
    ledger.save_reading(reading)
    ledger.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (PASSWORD, *fake.tokens):
        assert secret.encode() not in kept
        assert secret not in repr(reading) + repr(vars(airflow))


@BOTH
def test_the_survey_for_check(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(MONITOR, "r", start=NOW - 90, end=NOW - 80, monitor_drift__drift_detected=True)
    fake.dags.remove(PREDICT)
    fake.paused.add(FETCH)
    survey = source(proxy.url).survey()
    assert (survey.api, survey.missing, survey.paused) == (api, (PREDICT,), (FETCH,))
    assert {spec.key for spec, why in survey.xcoms.items() if why is None} == {"records_count", "drift_detected"}
    assert {why for spec, why in survey.xcoms.items() if spec.key == "drift_summary"} == {"was not pushed"}
    assert survey.without_run == (PREDICT,)


@BOTH
@pytest.mark.parametrize(
    ("run_id", "pushed", "mapped", "why"),
    [
        ("r", {}, False, "was not pushed"),
        ("r", {}, True, "was pushed by mapped copies of its task, whose XComs are not read"),
        ("2026/01/01", {"predict_daily_data__rmse": 8.5}, False, "its id holds a /"),
        ("r", {"predict_daily_data__rmse": "many"}, False, "not a number: 'many'"),
        ("r", {"predict_daily_data__rmse": "numpy.int64@version=1(7)"}, False, None),
    ],
)
def test_check_and_a_refresh_give_one_answer(
    api: str,
    run_id: str,
    pushed: dict[str, object],
    mapped: bool,
    why: str | None,
    fake: FakeAirflow,
    proxy: FaultProxy,
):
    fake.run(PREDICT, run_id, start=NOW - 90, end=NOW - 80, **pushed)
    if mapped:
        fake.mapped_xcoms.add((PREDICT, run_id, "predict_daily_data", "rmse"))
    survey = source(proxy.url).survey()
    (said,) = (why for spec, why in survey.xcoms.items() if spec.key == "rmse")
    reading = source(proxy.url).read(None)
    gaps = {gap.metric: gap.reason for gap in reading.gaps}
    if why is None:
        assert said is None
        assert value(reading, "bike_prediction_rmse") == 7
    else:
        assert why in str(said)
        assert gaps["bike_prediction_rmse"] == f"newest successful run: XCom {PREDICT}/predict_daily_data/rmse {said}"


@BOTH
def test_a_counters_mapped_xcom_is_named(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80)
    fake.mapped_xcoms.add((FETCH, "r", "fetch_to_bigquery", "records_count"))
    reading = source(proxy.url).read(None)
    assert value(reading, "bike_records_ingested_total") == 0
    assert any("bike_records_ingested_total" in note and "mapped copies" in note for note in reading.notes)


@BOTH
def test_an_airflow_that_is_replaced_costs_one_refresh(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    airflow = source(proxy.url)
    airflow.read(None)
    for fake.api in ("v1" if api == "v2" else "v2", api):
        with pytest.raises(SourceError) as caught:
            airflow.read(None)
        assert caught.value.reason == "not_found"
        reading = airflow.read(None)
        assert reading.facts["api"] == fake.api
        assert runs_total(reading, FETCH, "success") == 1
        assert value(reading, "bike_records_ingested_total") == 4
