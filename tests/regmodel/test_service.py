"""The rules between counts and models, with a clock that the test moves."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from regmodel.generator import simulate
from regmodel.model import Baseline, train
from regmodel.service import Service
from regmodel.settings import Settings
from tests.regmodel.conftest import NOW, a_service
from tests.regmodel.test_registry import add

DAY = timedelta(days=1)
Serve = Callable[[Service], TestClient]


def test_a_new_day_is_counted_after_midnight(tmp_path: Path):
    moment = NOW
    settings = Settings(models_dir=tmp_path, data_start=date(2025, 5, 1))
    service = Service(settings, now=lambda: moment)
    today = service.counts
    assert today.last == datetime(2025, 6, 2, tzinfo=UTC)
    moment = datetime(2025, 6, 2, 23, 59, tzinfo=UTC)
    assert service.counts is today
    moment = datetime(2025, 6, 3, tzinfo=UTC)
    assert service.counts.last == datetime(2025, 6, 3, tzinfo=UTC)
    assert len(service.counts_between(NOW, moment)) == 21 * len(today.counters)


def test_a_city_that_begins_tomorrow_has_one_day_of_counts(tmp_path: Path):
    service = Service(Settings(models_dir=tmp_path, data_start=date(2025, 6, 3)), now=lambda: NOW)
    assert (service.counts.first, service.counts.last) == (
        datetime(2025, 6, 3, tzinfo=UTC),
        datetime(2025, 6, 4, tzinfo=UTC),
    )


@pytest.mark.usefixtures("learns_the_mean_alone")
def test_no_training_window_reaches_beyond_the_counts(tmp_path: Path):
    service = a_service(tmp_path)
    assert service.train(cut_off=NOW + 30 * DAY).trained_to == "2025-06-02T00:00:00Z"
    assert service.train(cut_off=NOW - 10 * DAY).trained_to == "2025-05-23T03:00:00Z"


def test_no_row_of_the_baseline_counts_as_recent(monkeypatch: pytest.MonkeyPatch):
    """The first champion, trained on the baseline alone, weighs all rows alike; a later one its newest weeks more."""
    weights: list[np.ndarray] = []

    class Regressor:
        def __init__(self, **options: object) -> None:
            pass

        def fit(self, rows: np.ndarray, counts: np.ndarray, sample_weight: np.ndarray) -> None:
            weights.append(sample_weight)

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.zeros(len(rows))

    monkeypatch.setattr("regmodel.model.HistGradientBoostingRegressor", Regressor)
    counts = simulate(date(2024, 1, 1), date(2024, 6, 1))
    baseline = Baseline.of(counts, 12)
    for weeks in (0, 2, 8):
        train(counts, baseline, baseline.end + timedelta(weeks=weeks), seed=1)
    recent = [round((one > 1).sum() / (7 * 24 * len(counts.counters)), 1) for one in weights]
    # Weeks that count more, less the hours in which a sensor was silent.
    assert recent[0] == 0
    assert 1.8 <= recent[1] <= 2
    assert 7.3 <= recent[2] <= 8


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2025-02-02", "2025-02-01", "end must be after start"),
        ("2025-02-01T00:00:00Z", "2025-02-01T00:30:00+01:00", "end must be after start"),
        ("2025-02-01", "2201-01-01", "from 1970 to 2200"),
        ("1969-12-31T23:59:59Z", "1970-02-01", "from 1970 to 2200"),
    ],
)
def test_a_window_that_ends_before_it_begins_is_refused(tmp_path: Path, served: Serve, start: str, end: str, said: str):
    service = a_service(tmp_path)
    service.ensure_champion = lambda: None  # type: ignore[method-assign]  # what the server starts on its own
    api = served(service)
    for answer in (
        api.post("/evaluate", json={"test_current": {"start": start, "end": end}}),
        api.get("/counts", params={"start": start, "end": end}),
    ):
        assert answer.status_code == 422
        assert said in answer.text


def test_a_promotion_ends_the_failure_that_health_shows(tmp_path: Path, served: Serve):
    settings = Settings(models_dir=tmp_path / "models", data_start=date(2025, 5, 1))
    service = Service(settings, now=lambda: NOW)
    api = served(service)
    service.ensure_champion()
    assert "the baseline needs 52" in api.get("/health").json()["error"]
    # Somebody brings the counts, and a model from elsewhere.
    enough = Service(dataclasses.replace(settings, data_start=date(2024, 1, 1)), now=lambda: NOW)
    api = served(enough)
    enough.failure = "the first training failed"
    name = add(enough.registry, 1.0)
    assert api.get("/health").json()["error"] == "the first training failed"
    assert api.post("/promote", json={"version": name}).status_code == 200
    health = api.get("/health").json()
    assert (health["status"], health["error"]) == ("ok", None)
