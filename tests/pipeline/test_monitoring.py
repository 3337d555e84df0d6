"""What a monitoring run decides, without Airflow: its windows, the promotion, the refresh request and the audit row."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bike_pipeline import monitoring
from bike_pipeline.drift import FEATURES, Day, Drift, FeatureTest
from bike_pipeline.records import BadCounts, Count
from bike_pipeline.regmodel import Champion, Judged, RegModel, RegModelError, Scores, Trained
from bike_pipeline.settings import Settings
from testbed.faults import FaultProxy, Reply, Request, hang, reset, status
from testbed.process import free_port

AS_OF = datetime(2025, 5, 26, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
OLD_CHAMPION = Judged("v0003", Scores(0.5, 90, 60), Scores(0.9, 40, 30))


class Model:
    """A RegModel whose answers are given, and which remembers what it was asked for."""

    def __init__(self, *, chosen: datetime = AS_OF - 100 * DAY, challenger_r2: float = 0.8) -> None:
        self.chosen = chosen
        self.challenger = Judged("v0004", Scores(challenger_r2, 50, 30), Scores(0.85, 45, 35))
        self.calls: list[tuple[Any, ...]] = []

    def champion(self) -> Champion:
        return Champion(OLD_CHAMPION.version, self.chosen)

    def train(self, cut_off: datetime) -> Trained:
        self.calls.append(("train", cut_off))
        return Trained(self.challenger.version, 0.95)

    def evaluate(self, start: datetime, end: datetime, challenger: str | None = None) -> tuple[Judged, Judged]:
        self.calls.append(("evaluate", start, end, challenger))
        return OLD_CHAMPION, self.challenger

    def promote(self, version: str, *, as_of: datetime, expected_champion: str) -> None:
        self.calls.append(("promote", version, as_of, expected_champion))


class Stored:
    """A warehouse with a count in every hour of a window."""

    def __init__(self, first: datetime, end: datetime) -> None:
        hours = int((end - first) / HOUR)
        self.rows = [Count(first + n * HOUR, "A", 5.0, 9.0, 0.0, 1.0, False) for n in range(hours)]
        self.asked_until: datetime | None = None

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        self.asked_until = end
        return [row for row in self.rows if start <= row.timestamp < end]


@pytest.mark.parametrize(
    ("chosen", "reference_end"),
    [
        (AS_OF - 100 * DAY, AS_OF - 100 * DAY),
        (AS_OF - 14 * DAY, AS_OF - 14 * DAY),
        # Chosen within the newest two weeks: a day is never in both sets.
        (AS_OF - 3 * DAY, AS_OF - 14 * DAY),
    ],
)
def test_drift_compares_two_weeks_with_the_eight_before_the_champion_was_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: datetime, reference_end: datetime
):
    asked: list[Sequence[Day]] = []
    found = Drift((FeatureTest("rain", 0.0, 1.0, 1.0),), 56, 14)

    def detect(history: Sequence[Day], reference: Sequence[Day], current: Sequence[Day]) -> Drift:
        asked.extend((history, reference, current))
        return found

    monkeypatch.setattr("bike_pipeline.drift.detect", detect)
    first = AS_OF - 500 * DAY
    # The warehouse goes on after the run's moment, as in a replay of the past.
    warehouse = Stored(first, AS_OF + 5 * DAY)
    assert monitoring.find_drift(Model(chosen=chosen), warehouse, AS_OF) is found
    assert warehouse.asked_until == AS_OF
    history, reference, current = ([days[0].day, days[-1].day, len(days)] for days in asked)
    assert history == [first.date(), (first + 364 * DAY).date(), 365]
    assert reference == [(reference_end - 56 * DAY).date(), (reference_end - DAY).date(), 56]
    assert current == [(AS_OF - 14 * DAY).date(), (AS_OF - DAY).date(), 14]


def test_drift_needs_counts_of_the_newest_two_weeks():
    begin = AS_OF - 14 * DAY
    with pytest.raises(BadCounts, match="no counts since 2025-05-12: has daily_fetch_bike_data run"):
        monitoring.find_drift(Model(), Stored(begin - 200 * DAY, begin), AS_OF)
    with pytest.raises(BadCounts, match="no counts since"):
        monitoring.find_drift(Model(), Stored(AS_OF, AS_OF), AS_OF)


def test_a_challenger_is_trained_on_what_came_before_the_two_weeks_it_is_judged_on():
    model = Model()
    outcome = monitoring.fine_tune(model, AS_OF)
    begin = AS_OF - 14 * DAY
    assert model.calls == [
        ("train", begin),
        ("evaluate", begin, AS_OF, "v0004"),
        ("promote", "v0004", AS_OF, "v0003"),
    ]
    assert (outcome["decision"], outcome["challenger_version"]) == ("deploy", "v0004")
    assert outcome["model_improvement"] == pytest.approx(0.3)
    assert outcome["old_champion_r2_current"] == 0.5


def test_a_challenger_that_is_not_better_is_not_promoted():
    model = Model(challenger_r2=0.5)
    assert monitoring.fine_tune(model, AS_OF)["decision"] == "skip"
    assert [call[0] for call in model.calls] == ["train", "evaluate"]


def api(champion: str) -> Any:
    def answer(request: Request) -> Reply:
        body = {"champion": {"version": champion, "as_of": "2025-01-01T00:00:00Z"}, "models": []}
        return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    return answer


def test_a_promotion_says_which_champion_it_expects():
    with FaultProxy(script=api("v0003")) as proxy:
        RegModel(proxy.url).promote("v0004", as_of=AS_OF, expected_champion="v0003")
        (sent,) = [request.json() for request in proxy.requests if request.method == "POST"]
    assert sent == {"version": "v0004", "as_of": "2025-05-26T00:00:00Z", "expected_champion": "v0003"}


def test_a_promotion_that_another_overtook_is_an_error():
    with FaultProxy(script=api("v0005")) as proxy:
        proxy.add(status(409, {"detail": "the champion is v0005, not v0003"}), path="/promote")
        with pytest.raises(RegModelError, match=r"POST /promote: HTTP 409: .*the champion is v0005, not v0003"):
            RegModel(proxy.url).promote("v0004", as_of=AS_OF, expected_champion="v0003")


def test_a_promotion_that_was_done_already_is_not_done_again():
    with FaultProxy(script=api("v0004")) as proxy:
        RegModel(proxy.url).promote("v0004", as_of=AS_OF, expected_champion="v0003")
        assert proxy.count("POST") == 0


def exporter(url: str) -> Settings:
    return Settings(refresh_url=f"{url}/-/refresh", refresh_token="a-planted-token")


def test_the_exporter_is_asked_to_refresh_with_its_token():
    with FaultProxy(script=lambda request: Reply(202)) as proxy:
        assert monitoring.ask_for_refresh(exporter(proxy.url)) == "the exporter answered HTTP 202"
        (request,) = proxy.requests
    assert (request.method, request.path) == ("POST", "/-/refresh")
    assert request.headers["authorization"] == "Bearer a-planted-token"


def test_an_exporter_that_is_away_costs_the_run_nothing(monkeypatch: pytest.MonkeyPatch):
    said = monitoring.ask_for_refresh(exporter(f"http://127.0.0.1:{free_port()}"))
    assert said == "the exporter was not told: ConnectionError"
    monkeypatch.setattr(monitoring, "REFRESH_TIMEOUT", (0.2, 0.2))
    with FaultProxy() as proxy:
        proxy.add(hang())
        began = time.monotonic()
        assert monitoring.ask_for_refresh(exporter(proxy.url)) == "the exporter was not told: ReadTimeout"
        assert time.monotonic() - began < 15, "the time-out is the one that was set"
        proxy.clear()
        proxy.add(reset())
        assert monitoring.ask_for_refresh(exporter(proxy.url)) == "the exporter was not told: ConnectionError"
        proxy.clear()
        proxy.add(status(401, {}))
        assert monitoring.ask_for_refresh(exporter(proxy.url)) == "the exporter answered HTTP 401"


@pytest.mark.parametrize("missing", ["refresh_url", "refresh_token"])
def test_no_exporter_is_asked_without_its_address_and_token(missing: str):
    given = {"refresh_url": "http://127.0.0.1:1/-/refresh", "refresh_token": "a-planted-token", missing: None}
    assert "the exporter will look by itself" in monitoring.ask_for_refresh(Settings(**given))


CALM = {
    ("monitor_drift", "drift_detected"): False,
    ("monitor_drift", "drift_summary"): {"drift_share": 0.0, "drifted_features_count": 0},
    ("validate_model", "r2"): 1.0,
    ("validate_model", "rmse"): 0.0,
    ("validate_model", "r2_baseline"): 1.0,
    ("validate_model", "champion_version"): "v0003",
    ("decide_fine_tune", "fine_tune_triggered"): False,
}
SKIPPED = {
    **CALM,
    ("decide_fine_tune", "fine_tune_triggered"): True,
    ("fine_tune_model", "decision"): "skip",
    ("fine_tune_model", "challenger_version"): "v0004",
    ("validate_new_champion", "champion_version"): "v0003",
}
DEPLOYED = {
    **SKIPPED,
    ("fine_tune_model", "decision"): "deploy",
    ("validate_new_champion", "champion_version"): "v0004",
}


def audited(xcoms: dict[tuple[str, str], Any]) -> dict[str, Any]:
    settings = Settings(regmodel_url="http://regmodel:8000")
    return monitoring.audit_row(settings, AS_OF, "run", [], lambda task, key: xcoms.get((task, key))).values()


@pytest.mark.parametrize(
    ("xcoms", "version"),
    [
        (CALM, "v0003"),
        (SKIPPED, "v0003"),
        (DEPLOYED, "v0004"),
        ({**DEPLOYED, ("validate_new_champion", "champion_version"): None}, "v0004"),
        ({**SKIPPED, ("validate_new_champion", "champion_version"): None}, "v0003"),
    ],
    ids=["calm", "skipped", "deployed", "deployed, last look failed", "skipped, last look failed"],
)
def test_the_audit_row_names_the_model_in_use(xcoms: dict[tuple[str, str], Any], version: str):
    assert audited(xcoms)["model_uri"] == f"http://regmodel:8000/models#{version}"


def test_zero_and_one_are_values_like_others():
    row = audited(CALM)
    assert (row["drift_share"], row["drifted_features_count"], row["drift_detected"]) == (0.0, 0, False)
    assert (row["r2"], row["rmse"], row["champion_r2_baseline"]) == (1.0, 0.0, 1.0)
    all_drifted = {"drift_share": 1.0, "drifted_features_count": len(FEATURES)}
    assert audited({**CALM, ("monitor_drift", "drift_summary"): all_drifted})["drift_share"] == 1.0


def test_a_challenger_is_wanted_after_drift_or_a_poor_score():
    def wanted(drifted: bool | None, r2: float) -> bool:
        xcoms = {("monitor_drift", "drift_detected"): drifted, ("validate_model", "r2"): r2}
        return monitoring.wants_fine_tuning(lambda task, key: xcoms.get((task, key)))

    assert wanted(True, 0.9)
    assert wanted(False, 0.699)
    assert not wanted(False, 0.70)
    assert not wanted(None, 0.9)
