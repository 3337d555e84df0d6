"""The state folder: what stands in it is taken for what it is, and nothing in it holds up or ends the exporter."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import state_file
from exporter.ledger import FILE_NAME, Ledger

NAMES = ("ledger.lock", FILE_NAME, f"{FILE_NAME}.new", f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", f"{FILE_NAME}-journal")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS source, i AS json FROM n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that an exporter has used."""
    folder = tmp_path / "state"
    Ledger.open(folder).close()
    return folder


@contextlib.contextmanager
def ledger_of(folder: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger.open(folder)) as ledger:
        yield ledger


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_named_pipe_in_a_files_place_is_named_and_waited_for_by_nobody(folder: Path, name: str, linked: bool):
    pipe = folder.parent / "pipe" if linked else folder / name
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(pipe)
    if linked:
        (folder / name).symlink_to(pipe)
    held = os.open(pipe, os.O_RDWR)  # so that the test fails, and does not hang, where somebody opens it
    try:
        with ledger_of(folder) as ledger, ledger.transaction() as connection:
            connection.execute("INSERT INTO reading VALUES ('audit', '{}')")
        assert "it is a named pipe, not a file" in (ledger.problem or "")
        assert name in (ledger.problem or "")
    finally:
        os.close(held)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_a_files_place_is_named(folder: Path, name: str):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with ledger_of(folder) as ledger:
        assert "it is a folder, not a file" in (ledger.problem or "")


def test_a_folder_that_is_a_link_to_itself_is_a_problem_and_not_the_end(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    with ledger_of(tmp_path / "loop") as ledger:
        assert "cannot be used" in (ledger.problem or "")


def in_file(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.executescript(statement)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"CREATE TRIGGER t BEFORE INSERT ON reading BEGIN {ENDLESS}; END", "it has a trigger, 't'"),
        (f"DROP TABLE reading; CREATE VIEW reading AS {ENDLESS}", "it has a view, 'reading'"),
    ],
)
def test_a_file_with_statements_of_its_own_is_set_aside(
    folder: Path, change: str, said: str, caplog: pytest.LogCaptureFixture
):
    in_file(folder, change)
    with ledger_of(folder) as ledger, ledger.transaction() as connection:
        connection.execute("INSERT INTO reading VALUES ('audit', '{}')")
    assert ledger.problem is None
    assert said in caplog.text


@pytest.mark.parametrize("held", [False, True])
def test_a_file_that_takes_too_long_to_read_is_not_read(
    folder: Path, held: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Each start reads it whole, and the second exporter of a folder copies it into memory."""
    with contextlib.ExitStack() as first:
        if held:
            first.enter_context(ledger_of(folder))
        in_file(folder, "INSERT INTO reading VALUES ('audit', '{}')")
        monkeypatch.setattr(state_file, "MAX_STATE_BYTES", 4096)
        with ledger_of(folder) as ledger, ledger.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM reading").fetchone() == (0,)
    assert held or "more than 4096" in caplog.text
