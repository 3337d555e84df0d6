"""Airflow's tables in the ledger's file: made where they are missing, and taken over from version 0.1.0."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.ledger import FILE_NAME, Ledger
from exporter.sources.airflow.counted import Pending, Success, Sum, Total
from exporter.sources.airflow.totals import Totals
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, source
from testbed.faults import FaultProxy
from tests.sources.airflow.readings import run_durations, runs_total, task_durations, value

OF_0_1_0 = Path(__file__).parent / "data" / "ledger-0.1.0.sql"
FETCH, PREDICT, _ = DAGS


@pytest.fixture
def airflow() -> Iterator[tuple[FakeAirflow, str]]:
    """The Airflow that the kept file was made of, as far as it still lists its runs."""
    fake = FakeAirflow()
    for number in range(3):
        end = NOW - 3000 * number - 50
        fake.run(FETCH, f"f{number}", start=end - 40 - number, end=end, fetch_to_bigquery__records_count=100 + number)
    fake.run(PREDICT, "late", start=NOW - 20, end=NOW - 10, predict_daily_data__predictions_count=4)
    with FaultProxy(script=fake) as proxy:
        yield fake, proxy.url


def taken_over(folder: Path, url: str = "http://airflow.test:8080") -> Ledger:
    """The file of version 0.1.0 in this folder, opened."""
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.executescript(OF_0_1_0.read_text().replace("http://airflow.test:8080", url))
    connection.close()
    return Ledger.open(folder)


def test_a_file_of_0_1_0_is_taken_over_whole(tmp_path: Path):
    ledger = taken_over(tmp_path)
    assert ledger.problem is None
    assert list(tmp_path.glob("*.set-aside-*")) == []
    with ledger.transaction() as connection:
        run_buckets, task_buckets = (
            tuple(bounds)
            for bounds in json.loads(connection.execute("SELECT buckets FROM airflow_instance").fetchone()[0])
        )
    counted = Totals(ledger, "http://airflow.test:8080", run_buckets, task_buckets, ()).load()
    assert counted.mark(FETCH).success == Success("f0", NOW - 50)
    assert counted.runs[FETCH, "success"] == Total(3, (0, 0, 3, *[0] * 10), 123.0, NOW - 50)
    assert counted.sums[FETCH, "fetch_to_bigquery", "records_count", "", ""] == Sum(303.0, NOW - 50, None)
    assert counted.pending == (Pending(PREDICT, "late", NOW - 10, "predict_daily_data", "predictions_count", False),)
    assert len(counted.xcoms) == 3
    ledger.close()


def test_counters_of_0_1_0_go_on_and_nothing_is_counted_again(airflow: tuple[FakeAirflow, str], tmp_path: Path):
    fake, url = airflow
    ledger = taken_over(tmp_path, url)
    exporter = source(url, ledger)
    for _ in range(2):
        reading = exporter.read(None)
        assert runs_total(reading, FETCH, "success") == 3
        assert runs_total(reading, FETCH, "failed") == 1
        assert run_durations(reading, PREDICT, "success") == (3, 30.0)
        assert task_durations(reading, FETCH, "fetch_to_bigquery", "success") == (3, 87.0)
        assert value(reading, "bike_records_ingested_total") == 303
        assert value(reading, "bike_predictions_generated_total") == 17 + 4
    fake.run(FETCH, "new", start=NOW - 9, end=NOW - 4, fetch_to_bigquery__records_count=10)
    reading = exporter.read(None)
    assert runs_total(reading, FETCH, "success") == 4
    assert value(reading, "bike_records_ingested_total") == 313
    ledger.close()
