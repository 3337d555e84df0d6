"""A real Prometheus reads the backfilled history, and a real BigQuery client the log that it is made of."""

import itertools
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from exporter.backfill.command import backfill
from exporter.backfill.request import Request
from exporter.settings import Settings
from testbed.bigquery import BigQueryEmulator
from testbed.debian import program
from testbed.fake_airflow import DAGS, PASSWORD, USERNAME, FakeAirflow
from testbed.faults import FaultProxy
from testbed.process import ServerProcess, free_port, http_ready
from tests.backfill.history import read
from tests.backfill.history import run as run_on_duckdb
from tests.integration import test_bigquery
from tests.sources.audit.duckdb_log import CATALOG, DAY, Log, settings_for
from tests.sources.audit.test_properties import COLUMNS

TARGET = {"job": "airflow-metrics", "instance": "airflow-exporter:9101"}
NOW = datetime(2026, 9, 21, 12, tzinfo=UTC)
"""The time at which history is written. The blocks are queried at times before it, whatever the clock says."""
MARCH = datetime(2026, 3, 17, 3, tzinfo=UTC)


class Prometheus:
    """A Prometheus that scrapes nothing and serves these blocks."""

    def __init__(self, folder: Path, blocks: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        shutil.copytree(blocks, folder / "data")
        (folder / "prometheus.yml").write_text("scrape_configs: []\n")
        self.server = ServerProcess(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log=folder / "prometheus.log",
            ready=http_ready(f"{self.url}/-/ready"),
            ready_within=60,
        )

    def query(self, expression: str, at: datetime) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query at a moment."""
        parameters: dict[str, Any] = {"query": expression, "time": at.timestamp()}
        answer = requests.get(f"{self.url}/api/v1/query", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def value(self, expression: str, at: datetime) -> float | None:
        """The value of the one series that an instant query gives."""
        found = self.query(expression, at)
        assert len(found) <= 1, found
        return found[0][1] if found else None


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Half a year of weekly runs whose R² falls by 0.001 a week, each one a deployment."""
    made = Log(tmp_path / "audit.duckdb", COLUMNS)
    first = MARCH - timedelta(weeks=4)
    made.add(
        {"at": (first + timedelta(weeks=week)).timestamp(), "r2": 0.8 - week / 1000, "deployment_decision": "deploy"}
        for week in range(30)
    )
    return made


def test_prometheus_gives_last_marchs_r2_back(log: Log, tmp_path: Path):
    program("promtool")
    out = tmp_path / "out"
    said = run_on_duckdb(log.path, out, now=NOW.timestamp(), since="2026-03-01", step="1m", promtool=True)
    assert [path.name for path in out.iterdir()] == ["blocks"]
    blocks = out / "blocks"
    prometheus = Prometheus(tmp_path / "prometheus", blocks)
    with prometheus.server:
        r2 = "bike_model_r2_champion_current"
        assert prometheus.query(r2, MARCH) == [({"__name__": r2, **TARGET}, 0.796)]
        assert prometheus.value(r2, MARCH - timedelta(seconds=1)) == 0.797
        assert prometheus.value("bike_model_r2_production", MARCH) == 0.796
        assert prometheus.value(r2, datetime(2026, 2, 20, tzinfo=UTC)) is None
        deployed = 'bike_model_deployments_total{decision="deploy"}'
        assert prometheus.value(deployed, MARCH) == 5
        assert prometheus.value(f"resets({deployed}[200d])", NOW) == 0
        assert prometheus.value(f"{deployed} - {deployed} offset 4w", MARCH + timedelta(weeks=8)) == 4
        # Not a gap in half a year, blocks' borders included: a value at every minute.
        minutes = (NOW - datetime(2026, 3, 1, tzinfo=UTC)) / timedelta(minutes=1) + 1
        assert prometheus.value(f"count_over_time({r2}[300d:1m])", NOW) == minutes
        # Not more samples than that needs: one in four minutes, but near changes.
        assert prometheus.value(f"count_over_time({r2}[300d])", NOW) < minutes / 3
        # One deployment is one, over whatever time: `increase` adds to both ends half the time between two samples.
        short, long = [(0, "5m"), (1, "5m"), (4, "5m")], [(3, "10m"), (9, "10m"), (20, "1h"), (59, "1h"), (999, "1d")]
        for after, window in short + long:
            increase = prometheus.value(f"increase({deployed}[{window}])", MARCH + timedelta(minutes=after))
            assert increase == pytest.approx(1, abs=0.25 if window == "5m" else 0.12), (after, window)
    found = re.search(r"(\d+) series, (\d+) samples, (\d+) blocks", "\n".join(said))
    assert found
    metas = [json.loads(path.read_text()) for path in blocks.glob("*/meta.json")]
    assert len(metas) == int(found[3])
    assert sum(meta["stats"]["numSamples"] for meta in metas) == int(found[2])
    spans = sorted((meta["minTime"], meta["maxTime"]) for meta in metas)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_the_command_that_the_text_names_makes_blocks_of_its_files(log: Log, tmp_path: Path):
    """Without --promtool the user runs promtool, without the hidden flag."""
    promtool = program("promtool")
    run_on_duckdb(log.path, tmp_path / "out", now=NOW.timestamp(), since="2d", step="5m")
    for file in sorted((tmp_path / "out").glob("*.om")):
        command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(file), str(tmp_path / "blocks")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "blocks")
    with prometheus.server:
        assert prometheus.value("count_over_time(bike_model_r2_champion_current[20d])", NOW) == 2 * 24 * 12 + 1


def test_prometheus_reads_the_runs_of_airflow(log: Log, tmp_path: Path):
    program("promtool")
    now = NOW.timestamp()
    fake = FakeAirflow(now=now)
    for number in range(8):
        end = now - number * 10_000 - 1
        fake.run(DAGS[0], f"f{number}", start=end - 100, end=end)
    with FaultProxy(script=fake) as proxy:
        env = {"AIRFLOW_BASE_URL": proxy.url, "AIRFLOW_USERNAME": USERNAME, "AIRFLOW_PASSWORD": PASSWORD}
        run_on_duckdb(log.path, tmp_path / "out", now=now, since="2d", step="5m", promtool=True, env=env)
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "out" / "blocks")
    with prometheus.server:
        one = f'{{dag_id="{DAGS[0]}",state="success"}}'
        assert prometheus.value(f"airflow_dag_runs_total{one}", NOW) == 8
        assert prometheus.value(f"airflow_dag_runs_total{one}", NOW - timedelta(seconds=35_000)) == 4
        assert prometheus.value(f"airflow_dag_run_duration_seconds_sum{one}", NOW) == 800
        assert prometheus.value(f"histogram_quantile(1, airflow_dag_run_duration_seconds_bucket{one})", NOW) == 120
        assert prometheus.value("airflow_dag_last_success_timestamp_seconds", NOW) == now - 1


def test_bigquery_has_the_same_history_as_duckdb(bigquery_emulator: BigQueryEmulator, tmp_path: Path):
    """The same rows in both, with equal timestamps, sentinels, NaN, text for numbers, and another env."""
    now = test_bigquery.NOW
    schema = {**test_bigquery.SCHEMA, "drift_share": "STRING"}
    rows = [
        {**row, "drift_share": str(row["drift_share"]) if "drift_share" in row else None}
        for row in test_bigquery.HISTORY
    ]
    rows += [
        test_bigquery.row(3, r2=float("nan"), drift_share="n/a", deployment_decision=" Deploy"),
        test_bigquery.row(3, r2=0.5, drift_share=" 0.25 "),
        test_bigquery.row(3, r2=0.6, deployment_decision="deploy"),
        {**test_bigquery.row(2, r2=0.9, deployment_decision="deploy"), "env": "dev"},
        test_bigquery.row(-1, r2=0.99),
    ]
    table = bigquery_emulator.create_table(schema, partition_by="timestamp", require_partition_filter=True)
    bigquery_emulator.load(table, rows)
    kinds = {"TIMESTAMP": "TIMESTAMPTZ", "BOOL": "BOOLEAN", "FLOAT64": "DOUBLE", "INT64": "BIGINT", "STRING": "VARCHAR"}
    log = Log(tmp_path / "audit.duckdb", {name: kinds[kind] for name, kind in schema.items()})
    log.add({**{k: v for k, v in row.items() if k != "timestamp"}, "at": _seconds(row["timestamp"])} for row in rows)
    request = Request(since="20d", until="now", step="5m", output=tmp_path / "bigquery")
    environment = {"AUDIT_ENV": "prod", "EXPORTER_STATE_DIR": "none"}
    settings = Settings.from_env(
        {
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "BIGQUERY_EMULATOR_HOST": bigquery_emulator.url,
            "AUDIT_TABLE": table,
            **environment,
        }
    )
    backfill(request, settings, CATALOG, lambda _: None, clock=lambda: now)
    there = Request(since="20d", until="now", step="5m", output=tmp_path / "duckdb")
    backfill(there, settings_for(str(log.path), **environment), CATALOG, lambda _: None, clock=lambda: now)
    history = read(tmp_path / "bigquery")
    assert history == read(tmp_path / "duckdb")
    r2 = history["bike_model_r2_champion_current", ()]
    assert (r2[min(r2)], r2[max(r2)], r2[max(r2) - 4 * DAY]) == (0.8, 0.6, 0.77)
    deployed = history["bike_model_deployments_total", (("decision", "deploy"),)]
    assert (deployed[min(deployed)], deployed[max(deployed)]) == (0, 3)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
