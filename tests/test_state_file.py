"""The state file: one process writes it, it is whole or not there, and what cannot be used is set aside."""

import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.catalog_parser import load_catalog
from exporter.errors import StateError
from exporter.health import overall, report
from exporter.ledger import FILE_NAME, Ledger
from exporter.refresh import HEARTBEAT_SECONDS, Refresher, State
from exporter.snapshot import Reading
from testbed.exposed import Exposed
from testbed.scripted import Clock, ScriptedSource, reading, turn

ROOT = Path(__file__).parent.parent
CATALOG = load_catalog()
DEPLOYS = "bike_model_deployments_total"
SUFFIXES = ("-wal", "-shm")


def kept(ledger: Ledger) -> Reading | None:
    return ledger.load_reading("audit", "scripted")


def note(ledger: Ledger, text: str) -> None:
    """What a source does that counts in the ledger: it has tables of its own."""
    with ledger.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS own (text TEXT) STRICT")
        connection.execute("INSERT INTO own VALUES (?)", (text,))


def noted(ledger: Ledger) -> list[str]:
    with ledger.transaction() as connection:
        return [text for (text,) in connection.execute("SELECT text FROM own")]


def set_aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{FILE_NAME}.set-aside-*"))


@pytest.fixture
def one() -> Reading:
    return reading(CATALOG, Clock(), r2=0.25, deploys=None)


@pytest.fixture
def other() -> Reading:
    return reading(CATALOG, Clock(), r2=0.5, deploys=None)


# -- one process -------------------------------------------------------------------------------------------------------


def test_a_second_exporter_names_the_first_and_goes_on_from_what_that_one_kept(
    tmp_path: Path, one: Reading, other: Reading, caplog
):
    first = Ledger.open(tmp_path)
    first.save_reading(one)
    note(first, "of the first")
    second = Ledger.open(tmp_path)
    assert first.problem is None
    assert f"in use by process {os.getpid()} on " in (second.problem or "")
    assert caplog.text.count("in use by process") == 1
    assert kept(second) == one
    assert noted(second) == ["of the first"]
    second.save_reading(other)
    note(second, "of the second")
    assert kept(first) == one
    assert noted(first) == ["of the first"]
    assert not second.take_over()
    assert caplog.text.count("in use by process") == 1
    first.close()
    second.close()


def test_the_second_takes_over_what_the_first_kept_last(tmp_path: Path, one: Reading, other: Reading):
    first, second = Ledger.open(tmp_path), Ledger.open(tmp_path)
    second.save_reading(one)
    first.save_reading(other)
    first.close()
    assert second.take_over()
    assert second.problem is None
    assert kept(second) == other
    assert not second.take_over()
    third = Ledger.open(tmp_path)
    assert "in use by" in (third.problem or "")
    third.close()
    second.close()


HOLDER = """
import sys
from pathlib import Path
from exporter.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
print(ledger.problem, flush=True)
sys.stdin.read()
"""


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "None\n"
        ledger = Ledger.open(tmp_path)
        assert f"in use by process {holder.pid} on " in (ledger.problem or "")
        holder.kill()
    assert ledger.take_over()
    ledger.close()


def test_a_ledger_that_is_closed_takes_nothing_over(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    ledger.close()
    assert not ledger.take_over()
    again = Ledger.open(tmp_path)
    assert again.problem is None
    again.close()


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Refresher]:
    def make(clock: Clock, answer: Callable[[Reading | None], Reading]) -> Refresher:
        return Refresher(
            CATALOG,
            [ScriptedSource(answer)],
            Ledger.open(tmp_path / "state", clock.wall),
            interval=60.0,
            stale_after=3600.0,
            wall=clock.wall,
            monotonic=clock.monotonic,
        )

    return make


def deploys(state: State) -> float | None:
    return Exposed(state.exposition.text.decode()).value(DEPLOYS, decision="deploy")


def test_counters_do_not_step_back_when_the_second_exporter_takes_over(build):
    """Of the 17 rows that were counted, 3 are left in the log; two more came and went while both ran."""
    clock = Clock()
    log = {"deploys": 17.0, "newer": 0.0}
    first = build(clock, lambda _: reading(CATALOG, clock, **log))
    assert deploys(turn(first)) == 17
    second = build(clock, lambda _: reading(CATALOG, clock, deploys=3.0))
    state = turn(second)
    assert deploys(state) == 17
    assert (
        "in use by" in report(CATALOG, state.snapshot, age_seconds=0, uptime_seconds=0, interval=60)["state"]["problem"]
    )
    assert overall(state.snapshot) == "degraded"
    clock.advance(60)
    log.update(deploys=3.0, newer=2.0)
    assert deploys(turn(first)) == 19
    assert deploys(turn(second)) == 17
    first.stop()
    clock.advance(HEARTBEAT_SECONDS)
    state = turn(second)
    assert overall(second.state.snapshot) in {"ok", "degraded"}
    clock.advance(60)
    state = turn(second)
    assert deploys(state) == 19
    assert overall(state.snapshot) == "ok"
    second.stop()
    third = build(clock, lambda _: reading(CATALOG, clock, deploys=3.0))
    assert deploys(turn(third)) == 19
    third.stop()


def test_nothing_is_taken_over_while_a_source_reads(build, tmp_path: Path):
    """What a source found in the ledger when its read began must be there when it ends."""
    clock = Clock()
    first = build(clock, lambda _: reading(CATALOG, clock))
    ledger = Ledger.open(tmp_path / "state", clock.wall)
    source = ScriptedSource(lambda _: reading(CATALOG, clock))
    second = Refresher(
        CATALOG, [source], ledger, interval=60.0, stale_after=3600.0, wall=clock.wall, monotonic=clock.monotonic
    )
    source.hang()
    second.step()
    assert source.entered.wait(30)
    first.stop()
    clock.advance(HEARTBEAT_SECONDS)
    second.step()
    assert "in use by" in (ledger.problem or "")
    source.release()
    turn(second)
    clock.advance(HEARTBEAT_SECONDS)
    turn(second)
    assert ledger.problem is None
    second.stop()


# -- at its path -------------------------------------------------------------------------------------------------------


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_file(folder: Path) -> None:
    (folder / FILE_NAME).unlink()


def remove_all_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replace_file(folder: Path) -> None:
    with sqlite3.connect(folder / "copy") as connection:
        connection.execute("CREATE TABLE own (text TEXT)")
    connection.close()
    (folder / "copy").replace(folder / FILE_NAME)


def move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


@pytest.mark.parametrize("lose", [remove_folder, remove_file, remove_all_files, replace_file, move_folder])
def test_a_file_that_is_no_longer_at_its_path_is_made_anew_with_all_that_it_held(
    tmp_path: Path, one: Reading, other: Reading, caplog, lose: Callable[[Path], None]
):
    folder = tmp_path / "state"
    ledger = Ledger.open(folder)
    ledger.save_reading(other)
    note(ledger, "before")
    lose(folder)
    ledger.save_reading(one)
    note(ledger, "after")
    assert ledger.problem is None
    assert "made anew" in (ledger.note or "")
    assert caplog.text.count("was removed or replaced while in use") == 1
    ledger.close()
    again = Ledger.open(folder)
    assert again.problem is None
    assert again.note is None
    assert kept(again) == one
    assert noted(again) == ["before", "after"]
    again.close()


def test_health_says_that_the_file_was_made_anew(build, tmp_path: Path):
    clock = Clock()
    refresher = build(clock, lambda _: reading(CATALOG, clock))
    turn(refresher)
    shutil.rmtree(tmp_path / "state")
    clock.advance(60)
    snapshot = turn(refresher).snapshot
    state = report(CATALOG, snapshot, age_seconds=0, uptime_seconds=0, interval=60)["state"]
    assert state["survives_restart"] is True
    assert state["problem"] is None
    assert "made anew" in state["note"]
    refresher.stop()


def test_a_folder_that_cannot_be_made_anew_is_a_problem_until_it_can(build, tmp_path: Path):
    clock = Clock()
    folder = tmp_path / "state"
    refresher = build(clock, lambda _: reading(CATALOG, clock, deploys=5.0))
    turn(refresher)
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    clock.advance(60)
    state = turn(refresher)
    assert overall(state.snapshot) == "degraded"
    assert "cannot be used" in (state.snapshot.state_problem or "")
    assert Exposed(state.exposition.text.decode()).value("mlops_exporter_state_persistent") == 0
    folder.unlink()
    clock.advance(60)
    state = turn(refresher)
    assert overall(state.snapshot) == "ok"
    refresher.stop()
    again = build(clock, lambda _: reading(CATALOG, clock, deploys=1.0))
    assert deploys(turn(again)) == 5
    again.stop()


def test_a_folder_that_another_exporter_has_made_anew_is_that_ones(tmp_path: Path, one: Reading, other: Reading):
    folder = tmp_path / "state"
    first = Ledger.open(folder)
    first.save_reading(one)
    shutil.rmtree(folder)
    second = Ledger.open(folder)
    second.save_reading(other)
    assert kept(first) == one
    assert "in use by" in (first.problem or "")
    first.save_reading(one)
    first.close()  # SQLite removes the files beside one that it closes; these are not its own
    note(second, "after")
    second.close()
    again = Ledger.open(folder)
    assert kept(again) == other
    assert noted(again) == ["after"]
    again.close()


# -- whole or not at all -----------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from pathlib import Path
from exporter.ledger import FILE_NAME, Ledger
folder = Path(sys.argv[1])
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))  # a write that crosses it is cut there
ledger = Ledger.open(folder)
print(ledger.problem)
print([path.name for path in folder.glob(FILE_NAME + "*")])
with ledger.transaction() as connection:
    connection.execute("CREATE TABLE own (text TEXT)")
    connection.execute("INSERT INTO own VALUES ('meanwhile')")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print(ledger.take_over(), ledger.problem)
ledger.close()
ledger = Ledger.open(folder)
with ledger.transaction() as connection:
    print(connection.execute("SELECT text FROM own").fetchall())
"""


@pytest.mark.parametrize("size", [64, 4096, 5000])
def test_on_a_full_disk_there_is_no_file_and_it_is_made_when_there_is_space(tmp_path: Path, size: int):
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(size)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    problem, files, taken, content = ran.stdout.splitlines() or pytest.fail(ran.stderr)
    assert "cannot be used" in problem
    assert files == "[]"
    assert taken == "True None"
    assert content == "[('meanwhile',)]"


def test_what_a_killed_exporter_left_of_a_new_file_is_no_hindrance(tmp_path: Path, one: Reading):
    (tmp_path / f"{FILE_NAME}.new").write_bytes(b"half")
    (tmp_path / FILE_NAME).write_bytes(b"")
    ledger = Ledger.open(tmp_path)
    assert ledger.problem is None
    ledger.save_reading(one)
    ledger.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.lock", FILE_NAME]


# -- set aside ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"not a database at all, just text" * 100, b"SQLite format 3\x00" + b"\xff" * 4096, b"\x00" * 8192]
)
def test_a_corrupt_file_is_set_aside_with_a_warning(tmp_path: Path, one: Reading, caplog, content: bytes):
    (tmp_path / FILE_NAME).write_bytes(content)
    ledger = Ledger.open(tmp_path, clock=lambda: 1234.0)
    assert ledger.problem is None
    assert kept(ledger) is None
    ledger.save_reading(one)
    assert kept(ledger) == one
    ledger.close()
    assert (tmp_path / f"{FILE_NAME}.set-aside-1234").read_bytes() == content
    assert "set aside" in caplog.text


@pytest.mark.parametrize("version", [0, 1, 3, 99])
def test_a_file_of_another_schema_is_set_aside(tmp_path: Path, one: Reading, caplog, version: int):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(one)
    ledger.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    ledger = Ledger.open(tmp_path)
    assert ledger.problem is None
    assert kept(ledger) is None
    ledger.close()
    assert f"schema {version}" in caplog.text
    assert len(set_aside(tmp_path)) == 1


@pytest.mark.parametrize("damage", [slice(-3 * 4096, -4096), slice(39, 40)], ids=["pages", "free pages"])
def test_a_file_with_a_sound_header_and_a_damaged_page_is_set_aside(
    tmp_path: Path, one: Reading, caplog, damage: slice
):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(one)
    for number in range(200):
        note(ledger, f"{number} " + "x" * 200)
    ledger.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[damage] = b"\xff" * len(content[damage])
    path.write_bytes(content)
    ledger = Ledger.open(tmp_path)
    assert ledger.problem is None
    assert kept(ledger) is None
    ledger.close()
    assert "set aside" in caplog.text
    assert len(set_aside(tmp_path)) == 1


def test_a_file_that_somebody_has_locked_is_not_set_aside(
    tmp_path: Path, one: Reading, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("exporter.state_file.LOCKED_SECONDS", 0.2)
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(one)
    ledger.close()
    somebody = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    somebody.execute("PRAGMA locking_mode = EXCLUSIVE")
    somebody.execute("BEGIN EXCLUSIVE")
    ledger = Ledger.open(tmp_path)
    assert "locked" in (ledger.problem or "")
    assert set_aside(tmp_path) == []
    somebody.execute("ROLLBACK")
    somebody.close()
    assert ledger.take_over()
    assert kept(ledger) == one
    ledger.close()


@pytest.mark.parametrize("damaged", [True, False])
def test_what_sqlite_kept_beside_an_older_file_is_not_mixed_into_a_new_one(
    tmp_path: Path, one: Reading, other: Reading, damaged: bool
):
    """A file that is killed with its exporter leaves a write-ahead log; then the file is damaged, or is gone."""
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(one)
    left = {suffix: (tmp_path / f"{FILE_NAME}{suffix}").read_bytes() for suffix in SUFFIXES}
    assert left["-wal"]
    ledger.close()
    if damaged:
        left = dict.fromkeys(SUFFIXES, b"damaged, too" * 1000)  # or SQLite would mend the file with it
        (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    else:
        (tmp_path / FILE_NAME).unlink()
    for suffix, content in left.items():
        (tmp_path / f"{FILE_NAME}{suffix}").write_bytes(content)
    ledger = Ledger.open(tmp_path, clock=lambda: 7.0)
    assert ledger.problem is None
    assert kept(ledger) is None
    ledger.save_reading(other)
    assert kept(ledger) == other
    for suffix, content in left.items():
        assert (tmp_path / f"{FILE_NAME}{suffix}").read_bytes() != content
    ledger.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# -- transactions ------------------------------------------------------------------------------------------------------


def test_the_transactions_of_two_threads_follow_each_other(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    note(ledger, "first")
    failed: list[StateError] = []

    def also() -> None:
        try:
            note(ledger, "third")
        except StateError as error:
            failed.append(error)

    other = threading.Thread(target=also)
    with ledger.transaction() as connection:
        other.start()
        other.join(0.2)
        assert other.is_alive()
        connection.execute("INSERT INTO own VALUES ('second')")
    other.join(30)
    assert failed == []
    assert noted(ledger) == ["first", "second", "third"]
    ledger.close()


def test_a_disk_that_is_full_is_a_problem_until_something_was_written(tmp_path: Path, one: Reading, caplog):
    """What only reads works on a full disk, too, and says nothing about it."""
    caplog.set_level("INFO")
    ledger = Ledger.open(tmp_path)
    note(ledger, "before")
    with ledger.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as on a full disk
    big = dataclasses.replace(one, notes=("x" * 50_000,))
    for _ in range(2):
        with pytest.raises(StateError, match="full"):
            ledger.save_reading(big)
    assert noted(ledger) == ["before"]
    assert "full" in (ledger.problem or "")
    assert caplog.text.count("cannot be written") == 1
    with ledger.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 100000")
    ledger.save_reading(big)
    assert ledger.problem is None
    assert "can be written again" in caplog.text
    ledger.close()
