"""What the tasks do, against a feed and a model that a test makes: fetching, predicting, the run's clock, the row."""

import dataclasses
import logging
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bike_pipeline import ingestion, monitoring, prediction, runs
from bike_pipeline.records import BadCounts, Count, PipelineError, Predicted
from bike_pipeline.regmodel import Known
from bike_pipeline.settings import BadSettings, Settings, retries, schedule, sensor_arguments
from bike_pipeline.warehouse import DuckDBWarehouse
from regmodel.generator import simulate
from tests.pipeline.conftest import records

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROWS = records(simulate(date(2024, 1, 1), date(2024, 2, 1)).table)


class Feed:
    """A feed that knows January 2024, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []

    def known(self) -> Known:
        return Known(START, START + 31 * DAY, ("A",), START + 31 * DAY)

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        self.asked.append((start, end))
        return [row for row in ROWS if start <= row.timestamp < end]


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDBWarehouse:
    return DuckDBWarehouse(Settings(warehouse_file=tmp_path / "warehouse.duckdb"))


def test_the_first_fetch_takes_all_history_and_the_next_what_is_missing(warehouse: DuckDBWarehouse):
    feed = Feed()
    assert ingestion.fetch(feed, warehouse, START + 10 * DAY, days=1) == (START, 10 * 24 * 6)
    assert ingestion.fetch(feed, warehouse, START + 11 * DAY, days=1) == (START + 10 * DAY, 24 * 6)
    # Three days were missed.
    assert ingestion.fetch(feed, warehouse, START + 15 * DAY, days=1)[0] == START + 11 * DAY
    # A day done again.
    assert ingestion.fetch(feed, warehouse, START + 15 * DAY, days=2) == (START + 13 * DAY, 2 * 24 * 6)
    assert warehouse.counts(START, START + 31 * DAY) == [row for row in ROWS if row.timestamp < START + 15 * DAY]
    with pytest.raises(BadCounts, match="the feed ends at 2024-02-01"):
        ingestion.fetch(feed, warehouse, START + 32 * DAY, days=1)


def test_stored_counts_are_looked_at():
    day = [row for row in ROWS if row.timestamp < START + DAY]
    ingestion.validate(day, START, START + DAY)
    for rows, said in (
        ([], "0 rows"),
        (day[: len(day) // 2], "72 rows of 144 expected"),
        ([*day, day[0]], "1 hours are there twice, such as 2024-01-01 00:00 Bridge North"),
        ([dataclasses.replace(day[0], count=-1.0), *day[1:]], "1 counts are not from 0 to 100000, such as -1.0"),
        ([dataclasses.replace(row, count=None) for row in day], "144 of 144 rows have no count"),
    ):
        with pytest.raises(BadCounts) as caught:
            ingestion.validate(rows, START, START + DAY)
        assert said in str(caught.value)


def test_predictions_are_made_stored_and_compared(warehouse: DuckDBWarehouse):
    warehouse.replace_counts(START, START + 31 * DAY, ROWS)
    asked: list[dict[str, Any]] = []

    class Model:
        def predict(self, rows: list[dict[str, Any]]) -> tuple[list[float], str]:
            asked.extend(rows)
            return [100.0 + n for n in range(len(rows))], "v0003"

    window = (START + 10 * DAY, START + 11 * DAY)
    assert prediction.check_raw_data(warehouse, *window) == 144
    predicted, quality = prediction.predict(Model(), warehouse, *window)
    assert len(asked) == len(predicted) == 144
    assert warehouse.predictions(*window) == predicted
    actual = [row.count for row in warehouse.counts(*window)]
    pairs = [(count, 100.0 + n) for n, count in enumerate(actual) if count is not None]
    assert quality.rows == len(pairs)
    assert quality.rmse == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(pairs)))
    with pytest.raises(BadCounts, match="no counts for 2 days, such as 2024-02-01"):
        prediction.check_raw_data(warehouse, START + 30 * DAY, START + 33 * DAY)


def test_a_prediction_knows_the_seven_days_before_its_day(warehouse: DuckDBWarehouse):
    """The mean of the week before midnight, from 72 known counts on, and the count of the same hour a week before."""
    day, week = START + 20 * DAY, 7 * DAY
    hour = timedelta(hours=1)

    def counted(at: datetime, count: float | None) -> Count:
        return Count(at, "A", count, None, None, None, False)

    def asked_with(*before: Count) -> list[tuple[object, object]]:
        sent: list[dict[str, Any]] = []

        class Model:
            def predict(self, rows: list[dict[str, Any]]) -> tuple[list[float], str]:
                sent.extend(rows)
                return [1.0] * len(rows), "v0001"

        rows = [*before, *(counted(day + n * hour, 1000.0) for n in (0, 13))]
        warehouse.replace_counts(START, START + 31 * DAY, rows)
        prediction.predict(Model(), warehouse, day, day + DAY)
        return [(row["level"], row["last_week"]) for row in sent]

    # The first hour of the week, its 70 next ones, and the last hour before midnight: 72 counts.
    week_before = [counted(day - week + n * hour, 2.0) for n in range(71)]
    last = counted(day - hour, 74.0)
    too_early = counted(day - week - hour, 500.0)
    assert asked_with(too_early, *week_before, last) == [(3.0, 2.0), (3.0, 2.0)]
    assert asked_with(too_early, *week_before) == [(None, 2.0), (None, 2.0)]
    assert asked_with(*week_before[1:], last) == [(None, None), (None, 2.0)]


def test_predictions_that_are_exact_have_an_r2_of_one():
    rows = [Count(START + timedelta(hours=hour), "A", float(hour), None, None, None, False) for hour in range(24)]
    exact = [float(hour) for hour in range(24)]
    assert prediction.quality(rows, exact) == prediction.Quality(r2=1.0, rmse=0.0, mae=0.0, rows=24)
    assert prediction.quality(rows[1:], exact[1:]) is None, "23 hours are too few"
    alike = [dataclasses.replace(row, count=5.0) for row in rows]
    assert prediction.quality(alike, exact) is None, "no spread, no R²"


def test_predictions_and_monitoring_wait_for_counts(warehouse: DuckDBWarehouse, caplog: pytest.LogCaptureFixture):
    """What their sensors ask: not an error while the counts are missing, and a number of rows when they are there."""
    as_of = START + 31 * DAY
    checks: list[Callable[[], int]] = [
        lambda: prediction.check_raw_data(warehouse, as_of - DAY, as_of),
        lambda: monitoring.check_raw_data(warehouse, as_of),
    ]
    caplog.set_level(logging.INFO)
    assert [ingestion.arrived(check) for check in checks] == [(False, None)] * 2
    assert caplog.text.count("has daily_fetch_bike_data run?") == 2
    warehouse.replace_counts(START, as_of, ROWS)
    assert [ingestion.arrived(check) for check in checks] == [(True, 144), (True, 14 * 144)]


def test_predictions_are_looked_at():
    good = [Predicted(START + timedelta(hours=hour), "A", 10.0 + hour, "v1") for hour in range(48)]
    prediction.validate(good, 48, {"A": 20.0})

    def changed(value: float) -> list[Predicted]:
        return [dataclasses.replace(good[0], prediction=value), *good[1:]]

    for rows, said in (
        (good[1:], "47 predictions for 48 hours"),
        (changed(-1.0), "1 are negative or not finite"),
        (changed(math.nan), "1 are negative or not finite"),
        (changed(1e6), "1 are beyond all reason, such as 1000000 at A"),
        ([dataclasses.replace(one, prediction=5.0) for one in good], "all are equal"),
    ):
        with pytest.raises(PipelineError) as caught:
            prediction.validate(rows, 48, {"A": 20.0})
        assert said in str(caught.value)


def context(conf: Any = None, end: datetime | None = None) -> dict[str, Any]:
    return {"dag_run": SimpleNamespace(conf=conf), "data_interval_end": end}


def test_the_clock_of_a_run():
    assert runs.as_of(context({"as_of": "2025-05-12"})) == datetime(2025, 5, 12, tzinfo=UTC)
    assert runs.window(context({"as_of": "2025-05-12", "days": 7})) == (
        datetime(2025, 5, 5, tzinfo=UTC),
        datetime(2025, 5, 12, tzinfo=UTC),
    )
    scheduled = datetime(2025, 5, 12, 0, 30, tzinfo=UTC)
    assert runs.window(context(None, scheduled)) == (
        datetime(2025, 5, 11, tzinfo=UTC),
        datetime(2025, 5, 12, tzinfo=UTC),
    )
    by_hand = runs.as_of(context())
    assert by_hand <= datetime.now(UTC) < by_hand + 2 * DAY


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"as_of": "soon"}, "as_of is not a date YYYY-MM-DD: 'soon'"),
        ({"as_of": 7, "days": 0}, "days is not a whole number from 1 to 400: 0"),
        ({"as_of": "2999-01-01"}, "as_of is in the future"),
        ({"days": True}, "days is not a whole number"),
        ({"days": "7"}, "days is not a whole number"),
    ],
)
def test_a_conf_that_cannot_be_used(conf: dict[str, Any], said: str):
    with pytest.raises(runs.BadConf) as caught:
        runs.window(context(conf))
    assert said in str(caught.value)


XComs = dict[tuple[str, str], Any]
WATCHED: XComs = {
    ("check_raw_data", "return_value"): 2016,
    ("monitor_drift", "drift_detected"): True,
    ("monitor_drift", "drift_summary"): {"drift_share": 0.5, "drifted_features_count": 4},
    ("validate_model", "r2"): 0.4,
    ("validate_model", "rmse"): 120.0,
    ("validate_model", "r2_baseline"): 0.9,
    ("validate_model", "champion_version"): "v0001",
}
TUNED: XComs = {
    ("decide_fine_tune", "fine_tune_triggered"): True,
    ("fine_tune_model", "decision"): "deploy",
    ("fine_tune_model", "r2_current"): 0.8,
    ("fine_tune_model", "r2_baseline"): 0.85,
    ("fine_tune_model", "r2_train"): 0.95,
    ("fine_tune_model", "model_improvement"): 0.4,
    ("fine_tune_model", "baseline_regression"): False,
}
VALIDATED: XComs = {
    ("validate_new_champion", "new_champion_r2"): 0.8,
    ("validate_new_champion", "new_champion_rmse"): 60.0,
    ("validate_new_champion", "new_champion_r2_baseline"): 0.85,
    ("validate_new_champion", "champion_version"): "v0002",
}


@pytest.mark.parametrize(
    ("xcoms", "failed", "expected"),
    [
        (
            {**WATCHED, **TUNED, **VALIDATED},
            [],
            {"r2": 0.8, "rmse": 60.0, "deployment_decision": "deploy", "fine_tune_success": True, "drift_share": 0.5},
        ),
        (
            {**WATCHED, ("decide_fine_tune", "fine_tune_triggered"): False},
            [],
            {"r2": 0.4, "deployment_decision": "not_triggered", "fine_tune_success": False, "r2_current": None},
        ),
        (
            {**WATCHED, ("decide_fine_tune", "fine_tune_triggered"): True},
            ["fine_tune_model"],
            {
                "r2": 0.4,
                "deployment_decision": None,
                "fine_tune_triggered": True,
                "fine_tune_success": False,
                "error_message": "failed: fine_tune_model",
            },
        ),
        (
            {**WATCHED, **TUNED},
            ["validate_new_champion"],
            {"r2": 0.4, "deployment_decision": "deploy", "fine_tune_success": True},
        ),
        ({}, ["check_raw_data"], {"r2": None, "drift_detected": None, "fine_tune_triggered": None, "model_uri": None}),
        (
            {("check_raw_data", "return_value"): 2016},
            ["monitor_drift"],
            {"r2": None, "drift_detected": None, "error_message": "failed: monitor_drift"},
        ),
    ],
    ids=["deployed", "calm", "training failed", "last look failed", "no counts", "nothing worked"],
)
def test_the_row_says_what_happened(xcoms: XComs, failed: list[str], expected: dict[str, Any]):
    def pulled(task: str, key: str) -> Any:
        return xcoms.get((task, key))

    assert monitoring.unfinished(pulled) == failed
    row = monitoring.audit_row(Settings(env="test"), START, "run", failed, pulled)
    values = row.values()
    assert {name: values[name] for name in expected} == expected


def test_settings_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert Settings.from_environment({"AUDIT_URL": "duckdb:///a/b.duckdb"}).audit_file == Path("/a/b.duckdb")
    assert Settings.from_environment({"AUDIT_URL": "duckdb:b.duckdb"}).audit_file == Path("b.duckdb")
    cloud = {"GOOGLE_CLOUD_PROJECT": "p"}
    assert Settings.from_environment(cloud).uses_bigquery
    # The same rule as the exporter's.
    assert not Settings.from_environment({**cloud, "AUDIT_URL": "duckdb:b.duckdb"}).uses_bigquery
    with pytest.raises(BadSettings) as caught:
        Settings.from_environment({"REGMODEL_URL": "regmodel:8000", "AUDIT_URL": "logs/*.csv", "AUDIT_TABLE": "logs"})
    for name in ("REGMODEL_URL", "AUDIT_URL", "AUDIT_TABLE"):
        assert f"{name}: " in str(caught.value)
    secret = Settings.from_environment({"EXPORTER_REFRESH_TOKEN": "a-planted-token"})
    assert "a-planted-token" not in repr(secret)
    assert retries() == 5
    monkeypatch.setenv("PIPELINE_RETRIES", "many")
    with pytest.raises(BadSettings, match="PIPELINE_RETRIES"):
        retries()
    assert sensor_arguments() == {"mode": "reschedule", "poke_interval": 10, "timeout": 3600}
    monkeypatch.setenv("PIPELINE_WAIT_SECONDS", "-1")
    with pytest.raises(BadSettings, match="PIPELINE_WAIT_SECONDS"):
        sensor_arguments()
    assert schedule("@daily") == "@daily"
    monkeypatch.setenv("PIPELINE_SCHEDULED", "false")
    assert schedule("@daily") is None
