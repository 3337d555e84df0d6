"""What is counted survives restarts, kills and a ledger that cannot be written, each event once."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from exporter.catalog_parser import parse_catalog
from exporter.errors import StateError
from exporter.ledger import FILE_NAME, Ledger, reading_from_json, reading_to_json
from testbed.fake_airflow import DAGS, DAY, NOW, FakeAirflow, source
from testbed.faults import FaultProxy
from tests.sources.airflow.readings import run_durations, runs_total, task_durations, value

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
FETCH, PREDICT, MONITOR = DAGS


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_totals_survive_a_restart_and_a_long_break(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    fake.run(FETCH, "a", start=NOW - 90, end=NOW - 10, fetch_to_bigquery__records_count=7)
    ledger = Ledger.open(tmp_path)
    source(proxy.url, ledger).read(None)
    ledger.close()
    fake.now += 60 * DAY
    fake.run(FETCH, "b", start=NOW + DAY, end=NOW + DAY + 5, fetch_to_bigquery__records_count=5)
    fake.runs.pop(0)  # Airflow's own history is cleaned up
    ledger = Ledger.open(tmp_path)
    reading = source(proxy.url, ledger).read(None)
    assert runs_total(reading, FETCH, "success") == 2
    assert value(reading, "bike_records_ingested_total") == 12
    ledger.close()


def test_another_airflow_has_totals_of_its_own(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    fake.run(FETCH, "a", start=NOW - 90, end=NOW - 10)
    ledger = Ledger.open(tmp_path)
    source(proxy.url, ledger).read(None)
    with FaultProxy(script=FakeAirflow("v1")) as other:
        assert runs_total(source(other.url, ledger).read(None), FETCH, "success") == 0
    assert runs_total(source(proxy.url, ledger).read(None), FETCH, "success") == 1


def test_other_buckets_mean_counting_anew(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    fake.run(FETCH, "a", start=NOW - 90, end=NOW - 10)
    ledger = Ledger.open(tmp_path)
    source(proxy.url, ledger).read(None)
    text = Path("exporter/catalog.yaml").read_text().replace("[10, 30, 60, 120,", "[10, 30, 60, 90, 120,")
    reading = source(proxy.url, ledger, catalog=parse_catalog(text, "x")).read(None)
    assert runs_total(reading, FETCH, "success") == 1
    assert run_durations(reading, FETCH, "success") == (1, 80.0)


def test_a_ledger_that_cannot_be_written_stops_the_counters_only(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    fake.run(FETCH, "a", start=NOW - 90, end=NOW - 10)
    ledger = Ledger.open(tmp_path)
    airflow = source(proxy.url, ledger)
    first = airflow.read(None)
    with sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        fake.run(FETCH, "b", start=NOW - 9, end=NOW - 5)
        fake.run(PREDICT, "c", "running", start=NOW - 9)
        held = airflow.read(first)
        blocker.execute("ROLLBACK")
    blocker.close()
    assert runs_total(held, FETCH, "success") == 1
    assert value(held, "airflow_dag_run_active_seconds", dag_id=PREDICT) == 9
    assert any("Counters stand still" in note for note in held.notes)
    after = airflow.read(held)
    assert runs_total(after, FETCH, "success") == 2
    assert not any("Counters stand still" in note for note in after.notes)


def test_a_reading_survives_the_ledgers_json(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "a", start=NOW - 90, end=NOW - 10)
    reading = source(proxy.url).read(None)
    assert reading_from_json(reading_to_json(reading)) == reading


def test_state_that_breaks_between_two_steps_loses_nothing(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    """Every transaction is made to fail once, in turn, as a kill would; totals end as if nothing had happened."""
    for number in range(6):
        end = NOW - 1000 * number - 5
        fake.run(FETCH, f"r{number}", start=end - 30, end=end, fetch_to_bigquery__records_count=2)
        fake.task(FETCH, f"r{number}", "t", start=end - 30, end=end)
    for failing in range(1, 15):
        ledger = Ledger.open(tmp_path / str(failing))
        broken = BreaksOnce(ledger, failing)
        airflow = source(proxy.url, broken)  # type: ignore[arg-type]
        for _ in range(4):
            reading = airflow.read(None)
        assert runs_total(reading, FETCH, "success") == 6
        assert task_durations(reading, FETCH, "t", "success") == (6, 180.0)
        assert value(reading, "bike_records_ingested_total") == 12
        ledger.close()


class BreaksOnce:
    """A ledger whose n-th transaction is rolled back at its end."""

    def __init__(self, ledger: Ledger, failing: int) -> None:
        self._ledger = ledger
        self._left = failing

    def transaction(self) -> Any:
        self._left -= 1
        return _Breaking(self._ledger) if self._left == 0 else self._ledger.transaction()


class _Breaking:
    def __init__(self, ledger: Ledger) -> None:
        self._inner = ledger.transaction()

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *_: object) -> None:
        error = StateError("the disk is full")
        try:
            self._inner.__exit__(StateError, error, None)
        except StateError:
            raise error from None
