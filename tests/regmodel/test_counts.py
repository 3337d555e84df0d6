"""Real counts from a CSV file, behind the same interface as the simulation."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmodel.counts import BadCounts, read_csv
from regmodel.generator import simulate


def written(folder: Path, text: str) -> Path:
    path = folder / "counts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_simulation_gives_can_be_written_and_read_back(tmp_path: Path):
    simulated = simulate(date(2024, 1, 1), date(2024, 1, 15))
    path = tmp_path / "counts.csv"
    simulated.table.to_csv(path, index=False)
    read = read_csv(path)
    pd.testing.assert_frame_equal(read.table, simulated.table, check_dtype=False)
    assert read.counters == simulated.counters
    assert (read.first, read.last) == (simulated.first, simulated.last)


def test_only_three_columns_are_needed_and_parts_of_an_hour_are_added_up(tmp_path: Path):
    path = written(
        tmp_path,
        "Timestamp,counter,count\n"
        "2025-03-01T10:00:00+01:00,A,5\n"
        "2025-03-01 09:15,A,7\n"
        "2025-03-01 09:30,A,\n"
        "2025-03-01 09:00,B,\n"
        "2025-03-01 10:00,B,2\n",
    )
    table = read_csv(path).table
    assert table["count"].tolist()[0] == 12
    assert np.isnan(table["count"].tolist()[1])
    assert table["counter"].tolist() == ["A", "B", "B"]
    assert table["temperature"].isna().all()
    assert not table["holiday"].any()


def test_a_window_includes_its_start_and_excludes_its_end(tmp_path: Path):
    simulated = simulate(date(2024, 1, 1), date(2024, 1, 3))
    window = simulated.between(datetime(2024, 1, 1, 5, tzinfo=UTC), datetime(2024, 1, 1, 7, tzinfo=UTC))
    assert sorted(set(window["timestamp"].dt.hour)) == [5, 6]
    assert simulated.between(datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)).empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as CSV"),
        ("timestamp,counter\n2025-03-01,A\n", "no column count (found: timestamp, counter)"),
        ("timestamp,counter,count\n", "has a header and no rows"),
    ],
)
def test_a_file_that_is_no_table_of_counts(tmp_path: Path, text: str, said: str):
    with pytest.raises(BadCounts) as caught:
        read_csv(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(BadCounts, match="cannot be read as CSV"):
        read_csv(tmp_path / "nowhere.csv")


def test_every_bad_value_is_reported_with_its_line(tmp_path: Path):
    path = written(
        tmp_path,
        "timestamp,counter,count,rain,holiday\n"
        "2025-03-01 10:00,A,5,0,false\n"
        "yesterday,A,5,0,false\n"
        "2025-03-01 11:00,,5,0,false\n"
        "2025-03-01 12:00,A,many,0,false\n"
        "2025-03-01 13:00,A,-5,-1,maybe\n",
    )
    with pytest.raises(BadCounts) as caught:
        read_csv(path)
    for said in (
        "line 3: timestamp is not an ISO 8601 time: 'yesterday'",
        "line 4: counter is empty",
        "line 5: count is not a number: 'many'",
        "line 6: count is negative: '-5'",
        "line 6: rain is negative",
        "line 6: holiday is neither true nor false: 'maybe'",
        "6 problems",
    ):
        assert said in str(caught.value)
