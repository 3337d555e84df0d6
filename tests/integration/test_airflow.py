"""The Airflow source against real Airflows: 2.11 (REST v1) and 3.3 (REST v2), with DAGs that push real XComs.

What is expected is read from Airflow's own database.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from exporter.catalog_parser import load_catalog
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import HistogramSample, Reading, Sample
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.session import Session
from exporter.sources.airflow.source import AirflowSource
from testbed.airflow import NOBODY, PASSWORD, TOKEN_SECONDS, VIEWER, Airflow
from testbed.faults import FaultProxy

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[2]
FETCH, PREDICT, MONITOR = "daily_fetch_bike_data", "daily_prediction", "monitor_and_fine_tune"
ODD = "odd_tasks"
AUDIT_BACKED = frozenset(metric.name for metric, _ in load_catalog().audit_metrics())
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=[2, 3], ids=["airflow2", "airflow3"])
def airflow(request: pytest.FixtureRequest) -> Airflow:
    """One Airflow after the other, each with one run of every DAG of the pipeline."""
    engine: Airflow = request.getfixturevalue(f"airflow{request.param}")
    engine.trigger(FETCH, {"fetch_to_bigquery.records_count": 311})
    engine.trigger(PREDICT, {"predict_daily_data.predictions_count": "17"})
    engine.trigger(MONITOR)
    return engine


def env(airflow: Airflow, url: str | None = None, user: str = VIEWER, **more: str) -> dict[str, str]:
    base = {"AIRFLOW_BASE_URL": url or airflow.url, "AIRFLOW_USERNAME": user, "AIRFLOW_PASSWORD": PASSWORD}
    # A real Airflow on a busy machine takes its time; what a deadline does is tested with a fake one.
    return {**base, "AIRFLOW_TIMEOUT_SECONDS": "120", **more}


def source(airflow: Airflow, ledger: Ledger | None = None, **more: str) -> AirflowSource:
    return AirflowSource(Settings.from_env(env(airflow, **more)), load_catalog(), ledger or Ledger.open(None))


def value(reading: Reading, metric: str, **labels: str) -> float | None:
    observation = reading.observations.get(metric)
    for sample in observation.samples if observation else ():
        if dict(sample.labels) == labels:
            assert isinstance(sample, Sample)
            return sample.value
    return None


def runs_counted(reading: Reading) -> dict[tuple[str, str], int]:
    samples = reading.observations["airflow_dag_runs_total"].samples
    return {tuple(v for _, v in s.labels): int(s.value) for s in samples if isinstance(s, Sample) and s.value}  # type: ignore[misc]


def histogram(reading: Reading, metric: str) -> dict[tuple[str, ...], tuple[int, float]]:
    samples = reading.observations[metric].samples
    return {
        tuple(v for _, v in s.labels): (sum(s.counts), s.sum)
        for s in samples
        if isinstance(s, HistogramSample) and sum(s.counts)
    }


def runs_stored(airflow: Airflow) -> dict[tuple[str, str], int]:
    rows = airflow.rows(
        "SELECT dag_id, state, count(*) FROM dag_run WHERE state IN ('success', 'failed') GROUP BY dag_id, state"
    )
    return {(dag, state): count for dag, state, count in rows}


SECONDS = "(julianday(end_date) - julianday(start_date)) * 86400"


def run_durations_stored(airflow: Airflow) -> dict[tuple[str, ...], tuple[int, float]]:
    rows = airflow.rows(
        f"SELECT dag_id, state, count(*), sum({SECONDS}) FROM dag_run "
        "WHERE state IN ('success', 'failed') AND start_date IS NOT NULL GROUP BY dag_id, state"
    )
    return {(dag, state): (count, total) for dag, state, count, total in rows}


def task_durations_stored(airflow: Airflow) -> dict[tuple[str, ...], tuple[int, float]]:
    rows = airflow.rows(
        f"SELECT dag_id, task_id, state, count(*), sum({SECONDS}) FROM task_instance "
        "WHERE state IN ('success', 'failed') AND start_date IS NOT NULL GROUP BY dag_id, task_id, state"
    )
    return {(dag, task, state): (count, total) for dag, task, state, count, total in rows}


def pushed_in_all(airflow: Airflow, dag_id: str, key: str) -> float:
    """The sum of an XCom over successful runs, from Airflow's database."""
    rows = airflow.rows(
        "SELECT x.value FROM xcom x JOIN dag_run r ON r.dag_id = x.dag_id AND r.run_id = x.run_id "
        "WHERE x.dag_id = ? AND x.key = ? AND r.state = 'success'",
        (dag_id, key),
    )
    # SQLite gives a JSON column that holds a number as a number.
    return sum(float(json.loads(content) if isinstance(content, str | bytes) else content) for (content,) in rows)


def give_starts(airflow: Airflow) -> None:
    """`airflow dags test` of Airflow 2 leaves its tasks without a start; a scheduler's tasks have one."""
    if airflow.major == 2:
        airflow.write(
            "UPDATE task_instance SET start_date = datetime(end_date, '-7 seconds') || '.250000' "
            "WHERE start_date IS NULL AND end_date IS NOT NULL"
        )


def approximately(stored: dict[tuple[str, ...], tuple[int, float]]) -> dict[tuple[str, ...], object]:
    """For comparing sums: julianday() is exact to about 0.1 ms."""
    return {key: (count, pytest.approx(total, abs=0.01 * count)) for key, (count, total) in stored.items()}


# -- values ------------------------------------------------------------------------------------------------------------


def test_every_metric_has_the_value_that_the_dags_produced(airflow: Airflow):
    give_starts(airflow)
    reader = source(airflow)
    reading = reader.read(None, AUDIT_BACKED)
    expected = {
        "bike_model_r2_champion_current": 0.825,
        "bike_model_r2_champion_baseline": 0.815,
        "bike_model_r2_challenger_current": 0.83,
        "bike_model_r2_challenger_baseline": 0.81,
        "bike_model_rmse_production": 44.25,
        "bike_model_improvement_delta": 0.02,
        "bike_drift_detected": 1.0,
        "bike_drift_share": 0.375,
        "bike_drifted_features_count": 3.0,
        "bike_prediction_rmse": 41.5,
        "bike_prediction_mae": 30.25,
        "bike_prediction_r2": 0.8125,
        "bike_records_ingested_total": pushed_in_all(airflow, FETCH, "records_count"),
        "bike_predictions_generated_total": pushed_in_all(airflow, PREDICT, "predictions_count"),
    }
    assert {name: value(reading, name) for name in expected} == expected
    stored = runs_stored(airflow)
    assert runs_counted(reading) == {key: count for key, count in stored.items() if key[0] in (FETCH, PREDICT, MONITOR)}
    assert histogram(reading, "airflow_dag_run_duration_seconds") == approximately(run_durations_stored(airflow))
    assert histogram(reading, "airflow_task_duration_seconds") == approximately(task_durations_stored(airflow))
    for dag in (FETCH, PREDICT, MONITOR):
        (newest,) = airflow.rows(
            "SELECT max((julianday(end_date) - 2440587.5) * 86400) FROM dag_run WHERE state = 'success' AND dag_id = ?",
            (dag,),
        )[0]
        assert value(reading, "airflow_dag_last_success_timestamp_seconds", dag_id=dag) == pytest.approx(
            newest, abs=0.01
        )
        assert value(reading, "airflow_dag_run_active_seconds", dag_id=dag) == 0
        assert value(reading, "airflow_dag_runs_total", dag_id=dag, state="failed") is not None
    assert reading.gaps == ()
    assert reading.notes == ()
    assert reading.facts["api"] == f"v{airflow.major - 1}"


def test_twenty_more_refreshes_change_nothing_and_ask_two_questions_each(airflow: Airflow):
    with FaultProxy(airflow.url) as proxy:
        reader = source(airflow, url=proxy.url)
        first = reader.read(None)
        reader.read(first)
        proxy.forget()
        began = time.monotonic()
        for _ in range(20):
            again = reader.read(first)
            before = {
                name: seen for name, seen in first.observations.items() if name != "airflow_dag_run_active_seconds"
            }
            after = {
                name: seen for name, seen in again.observations.items() if name != "airflow_dag_run_active_seconds"
            }
            assert after == before
        log_ins = proxy.count("POST", "/auth/token")
        assert len(proxy.requests) - log_ins == 40
        assert log_ins <= 2 + (time.monotonic() - began) / TOKEN_SECONDS


def test_running_failed_cleared_and_marked_by_hand(airflow: Airflow, tmp_path: Path):
    reader = source(airflow)
    reading = reader.read(None)
    before = runs_counted(reading)

    def grown(reading: Reading) -> dict[tuple[str, str], int]:
        now = runs_counted(reading)
        return {key: now.get(key, 0) - before.get(key, 0) for key in now if now.get(key, 0) != before.get(key, 0)}

    go_on = tmp_path / "go on"
    running = airflow.start_run(FETCH, {"until": str(go_on), "fetch_to_bigquery.records_count": 1000})
    end = time.monotonic() + 120
    while not value(reading := reader.read(reading), "airflow_dag_run_active_seconds", dag_id=FETCH):
        assert time.monotonic() < end, "the run never showed up as running"
        time.sleep(0.2)
    assert grown(reading) == {}
    go_on.touch()
    running.wait()
    total = value(reading, "bike_records_ingested_total")
    reading = reader.read(reading)
    assert grown(reading) == {(FETCH, "success"): 1}
    assert value(reading, "bike_records_ingested_total") == total + 1000  # type: ignore[operator]
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=FETCH) == 0

    airflow.trigger(PREDICT, {"fail": True, "predict_daily_data.rmse": 99.0})
    reading = reader.read(reading)
    assert grown(reading) == {(FETCH, "success"): 1, (PREDICT, "failed"): 1}
    assert value(reading, "bike_prediction_rmse") == 41.5

    run_id = airflow.rows(
        "SELECT run_id FROM dag_run WHERE dag_id = ? AND state = 'failed' ORDER BY id DESC", (PREDICT,)
    )[0][0]
    path = f"/dags/{PREDICT}/dagRuns/{run_id.replace('+', '%2B')}"
    airflow.api("POST", path + "/clear", {"dry_run": False})
    assert airflow.rows("SELECT state FROM dag_run WHERE run_id = ?", (run_id,)) == [("queued",)]
    reading = reader.read(reading)
    assert grown(reading) == {(FETCH, "success"): 1, (PREDICT, "failed"): 1}
    airflow.api("PATCH", path, {"state": "success"})
    for _ in range(2):
        reading = reader.read(reading)
        assert grown(reading) == {(FETCH, "success"): 1, (PREDICT, "failed"): 1, (PREDICT, "success"): 1}

    airflow.api("PATCH", path, {"state": "failed"})  # it had ended: marked otherwise, it did not end again
    assert grown(reader.read(reading))[PREDICT, "failed"] == 1
    # Back to what was counted last, so that the tests after this one can compare totals with the database.
    airflow.api("PATCH", path, {"state": "success"})

    body: dict[str, object] = {"dag_run_id": f"queued_{run_id}", "conf": {}}
    if airflow.major == 3:
        body["logical_date"] = None
    queued = airflow.api("POST", f"/dags/{MONITOR}/dagRuns", body)["dag_run_id"]
    timed = histogram(reading, "airflow_dag_run_duration_seconds").get((MONITOR, "failed"), (0, 0.0))
    airflow.api("PATCH", f"/dags/{MONITOR}/dagRuns/{queued.replace('+', '%2B')}", {"state": "failed"})
    for _ in range(2):
        reading = reader.read(reading)
        assert grown(reading)[MONITOR, "failed"] == 1
        # It never started, so it has no duration.
        after = histogram(reading, "airflow_dag_run_duration_seconds").get((MONITOR, "failed"), (0, 0.0))
        assert after == timed


def test_tasks_that_end_in_every_way(airflow: Airflow):
    reader = source(airflow, AIRFLOW_DAG_IDS=ODD)
    before = runs_counted(reader.read(None)).get((ODD, "failed"), 0)
    airflow.trigger(ODD, {"fail": True})
    give_starts(airflow)
    states = dict(airflow.rows("SELECT task_id, state FROM task_instance WHERE dag_id = ? AND map_index < 1", (ODD,)))
    assert states == {
        "mapped": "success",
        "retried": "success",
        "skipped": "skipped",
        "failed": "failed",
        "never_run": "upstream_failed",
    }
    for _ in range(2):
        reading = reader.read(None)
    assert runs_counted(reading)[ODD, "failed"] == before + 1
    counts = {key[1:]: count for key, (count, _) in histogram(reading, "airflow_task_duration_seconds").items()}
    assert counts == {("mapped", "success"): 3, ("retried", "success"): 1, ("failed", "failed"): 1}


def test_bad_xcoms_cost_one_value_each(airflow: Airflow):
    reader = source(airflow)
    total = value(reader.read(None), "bike_predictions_generated_total")
    conf = {"rmse": "n/a", "mae": "long 10000000", "r2": 0.75, "predictions_count": "absent"}
    airflow.trigger(PREDICT, {f"predict_daily_data.{key}": content for key, content in conf.items()})
    reading = reader.read(None)
    assert value(reading, "bike_prediction_r2") == 0.75
    assert "bike_prediction_rmse" not in reading.observations
    assert "bike_prediction_mae" not in reading.observations
    assert value(reading, "bike_predictions_generated_total") == total
    notes = "\n".join(reading.notes)
    assert "bike_prediction_rmse: XCom daily_prediction/predict_daily_data/rmse cannot be used: not a number" in notes
    assert "bike_prediction_mae" in notes
    assert "longer than" in notes
    airflow.trigger(PREDICT)
    reading = reader.read(reading)
    assert value(reading, "bike_prediction_rmse") == 41.5
    assert reading.notes == ()


# -- questions and answers ---------------------------------------------------------------------------------------------


def test_what_it_says_when_it_is_kept_out(airflow: Airflow):
    with pytest.raises(SourceUnavailable) as caught:
        source(airflow, AIRFLOW_PASSWORD="not-this-one").read(None)
    assert caught.value.reason == "auth"
    assert "AIRFLOW_PASSWORD" in str(caught.value)
    with pytest.raises(SourceUnavailable, match="log-in") as caught:
        source(airflow, AIRFLOW_USERNAME="", AIRFLOW_PASSWORD="").read(None)
    assert caught.value.reason == "auth"
    with pytest.raises(SourceUnavailable, match="AIRFLOW_BASE_URL") as caught:
        source(airflow, url=airflow.url + "/elsewhere").read(None)
    assert caught.value.reason == "not_found"
    if airflow.major == 2:
        with pytest.raises(SourceUnavailable, match="keeps this user out"):
            source(airflow, user=NOBODY).read(None)
    other = {2: "v2", 3: "v1"}[airflow.major]
    with pytest.raises(SourceUnavailable) as caught:
        source(airflow, AIRFLOW_API=other).read(None)
    assert "AIRFLOW_API" in str(caught.value)


def test_a_missing_dag_is_named(airflow: Airflow):
    reading = source(airflow, AIRFLOW_DAG_IDS=f"{FETCH},no_such_dag").read(None)
    assert any("no DAG no_such_dag" in note for note in reading.notes)
    assert {key[0] for key in runs_counted(reading)} == {FETCH}


def test_all_dags(airflow: Airflow):
    reading = source(airflow, AIRFLOW_DAG_IDS="*").read(None)
    assert set(str(reading.facts["dags"]).split(", ")) >= {FETCH, PREDICT, MONITOR, ODD}


def test_the_survey(airflow: Airflow):
    survey = source(airflow).survey()
    assert survey.version.startswith(f"{airflow.major}.")
    assert not survey.missing
    assert not survey.without_run
    assert not [why for why in survey.xcoms.values() if why is not None]


def test_a_token_that_has_really_expired_is_renewed(airflow3: Airflow):
    # Its clock stands still, so it believes in its token for ever; the server does not.
    session = Session(Settings.from_env(env(airflow3)), monotonic=lambda: 1000.0)
    api = AirflowApi(session)
    assert api.dags()
    # Airflow gives this token later, so it expires later.
    other = requests.post(
        f"{airflow3.url}/auth/token", json={"username": VIEWER, "password": PASSWORD}, timeout=30
    ).json()["access_token"]
    end = time.monotonic() + 10 * TOKEN_SECONDS
    while requests.get(f"{airflow3.url}/api/v2/dags", headers={"Authorization": f"Bearer {other}"}, timeout=30).ok:
        assert time.monotonic() < end, "the token never expired"
        time.sleep(0.5)
    assert api.dags()
    assert session.sent()["401"] == 1
    assert session.sent()["201"] == 2


def test_a_long_history_is_counted_once_and_then_not_asked_for(airflow: Airflow):
    now = time.time()
    airflow.copy_runs(ODD, "history", (now - 900 - 1500 * number for number in range(1200)), seconds=90)
    with FaultProxy(airflow.url) as proxy:
        reader = source(airflow, url=proxy.url, AIRFLOW_DAG_IDS=ODD)
        reading = reader.read(None)
        while any("Still counting" in note for note in reading.notes):
            reading = reader.read(reading)
        assert runs_counted(reading) == {key: count for key, count in runs_stored(airflow).items() if key[0] == ODD}
        assert histogram(reading, "airflow_dag_run_duration_seconds")[ODD, "success"] == (
            1200,
            pytest.approx(108_000.0),
        )
        assert sum(seen.path.endswith("dagRuns/list") for seen in proxy.requests) < 10
        reader.read(reading)
        proxy.forget()
        reader.read(reading)
        assert len([seen for seen in proxy.requests if seen.path != "/auth/token"]) == 2


# -- kills -------------------------------------------------------------------------------------------------------------

READER = """
import os, sys
from pathlib import Path
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.sources.airflow.source import AirflowSource
source = AirflowSource(Settings.from_env(os.environ), load_catalog(), Ledger.open(Path(sys.argv[1])))
print("started", flush=True)
while True:
    source.read(None)
"""
RESTARTS = 12


@pytest.fixture
def end_work(airflow: Airflow) -> Iterator[Callable[[], None]]:
    """Runs go on, real ones one after the other and copies in between, until this is called."""
    done = threading.Event()

    def real() -> None:
        number = 0
        while not done.is_set():
            number += 1
            # SQLite may be locked for too long. What came of it is read from the database in the end.
            airflow.trigger(FETCH, {"fetch_to_bigquery.records_count": number}, check=False)

    def copies() -> None:
        number = 0
        while not done.wait(0.2):
            number += 1
            with contextlib.suppress(sqlite3.OperationalError):
                airflow.copy_runs(PREDICT, f"copy_{time.time()}", [time.time()], seconds=number % 50)

    threads = [threading.Thread(target=target) for target in (real, copies)]
    for thread in threads:
        thread.start()

    def end() -> None:
        done.set()
        for thread in threads:
            thread.join(120)

    yield end
    end()
    # Hundreds of runs without XComs, each of which the next test's exporter would ask for.
    airflow.write("DELETE FROM dag_run WHERE run_id LIKE 'copy!_%' ESCAPE '!'")


def test_kills_at_random_moments_neither_lose_nor_double(
    airflow: Airflow, end_work: Callable[[], None], tmp_path: Path
):
    chance = random.Random(airflow.major)
    environment = {**os.environ, **env(airflow), "PYTHONPATH": str(ROOT)}
    for _ in range(RESTARTS):
        child = subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        time.sleep(chance.uniform(0.0, 1.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    end_work()
    ledger = Ledger.open(tmp_path)
    assert ledger.problem is None
    reader = source(airflow, ledger)
    reading = reader.read(None)
    for _ in range(40):  # a refresh adds up as many XComs as fit into its share of the deadline
        reading = reader.read(None)
        if not reading.facts["pending_xcoms"]:
            break
    pipeline = (FETCH, PREDICT, MONITOR)
    assert runs_counted(reading) == {key: count for key, count in runs_stored(airflow).items() if key[0] in pipeline}
    assert value(reading, "bike_records_ingested_total") == pushed_in_all(airflow, FETCH, "records_count")
    stored = {key: entry for key, entry in run_durations_stored(airflow).items() if key[0] in pipeline}
    assert histogram(reading, "airflow_dag_run_duration_seconds") == approximately(stored)
    ledger.close()
