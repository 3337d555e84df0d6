"""A real Prometheus scrapes the exporter, and promtool has nothing to say about what it serves."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testbed import faults
from testbed.bigquery import BigQueryEmulator
from testbed.debian import program
from testbed.exporter import RunningExporter
from testbed.process import ServerProcess, free_port, http_ready
from tests.integration.test_bigquery import HISTORY, SCHEMA, row

INTERVAL = {"EXPORTER_REFRESH_SECONDS": "1"}


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[RunningExporter]:
    folder = tmp_path / "exporter"
    folder.mkdir()
    with RunningExporter(folder, INTERVAL) as running:
        running.wait_for("mlops_exporter_source_up", 1, source="audit")
        yield running


class RunningPrometheus:
    """A Prometheus that scrapes these targets every second; targets by job name, each `host:port`."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [{"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()]
        configuration = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        self.server = ServerProcess(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log=folder / "prometheus.log",
            ready=http_ready(f"{self.url}/-/ready"),
            ready_within=60,
        )

    def query(self, expression: str) -> dict[str, float]:
        """Values of an instant query by the series' `job`."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        return {one["metric"].get("job", ""): float(one["value"][1]) for one in answer["data"]["result"]}

    def wait_for(self, expression: str, expected: dict[str, float], within: float = 60.0) -> None:
        """Query until the answer is as expected."""
        end = time.monotonic() + within
        while (found := self.query(expression)) != expected:
            assert time.monotonic() < end, f"{expression} gives {found}, not {expected}"
            time.sleep(0.2)

    def targets(self) -> dict[str, str]:
        """Last scrape error by job; empty where there was none."""
        answer = requests.get(f"{self.url}/api/v1/targets", timeout=10).json()
        return {target["labels"]["job"]: target["lastError"] for target in answer["data"]["activeTargets"]}


def test_promtool_has_nothing_to_say_about_the_full_output(exporter: RunningExporter):
    ran = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exporter.get("/metrics").content,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_prometheus_scrapes_both_formats(exporter: RunningExporter, tmp_path: Path):
    """Prometheus asks for OpenMetrics by itself; a proxy that asks for text stands before the second job."""
    asked: list[str] = []

    def as_text(request: faults.Request) -> faults.Reply:
        asked.append(request.headers["accept"])
        answer = exporter.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})
        return faults.Reply(200, answer.content, {"Content-Type": answer.headers["Content-Type"]})

    with faults.FaultProxy(script=as_text) as proxy:
        targets = {"openmetrics": exporter.url.removeprefix("http://"), "text": proxy.url.removeprefix("http://")}
        prometheus = RunningPrometheus(tmp_path / "prometheus", targets)
        with prometheus.server:
            prometheus.wait_for("up", {"openmetrics": 1.0, "text": 1.0})
            assert prometheus.targets() == {"openmetrics": "", "text": ""}
            assert "application/openmetrics-text" in asked[0]
            r2 = exporter.exposed().value("bike_model_r2_champion_current")
            deploys = exporter.exposed().value("bike_model_deployments_total", decision="deploy")
            prometheus.wait_for("bike_model_r2_champion_current", {"openmetrics": r2, "text": r2})
            prometheus.wait_for(
                'bike_model_deployments_total{decision="deploy"}', {"openmetrics": deploys, "text": deploys}
            )
            samples = prometheus.query("scrape_samples_scraped")
            assert samples["openmetrics"] == samples["text"] == len(exporter.exposed().samples)
            metadata = requests.get(f"{prometheus.url}/api/v1/metadata", timeout=10).json()["data"]
            assert metadata["bike_model_r2_champion_current"][0]["type"] == "gauge"


def test_bigquery_to_prometheus_and_back_from_an_outage(bigquery_emulator: BigQueryEmulator, tmp_path: Path):
    """The whole way: rows in BigQuery, values in Prometheus; a cut, and the return; no counter steps back."""
    table = bigquery_emulator.create_table(SCHEMA, partition_by="timestamp")
    bigquery_emulator.load(table, HISTORY)
    folder = tmp_path / "exporter"
    folder.mkdir()
    with faults.FaultProxy(bigquery_emulator.url) as proxy:
        environment = {
            **INTERVAL,
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "BIGQUERY_EMULATOR_HOST": proxy.url,
            "AUDIT_TABLE": table,
            "AUDIT_TIMEOUT_SECONDS": "5",
        }
        with RunningExporter(folder, environment) as exporter:
            exporter.wait_for("mlops_exporter_source_up", 1, source="audit")
            prometheus = RunningPrometheus(tmp_path / "prometheus", {"a": exporter.url.removeprefix("http://")})
            with prometheus.server:
                prometheus.wait_for("bike_model_r2_champion_current", {"a": 0.77})
                bigquery_emulator.load(table, [row(0.5, r2=0.91, deployment_decision="deploy")])
                prometheus.wait_for("bike_model_r2_champion_current", {"a": 0.91})
                proxy.refuse()
                prometheus.wait_for("mlops_exporter_source_up", {"a": 0.0})
                assert prometheus.query("bike_model_r2_champion_current") == {"a": 0.91}
                bigquery_emulator.load(table, [row(0.4, r2=0.92, deployment_decision="deploy")])
                proxy.listen()
                prometheus.wait_for("bike_model_r2_champion_current", {"a": 0.92})
                assert prometheus.query('sum by (job) (resets({__name__=~"bike_.+_total"}[5m]))') == {"a": 0.0}
                assert prometheus.query('bike_model_deployments_total{decision="deploy"}') == {"a": 3.0}
                assert prometheus.query("up") == {"a": 1.0}
                assert prometheus.query("min_over_time(up[5m])") == {"a": 1.0}
                executed = 'mlops_exporter_bigquery_queries_total{outcome="executed"}'
                assert prometheus.query(executed) == {"a": 3.0}
