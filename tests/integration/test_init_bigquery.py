"""`init-audit` and `check` against BigQuery."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.catalog_parser import load_catalog
from exporter.errors import SourceUnavailable
from exporter.settings import Settings
from exporter.sources.audit.bigquery import BigQueryAudit
from exporter.sources.audit.bigquery_init import init_bigquery
from exporter.sources.audit.schema import STANDARD
from testbed import faults
from testbed.bigquery import BigQueryEmulator
from testbed.exporter import ROOT
from tests.integration.test_bigquery import HISTORY, SCHEMA


def settings(url: str, table: str) -> Settings:
    return Settings.from_env(
        {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": url, "AUDIT_TABLE": table}
    )


def test_dataset_and_table_are_created_and_can_be_read(bigquery_emulator: BigQueryEmulator):
    catalog = load_catalog()
    made = settings(bigquery_emulator.url, "made_by_init.logs")
    report = init_bigquery(made, catalog)
    assert report.created
    table = bigquery_emulator.client().get_table("test-project.made_by_init.logs")
    assert [field.name for field in table.schema] == [column.name for column in STANDARD]
    assert table.time_partitioning.field == "timestamp"
    reading = BigQueryAudit(made, catalog).read(None)
    assert reading.facts["rows"] == 0
    assert reading.facts["missing_columns"] is None
    again = init_bigquery(made, catalog)
    assert (again.created, again.added, again.mismatched) == (False, (), ())


def test_only_missing_columns_are_added_and_rows_stay(bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table({"timestamp": "TIMESTAMP", "r2": "STRING", "mine": "STRING"})
    bigquery_emulator.load(table, [{"timestamp": HISTORY[0]["timestamp"], "r2": "0.5", "mine": "x"}])
    report = init_bigquery(settings(bigquery_emulator.url, table), load_catalog())
    assert not report.created
    assert report.added == tuple(c.name for c in STANDARD if c.name not in ("timestamp", "r2"))
    assert report.mismatched == ("column r2 is STRING, expected FLOAT64",)
    fields = {field.name for field in bigquery_emulator.client().get_table(table).schema}
    assert fields == {column.name for column in STANDARD} | {"mine"}
    assert bigquery_emulator.query(f"SELECT r2, mine FROM `{table}`") == [{"r2": "0.5", "mine": "x"}]


def test_a_refusal_is_a_plain_error(bigquery_emulator: BigQueryEmulator):
    with faults.FaultProxy(bigquery_emulator.url) as proxy:
        proxy.add(faults.google_error(403, "Access Denied: no bigquery.tables.create"), method="POST")
        with pytest.raises(SourceUnavailable) as caught:
            init_bigquery(settings(proxy.url, "made_by_nobody.logs"), load_catalog())
        assert caught.value.reason == "permission"


def test_check_shows_the_table_its_gaps_and_the_cost(bigquery_emulator: BigQueryEmulator, tmp_path: Path):
    table = bigquery_emulator.create_table({k: v for k, v in SCHEMA.items() if k != "drift_share"})
    ran = subprocess.run(
        [sys.executable, "-m", "exporter", "check"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "BIGQUERY_EMULATOR_HOST": bigquery_emulator.url,
            "AUDIT_TABLE": table,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert table in ran.stdout
    assert "missing: drift_share" in ran.stdout
    assert "bills 10.0 MiB" in ran.stdout
