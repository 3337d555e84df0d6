"""The exporter as a real process under gunicorn: start, scrapes, faults, restarts, and the end.

A start takes a second or two of CPU, so tests that do not disturb each other share one.
"""

import gzip
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
import requests

from exporter.sources.audit.duckdb_init import create_sample
from testbed import faults
from testbed.exporter import ROOT, RunningExporter
from testbed.exposed import Exposed
from testbed.planted import SECRET, private_key, service_account
from testbed.slow_clients import clients
from testbed.usage import cpu_seconds, patience
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
FAST = {"EXPORTER_REFRESH_SECONDS": "1", "AUDIT_CONNECT_TIMEOUT_SECONDS": "1"}
R2 = "bike_model_r2_champion_current"
UP = ("mlops_exporter_source_up", 1)
DOWN = ("mlops_exporter_source_up", 0)
REFRESHES = "mlops_exporter_source_refreshes_total"
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "docker/exporter/gunicorn.conf.py")]


def bigquery_at(url: str) -> dict[str, str]:
    return {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": url}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    """Without any source configured, which means the sample; by gunicorn's own command, as in the container."""
    folder = tmp_path_factory.mktemp("sample")
    with RunningExporter(folder, {"EXPORTER_REFRESH_SECONDS": "1"}, [*GUNICORN, "exporter.server:app()"]) as exporter:
        exporter.wait_for(*UP, source="audit")
        yield exporter


def test_with_nothing_configured_every_audit_metric_has_a_sensible_value(sample: RunningExporter):
    exposed = sample.exposed()
    assert exposed.names() >= AUDIT_BACKED
    assert 0 < exposed.value("bike_model_r2_champion_current") < 1
    assert 0 <= exposed.value("bike_drift_share") <= 1
    assert 10 < exposed.value("bike_model_rmse_production") < 200
    health = sample.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert health.json()["sources"]["audit"]["sample_data"] is True
    assert "SAMPLE DATA" in sample.text_of_log()
    assert "sample history" in sample.get("/").text


def test_gzip_over_the_wire(sample: RunningExporter):
    raw = sample.get("/metrics", headers={"Accept-Encoding": "gzip"}, stream=True).raw.read(decode_content=False)
    assert "bike_model_r2_champion_current" in Exposed(gzip.decompress(raw)).names()


def test_fifty_parallel_scrapes_during_refreshes_each_get_one_whole_snapshot(sample: RunningExporter):
    """The refresh counter and the last-success time change together with every snapshot: a mix would show."""
    accepts = ["text/plain", "application/openmetrics-text"]
    bodies: list[tuple[str, str]] = []
    enough = threading.Event()

    def scrape(number: int) -> None:
        headers = {"Accept": accepts[number % 2], "Accept-Encoding": ("gzip", "identity")[number // 2 % 2]}
        with requests.Session() as session:
            while not enough.wait(0.2):
                answer = session.get(f"{sample.url}/metrics", headers=headers, timeout=60)
                bodies.append((headers["Accept"], answer.text))

    def distinct(accept: str) -> set[str]:
        return {text for kind, text in list(bodies) if kind == accept}

    with ThreadPoolExecutor(50) as pool:
        scraping = [pool.submit(scrape, number) for number in range(50)]
        end = time.monotonic() + 60
        while (len(distinct("text/plain")) < 4 or len(bodies) < 300) and time.monotonic() < end:
            enough.wait(0.1)
        enough.set()
        for one in scraping:
            one.result()
    for accept in accepts:
        texts = distinct(accept)
        assert len(texts) >= 3
        by_refresh = {Exposed(text).value(REFRESHES, source="audit") for text in texts}
        assert len(by_refresh) == len(texts), "two bodies of one refresh"
        assert all(text.endswith("# EOF\n") == (accept != "text/plain") for text in texts)


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        ([sys.executable, "-m", "exporter", "serve"], {"WEB_CONCURRENCY": "4"}),
        ([*GUNICORN, "-w", "2", "exporter.server:app()"], {}),
    ],
)
def test_more_than_one_worker_is_refused(tmp_path: Path, command: list[str], environment: dict[str, str]):
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EXPORTER_PORT": "1", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode != 0
    assert "exactly one worker" in ran.stderr


def test_the_first_scrape_waits_for_no_source_and_sigterm_ends_the_process_within_two_seconds(tmp_path: Path):
    with faults.FaultProxy(script=lambda _: faults.Reply(500)) as proxy:
        proxy.add(faults.hang())
        with RunningExporter(tmp_path, bigquery_at(proxy.url)) as exporter:
            assert proxy.wait_for_requests(1)
            assert exporter.exposed().value(REFRESHES, source="audit") == 0
            assert exporter.get("/-/healthy").status_code == 200
            kept_alive = exporter.session  # noqa: F841 -- an open connection must not hold up the end
            assert exporter.terminate(signal.SIGTERM) < patience(2)


def test_a_source_that_hangs_again_and_again_delays_no_scrape_and_leaks_no_thread(tmp_path: Path):
    with faults.FaultProxy(script=lambda _: faults.Reply(500)) as proxy:
        proxy.add(faults.hang())
        with RunningExporter(tmp_path, {**FAST, "AUDIT_TIMEOUT_SECONDS": "1", **bigquery_at(proxy.url)}) as exporter:
            exporter.wait_for(*DOWN, source="audit")
            threads, took = [], []
            for _ in range(5):
                before = exporter.exposed().value(REFRESHES, source="audit")
                found = before
                while found == before:
                    began = time.monotonic()
                    scraped = exporter.get("/metrics")
                    took.append(time.monotonic() - began)
                    found = Exposed(scraped.text).value(REFRESHES, source="audit")
                    time.sleep(0.05)
                threads.append(exporter.threads())
            # The deadline's timer comes and goes; what must not happen is growth.
            assert max(threads) <= 8
            assert max(threads) - min(threads) <= 2
            # One that waits for the source would take half a second on average.
            assert statistics.median(took) < 0.1
            health = exporter.get("/health").json()
            assert health["status"] == "down"
            assert health["sources"]["audit"]["last_error_reason"] == "timeout"
            proxy.forget()
            assert proxy.wait_for_requests(1), "so that a query is in flight"
            assert exporter.terminate(signal.SIGINT) < patience(2)


def test_a_log_that_is_not_there_at_boot_then_comes_goes_and_comes_back(tmp_path: Path):
    """And what was known at last is served by the next process, which starts during an outage."""
    audit, gone = tmp_path / "data" / "audit.duckdb", tmp_path / "gone"
    environment = {**FAST, "AUDIT_URL": f"duckdb://{audit}"}
    with RunningExporter(tmp_path, {**environment, "EXPORTER_STALE_AFTER_SECONDS": "4"}) as exporter:
        # It has answered a scrape. CPU time, for what others do on this machine takes time, too.
        assert cpu_seconds(exporter.pids()[1]) < 1, "from the worker's start to the first scrape"
        exporter.wait_for(*DOWN, source="audit")
        health = exporter.get("/health").json()
        assert health["sources"]["audit"]["last_error_reason"] == "not_found"
        assert "init-audit" in health["sources"]["audit"]["last_error"]
        assert exporter.get("/-/healthy").status_code == 200

        create_sample(gone, "monitoring_audit", "logs", time.time())
        before = exporter.exposed().value(REFRESHES, source="audit")
        audit.parent.mkdir()
        gone.rename(audit)
        exposed = exporter.wait_for(*UP, source="audit")
        assert exposed.value(REFRESHES, source="audit") <= before + 2, "one was under way; the next one found it"
        assert exposed.names() >= AUDIT_BACKED

        audit.rename(gone)
        exposed = exporter.wait_for(*DOWN, source="audit")
        assert exposed.value(R2) is not None
        exposed = exporter.wait_for(R2, None)
        assert not exposed.names() & AUDIT_BACKED
        assert exporter.get("/health").status_code == 503

        gone.rename(audit)
        exporter.wait_for(*UP, source="audit")
        exposed = exporter.exposed()
        assert exposed.names() >= AUDIT_BACKED
        exporter.terminate(signal.SIGKILL)
        success = exposed.value("mlops_exporter_source_last_success_timestamp_seconds", source="audit")
    audit.rename(gone)
    with RunningExporter(tmp_path, environment) as exporter:
        exposed = exporter.wait_for(*DOWN, source="audit")
        assert exposed.names() >= AUDIT_BACKED
        assert exposed.value("mlops_exporter_source_last_success_timestamp_seconds", source="audit") >= success
        assert exporter.get("/health").json()["status"] == "degraded"


def test_no_secret_is_shown_anywhere(tmp_path: Path):
    """A key file, and a password that Airflow quotes. `tests/test_secrets.py` has more of them."""
    pem = private_key()

    def quote(request: faults.Request) -> faults.Reply:
        quoted = {"detail": f"{request.headers} {request.body!r} {SECRET}", "title": SECRET, "error": pem + SECRET}
        return faults.Reply(400, json.dumps(quoted).encode(), {"Content-Type": "application/json"})

    with faults.FaultProxy(script=quote) as proxy:
        (tmp_path / "gcp.json").write_text(json.dumps(service_account(pem, proxy.url)))
        environment = {
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gcp.json"),
            "AIRFLOW_BASE_URL": proxy.url,
            "AIRFLOW_USERNAME": "monitor",
            "AIRFLOW_PASSWORD": SECRET,
            "EXPORTER_LOG_LEVEL": "DEBUG",
            "EXPORTER_LOG_FORMAT": "json",
        }
        folder = tmp_path / "exporter"
        folder.mkdir()
        with RunningExporter(folder, environment) as exporter:
            exporter.wait_for(*DOWN, source="audit")
            exporter.wait_for(*DOWN, source="airflow")
            shown = [exporter.get(page).text for page in ("/metrics", "/health", "/", "/-/healthy", "/-/ready")]
            assert exporter.get("/health").json()["sources"]["audit"]["last_error_reason"] == "auth"
            state = [file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()]
    for text in [*shown, *state, exporter.text_of_log()]:
        assert SECRET not in text
        for line in pem.splitlines()[1:-1]:
            assert line not in text


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
        wrong = requests.post(url, headers={"Authorization": "Bearer wrong"}, timeout=30)
        assert (wrong.status_code, wrong.headers["WWW-Authenticate"]) == (401, 'Bearer realm="mlops-exporter"')
        assert requests.get(url, timeout=30).status_code == 405
        right = requests.post(url, headers={"Authorization": f"Bearer {SECRET}"}, timeout=30)
        assert (right.status_code, right.json()) == (202, {"status": "accepted"})
        exporter.wait_for(R2, 0.6)
        pages = [exporter.get(path).text for path in ("/", "/health", "/metrics")]
        guess = b"POST /-/refresh HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"
        with clients(exporter.port, 4, guess):  # they are refused one after the other, half a second each
            assert exporter.terminate(signal.SIGTERM) < patience(2)
        assert SECRET not in "".join([*pages, wrong.text, right.text, exporter.text_of_log()])
        assert "Traceback" not in exporter.text_of_log()
