"""Tables as teams have them, on BigQuery's emulator: what `tests/sources/audit/test_tables.py` asks of DuckDB.

Not to be seen here, since the emulator runs DuckDB too: texts that are no JSON, and local times that come twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.cloud import bigquery

from exporter.catalog import CountRows, NewestColumn
from exporter.catalog_draft import draft, prefix_of
from exporter.catalog_parser import load_catalog, parse_catalog
from exporter.check import OK, check
from exporter.errors import BadData
from exporter.glance import glance
from exporter.settings import Settings
from exporter.snapshot import Reading
from exporter.sources.audit.bigquery import BigQueryAudit
from testbed.bigquery import BigQueryEmulator
from testbed.faults import FaultProxy
from tests.test_examples import EXAMPLES, holds

NOW = 1_790_000_000.0
AT = 1_782_000_000.0  # 2026-06-21 00:00:00 UTC


def read(emulator: BigQueryEmulator, table: str, timestamp: str, *origins: str) -> Reading:
    """What the exporter reads: metrics m0, m1, … of these origins."""
    catalog = parse_catalog(
        f"version: 1\naudit: {{table: a.b, timestamp: {timestamp}}}\nmetrics:\n"
        + "".join(
            f"- {{name: m{n}, type: gauge, help: One., from: [{{audit: {one}}}]}}\n" for n, one in enumerate(origins)
        ),
        "mine.yaml",
    )
    settings = Settings.from_env(
        {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": emulator.url, "AUDIT_TABLE": table}
    )
    source = BigQueryAudit(settings, catalog, lambda: NOW)
    try:
        return source.read(None)
    finally:
        source.close()


def values(reading: Reading) -> dict[str, float]:
    return {name: observation.samples[0].value for name, observation in reading.observations.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "value", "timestamp"),
    [
        ("DATETIME", "2026-06-21T02:00:00", "{column: at, zone: Europe/Berlin}"),
        ("DATE", "2026-06-21", "at"),
        ("STRING", "2026-06-21T00:00:00Z", "{column: at, zone: Europe/Berlin}"),
        ("STRING", "2026-06-21 02:00:00", "{column: at, zone: Europe/Berlin}"),
        ("STRING", "21.06.2026 02:00", "{column: at, format: '%d.%m.%Y %H:%M', zone: Europe/Berlin}"),
        ("INT64", 1_782_000_000_000, "{column: at, unit: ms}"),
        ("FLOAT64", 1_782_000_000.0, "{column: at, unit: s}"),
        ("STRING", "1782000000", "{column: at, unit: s}"),
    ],
)
def test_times_of_every_kind_are_one_moment(bigquery_emulator: BigQueryEmulator, kind: str, value: Any, timestamp: str):
    table = bigquery_emulator.create_table({"at": kind, "r2": "FLOAT64"})
    bigquery_emulator.load(table, [{"at": value, "r2": 0.5}])
    reading = read(bigquery_emulator, table, timestamp, "r2")
    assert (reading.facts["last_record_at"], values(reading)) == (AT, {"m0": 0.5})


def test_texts_of_another_order_are_no_times(bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table({"at": "STRING", "r2": "FLOAT64"})
    bigquery_emulator.load(table, [{"at": "03/04/2026", "r2": 0.5}])
    with pytest.raises(BadData, match="None of the log's 1 row has a usable time in column at"):
        read(bigquery_emulator, table, "at", "r2")


def test_one_metric_a_row_and_names_that_need_quotes(bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table(
        {"at": "TIMESTAMP", "größe m": "STRING", "select": "FLOAT64", "fold": "INT64"}
    )
    rows = [(3, "r2", 0.5, 1), (2, "rmse", 7.0, 1), (1, "r2", 0.9, 2)]
    bigquery_emulator.load(
        table,
        [
            {"at": f"2026-06-2{3 - ago}T00:00:00Z", "größe m": key, "select": value, "fold": fold}
            for ago, key, value, fold in rows
        ],
    )
    origins = [f"{{column: select, where: {{größe m: {key}, fold: 1}}}}" for key in ("r2", "rmse", "auc")]
    assert values(read(bigquery_emulator, table, "at", *origins)) == {"m0": 0.5, "m1": 7.0}


@pytest.mark.parametrize("kind", ["JSON", "STRING", "STRUCT"])
def test_a_path_leads_into_json_and_structs(bigquery_emulator: BigQueryEmulator, kind: str):
    report = {"drift": {"share": 0.25, "found": True}, "n": None}
    table = f"{bigquery_emulator.create_dataset()}.logs"
    field = bigquery.SchemaField("report", kind)
    if kind == "STRUCT":
        drift = [bigquery.SchemaField("share", "FLOAT64"), bigquery.SchemaField("found", "BOOL")]
        parts = [bigquery.SchemaField("drift", "RECORD", fields=drift), bigquery.SchemaField("n", "INT64")]
        field = bigquery.SchemaField("report", "RECORD", fields=parts)
    client = bigquery_emulator.client()
    client.create_table(bigquery.Table(table, schema=[bigquery.SchemaField("at", "TIMESTAMP"), field]))
    held = {
        "JSON": f"JSON '{json.dumps(report)}'",
        "STRING": f"'{json.dumps(report)}'",
        "STRUCT": "STRUCT(STRUCT(0.25 AS share, TRUE AS found) AS drift, CAST(NULL AS INT64) AS n)",
    }[kind]
    client.query(f"INSERT INTO `{table}` VALUES (TIMESTAMP '2026-06-21 00:00:00+00', {held})").result()
    paths = ("drift.share", "drift.found", "n", "drift", "nothing.here")
    reading = read(bigquery_emulator, table, "at", *(f"{{column: report, path: {path}}}" for path in paths))
    assert values(reading) == {"m0": 0.25, "m1": 1.0}


@pytest.mark.parametrize("folder", sorted(path.parent for path in EXAMPLES.glob("*/schema.json")), ids=lambda f: f.name)
def test_an_example_exposes_what_it_says_and_check_finds_all_well(
    bigquery_emulator: BigQueryEmulator, folder: Path, tmp_path: Path
):
    table = bigquery_emulator.load_files(folder / "schema.json", folder / "rows.jsonl")
    holds(
        folder,
        tmp_path,
        {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": bigquery_emulator.url, "AUDIT_TABLE": table},
    )


RUNS = {
    "recorded at": "DATETIME", "größe": "NUMERIC", "drift": "BOOL", "verdict": "STRING", "score": "STRING",
    "report": "JSON", "run_id": "STRING",
}  # fmt: skip


def test_check_accepts_the_catalogue_that_is_printed_for_a_table(bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table(RUNS, name="churn-runs")
    row = {"recorded at": "2026-06-21T00:00:00", "größe": "1.5", "drift": True, "score": "0.5", "report": {"a": 1}}
    bigquery_emulator.load(table, [{**row, "verdict": said, "run_id": "r"} for said in ("GO", "stop", "GO", None)])
    emulator = {"BIGQUERY_EMULATOR_HOST": bigquery_emulator.url}
    seen = glance(table, {**emulator, "AUDIT_URL": "else.csv"}, load_catalog())
    assert seen.notes[0].startswith("Try it: GOOGLE_CLOUD_PROJECT=test-project EXPORTER_CATALOG=")
    made = draft(seen.columns, seen.rows, seen.table, prefix_of(seen.name), seen.notes)
    catalog = parse_catalog(made, "mine.yaml")
    assert (catalog.audit.table, catalog.audit.timestamp) == (table, "recorded at")
    assert {metric.name: metric.origins for metric in catalog.metrics} == {
        "churn_runs_gr_e": (NewestColumn("größe"),),
        "churn_runs_drift": (NewestColumn("drift"),),
        "churn_runs_verdict_total": (CountRows("verdict", (("go", "go"), ("stop", "stop"))),),
        "churn_runs_score": (NewestColumn("score"),),
    }
    assert "report" in made
    settings = Settings.from_env({**emulator, "GOOGLE_CLOUD_PROJECT": "test-project", "EXPORTER_STATE_DIR": "none"})
    assert [finding for finding in check(settings, catalog) if finding.state != OK] == []


def test_a_glance_bills_nothing(bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table({"at": "INT64", "r2": "FLOAT64"})
    bigquery_emulator.load(table, [{"at": 1_782_000_000, "r2": 0.5}] * 3)
    view = bigquery_emulator.create_view(f"SELECT * FROM `{table}`")
    with FaultProxy(bigquery_emulator.url) as proxy:
        env = {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": proxy.url}
        seen = glance(table.removeprefix("test-project."), env, load_catalog())
        assert (seen.table, seen.name, [row["at"] for row in seen.rows]) == (table, "logs", [1_782_000_000] * 3)
        seen = glance(view, env, load_catalog())
        assert ([column.name for column in seen.columns], seen.rows) == (["at", "r2"], [])
        assert seen.note == "The rows of a BigQuery view were not looked at: a query would be billed."
        assert {request.method for request in proxy.requests} == {"GET"}
