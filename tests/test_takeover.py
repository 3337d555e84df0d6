"""State that version 0.1.0 wrote is taken over: no counter steps back or begins anew.

The two files in tests/data were written by that version in three refreshes, between which rows came and left:
`ledger-0.1.0.sql` with the built-in catalogue and an Airflow, `ledger-0.1.0-labels.sql` with a label for the model.
"""

import sqlite3
from pathlib import Path

import pytest

from exporter.catalog import CountRows
from exporter.catalog_parser import load_catalog, parse_catalog
from exporter.counters import newest_counted, recounted
from exporter.ledger import FILE_NAME, Ledger
from exporter.snapshot import Reading
from testbed.fake_airflow import DAGS, FakeAirflow, source
from testbed.faults import FaultProxy
from tests.sources.audit.duckdb_log import DAY, NOW, Log, source_for

DATA = Path(__file__).parent / "data"
AIRFLOW = "http://airflow.example:8080"
DEPLOYMENTS, TRAINED = "bike_model_deployments_total", "bike_training_runs_total"
RELEASES = "shop_releases_total"
SHOP = f"""
version: 1
audit: {{table: monitoring_audit.logs, timestamp: timestamp, labels: {{model: model_name}}}}
metrics:
  - name: {RELEASES}
    type: counter
    help: Releases.
    labels: [decision]
    from: [{{audit: {{count: verdict, values: {{go: GO, stop: STOP}}}}}}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state belongs to a log that is named by a relative path."""
    monkeypatch.chdir(tmp_path)


def kept(name: str, airflow: str = AIRFLOW) -> Ledger:
    with sqlite3.connect(FILE_NAME) as connection:
        connection.executescript((DATA / name).read_text().replace(AIRFLOW, airflow))
    connection.close()
    ledger = Ledger.open(Path())
    assert ledger.problem is None
    return ledger


def values(reading: Reading, metric: str) -> dict[tuple[str, ...], float]:
    samples = reading.observations[metric].samples
    return {tuple(value for _, value in sample.labels): sample.value for sample in samples}  # type: ignore[union-attr]


def test_counts_of_rows_go_on():
    catalog = load_catalog()
    labels = {metric.name: metric.labels for metric, o in catalog.audit_metrics() if isinstance(o, CountRows)}
    kinds = {"deployment_decision": "VARCHAR", "fine_tune_triggered": "BOOLEAN", "fine_tune_success": "BOOLEAN"}
    log = Log(Path("audit.duckdb"), {"timestamp": "TIMESTAMPTZ", **kinds})
    tuned = {"fine_tune_triggered": True, "fine_tune_success": True}
    deploy, skip = {"deployment_decision": "deploy", **tuned}, {"deployment_decision": "skip"}
    log.add([{"at": NOW - 10 * DAY, **deploy}, {"at": NOW - 5 * DAY, **skip}, {"at": NOW - DAY, **deploy}])

    audit = source_for(log.path)
    ledger = kept("ledger-0.1.0.sql")
    before = ledger.load_reading("audit", audit.identity)
    assert before is not None
    assert newest_counted(before) == NOW - DAY
    shown = {DEPLOYMENTS: {("deploy",): 3, ("skip",): 2, ("reject",): 1}, TRAINED: {("success",): 3, ("failed",): 1}}
    assert {name: values(before, name) for name in shown} == shown

    log.add([{"at": NOW - 60, **deploy}])
    after = recounted(audit.read(before), before, labels)
    assert values(after, DEPLOYMENTS) == {("deploy",): 4, ("skip",): 2, ("reject",): 1}
    assert values(after, TRAINED) == {("success",): 4, ("failed",): 1}
    ledger.save_reading(after)
    assert ledger.load_reading("audit", audit.identity) == after
    ledger.close()


def test_counts_of_many_models_go_on_also_of_those_that_are_gone():
    log = Log(Path("audit.duckdb"), {"timestamp": "TIMESTAMPTZ", "model_name": "VARCHAR", "verdict": "VARCHAR"})
    rows = [("b", 26, "GO"), ("steady", 23, "GO"), ("a", 10, "GO"), ("b", 8, "GO"), ("a", 1, "GO")]
    rows += [("steady", -0.5, "GO"), ("gone", 0.1, "GO")]  # the first was dated in the future, and was counted
    log.add([{"at": NOW - ago * DAY, "model_name": model, "verdict": verdict} for model, ago, verdict in rows])
    catalog, labels = parse_catalog(SHOP, "c.yaml"), {RELEASES: ("model", "decision")}

    ledger = kept("ledger-0.1.0-labels.sql")
    before = ledger.load_reading("audit", source_for(log.path, catalog).identity)
    ledger.close()
    assert before is not None
    wanted = {("a", "go"): 3, ("a", "stop"): 1, ("b", "go"): 2, ("steady", "go"): 2}
    wanted |= {("b", "stop"): 0, ("steady", "stop"): 0}
    assert values(before, RELEASES) == wanted
    first = recounted(source_for(log.path, catalog).read(before), before, labels)
    assert {series: n for series, n in values(first, RELEASES).items() if series[0] != "gone"} == wanted
    assert values(first, RELEASES)["gone", "go"] == 2

    log.add([{"at": NOW + 0.6 * DAY, "model_name": "gone", "verdict": "GO"}])
    then = recounted(source_for(log.path, catalog, clock=lambda: NOW + DAY).read(first), first, labels)
    assert {series: n for series, n in values(then, RELEASES).items() if series[0] != "gone"} == wanted
    assert values(then, RELEASES)["gone", "go"] == 3


def test_what_was_counted_of_airflow_goes_on():
    fake = FakeAirflow("v2", now=NOW + 300)
    fake.run(DAGS[0], "f3", start=NOW - 10, end=NOW + 5, fetch_to_bigquery__records_count=7)
    fake.run(DAGS[0], "f4", start=NOW + 150, end=NOW + 200, fetch_to_bigquery__records_count=10)
    with FaultProxy(script=fake) as proxy:
        ledger = kept("ledger-0.1.0.sql", proxy.url)
        before = ledger.load_reading("airflow", f"{proxy.url} -")
        assert before is not None
        assert values(before, "airflow_dag_runs_total")[DAGS[0], "success"] == 3
        after = source(proxy.url, ledger, now=NOW + 300).read(before)
        ledger.close()
    assert values(after, "airflow_dag_runs_total")[DAGS[0], "success"] == 4
    assert values(after, "airflow_dag_runs_total")[DAGS[1], "failed"] == 1
    assert values(after, "bike_records_ingested_total") == {(): 217}
