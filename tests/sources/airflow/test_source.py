"""The source: what it counts, what it asks, and which DAGs it watches."""

from pathlib import Path

import pytest

from exporter.ledger import Ledger
from exporter.snapshot import HistogramSample
from testbed.fake_airflow import DAGS, DAY, NOW, FakeAirflow, source
from testbed.faults import FaultProxy
from tests.sources.airflow.readings import run_durations, runs_total, task_durations, value

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
FETCH, PREDICT, MONITOR = DAGS


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


# -- runs --------------------------------------------------------------------------------------------------------------


@BOTH
def test_known_series_exist_from_the_start_at_zero(api: str, proxy: FaultProxy):
    reading = source(proxy.url).read(None)
    for dag in DAGS:
        for state in ("success", "failed"):
            assert runs_total(reading, dag, state) == 0
            assert run_durations(reading, dag, state) == (0, 0)
        assert value(reading, "airflow_dag_run_active_seconds", dag_id=dag) == 0
        assert value(reading, "airflow_dag_last_success_timestamp_seconds", dag_id=dag) is None
    assert value(reading, "bike_records_ingested_total") == 0
    assert "bike_prediction_rmse" not in reading.observations


@BOTH
def test_runs_are_counted_once_each_and_not_again(api: str, fake: FakeAirflow, proxy: FaultProxy):
    for number in range(20):
        end = NOW - 5 * number
        fake.run(FETCH, f"s{number}", start=end - 40, end=end)
    fake.run(FETCH, "f", "failed", start=NOW - 4000, end=NOW - 100)
    fake.run("another", "x", start=NOW - 100, end=NOW - 50)
    airflow = source(proxy.url)
    first = airflow.read(None)
    assert runs_total(first, FETCH, "success") == 20
    assert runs_total(first, FETCH, "failed") == 1
    assert run_durations(first, FETCH, "success") == (20, 800.0)
    assert run_durations(first, FETCH, "failed") == (1, 3900.0)
    assert value(first, "airflow_dag_last_success_timestamp_seconds", dag_id=FETCH) == NOW
    assert first.observations["airflow_dag_runs_total"].observed_at == NOW
    assert runs_total(first, "another", "success") is None
    for _ in range(20):
        assert airflow.read(first).observations == first.observations
    fake.now += 60
    fake.run(FETCH, "new", start=NOW + 5, end=NOW + 55)
    assert runs_total(airflow.read(first), FETCH, "success") == 21


def test_buckets_hold_their_upper_bound(fake: FakeAirflow, proxy: FaultProxy):
    for number, seconds in enumerate((10.0, 10.5, 30.0, 28800.0, 28801.0)):
        fake.run(FETCH, f"r{number}", start=NOW - 30000, end=NOW - 30000 + seconds)
    reading = source(proxy.url).read(None)
    sample = next(
        s
        for s in reading.observations["airflow_dag_run_duration_seconds"].samples
        if dict(s.labels) == {"dag_id": FETCH, "state": "success"}
    )
    assert isinstance(sample, HistogramSample)
    assert sample.counts == (1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1)


@BOTH
def test_a_cleared_run_that_ends_again_has_ended_twice(api: str, fake: FakeAirflow, proxy: FaultProxy):
    row = fake.run(FETCH, "r", "failed", start=NOW - 200, end=NOW - 100, fetch_to_bigquery__records_count=7)
    airflow = source(proxy.url)
    before = airflow.read(None)
    assert (runs_total(before, FETCH, "failed"), runs_total(before, FETCH, "success")) == (1, 0)
    row.update(state="running", start=NOW - 90, end=None)
    during = airflow.read(before)
    assert (runs_total(during, FETCH, "failed"), runs_total(during, FETCH, "success")) == (1, 0)
    assert value(during, "airflow_dag_run_active_seconds", dag_id=FETCH) == 90
    assert value(during, "bike_records_ingested_total") == 0
    row.update(state="success", end=NOW - 10)
    for _ in range(3):
        after = airflow.read(during)
        assert (runs_total(after, FETCH, "failed"), runs_total(after, FETCH, "success")) == (1, 1)
        assert run_durations(after, FETCH, "success") == (1, 80.0)
        assert value(after, "bike_records_ingested_total") == 7


def test_an_xcom_that_was_not_written_anew_is_added_once(fake: FakeAirflow, proxy: FaultProxy):
    row = fake.run(FETCH, "r", start=NOW - 200, end=NOW - 100, fetch_to_bigquery__records_count=7)
    airflow = source(proxy.url)
    assert value(airflow.read(None), "bike_records_ingested_total") == 7
    row.update(start=NOW - 60, end=NOW - 50)  # only a later task was cleared
    reading = airflow.read(None)
    assert runs_total(reading, FETCH, "success") == 2
    assert value(reading, "bike_records_ingested_total") == 7
    row.update(start=NOW - 40, end=NOW - 30)
    fake.xcom(FETCH, "r", "fetch_to_bigquery", "records_count", 5, written=NOW - 35)
    assert value(airflow.read(None), "bike_records_ingested_total") == 12


@BOTH
def test_a_run_marked_by_hand_after_its_end_is_not_counted_again(api: str, fake: FakeAirflow, proxy: FaultProxy):
    row = fake.run(FETCH, "r", start=NOW - 200, end=NOW - 100)
    airflow = source(proxy.url)
    airflow.read(None)
    row["state"] = "failed"
    reading = airflow.read(None)
    assert (runs_total(reading, FETCH, "success"), runs_total(reading, FETCH, "failed")) == (1, 0)


@BOTH
def test_runs_without_start_or_end(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "marked failed while queued", "failed", start=None, end=NOW - 10)
    fake.run(FETCH, "ends before it starts", start=NOW - 10, end=NOW - 20)
    fake.run(FETCH, "queued", "queued")
    fake.run(FETCH, "running, not started", "running")
    fake.run(PREDICT, "ended, but when", "success", start=NOW - 30)
    airflow = source(proxy.url)
    for _ in range(3):
        reading = airflow.read(None)
        assert runs_total(reading, FETCH, "failed") == 1
        assert run_durations(reading, FETCH, "failed") == (0, 0)
        assert runs_total(reading, FETCH, "success") == 1
        assert run_durations(reading, FETCH, "success") == (0, 0)
        # Airflow leaves what has no end out of every list by end.
        assert runs_total(reading, PREDICT, "success") == 0
        assert run_durations(reading, PREDICT, "success") == (0, 0)
        assert value(reading, "airflow_dag_run_active_seconds", dag_id=FETCH) == 0


def test_the_oldest_running_run_is_the_active_one(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "a", "running", start=NOW - 30)
    fake.run(FETCH, "b", "running", start=NOW - 4000)
    fake.run(PREDICT, "c", "running", start=NOW + 30)
    reading = source(proxy.url).read(None)
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=FETCH) == 4000
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=PREDICT) == 0


@BOTH
@pytest.mark.parametrize("skew", [-7200.0, 7200.0, 40 * DAY])
def test_clocks_that_disagree_change_nothing(api: str, skew: float, fake: FakeAirflow, proxy: FaultProxy):
    fake.now = NOW + skew
    fake.run(FETCH, "old", start=fake.now - 31 * DAY, end=fake.now - 31 * DAY)
    fake.run(FETCH, "r", start=fake.now - 29 * DAY - 60, end=fake.now - 29 * DAY)
    fake.run(FETCH, "now", "running", start=fake.now - 120)
    airflow = source(proxy.url)
    reading = airflow.read(None)
    assert runs_total(reading, FETCH, "success") == 1
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=FETCH) == 120
    assert reading.facts["clock_ahead_seconds"] == skew
    fake.now += 60
    fake.run(FETCH, "s", start=fake.now - 30, end=fake.now - 1)
    assert runs_total(airflow.read(None), FETCH, "success") == 2


def test_an_end_in_the_future_hides_nothing(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "from tomorrow", start=NOW, end=NOW + DAY)
    airflow = source(proxy.url)
    assert runs_total(airflow.read(None), FETCH, "success") == 1
    fake.now += 60
    fake.run(FETCH, "r", start=NOW, end=NOW + 55)
    for _ in range(3):
        assert runs_total(airflow.read(None), FETCH, "success") == 2


def test_what_comes_to_light_late_is_counted_within_the_overlap(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "a", start=NOW - 20, end=NOW)
    airflow = source(proxy.url)
    airflow.read(None)
    fake.run(FETCH, "b", start=NOW - 700, end=NOW - 590)
    assert runs_total(airflow.read(None), FETCH, "success") == 2
    assert runs_total(airflow.read(None), FETCH, "success") == 2


# -- tasks -------------------------------------------------------------------------------------------------------------


@BOTH
def test_tasks_are_counted_at_their_last_end(api: str, fake: FakeAirflow, proxy: FaultProxy):
    run = fake.run(FETCH, "r", "running", start=NOW - 300)
    retried = fake.task(FETCH, "r", "load", "up_for_retry", start=NOW - 290, end=NOW - 280)
    for index in range(3):
        fake.task(FETCH, "r", "mapped", start=NOW - 270, end=NOW - 260, map_index=index)
    fake.task(FETCH, "r", "skipped", "skipped", start=NOW - 250, end=NOW - 250)
    fake.task(FETCH, "r", "after", "upstream_failed", start=NOW - 250, end=NOW - 250)
    fake.task(FETCH, "r", "waiting", "scheduled")
    fake.task(FETCH, "r", "by hand", "failed", end=NOW - 240)
    airflow = source(proxy.url)
    reading = airflow.read(None)
    assert task_durations(reading, FETCH, "load", "success") is None
    assert task_durations(reading, FETCH, "mapped", "success") == (3, 30.0)
    assert task_durations(reading, FETCH, "mapped", "failed") == (0, 0)
    assert task_durations(reading, FETCH, "skipped", "success") is None
    assert task_durations(reading, FETCH, "after", "failed") is None
    assert task_durations(reading, FETCH, "by hand", "failed") == (0, 0)
    retried.update(state="success", start=NOW - 200, end=NOW - 150)
    run.update(state="success", end=NOW - 140)
    for _ in range(3):
        reading = airflow.read(None)
        assert task_durations(reading, FETCH, "load", "success") == (1, 50.0)
        assert task_durations(reading, FETCH, "mapped", "success") == (3, 30.0)


def test_a_user_who_may_not_read_tasks_loses_only_those(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 20, end=NOW)
    fake.forbidden = "taskInstances"
    reading = source(proxy.url).read(None)
    assert runs_total(reading, FETCH, "success") == 1
    gaps = {gap.metric: gap.reason for gap in reading.gaps}
    assert "may not read finished tasks" in gaps["airflow_task_duration_seconds"]


# -- how much is asked -------------------------------------------------------------------------------------------------


@BOTH
def test_an_idle_airflow_is_asked_two_questions(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - DAY, end=NOW - DAY + 20, fetch_to_bigquery__records_count=7)
    fake.run(PREDICT, "r", start=NOW - DAY, end=NOW - DAY + 20, predict_daily_data__rmse=1.5)
    airflow = source(proxy.url)
    for _ in range(3):
        airflow.read(None)
    proxy.forget()
    for _ in range(20):
        fake.now += 60
        airflow.read(None)
    assert len(proxy.requests) == 40


@BOTH
@pytest.mark.parametrize("history", [0, 1000])
def test_requests_do_not_grow_with_history(api: str, history: int, fake: FakeAirflow, proxy: FaultProxy):
    fake.dags = [f"dag_{number:03}" for number in range(100)]
    for number in range(history):
        end = NOW - 2000 - number * 2000
        fake.run(fake.dags[number % 100], f"r{number}", start=end - 60, end=end)
        fake.task(fake.dags[number % 100], f"r{number}", "t", start=end - 60, end=end)
    airflow = source(proxy.url, AIRFLOW_DAG_IDS="*")
    for _ in range(3):
        reading = airflow.read(None)
    counted = sum(sample.value for sample in reading.observations["airflow_dag_runs_total"].samples)  # type: ignore
    assert counted == history
    proxy.forget()
    airflow.read(None)
    assert len(proxy.requests) == 2
    fake.run("dag_007", "new", start=NOW - 60, end=NOW)
    proxy.forget()
    airflow.read(None)
    assert len(proxy.requests) == 3


def test_sixty_thousand_task_instances(fake: FakeAirflow, proxy: FaultProxy):
    """Unevenly spread, so that windows have to be made smaller; each is counted exactly once."""
    fake.run(FETCH, "r", start=NOW - 29 * DAY, end=NOW - 10)
    for number in range(60_000):
        end = NOW - 20 - (number % 1000) * 0.5 - (number // 15_000) * 5 * DAY
        fake.task(FETCH, "r", f"t{number % 7}", start=end - 3, end=end, map_index=number)
    fake.tasks.sort(key=lambda row: float(row["end"]))
    fake.sorted_by_end = True
    # A deadline that no machine reaches: after so many windows the rest waits for the next refresh.
    airflow = source(proxy.url, AIRFLOW_TIMEOUT_SECONDS="120")
    reads = 0
    reading = airflow.read(None)
    while any("Still counting finished tasks" in note for note in reading.notes) and reads < 500:
        assert reading.observations["airflow_task_duration_seconds"].samples == ()
        assert runs_total(reading, FETCH, "success") == 1
        reading = airflow.read(None)
        reads += 1
    counts = [task_durations(reading, FETCH, f"t{number}", "success") for number in range(7)]
    assert sum(count[0] for count in counts if count) == 60_000
    assert reads > 0
    assert sum(seen.path.endswith("taskInstances/list") for seen in proxy.requests) < 400 + 10 * reads


def test_more_than_a_page_at_one_moment(fake: FakeAirflow, proxy: FaultProxy):
    fake.page_cap = 40
    for number in range(130):
        fake.run(FETCH, f"r{number}", start=NOW - 100, end=NOW - 50)
    reading = source(proxy.url).read(None)
    assert runs_total(reading, FETCH, "success") == 130


# -- which DAGs --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_missing_dag_is_named_and_invents_nothing(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.dags.remove(PREDICT)
    airflow = source(proxy.url)
    reading = airflow.read(None)
    assert any(f"no DAG {PREDICT}" in note for note in reading.notes)
    assert runs_total(reading, PREDICT, "success") is None
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=PREDICT) is None
    assert "bike_predictions_generated_total" not in reading.observations
    assert {gap.metric for gap in reading.gaps} >= {"bike_prediction_rmse", "bike_predictions_generated_total"}
    assert runs_total(reading, FETCH, "success") == 0
    fake.run(PREDICT, "r", start=NOW - 20, end=NOW - 10, predict_daily_data__predictions_count=3)
    reading = airflow.read(None)
    assert runs_total(reading, PREDICT, "success") == 1
    assert not reading.notes


def test_a_dag_that_airflow_no_longer_lists_keeps_its_totals(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    fake.run(FETCH, "r", start=NOW - 20, end=NOW - 10, fetch_to_bigquery__records_count=3)
    ledger = Ledger.open(tmp_path)
    source(proxy.url, ledger).read(None)
    fake.dags.remove(FETCH)
    reading = source(proxy.url, ledger).read(None)
    assert runs_total(reading, FETCH, "success") == 1
    assert value(reading, "bike_records_ingested_total") == 3
    assert any(f"no DAG {FETCH}" in note for note in reading.notes)


def test_all_dags_up_to_a_cap_with_the_needed_ones_first(fake: FakeAirflow, proxy: FaultProxy):
    fake.dags += [f"a{number}" for number in range(10)]
    fake.paused.add("a0")
    reading = source(proxy.url, AIRFLOW_DAG_IDS="*", AIRFLOW_MAX_DAGS="5").read(None)
    assert reading.facts["dags"] == ", ".join([*DAGS, "a0", "a1"])
    assert any("8 DAGs are not watched" in note for note in reading.notes)
    assert any("Paused in Airflow: a0" in note for note in reading.notes)


def test_a_dag_that_is_left_out_takes_its_metrics_along(fake: FakeAirflow, proxy: FaultProxy):
    reading = source(proxy.url, AIRFLOW_DAG_IDS=f"{FETCH},{MONITOR}").read(None)
    gaps = {gap.metric: gap.reason for gap in reading.gaps}
    assert "AIRFLOW_DAG_IDS leaves it out" in gaps["bike_prediction_rmse"]


def test_a_dag_added_later_is_counted_from_the_look_back_on(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    for dag in DAGS:
        fake.run(dag, "old", start=NOW - 5 * DAY, end=NOW - 5 * DAY + 9)
        fake.run(dag, "new", start=NOW - 50, end=NOW - 10)
    ledger = Ledger.open(tmp_path)
    reading = source(proxy.url, ledger, AIRFLOW_DAG_IDS=FETCH).read(None)
    assert runs_total(reading, FETCH, "success") == 2
    airflow = source(proxy.url, ledger, AIRFLOW_DAG_IDS=",".join(DAGS))
    for _ in range(3):
        reading = airflow.read(None)
        assert [runs_total(reading, dag, "success") for dag in DAGS] == [2, 2, 2]
    proxy.forget()
    airflow.read(None)
    assert len(proxy.requests) == 2
