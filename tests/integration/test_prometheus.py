"""A real Prometheus scrapes the exporter, and promtool has nothing to say about what it serves."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testbed import faults
from testbed.bigquery import BigQueryEmulator
from testbed.debian import program
from testbed.exporter import RunningExporter
from testbed.prometheus import RunningPrometheus
from tests.integration.test_bigquery import HISTORY, SCHEMA, row

INTERVAL = {"EXPORTER_REFRESH_SECONDS": "1"}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    program("prometheus")  # else it starts for nothing
    with RunningExporter(tmp_path_factory.mktemp("exporter"), INTERVAL) as running:
        running.wait_for("mlops_exporter_source_up", 1, source="audit")
        yield running


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
