"""The whole exporter with both sources: which one a metric shows, and that one's trouble is not the other's."""

import csv
import datetime
import time
from pathlib import Path

import pytest
import requests

from exporter.app import FLASK_THREADS
from exporter.catalog_parser import load_catalog
from testbed.airflow import PASSWORD, VIEWER, Airflow
from testbed.exporter import RunningExporter
from testbed.fake_airflow import DAGS, FakeAirflow
from testbed.fake_airflow import PASSWORD as FAKE_PASSWORD
from testbed.fake_airflow import USERNAME as FAKE_USERNAME
from testbed.faults import FaultProxy, drip, hang, html, status, truncate
from testbed.prometheus import RunningPrometheus
from tests.integration.test_airflow import FETCH, MONITOR, PREDICT, runs_stored

pytestmark = pytest.mark.timeout(900)

INTERVAL = {"EXPORTER_REFRESH_SECONDS": "1", "AIRFLOW_TIMEOUT_SECONDS": "3"}
R2, SHARE = "bike_model_r2_champion_current", "bike_drift_share"
SOURCE = "mlops_exporter_metric_source_info"


def write_audit(folder: Path, r2: float, *, age: float = 3600.0) -> Path:
    """An audit log of one row, `age` seconds old, without the columns of newer tables."""
    at = datetime.datetime.fromtimestamp(time.time() - age, datetime.UTC)
    path = folder / "audit.csv"
    with path.with_suffix(".new").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "r2", "rmse", "deployment_decision", "drift_detected"])
        writer.writerow([at.isoformat(sep=" "), r2, 60.5, "deploy", "false"])
    path.with_suffix(".new").replace(path)
    return path


def gaps(prometheus: RunningPrometheus, selector: str) -> dict[str, int]:
    """How many scrapes lacked a series that the scrapes before and after them had, by series.

    Samples of one scrape share its time, so a series is held against the times of `up`: a machine that is slow to
    scrape makes no gap, a scrape without the series does.
    """

    def times(query: str) -> dict[str, list[float]]:
        answer = requests.get(f"{prometheus.url}/api/v1/query", params={"query": f"{query}[10m]"}, timeout=10).json()
        return {str(one["metric"]): [float(at) for at, _ in one["values"]] for one in answer["data"]["result"]}

    (scrapes,) = times("up").values()
    return {
        series: missed
        for series, seen in times(selector).items()
        if (missed := sum(seen[0] <= at <= seen[-1] for at in scrapes) - len(seen))
    }


def resets(prometheus: RunningPrometheus, names: set[str]) -> dict[str, float]:
    """How often the counters among these names stepped back, all series of a name together."""
    counters = sorted(name for name in names if name.endswith(("_total", "_bucket", "_sum")))
    assert len(counters) > 10
    return {name: prometheus.query(f"sum by (job) (resets({name}[10m]))")["a"] for name in counters}


@pytest.mark.parametrize("major", [2, 3])
def test_audit_log_up_cut_and_back(major: int, request: pytest.FixtureRequest, tmp_path: Path):
    airflow: Airflow = request.getfixturevalue(f"airflow{major}")
    present = runs_stored(airflow)
    for dag in (FETCH, PREDICT, MONITOR):
        # Another test of this session has made some; of PREDICT, it may have made copies without XComs.
        if dag == PREDICT or (dag, "success") not in present:
            airflow.trigger(dag)
    folder = tmp_path / "exporter"
    folder.mkdir()
    audit = write_audit(folder, 0.71, age=7200)
    environment = {
        **INTERVAL,
        "AIRFLOW_TIMEOUT_SECONDS": "20",
        "AUDIT_URL": str(audit),
        "AIRFLOW_BASE_URL": airflow.url,
        "AIRFLOW_USERNAME": VIEWER,
        "AIRFLOW_PASSWORD": PASSWORD,
    }
    with RunningExporter(folder, environment) as exporter:
        exporter.wait_for(SOURCE, 1, metric=R2, source="audit")
        exporter.wait_for(SHARE, 0.375)
        exposed = exporter.exposed()
        assert exposed.value(SOURCE, metric=SHARE, source="airflow") == 1
        assert exposed.value("bike_model_rmse_production") == 60.5
        prometheus = RunningPrometheus(tmp_path / "prometheus", {"a": exporter.url.removeprefix("http://")})
        with prometheus.server:
            prometheus.wait_for(R2, {"a": 0.71})
            audit.rename(folder / "away.csv")
            prometheus.wait_for(R2, {"a": 0.825})
            exposed = exporter.exposed()
            assert exposed.value("mlops_exporter_source_up", source="audit") == 0
            assert exposed.value(SOURCE, metric=R2, source="airflow") == 1
            assert exposed.value(SOURCE, metric=R2, source="audit") is None
            assert exposed.value("bike_drift_detected") == 1
            assert exposed.value("bike_model_deployments_total", decision="deploy") == 1
            assert exporter.get("/health").json()["status"] == "degraded"
            airflow.trigger(FETCH, {"fetch_to_bigquery.records_count": 1})
            write_audit(folder, 0.74, age=7000)
            prometheus.wait_for(R2, {"a": 0.74})
            assert exporter.exposed().value(SOURCE, metric=R2, source="audit") == 1
            health = exporter.get("/health").json()
            assert health["status"] == "ok", health
            stored = runs_stored(airflow)
            expected = float(stored[FETCH, "success"])
            exporter.wait_for("airflow_dag_runs_total", expected, dag_id=FETCH, state="success")
            assert gaps(prometheus, '{__name__=~"(bike|airflow)_.+"}') == {}
            stepped_back = resets(prometheus, exporter.exposed().names())
            assert {name: count for name, count in stepped_back.items() if count} == {}
            assert prometheus.query("min_over_time(up[10m])") == {"a": 1.0}
        names = exporter.exposed().names()
        assert {metric.name for metric in load_catalog().metrics if metric.type == "gauge"} <= names
        assert PASSWORD not in exporter.text_of_log() + exporter.get("/health").text + exporter.get("/metrics").text


@pytest.mark.parametrize(
    ("fault", "said", "backs_off"),
    [
        (hang(), "No complete answer within 3 s", False),
        (drip(20), "No complete answer within 3 s", False),
        (status(401, {"detail": "Token Expired"}), "does not accept this user", True),
        (status(403, {"detail": "Forbidden"}), "may not read", True),
        (status(429, headers={"Retry-After": "30"}), "too many requests", True),
        (status(500), "answers 500", False),
        (truncate(), "before its answer is complete", False),
        (html(), "web page instead of JSON", False),
    ],
    ids=["hang", "drip", "401", "403", "429", "500", "truncated", "html"],
)
def test_a_fault_in_airflow_is_airflows_alone(fault, said: str, backs_off: bool, tmp_path: Path):
    fake = FakeAirflow(now=time.time())
    for number in range(5):
        fake.run(DAGS[0], f"r{number}", start=fake.now - 500, end=fake.now - 400 + number)
    folder = tmp_path / "exporter"
    folder.mkdir()
    with FaultProxy(script=fake) as proxy:
        environment = {
            **INTERVAL,
            "AUDIT_URL": str(write_audit(folder, 0.71)),
            "AIRFLOW_BASE_URL": proxy.url,
            "AIRFLOW_USERNAME": FAKE_USERNAME,
            "AIRFLOW_PASSWORD": FAKE_PASSWORD,
        }
        with RunningExporter(folder, environment) as exporter:
            exporter.wait_for("airflow_dag_runs_total", 5, dag_id=DAGS[0], state="success")
            threads = exporter.threads()
            proxy.add(fault)
            exporter.wait_for("mlops_exporter_source_up", 0, source="airflow")
            refreshes = "mlops_exporter_source_refreshes_total"
            before = exporter.exposed().value(refreshes, source="audit")
            assert before is not None
            end = time.monotonic() + 60
            while True:  # until the other source was read twice more; a new state waits up to two seconds for Airflow
                began = time.monotonic()
                exposed = exporter.exposed()
                assert time.monotonic() - began < 2  # Airflow's deadline is 3 s
                assert exposed.value(R2) == 0.71
                assert exposed.value("mlops_exporter_source_up", source="audit") == 1
                assert exposed.value("airflow_dag_runs_total", dag_id=DAGS[0], state="success") == 5
                if exposed.value(refreshes, source="audit") >= before + 2:
                    break
                assert time.monotonic() < end, "the audit log is not read any more"
                time.sleep(0.05)
            health = exporter.get("/health").json()
            assert health["status"] == "degraded"
            assert said in health["sources"]["airflow"]["last_error"]
            assert exporter.threads() <= threads + FLASK_THREADS + 2  # those that answer /health; deadlines' timers
            seen = exporter.text_of_log() + exporter.get("/health").text + exporter.get("/metrics").text
            assert FAKE_PASSWORD not in seen
            assert "planted-token" not in seen
            proxy.clear()
            proxy.release()
            if backs_off:  # asked again later and later, as the loop's own tests show
                return
            fake.run(DAGS[0], "after", start=fake.now - 50, end=fake.now)
            exporter.wait_for("airflow_dag_runs_total", 6, dag_id=DAGS[0], state="success")
