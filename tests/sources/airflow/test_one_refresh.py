"""One refresh in full: what is asked, in which order, and all that the reading says; and what `check` is told."""

import dataclasses
from collections.abc import Callable

import pytest

from exporter.catalog import AirflowFigure, Catalog
from exporter.catalog_parser import load_catalog
from exporter.errors import SourceError, StateError
from exporter.ledger import Ledger
from exporter.snapshot import Gap, HistogramSample, Sample
from exporter.sources.airflow.source import AirflowSource
from testbed.fake_airflow import DAGS, DAY, NOW, FakeAirflow, settings, source
from testbed.faults import FaultProxy, Reply, Request, status
from tests.sources.airflow.readings import runs_total, value

FETCH, PREDICT, MONITOR = DAGS
RUNS, TASKS = "/api/v2/dags/~/dagRuns/list", "/api/v2/dags/~/dagRuns/~/taskInstances/list"
DUE = [RUNS, RUNS]
"""What an Airflow is asked at every refresh: which runs are running, and which ended."""


def asked(proxy: FaultProxy) -> list[str]:
    """The paths that were asked for since the last call."""
    paths = [seen.path for seen in proxy.requests]
    proxy.forget()
    return paths


def clocked(url: str, at: list[float], **env: str) -> AirflowSource:
    """A source whose ages and deadlines follow this time."""
    return AirflowSource(
        settings(url, **env),
        load_catalog(),
        Ledger.open(None),
        wall=lambda: NOW,
        monotonic=lambda: at[0],
        jitter=lambda: -0.5,
    )


def slow(fake: FakeAirflow, at: list[float], *paths: str) -> Callable[[Request], Reply]:
    """The fake, on which each of these lists takes two seconds of this time."""

    def answer(request: Request) -> Reply:
        at[0] += 2.0 if request.path in paths else 0.0
        return fake(request)

    return answer


def without(*figures: str) -> Catalog:
    """The catalogue without the metrics of these figures."""
    catalog = load_catalog()
    left = tuple(
        metric
        for metric in catalog.metrics
        if not any(isinstance(origin, AirflowFigure) and origin.figure in figures for origin in metric.origins)
    )
    return dataclasses.replace(catalog, metrics=left)


def test_everything_that_a_reading_says(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.dags.remove(PREDICT)
    fake.paused.add(MONITOR)
    fake.now = NOW + 3601
    proxy.add(status(500, {"detail": "boom"}), path="records_count")
    airflow = source(proxy.url, AIRFLOW_DAG_IDS=",".join(DAGS))
    assert airflow.identity == f"{proxy.url} {','.join(DAGS)}"
    assert source(proxy.url).identity == f"{proxy.url} -"
    reading = airflow.read(None)
    assert (reading.source, reading.identity, reading.token) == ("airflow", airflow.identity, None)
    assert reading.catalog == load_catalog().fingerprint
    assert (reading.read_at, reading.queried_at) == (NOW, NOW)
    assert reading.facts == {
        "engine": "Airflow 3.3.2",
        "api": "v2",
        "url": proxy.url,
        "dags": ", ".join(DAGS),
        "missing_dags": PREDICT,
        "pending_xcoms": 1,
        "clock_ahead_seconds": 3601,
    }
    assert reading.observations["airflow_dag_run_active_seconds"].observed_at == NOW + 3601
    assert reading.notes == (
        f"Airflow has no DAG {PREDICT} that this user may see: check AIRFLOW_DAG_IDS, the catalogue, and the user's "
        "permissions.",
        f"Paused in Airflow: {MONITOR}.",
        "bike_records_ingested_total: still adding up the look back.",
    )
    assert Gap("bike_prediction_rmse", f"Airflow has no DAG {PREDICT}") in reading.gaps
    assert not airflow.changed(reading)


def test_requests_are_counted_by_code(proxy: FaultProxy):
    airflow = source(proxy.url, AIRFLOW_API="v2")
    name = "mlops_exporter_airflow_requests_total"
    assert airflow.telemetry() == {name: ()}
    proxy.add(status(503), path="/api/v2/dags", times=1)
    airflow.read(None)
    labels = ((("code", "200"),), (("code", "201"),), (("code", "503"),))
    assert airflow.telemetry() == {name: tuple(map(Sample, labels, (4.0, 1.0, 1.0)))}


def test_durations_are_counted_in_the_catalogues_buckets(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", "failed", start=NOW - 90, end=NOW - 80)
    fake.task(FETCH, "r", "t", "failed", start=NOW - 90, end=NOW - 89)
    reading = source(proxy.url).read(None)
    buckets = {metric.name: metric.buckets for metric in load_catalog().metrics}
    for name in ("airflow_dag_run_duration_seconds", "airflow_task_duration_seconds"):
        sample = reading.observations[name].samples[0]
        assert isinstance(sample, HistogramSample)
        assert sample.counts == (1, *(0 for _ in buckets[name]))


def test_waits_before_retries_are_by_the_given_chance(fake: FakeAirflow, proxy: FaultProxy):
    asked_for: list[float] = []

    def chance() -> float:
        asked_for.append(-0.5)
        return -0.5

    proxy.add(status(503), path="/api/v2/version", times=1)
    AirflowSource(settings(proxy.url), load_catalog(), Ledger.open(None), jitter=chance).read(None)
    assert asked_for == [-0.5]


def test_an_airflow_whose_version_was_not_asked_for_is_just_airflow(proxy: FaultProxy):
    assert source(proxy.url, AIRFLOW_API="v2").read(None).facts["engine"] == "Airflow"


def test_tasks_are_asked_for_while_something_goes_on_and_once_more(fake: FakeAirflow, proxy: FaultProxy):
    airflow = source(proxy.url)
    airflow.read(None)
    asked(proxy)
    airflow.read(None)
    assert asked(proxy) == DUE
    row = fake.run(FETCH, "r", "running", start=NOW - 50)
    for _ in range(2):
        airflow.read(None)
        assert asked(proxy) == [*DUE, TASKS]
    row.update(state="failed", end=NOW - 5)
    airflow.read(None)
    assert asked(proxy) == [*DUE, TASKS], "a run ended"
    airflow.read(None)
    assert asked(proxy) == [*DUE, TASKS], "once more after the last sign of life"
    for _ in range(2):
        airflow.read(None)
        assert asked(proxy) == DUE


def test_tasks_are_asked_for_at_the_start_too(proxy: FaultProxy):
    """Whatever ended while the exporter was away."""
    ledger = Ledger.open(None)
    source(proxy.url, ledger).read(None)
    asked(proxy)
    airflow = source(proxy.url, ledger, AIRFLOW_API="v2")
    airflow.read(None)
    assert asked(proxy)[-3:] == [*DUE, TASKS]
    airflow.read(None)
    assert asked(proxy) == DUE


def test_a_refresh_that_failed_at_the_tasks_does_not_count_as_the_one_more(fake: FakeAirflow, proxy: FaultProxy):
    airflow = source(proxy.url)
    fake.run(FETCH, "r", "failed", start=NOW - 50, end=NOW - 5)
    airflow.read(None)
    proxy.add(status(418), path=TASKS, times=1)
    with pytest.raises(SourceError):
        airflow.read(None)
    asked(proxy)
    airflow.read(None)
    assert asked(proxy) == [*DUE, TASKS]
    airflow.read(None)
    assert asked(proxy) == DUE


def test_tasks_that_may_not_be_read_are_a_gap_and_no_history_that_is_still_counted(
    fake: FakeAirflow, proxy: FaultProxy
):
    fake.forbidden = "taskInstances/list"
    reading = source(proxy.url).read(None)
    (gap,) = (gap for gap in reading.gaps if gap.metric == "airflow_task_duration_seconds")
    assert "may not read finished tasks" in gap.reason
    assert reading.notes == ()


def test_xcoms_that_may_not_be_read_are_gaps(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(PREDICT, "r", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse=4)
    fake.forbidden = "xcomEntries"
    refused = {gap.metric for gap in source(proxy.url).read(None).gaps if "may not read XCom" in gap.reason}
    assert refused == {"bike_records_ingested_total", *(f"bike_prediction_{value}" for value in ("rmse", "mae", "r2"))}


def test_nobody_asks_for_tasks_where_the_catalogue_does_not(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", "failed", start=NOW - 90, end=NOW - 80)
    airflow = source(proxy.url, catalog=without("task_duration"))
    for _ in range(2):
        reading = airflow.read(None)
    assert TASKS not in asked(proxy)
    assert reading.notes == ()
    assert runs_total(reading, FETCH, "failed") == 1
    bare = source(proxy.url, catalog=without("task_duration", "dag_run_duration")).read(None)
    assert runs_total(bare, FETCH, "failed") == 1


def test_a_history_that_is_still_counted_is_named_by_kind(fake: FakeAirflow, proxy: FaultProxy):
    """Each list takes a tenth of the time, so that neither kind is done."""
    at = [1000.0]
    proxy.script = slow(fake, at, RUNS, TASKS)
    fake.page_cap = 1
    for number in range(12):
        end = NOW - 70_000 * (number + 1)
        fake.run(FETCH, f"r{number}", "failed", start=end - 5, end=end)
        fake.task(PREDICT, f"r{number}", "t", start=end - 5, end=end)
    reading = clocked(proxy.url, at, AIRFLOW_TIMEOUT_SECONDS="20", AIRFLOW_DAG_IDS=f"{PREDICT},{FETCH}").read(None)
    assert reading.notes == (
        f"Still counting finished runs of {PREDICT}, {FETCH}, back to the look back.",
        f"Still counting finished tasks of {PREDICT}, {FETCH}, back to the look back.",
    )


def test_a_history_of_tasks_is_counted_to_its_end_though_nothing_goes_on(fake: FakeAirflow, proxy: FaultProxy):
    at = [1000.0]
    proxy.script = slow(fake, at, TASKS)
    fake.page_cap = 1
    for number in range(12):
        end = NOW - 70_000 * (number + 1)
        fake.task(PREDICT, f"r{number}", "t", start=end - 5, end=end)
    airflow = clocked(proxy.url, at, AIRFLOW_TIMEOUT_SECONDS="20", AIRFLOW_DAG_IDS=PREDICT)
    notes = [airflow.read(None).notes for _ in range(2)]
    assert notes == [(f"Still counting finished tasks of {PREDICT}, back to the look back.",)] * 2
    for _ in range(50):
        reading = airflow.read(None)
        if not reading.notes:
            break
    (sample,) = (
        s for s in reading.observations["airflow_task_duration_seconds"].samples if s.labels[-1][1] == "success"
    )
    assert isinstance(sample, HistogramSample)
    assert sum(sample.counts) == 12


def test_without_any_dag_there_is_nothing_to_ask(fake: FakeAirflow, proxy: FaultProxy):
    fake.dags.clear()
    airflow = source(proxy.url, AIRFLOW_DAG_IDS="*")
    assert airflow.read(None).facts["dags"] == ""
    assert airflow.ended_runs(0.0, None) == ()
    survey = airflow.survey()
    assert (survey.dags, survey.xcoms, survey.without_run) == ((), {}, ())
    assert not {RUNS, TASKS} & set(asked(proxy))


def test_a_ledger_that_fails_is_named_and_running_runs_are_shown_all_the_same(fake: FakeAirflow, proxy: FaultProxy):
    class Failing:
        def transaction(self) -> None:
            raise StateError("the disk is full")

    fake.run(FETCH, "r", "running", start=NOW - 50)
    airflow = source(proxy.url, Failing())  # type: ignore[arg-type]
    reading = airflow.read(None)
    assert reading.notes == ("Counters stand still: the disk is full.",)
    assert value(reading, "airflow_dag_run_active_seconds", dag_id=FETCH) == 50


def test_a_missing_dag_with_runs_is_there(fake: FakeAirflow, proxy: FaultProxy):
    fake.dags.remove(PREDICT)
    fake.dags.remove(FETCH)
    assert source(proxy.url).read(None).facts["missing_dags"] == f"{FETCH}, {PREDICT}"
    fake.run(PREDICT, "r", "running", start=NOW - 90)
    fake.run(FETCH, "r", "failed", start=NOW - 90, end=NOW - 80)
    assert source(proxy.url).read(None).facts["missing_dags"] == ""


# -- what check and backfill use ---------------------------------------------------------------------------------------


def test_check_looks_at_the_newest_successful_run_of_each_dag(fake: FakeAirflow, proxy: FaultProxy):
    """As a refresh does: of two that ended at one moment, at the one that Airflow lists first."""
    ends = (("oldest", 400), ("newest", 100), ("as new", 100), ("older", 300))
    for number, (name, ago) in enumerate(ends):
        fake.run(PREDICT, name, start=NOW - 500, end=NOW - ago, predict_daily_data__rmse=f"of {number}")
    fake.run(PREDICT, "failed", "failed", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse="failed")
    fake.run(FETCH, "too old", start=NOW - 31 * DAY, end=NOW - 31 * DAY)
    fake.paused.add(FETCH)
    fake.dags.append("more")
    survey = source(proxy.url, AIRFLOW_DAG_IDS="*", AIRFLOW_MAX_DAGS="4").survey()
    (why,) = (why for spec, why in survey.xcoms.items() if spec.key == "rmse")
    assert why == "cannot be used: not a number: 'of 1'"
    assert {spec.dag for spec in survey.xcoms} == {PREDICT}
    assert (survey.version, survey.api, survey.requests) == ("3.3.2", "v2", 2)
    assert (survey.dags, survey.missing, survey.paused) == ((*DAGS, "more"), (), (FETCH,))
    assert survey.without_run == (FETCH, MONITOR)
    reading = source(proxy.url).read(None)
    assert any("not a number: 'of 1'" in gap.reason for gap in reading.gaps)


def test_check_tries_runs_and_tasks_and_counts_nothing(fake: FakeAirflow, proxy: FaultProxy):
    airflow = source(proxy.url)
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80)
    airflow.survey()
    runs, tasks = (next(seen for seen in proxy.requests if seen.path == path).json() for path in (RUNS, TASKS))
    assert (runs["dag_ids"], tasks["dag_ids"]) == (sorted(DAGS), sorted(DAGS))
    assert runs["end_date_gte"] == "2025-05-16T15:06:40.000000Z"
    assert "end_date_lte" not in runs
    assert tasks["end_date_gte"] == "2025-06-15T15:06:40.000000Z"
    assert airflow.counted()[1].runs == {}
    for path in ("taskInstances/list", "dagRuns/list"):
        fake.forbidden = path
        with pytest.raises(SourceError, match="may not read finished"):
            source(proxy.url).survey()


def test_backfill_is_told_what_was_counted_of_the_dags_that_are_there(fake: FakeAirflow, proxy: FaultProxy):
    fake.dags.remove(PREDICT)
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80)
    fake.run(FETCH, "s", "failed", start=NOW - 90, end=NOW - 70)
    fake.now = NOW + 60
    ledger = Ledger.open(None)
    source(proxy.url, ledger).read(None)
    airflow = source(proxy.url, ledger)
    dags, counted, now = airflow.counted()
    assert (dags, now) == ((FETCH, MONITOR), NOW + 60)
    assert counted.runs[FETCH, "success"].events == 1
    assert [run.run_id for run in airflow.ended_runs(NOW - 80, None)] == ["r", "s"]
    assert [run.run_id for run in airflow.ended_runs(NOW - 85, NOW - 75)] == ["r"]
    assert [run.run_id for run in airflow.ended_runs(NOW - 75, NOW)] == ["s"]


@pytest.mark.parametrize("question", ["read", "survey", "counted", "ended_runs"])
def test_each_question_has_a_deadline_and_its_clock(question: str, fake: FakeAirflow, proxy: FaultProxy):
    at = [1000.0]

    def answer(request: Request) -> Reply:
        at[0] += 6
        return fake(request)

    proxy.script = answer
    airflow = clocked(proxy.url, at, AIRFLOW_TIMEOUT_SECONDS="5")
    assert airflow.timeout_seconds == 5
    asks = {
        "read": lambda: airflow.read(None),
        "survey": airflow.survey,
        "counted": airflow.counted,
        "ended_runs": lambda: airflow.ended_runs(0.0, None),
    }
    if question == "ended_runs":  # it takes the list of DAGs as it is
        proxy.script = fake
        airflow.counted()
        proxy.script = answer
    with pytest.raises(SourceError, match="5 s"):
        asks[question]()
