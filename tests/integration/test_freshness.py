"""From a committed row to its value on /metrics, with the default interval between refreshes and a short probe."""

from pathlib import Path

from benchmarks import freshness
from testbed.bigquery import BigQueryEmulator

SHORT = {"AUDIT_PROBE_SECONDS": "1"}


def test_a_row_in_a_duckdb_file_shows_long_before_the_next_refresh(tmp_path: Path):
    found = freshness.measure(freshness.DuckDBFile(tmp_path / "audit.duckdb"), tmp_path, 1, **SHORT)
    assert max(found.seconds) < freshness.GOAL_SECONDS


def test_a_row_in_bigquery_shows_as_soon_and_is_billed_once(bigquery_emulator: BigQueryEmulator, tmp_path: Path):
    found = freshness.measure(freshness.EmulatedTable.made(bigquery_emulator), tmp_path, 1, **SHORT)
    assert max(found.seconds) < freshness.GOAL_SECONDS
    assert found.queries == 1 + 1
