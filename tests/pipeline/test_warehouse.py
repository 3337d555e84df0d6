"""The warehouse in a DuckDB file: a window is replaced as a whole."""

import dataclasses
import os
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from bike_pipeline.duckdb_file import FileTrouble, opened
from bike_pipeline.records import Count, Predicted
from bike_pipeline.settings import Settings
from bike_pipeline.warehouse import DuckDBWarehouse
from regmodel.generator import simulate
from tests.pipeline.conftest import records

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDBWarehouse:
    return DuckDBWarehouse(Settings(warehouse_file=tmp_path / "warehouse.duckdb"))


def test_counts_come_back_as_they_were(warehouse: DuckDBWarehouse):
    assert warehouse.last_hour() is None
    assert warehouse.counts(START, START + WEEK) == []
    rows = records(simulate(date(2024, 1, 1), date(2024, 2, 1)).table)
    rows[3] = dataclasses.replace(rows[3], count=None, temperature=None, holiday=True)
    warehouse.replace_counts(START, START + timedelta(days=31), rows)
    assert warehouse.counts(START, START + timedelta(days=31)) == rows
    assert warehouse.last_hour() == datetime(2024, 1, 31, 23, tzinfo=UTC)


def test_doing_a_window_again_doubles_nothing(warehouse: DuckDBWarehouse):
    rows = records(simulate(date(2024, 1, 1), date(2024, 1, 15)).table)
    warehouse.replace_counts(START, START + 2 * WEEK, rows)
    second = [row for row in rows if row.timestamp >= START + WEEK]
    changed = [dataclasses.replace(row, count=1.0) for row in second]
    warehouse.replace_counts(START + WEEK, START + 2 * WEEK, changed)
    assert warehouse.counts(START, START + 2 * WEEK) == [*rows[: len(rows) - len(second)], *changed]
    warehouse.replace_counts(START, START + WEEK, [])
    assert warehouse.counts(START, START + 2 * WEEK) == changed


def test_predictions_are_kept_with_their_model(warehouse: DuckDBWarehouse):
    rows = [Predicted(START + timedelta(hours=hour), "A", float(hour), "v0001") for hour in range(24)]
    for _ in range(2):
        warehouse.replace_predictions(START, START + timedelta(days=1), rows)
    assert warehouse.predictions(START, START + WEEK) == rows


def test_a_write_that_fails_changes_nothing(warehouse: DuckDBWarehouse):
    rows = [Count(START, "A", 1.0, None, None, None, False)]
    warehouse.replace_counts(START, START + WEEK, rows)
    broken = dataclasses.replace(rows[0], count="many")
    with pytest.raises(ValueError, match="many"):
        warehouse.replace_counts(START, START + WEEK, [broken])
    assert warehouse.counts(START, START + WEEK) == rows


def test_a_file_that_another_process_is_just_making_is_waited_for(warehouse: DuckDBWarehouse, tmp_path: Path):
    """On the first day three tasks find no file at the same time; for a moment it is there without a header."""
    warehouse.replace_counts(START, START + timedelta(days=1), [])
    made = (tmp_path / "warehouse.duckdb").read_bytes()
    being_made = tmp_path / "other.duckdb"
    for content in (b"", made[:4096]):
        being_made.write_bytes(content)
        with pytest.raises(FileTrouble, match="it had no complete header for 0 s"), opened(being_made, wait_seconds=0):
            pass
        finished = tmp_path / "finished"
        finished.write_bytes(made)
        maker = threading.Timer(0.2, os.replace, (finished, being_made))
        maker.start()
        with opened(being_made) as connection:
            assert connection.execute("SELECT count(*) FROM counts").fetchall() == [(0,)]
        maker.join()
