"""The state file: what it gives back, and what happens when it is damaged, foreign, or cannot be written."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

from exporter.catalog import Catalog
from exporter.errors import StateError
from exporter.ledger import Ledger, make_tables
from exporter.reading_json import ITEMS_AT_ONCE, reading_from_json, reading_to_json
from exporter.snapshot import Gap, Grid, HistogramSample, Labels, Observation, Reading, Sample, Totals
from testbed.scripted import Clock, reading

SETS: tuple[Labels, ...] = tuple((("model", name), ("region", 'ü "x"')) for name in ("a", "b", "c"))


@pytest.fixture
def full(catalog: Catalog) -> Reading:
    """A reading that uses every field."""
    return dataclasses.replace(
        reading(catalog, Clock()),
        gaps=(Gap("m", "why"),),
        notes=("note",),
        totals=Totals(
            12.25,
            (*SETS, (("model", "gone"), ("region", "x"))),
            {("c_total", (("decision", name),)): array("d", [1, 2, 3, 4]) for name in "ab"},
        ),
        valid_until=1.5,
        observations={
            "h": Observation((HistogramSample((("dag_id", "a"),), (1, 0, 2), 7.5),), None),
            "g": Observation((Sample((), 0.1),), 12.25),
            "r2": Observation(
                Grid(
                    SETS,
                    (
                        (
                            (),
                            array("d", [0.5, 1e-300, -2.0]),
                        ),
                    ),
                ),
                12.25,
            ),
            "c_total": Observation(
                Grid(
                    SETS, (((("decision", "a"),), array("d", [1, 2, 3])), ((("decision", "b"),), array("d", [0, 0, 0])))
                )
            ),
        },
    )


def test_a_reading_comes_back_as_it_was(tmp_path: Path, full: Reading):
    folder = tmp_path / "var" / "state"
    ledger = Ledger.open(folder)
    ledger.save_reading(full)
    ledger.close()
    again = Ledger.open(folder)
    assert again.problem is None
    assert again.load_reading("audit", "scripted") == full
    assert again.load_reading("airflow", "scripted") is None
    again.close()


def test_a_reading_of_another_identity_is_left_out(tmp_path: Path, full: Reading):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(full)
    assert ledger.load_reading("audit", "another") is None
    ledger.close()


def test_a_damaged_reading_is_left_out_and_the_rest_goes_on(tmp_path: Path, full: Reading, caplog):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(full)
    with ledger.transaction() as connection:
        connection.execute("UPDATE reading SET json = '{\"source\": 1}'")
    for _ in range(2):
        assert ledger.load_reading("audit", "scripted") is None
    assert caplog.text.count("source audit cannot be used and is deleted") == 1
    ledger.save_reading(full)
    assert ledger.load_reading("audit", "scripted") == full
    ledger.close()


def test_a_damaged_reading_that_cannot_be_deleted_is_left_out_as_well(ledger: Ledger, full: Reading):
    ledger.save_reading(full)
    with ledger.transaction() as connection:
        connection.execute("UPDATE reading SET json = '[]'")
        connection.execute("CREATE TRIGGER full BEFORE DELETE ON reading BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    assert ledger.load_reading("audit", "scripted") is None
    assert "disk full" in (ledger.problem or "")


def test_a_reading_that_is_too_large_is_not_looked_at(ledger: Ledger, full: Reading, caplog, monkeypatch):
    ledger.save_reading(full)
    with ledger.transaction() as connection:
        (size,) = connection.execute("SELECT length(CAST(json AS BLOB)) FROM reading").fetchone()
    monkeypatch.setattr("exporter.ledger.MAX_READING_BYTES", size)
    assert ledger.load_reading("audit", "scripted") == full
    monkeypatch.setattr("exporter.ledger.MAX_READING_BYTES", size - 1)
    assert ledger.load_reading("audit", "scripted") is None
    assert f"it has {size} bytes, more than {size - 1}" in caplog.text


def test_a_reading_of_another_source_is_left_out(ledger: Ledger, full: Reading, caplog):
    ledger.save_reading(full)
    with ledger.transaction() as connection:
        connection.execute("UPDATE reading SET source = 'airflow'")
    assert ledger.load_reading("airflow", "scripted") is None
    assert "it is of source 'audit'" in caplog.text


def test_a_model_without_a_value_has_none_after_a_restart_either(full: Reading):
    values = array("d", [0.5, float("nan"), 0.25])
    reading = dataclasses.replace(full, observations={"r2": Observation(Grid(SETS, (((), values),)))})
    again = reading_from_json(json.loads(json.dumps(reading_to_json(reading), allow_nan=False)))
    assert [(s.labels, s.value) for s in again.observations["r2"].samples] == [(SETS[0], 0.5), (SETS[2], 0.25)]  # type: ignore[union-attr]


def test_readings_of_any_length_come_back(tmp_path: Path, full: Reading):
    """They are written a piece at a time."""
    ledger = Ledger.open(tmp_path)
    for length in (0, 1, ITEMS_AT_ONCE, ITEMS_AT_ONCE + 1, 3 * ITEMS_AT_ONCE):
        samples = tuple(Sample((("dag_id", f"d{number}"),), float(number)) for number in range(length))
        reading = dataclasses.replace(full, observations={"g": Observation(samples)})
        ledger.save_reading(reading)
        assert ledger.load_reading("audit", "scripted") == reading
    ledger.close()


@pytest.mark.parametrize("text", ["AAAA", "", "not base64!", "AAAAAAAAAAA="])
def test_numbers_that_do_not_fit_the_label_sets_are_no_reading(full: Reading, text: str):
    content = json.loads(json.dumps(reading_to_json(full)))
    content["observations"]["r2"]["grid"] = [[[], text]]
    with pytest.raises(ValueError, match=r".+"):
        reading_from_json(content)


def test_without_a_folder_everything_works_in_memory_and_says_so(full: Reading):
    ledger = Ledger.open(None)
    assert ledger.problem == "EXPORTER_STATE_DIR is none: state is lost at a restart"
    assert not ledger.wanted
    elsewhere = threading.Thread(target=ledger.save_reading, args=(full,))
    elsewhere.start()
    elsewhere.join()
    assert ledger.load_reading("audit", "scripted") == full
    ledger.close()


def test_a_folder_that_cannot_be_made_is_a_problem_not_a_crash(tmp_path: Path, full: Reading, caplog):
    (tmp_path / "file").write_text("")
    ledger = Ledger.open(tmp_path / "file" / "state")
    assert "cannot be used" in (ledger.problem or "")
    assert "cannot be used" in caplog.text
    assert ledger.held is None
    ledger.save_reading(full)
    assert ledger.load_reading("audit", "scripted") == full
    ledger.close()


READ_ONLY = """
import os, sys
from pathlib import Path
from exporter.ledger import Ledger
os.setgid(65534); os.setuid(65534)
ledger = Ledger.open(Path(sys.argv[1]))
print(ledger.problem)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that may not write")
@pytest.mark.parametrize("with_file", [False, True])
def test_a_read_only_folder_is_a_problem_not_a_crash(tmp_path: Path, with_file: bool):
    folder = tmp_path / "state"
    folder.mkdir()
    if with_file:
        Ledger.open(folder).close()
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_mode & 0o005 != 0o005 and str(path).startswith("/tmp"):
            path.chmod(0o755)
    folder.chmod(0o555)
    ran = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(folder)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert "cannot be used" in ran.stdout, ran.stderr


def test_a_full_disk_is_a_state_error_and_passes(tmp_path: Path, full: Reading):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(full)
    with ledger.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as on a full disk
    big = dataclasses.replace(full, notes=("x" * 50_000,) * 4)
    with pytest.raises(StateError, match="full"):
        ledger.save_reading(big)
    assert ledger.load_reading("audit", "scripted") == full
    with ledger.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 100000")
    ledger.save_reading(big)
    assert ledger.load_reading("audit", "scripted") == big
    ledger.close()


def test_a_transaction_that_fails_writes_nothing(tmp_path: Path, full: Reading):
    ledger = Ledger.open(tmp_path)

    def fail() -> None:
        with ledger.transaction() as connection:
            connection.execute("INSERT INTO reading VALUES ('audit', '{}')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ledger.load_reading("audit", "scripted") is None
    ledger.close()


@pytest.mark.parametrize("content", [None, [], {}, {"source": "a"}, "text", {"observations": 3}])
def test_json_of_another_shape_is_a_value_error(content):
    with pytest.raises(ValueError, match="not a reading"):
        reading_from_json(content)


def test_reading_to_json_and_back(full: Reading):
    import json

    assert reading_from_json(json.loads(json.dumps(reading_to_json(full)))) == full


def test_nothing_is_logged_when_all_is_well(tmp_path: Path, caplog):
    caplog.set_level(logging.DEBUG)
    Ledger.open(tmp_path).close()
    assert caplog.text == ""


VERSIONS = (("CREATE TABLE made (a INTEGER)",), ("ALTER TABLE made ADD COLUMN b INTEGER",))


def test_tables_are_brought_from_any_version_to_the_newest(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    for versions in (VERSIONS[:1], VERSIONS, VERSIONS):
        with ledger.transaction() as connection:
            make_tables(connection, "someone", versions)
    with ledger.transaction() as connection:
        connection.execute("INSERT INTO made VALUES (1, 2)")
        make_tables(connection, "someone else", (("CREATE TABLE other (a INTEGER)",),))
    ledger.close()
    ledger = Ledger.open(tmp_path)
    with ledger.transaction() as connection:
        assert connection.execute("SELECT * FROM made").fetchall() == [(1, 2)]
    ledger.close()


def test_tables_of_a_later_version_are_left_alone_and_named(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    with ledger.transaction() as connection:
        make_tables(connection, "someone", VERSIONS)
    with pytest.raises(StateError, match=r"tables of someone .* version 2"), ledger.transaction() as connection:
        make_tables(connection, "someone", VERSIONS[:1])
    ledger.close()
