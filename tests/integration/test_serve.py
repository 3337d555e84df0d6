"""The exporter as a real process under gunicorn: start, scrapes, faults, restarts, and the end."""

import base64
import gzip
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
import requests

from testbed import faults
from testbed.exporter import ROOT, RunningExporter
from testbed.exposed import Exposed
from tests.sources.audit.duckdb_log import Log

AUDIT_BACKED = {
    "bike_model_r2_champion_current",
    "bike_model_r2_production",
    "bike_model_r2_champion_baseline",
    "bike_model_r2_challenger_current",
    "bike_model_r2_challenger_baseline",
    "bike_model_rmse_production",
    "bike_model_improvement_delta",
    "bike_drift_detected",
    "bike_drift_share",
    "bike_drifted_features_count",
    "bike_model_deployments_total",
    "bike_training_runs_total",
}
FAST = {"EXPORTER_REFRESH_SECONDS": "1", "AUDIT_TIMEOUT_SECONDS": "1", "AUDIT_CONNECT_TIMEOUT_SECONDS": "1"}
SECRET = "s3cr3t-planted-by-a-test-do-not-show"


def bigquery_at(url: str) -> dict[str, str]:
    return {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": url}


def test_with_nothing_configured_every_audit_metric_has_a_sensible_value(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exposed = exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        assert exposed.names() >= AUDIT_BACKED
        assert 0 < exposed.value("bike_model_r2_champion_current") < 1
        assert 0 <= exposed.value("bike_drift_share") <= 1
        assert 10 < exposed.value("bike_model_rmse_production") < 200
        health = exporter.get("/health")
        assert health.status_code == 200
        assert health.json()["status"] == "ok"
        assert health.json()["sources"]["audit"]["sample_data"] is True
        assert "SAMPLE DATA" in exporter.text_of_log()
        assert "sample history" in exporter.get("/").text


def test_the_first_scrape_is_answered_within_a_second_of_the_workers_start(tmp_path: Path):
    took = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with RunningExporter(folder) as exporter:
            answered = time.time()
            started = exporter.exposed().value("process_start_time_seconds")
            assert started is not None
            took.append(answered - started)
    # The readiness probe asks every 0.1 s, and the kernel tells a process's start to a hundredth of a second.
    assert min(took) < 1, took


def test_both_gunicorn_commands_start_the_same_server(tmp_path: Path):
    exporter = RunningExporter(
        tmp_path,
        command=[
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(ROOT / "docker/exporter/gunicorn.conf.py"),
            "exporter.server:app()",
        ],
    )
    with exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["-m", "exporter", "serve"], {"WEB_CONCURRENCY": "4"}),
        (
            [
                "-m",
                "gunicorn",
                "-w",
                "2",
                "-c",
                str(ROOT / "docker/exporter/gunicorn.conf.py"),
                "exporter.server:app()",
            ],
            {},
        ),
    ],
)
def test_more_than_one_worker_is_refused(tmp_path: Path, command: list[str], environment: dict[str, str]):
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EXPORTER_PORT": "1", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode != 0
    assert "exactly one worker" in ran.stderr


def test_scrapes_are_instant_while_the_source_hangs_and_no_thread_leaks(tmp_path: Path):
    with faults.FaultProxy(script=lambda _: faults.Reply(500)) as proxy:
        proxy.add(faults.hang())
        with RunningExporter(tmp_path, {**FAST, **bigquery_at(proxy.url)}) as exporter:
            exporter.wait_for("mlops_exporter_source_up", 0, source="audit")
            threads, took = set(), []
            for _ in range(8):
                before = exporter.exposed().value("mlops_exporter_source_refreshes_total", source="audit")
                while exporter.exposed().value("mlops_exporter_source_refreshes_total", source="audit") == before:
                    began = time.monotonic()
                    assert exporter.get("/metrics").status_code == 200
                    took.append(time.monotonic() - began)
                    time.sleep(0.02)
                threads.add(exporter.threads())
            # The deadline's timer comes and goes; what must not happen is growth.
            assert max(threads) <= 8
            assert max(threads) - min(threads) <= 2
            assert statistics.quantiles(took, n=100)[98] < 0.1
            health = exporter.get("/health").json()
            assert health["status"] == "down"
            assert health["sources"]["audit"]["last_error_reason"] == "timeout"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_with_a_query_in_flight_ends_the_process_within_two_seconds(tmp_path: Path, number: signal.Signals):
    with faults.FaultProxy(script=lambda _: faults.Reply(500)) as proxy:
        proxy.add(faults.hang())
        with RunningExporter(tmp_path, bigquery_at(proxy.url)) as exporter:
            assert proxy.wait_for_requests(1)
            kept_alive = requests.Session()
            kept_alive.get(f"{exporter.url}/metrics", timeout=5)
            assert exporter.terminate(number) < 2


def test_a_source_that_is_down_at_boot_shows_within_one_interval_of_its_return(tmp_path: Path):
    audit = tmp_path / "data" / "audit.duckdb"
    with RunningExporter(tmp_path, {**FAST, "AUDIT_URL": f"duckdb://{audit}"}) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 0, source="audit")
        health = exporter.get("/health").json()
        assert health["sources"]["audit"]["last_error_reason"] == "not_found"
        assert "init-audit" in health["sources"]["audit"]["last_error"]
        assert exporter.get("/-/healthy").status_code == 200
        subprocess.run(
            [sys.executable, "-m", "exporter", "init-audit"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "AUDIT_URL": f"duckdb://{audit}", "PATH": "/usr/bin:/bin"},
            check=True,
            timeout=30,
        )
        returned = time.monotonic()
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit", within=5)
        assert time.monotonic() - returned < 1 * 1.1 + 1.0


def test_killed_and_restarted_during_an_outage_it_serves_what_it_knew(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exposed = exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        success = exposed.value("mlops_exporter_source_last_success_timestamp_seconds", source="audit")
        exporter.terminate(signal.SIGKILL)
    (tmp_path / "audit.duckdb").rename(tmp_path / "gone")
    with RunningExporter(tmp_path, {"AUDIT_SAMPLE_DATA": "false"}) as exporter:
        exposed = exporter.wait_for("mlops_exporter_source_up", 0, source="audit")
        assert exposed.names() >= AUDIT_BACKED
        assert exposed.value("mlops_exporter_source_last_success_timestamp_seconds", source="audit") == success
        assert exporter.get("/health").json()["status"] == "degraded"


def test_stale_series_are_dropped_and_come_back(tmp_path: Path):
    environment = {**FAST, "EXPORTER_STALE_AFTER_SECONDS": "3", "AUDIT_SAMPLE_DATA": "false"}
    with RunningExporter(tmp_path) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
    with RunningExporter(tmp_path, environment) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        (tmp_path / "audit.duckdb").rename(tmp_path / "gone")
        exposed = exporter.wait_for("mlops_exporter_source_up", 0, source="audit", within=3)
        assert exposed.value("bike_model_r2_champion_current") is not None
        exposed = exporter.wait_for("bike_model_r2_champion_current", None, within=6)
        assert not exposed.names() & AUDIT_BACKED
        assert exporter.get("/health").status_code == 503
        (tmp_path / "gone").rename(tmp_path / "audit.duckdb")
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit", within=5)
        assert exporter.exposed().names() >= AUDIT_BACKED


def test_fifty_parallel_scrapes_during_refreshes_each_get_one_whole_snapshot(tmp_path: Path):
    """The refresh counter and the last-success time change together with every snapshot: a mix would show."""
    with RunningExporter(tmp_path, FAST) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        accepts = ["text/plain", "application/openmetrics-text"]
        bodies: list[tuple[str, str]] = []

        def scrape(number: int) -> None:
            with requests.Session() as session:
                end = time.monotonic() + 4
                while time.monotonic() < end:
                    answer = session.get(
                        f"{exporter.url}/metrics",
                        headers={
                            "Accept": accepts[number % 2],
                            "Accept-Encoding": ("gzip", "identity")[number // 2 % 2],
                        },
                        timeout=10,
                    )
                    bodies.append((accepts[number % 2], answer.text))

        with ThreadPoolExecutor(50) as pool:
            list(pool.map(scrape, range(50)))
        distinct = set(bodies)
        texts = [text for accept, text in distinct if accept == "text/plain"]
        assert len(bodies) > 200
        assert 3 <= len(texts) <= 8
        by_refresh = {Exposed(text).value("mlops_exporter_source_refreshes_total", source="audit") for text in texts}
        assert len(by_refresh) == len(texts)
        assert all(text.endswith("# EOF\n") for accept, text in distinct if accept != "text/plain")
        assert len(distinct) - len(texts) <= len(texts) + 1


def test_gzip_over_the_wire(tmp_path: Path):
    with RunningExporter(tmp_path) as exporter:
        exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
        raw = exporter.get("/metrics", headers={"Accept-Encoding": "gzip"}, stream=True).raw.read(decode_content=False)
        assert "bike_model_r2_champion_current" in Exposed(gzip.decompress(raw)).names()


def test_no_secret_is_shown_anywhere(tmp_path: Path):
    """A key file, a token and a password are planted; sources fail in every way that could quote them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

    def script(request: faults.Request) -> faults.Reply:
        return faults.Reply(400, json.dumps({"error": "invalid_grant", "error_description": pem + SECRET}).encode())

    with faults.FaultProxy(script=script) as tokens:
        key = {
            "type": "service_account",
            "project_id": "test-project",
            "private_key_id": SECRET + "-id",
            "private_key": pem,
            "client_email": "exporter@test-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{tokens.url}/token",
        }
        path = tmp_path / "gcp.json"
        for content in (json.dumps(key), json.dumps({**key, "private_key": SECRET}), SECRET, json.dumps([SECRET])):
            path.write_text(content)
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            environment = {
                **FAST,
                "GOOGLE_CLOUD_PROJECT": "test-project",
                "GOOGLE_APPLICATION_CREDENTIALS": str(path),
                "EXPORTER_LOG_LEVEL": "DEBUG",
                "EXPORTER_LOG_FORMAT": "json",
            }
            with RunningExporter(folder, environment) as exporter:
                exporter.wait_for("mlops_exporter_source_up", 0, source="audit")
                shown = [exporter.get(page).text for page in ("/metrics", "/health", "/", "/-/healthy", "/-/ready")]
                assert exporter.get("/health").json()["sources"]["audit"]["last_error_reason"] == "auth"
                state = [file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()]
            for text in [*shown, *state, exporter.text_of_log()]:
                assert SECRET not in text
                for line in pem.splitlines()[1:-1]:
                    assert line not in text


@pytest.mark.parametrize("code", [200, 401, 403, 404, 500])
def test_airflows_password_and_token_are_not_shown_even_when_it_quotes_them(tmp_path: Path, code: int):
    def script(request: faults.Request) -> faults.Reply:
        quoted = {"detail": f"{request.headers} {request.body!r} {SECRET}", "title": SECRET, "access_token": SECRET}
        return faults.Reply(code, json.dumps(quoted).encode(), {"Content-Type": "application/json"})

    with faults.FaultProxy(script=script) as airflow:
        for number, login in enumerate(
            ({"AIRFLOW_USERNAME": "monitor", "AIRFLOW_PASSWORD": SECRET}, {"AIRFLOW_TOKEN": SECRET})
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            environment = {
                **FAST,
                **login,
                "AIRFLOW_BASE_URL": airflow.url,
                "AIRFLOW_TIMEOUT_SECONDS": "2",
                "EXPORTER_LOG_LEVEL": "DEBUG",
            }
            with RunningExporter(folder, environment) as exporter:
                exporter.wait_for("mlops_exporter_source_up", 0, source="airflow")
                shown = [exporter.get(page).text for page in ("/metrics", "/health", "/", "/-/healthy", "/-/ready")]
                state = [file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()]
                basic = base64.b64encode(f"monitor:{SECRET}".encode()).decode()
                for text in [*shown, *state, exporter.text_of_log()]:
                    assert SECRET not in text
                    assert basic not in text


def test_problems_in_the_settings_are_all_reported_and_end_the_start(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-m", "exporter", "serve"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EXPORTER_PORT": "x", "AUDIT_TABLE": "a b"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2
    assert "EXPORTER_PORT" in ran.stderr
    assert "AUDIT_TABLE" in ran.stderr
    assert "Traceback" not in ran.stderr


def add_row(log: Log, r2: float) -> None:
    """Append a row, waiting for the exporter to let go of the file."""
    for _ in range(100):
        try:
            log.add([{"at": time.time(), "r2": r2}])
        except duckdb.IOException:
            threading.Event().wait(0.05)
        else:
            return
    raise AssertionError("the file stayed locked")


R2 = "bike_model_r2_champion_current"


def test_a_new_row_shows_long_before_the_next_refresh_when_asked_for_and_the_token_is_shown_nowhere(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})
    add_row(log, 0.5)
    env = {
        "AUDIT_URL": str(log.path),
        "AUDIT_PROBE_SECONDS": "0",
        "EXPORTER_REFRESH_TOKEN": SECRET,
        "EXPORTER_LOG_LEVEL": "DEBUG",
    }
    with RunningExporter(tmp_path, env) as exporter:
        exporter.wait_for(R2, 0.5)
        add_row(log, 0.6)
        url = f"{exporter.url}/-/refresh"
        wrong = requests.post(url, headers={"Authorization": "Bearer wrong"}, timeout=5)
        assert (wrong.status_code, wrong.headers["WWW-Authenticate"]) == (401, 'Bearer realm="mlops-exporter"')
        assert requests.get(url, timeout=5).status_code == 405
        right = requests.post(url, headers={"Authorization": f"Bearer {SECRET}"}, timeout=5)
        assert (right.status_code, right.json()) == (202, {"status": "accepted"})
        exporter.wait_for(R2, 0.6)
        pages = [exporter.get(path).text for path in ("/", "/health", "/metrics")]
        assert SECRET not in "".join([*pages, wrong.text, right.text, exporter.text_of_log()])
