"""The API as its users call it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from regmodel.service import Service
from regmodel.settings import BadSettings, Settings
from testbed.exposed import Exposed
from tests.regmodel.conftest import a_service

ROW = {"counter": "Central Station", "timestamp": "2025-03-03T08:00:00Z", "temperature": 8.0, "level": 250.0}
WINDOW = {"start": "2025-05-05T00:00:00Z", "end": "2025-05-19T00:00:00Z"}
Serve = Callable[[Service], TestClient]


def test_one_row_and_many_are_predicted_alike(api: TestClient):
    one = api.post("/predict", json=ROW)
    assert one.status_code == 200
    assert one.json()["model_version"] == "v0001"
    night = {**ROW, "timestamp": "2025-03-03T03:00:00Z"}
    many = api.post("/predict", json={"rows": [ROW, night, ROW]}).json()
    assert many["predictions"][0] == many["predictions"][2] == one.json()["prediction"]
    assert many["predictions"][1] < many["predictions"][0] / 3


def test_times_are_utc_unless_they_say_otherwise(api: TestClient):
    same = ["2025-03-03T08:00:00Z", "2025-03-03T08:00:00", "2025-03-03T09:00:00+01:00"]
    values = api.post("/predict", json={"rows": [{**ROW, "timestamp": at} for at in same]}).json()["predictions"]
    assert len(set(values)) == 1


@pytest.mark.parametrize(
    ("body", "where", "said"),
    [
        ({**ROW, "timestamp": "soon"}, ["body", "row", "timestamp"], "valid datetime"),
        ({**ROW, "timestamp": "0001-01-01T00:00:00Z"}, ["body", "row", "timestamp"], "from 1970 to 2200"),
        ({**ROW, "temperature": "warm"}, ["body", "row", "temperature"], "valid number"),
        ({**ROW, "rain": -1}, ["body", "row", "rain"], "greater than or equal to 0"),
        ({**ROW, "temprature": 8}, ["body", "row", "temprature"], "not permitted"),
        ({"rows": []}, ["body", "batch", "rows"], "at least 1"),
        ({"rows": [ROW, {"counter": "A"}]}, ["body", "batch", "rows", 1, "timestamp"], "required"),
        ([ROW], ["body", "row"], "valid dictionary"),
        (None, ["body"], "required"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(api: TestClient, body: object, where: list[object], said: str):
    answer = api.post("/predict", json=body)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == where
    assert said in problem["msg"]


def test_a_number_that_json_does_not_know_is_refused(api: TestClient):
    for value in ("NaN", "Infinity", "1e999"):
        content = '{"counter": "A", "timestamp": "2025-03-03T08:00:00Z", "wind": ' + value + "}"
        answer = api.post("/predict", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, value


def test_a_batch_has_a_largest_size(api: TestClient):
    answer = api.post("/predict", json={"rows": [ROW] * 10_001})
    assert answer.status_code == 422
    assert "at most 10000" in answer.text


def test_train_evaluate_and_promote(own_service: Service, tmp_path: Path, served: Serve):
    api = served(own_service)
    trained = api.post("/train", json={"end": "2025-05-05"})
    assert trained.status_code == 201
    assert (trained.json()["name"], trained.json()["is_champion"]) == ("v0002", False)
    assert trained.json()["trained_to"] == "2025-05-05T00:00:00Z"
    judged = api.post("/evaluate", json={"test_current": WINDOW, "challenger": "v0002"}).json()
    assert judged["champion"]["version"] == "v0001"
    assert judged["challenger"]["version"] == "v0002"
    for model in (judged["champion"], judged["challenger"]):
        assert model["test_current"]["r2"] > judged["naive"]["r2"]
        assert model["test_baseline"]["r2"] > 0.8
        assert model["test_current"]["rows"] > 1500
    assert api.get("/models").json()["champion"]["version"] == "v0001"
    promoted = api.post("/promote", json={"version": "v0002", "as_of": "2025-05-19", "expected_champion": "v0001"})
    assert promoted.json()["as_of"] == "2025-05-19T00:00:00Z"
    assert api.post("/predict", json=ROW).json()["model_version"] == "v0002"
    late = api.post("/promote", json={"version": "v0001", "expected_champion": "v0001"})
    assert late.status_code == 409
    assert "the champion is v0002" in late.json()["detail"]
    models = api.get("/models").json()
    assert [(model["name"], model["is_champion"]) for model in models["models"]] == [("v0001", False), ("v0002", True)]
    # A restart keeps the champion.
    again = served(a_service(tmp_path))
    assert again.post("/predict", json=ROW).json()["model_version"] == "v0002"


def test_only_one_training_at_a_time(service: Service, api: TestClient, monkeypatch: pytest.MonkeyPatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        begun.set()
        go_on.wait(30)
        raise RuntimeError("told to fail")

    monkeypatch.setattr("regmodel.service.train", slow)
    first = threading.Thread(target=lambda: api.post("/train", json={}))
    first.start()
    try:
        assert begun.wait(30)
        answer = api.post("/train", json={})
        assert answer.status_code == 409
        assert answer.headers["Retry-After"] == "5"
        # Others are served meanwhile.
        assert api.post("/predict", json=ROW).status_code == 200
    finally:
        go_on.set()
        first.join()
    assert api.post("/train", json={}).status_code == 500, "the next one is begun"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/promote", {"version": "v0999"}, 404, "there is no model 'v0999'"),
        ("/promote", {"version": "../../etc"}, 422, "should match pattern"),
        ("/evaluate", {"test_current": WINDOW, "challenger": "v0999"}, 404, "there is no model 'v0999'"),
        ("/evaluate", {"test_current": {"start": "2099-01-01", "end": "2099-02-01"}}, 422, "0 hours with a count"),
        ("/evaluate", {"test_current": {"start": "2025-02-01", "end": "2025-02-01"}}, 422, "end must be after start"),
        ("/evaluate", {"test_current": {"start": "2020-02-01", "end": "2025-02-01"}}, 422, "400 days long"),
        ("/train", {"end": "2023-01-01"}, 422, "0 hours with a count to train on"),
        ("/train", {"end": 5, "epochs": 3}, 422, "not permitted"),
    ],
)
def test_what_cannot_be_done_is_said(api: TestClient, path: str, body: object, status: int, said: str):
    answer = api.post(path, json=body)
    assert answer.status_code == status
    assert said in answer.text


def test_counts_are_served_by_window(api: TestClient):
    rows = api.get("/counts", params={"start": "2025-03-03", "end": "2025-03-04"}).json()["rows"]
    assert len(rows) == 24 * 6
    assert rows[0]["timestamp"] == "2025-03-03T00:00:00Z"
    # The clock stands at 2 June: that day is not over.
    assert api.get("/counts", params={"start": "2025-06-02", "end": "2025-06-03"}).json() == {"rows": []}
    month = api.get("/counts", params={"start": "2025-03-01", "end": "2025-04-01"}).json()["rows"]
    assert any(row["count"] is None for row in month)


def test_health_before_and_after_the_first_champion(tmp_path: Path, served: Serve):
    service = a_service(tmp_path)
    service.ensure_champion = lambda: None  # type: ignore[method-assign]  # what the server starts on its own
    api = served(service)
    assert (api.get("/health").status_code, api.get("/health").json()["status"]) == (503, "starting")
    answer = api.post("/predict", json=ROW)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["detail"] == "there is no champion yet; see /health"
    Service.ensure_champion(service)
    health = api.get("/health").json()
    assert (health["status"], health["champion"]["version"]) == ("ok", "v0001")
    assert health["baseline"]["start"] == "2025-03-17T00:00:00Z"


def test_health_says_why_there_will_be_no_champion(tmp_path: Path, served: Serve):
    csv = tmp_path / "counts.csv"
    csv.write_text("timestamp,counter,count\n2025-03-01 10:00,A,many\n")
    service = a_service(tmp_path, counts_csv=csv)
    api = served(service)
    service.ensure_champion()
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")
    assert "line 2: count is not a number: 'many'" in answer.json()["error"]
    assert api.get("/counts", params=WINDOW).status_code == 503


def test_a_damaged_champion_is_not_used(own_service: Service, tmp_path: Path, served: Serve):
    file = tmp_path / "models" / "v0001" / "model.joblib"
    file.write_bytes(file.read_bytes()[:100])
    api = served(own_service)
    answer = api.post("/predict", json=ROW)
    assert (answer.status_code, "checksum" in answer.json()["detail"]) == (503, True)
    health = api.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "failed")


def test_metrics_have_every_route_from_the_start(service: Service, served: Serve):
    api = served(service)
    exposed = Exposed(api.get("/metrics").text)
    for path in ("/predict", "/train", "/evaluate", "/promote"):
        assert exposed.value("fastapi_errors_total", method="POST", endpoint=path) == 0
        assert exposed.value("fastapi_requests_total", method="POST", endpoint=path, status_code="422") == 0
    assert exposed.value("fastapi_requests_total", method="POST", endpoint="/train", status_code="201") == 0
    api.post("/predict", json=ROW)
    exposed = Exposed(api.get("/metrics").text)
    assert exposed.value("fastapi_requests_total", method="POST", endpoint="/predict", status_code="200") == 1
    assert exposed.value("fastapi_request_duration_seconds_count", method="POST", endpoint="/predict") == 1
    assert exposed.value("fastapi_request_duration_seconds_count", method="GET", endpoint="/health") is None


def test_every_problem_of_the_settings_is_reported():
    with pytest.raises(BadSettings) as caught:
        Settings.from_environment(
            {
                "REGMODEL_SEED": "x",
                "REGMODEL_BASELINE_WEEKS": "3",
                "REGMODEL_DATA_START": "1 May",
                "REGMODEL_SHIFTS": "[{]",
                "REGMODEL_MODEL_DIR": "/models",
            }
        )
    for name in ("SEED", "BASELINE_WEEKS", "DATA_START", "SHIFTS", "MODEL_DIR"):
        assert f"REGMODEL_{name}: " in str(caught.value)
    assert Settings.from_environment({"REGMODEL_SEED": " "}) == Settings()
