"""The process that lives for one read: what it answers, and what comes of it when it does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.snapshot import Grid
from exporter.sources.audit import duckdb_child
from exporter.sources.audit.duckdb_child import PROGRAM, DuckDBProcess
from testbed.process import children
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, ROOT, Log, gauge, settings_for, source_for
from tests.sources.audit.test_labels import catalogue

R2 = "bike_model_r2_champion_current"


def apart(path: Path | str, *, program: tuple[str, ...] = PROGRAM, at: float = NOW, **env: str) -> DuckDBProcess:
    return DuckDBProcess(settings_for(str(path), **env), CATALOG, lambda: at, program)


def instead(code: str) -> tuple[str, ...]:
    """A program that does this; `theirs` is its socket."""
    return (
        sys.executable,
        "-c",
        f"import os, socket, sys, time; theirs = socket.socket(fileno=int(sys.argv[1])); {code}",
    )


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})
    log.add([{"at": NOW - DAY, "r2": 0.7}])
    return log


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes that were started, all of which have ended afterwards."""
    processes: list[subprocess.Popen[bytes]] = []

    class Remembered(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            processes.append(self)

    monkeypatch.setattr(duckdb_child.subprocess, "Popen", Remembered)
    before = children()
    yield processes
    assert children() == before
    assert all(process.returncode is not None for process in processes)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


SLOW = "monitoring_audit.slow"


def add_slow_view(log: Log) -> None:
    """A table to read for hours."""
    log.run(
        f"CREATE VIEW {SLOW} AS SELECT CAST(max(a.range + b.range) AS DOUBLE) AS r2, "
        "make_timestamptz(1789999999000000) AS timestamp FROM range(1000000000) a, range(1000000000) b"
    )


def runs_duckdb(pid: int) -> bool:
    """Whether it is at work: DuckDB's two threads are there, beside the main one and those of the deadlines."""
    loaded = b"_duckdb" in Path(f"/proc/{pid}/maps").read_bytes()
    return loaded and len(list(Path(f"/proc/{pid}/task").iterdir())) > 3


def wait_until(reached: Callable[[], object], within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- what it answers ---------------------------------------------------------------------------------------------------


def test_the_reading_is_the_one_that_the_query_gives_here(log: Log, started: list):
    read = apart(log.path).read(None)
    assert read == source_for(log.path).read(None)
    assert gauge(read, R2) == 0.7
    assert len(started) == 1


def test_files_that_were_not_written_are_not_read_again(log: Log, started: list):
    source = apart(log.path)
    first = source.read(None)
    later = apart(log.path, at=NOW + 60).read(first)
    assert (later.read_at, later.queried_at) == (NOW + 60, NOW)
    assert later.observations is first.observations
    assert not source.changed(first)
    assert len(started) == 1
    log.add([{"at": NOW, "r2": 0.8}])
    assert source.changed(first)
    assert gauge(source.read(later), R2) == 0.8
    assert len(started) == 2


def test_they_are_read_again_when_the_query_is_too_old(log: Log, started: list):
    first = apart(log.path).read(None)
    apart(log.path, at=NOW + 100, AUDIT_MAX_QUERY_AGE_SECONDS="99").read(first)
    assert len(started) == 2


def test_many_label_sets_arrive_whole(tmp_path: Path, started: list):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE", "a": "VARCHAR"})
    log.run(
        "INSERT INTO monitoring_audit.logs SELECT make_timestamptz(1789999999000000), i / 20000.0, "
        "printf('model-%05d', i) FROM range(20000) t(i)"
    )
    source = DuckDBProcess(settings_for(str(log.path)), catalogue("{model: a}"), lambda: NOW)
    (observation,) = (one for one in source.read(None).observations.values() if isinstance(one.samples, Grid))
    values = {sample.labels[0][1]: sample.value for sample in observation.samples}
    assert values == {f"model-{number:05}": number / 20000.0 for number in range(20000)}


def test_a_sources_errors_arrive_with_their_reason(tmp_path: Path, started: list):
    (tmp_path / "broken.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(BadData, match="not a DuckDB database") as caught:
        apart(tmp_path / "broken.duckdb").read(None)
    assert caught.value.reason == "bad_data"
    other = Log(tmp_path / "other.duckdb", {"timestamp": "TIMESTAMPTZ"})
    with pytest.raises(SourceUnavailable, match=r"no table monitoring_audit\.runs") as caught_too:
        apart(other.path, AUDIT_TABLE="monitoring_audit.runs").read(None)
    assert caught_too.value.reason == "not_found"
    assert len(started) == 2


def test_for_a_file_that_is_not_there_no_process_is_started(tmp_path: Path, started: list):
    for name in ("audit.duckdb", "*.parquet"):
        with pytest.raises(SourceUnavailable) as caught:
            apart(tmp_path / name).read(None)
        assert caught.value.reason == "not_found"
    assert started == []


def test_the_sample_is_made_and_announced_by_the_process(tmp_path: Path, started: list, capfd: pytest.CaptureFixture):
    path = tmp_path / "new" / "audit.duckdb"
    source = apart(path, AUDIT_SAMPLE_DATA="true", EXPORTER_LOG_FORMAT="json")
    reading = source.read(None)
    assert reading.facts["sample_data"] is True
    assert (
        '"level": "WARNING", "logger": "exporter.sources.audit.duckdb_init", "message": "SAMPLE DATA'
        in capfd.readouterr().err
    )
    source.read(reading)
    assert capfd.readouterr().err == ""
    assert len(started) == 1


def test_neither_duckdb_nor_the_translator_is_loaded_here(log: Log):
    code = (
        "import sys; from exporter.catalog_parser import load_catalog; from exporter.ledger import Ledger; "
        "from exporter.settings import Settings; from exporter.sources import build_sources; "
        f"settings = Settings.from_env({{'AUDIT_URL': {str(log.path)!r}}}); "
        "(source,) = build_sources(settings, load_catalog(), Ledger.open(None)); "
        "assert source.read(None).facts['rows'] == 1; "
        "print({'duckdb', 'sqlglot'} & set(sys.modules) or 'neither')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "neither"


def test_modules_in_the_working_folder_are_not_taken_for_libraries(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "duckdb.py").write_text("raise SystemExit('the wrong duckdb')")
    monkeypatch.chdir(tmp_path / "here")
    assert gauge(apart(log.path).read(None), R2) == 0.7


# -- what comes of it when it does not answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.kill(os.getpid(), 9)", "on signal 9"),
        ("os.abort()", "on signal 6"),
        ("sys.exit(3)", "with status 3"),
        ("os._exit(0)", "with status 0"),
        ("theirs.sendall(b'\\x80\\x05\\x95\\x00\\x01'); os._exit(0)", "with status 0"),
        ("theirs.sendall(b'nonsense'); os._exit(0)", "with status 0"),
    ],
)
def test_a_process_that_ends_without_an_answer_is_one_failed_read(log: Log, started: list, code: str, how: str):
    files = open_files()
    with pytest.raises(SourceError, match=how) as caught:
        apart(log.path, program=instead(code)).read(None)
    assert caught.value.reason == "internal"
    assert open_files() == files
    assert gauge(apart(log.path).read(None), R2) == 0.7


def test_a_process_that_cannot_be_started_is_one_failed_read(log: Log):
    files = open_files()
    with pytest.raises(SourceUnavailable, match="cannot be started: No such file"):
        apart(log.path, program=("/nowhere/python",)).read(None)
    assert open_files() == files


def hanging(log: Log) -> DuckDBProcess:
    program = instead("time.sleep(60)")
    return apart(log.path, program=program, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")


def test_a_process_that_hangs_is_killed_after_the_deadline(log: Log, started: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duckdb_child, "KILL_SECONDS", 0.2)
    source = hanging(log)
    began = time.monotonic()
    with pytest.raises(SourceTimeout, match="within 1 s"):
        source.read(None)
    assert 3.0 < time.monotonic() - began < 20.0
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_so_is_one_that_does_not_even_take_the_request(log: Log, started: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duckdb_child, "START_SECONDS", -0.5)
    monkeypatch.setattr(duckdb_child, "KILL_SECONDS", 0.2)
    source = hanging(log)
    monkeypatch.setattr(duckdb_child.pickle, "dumps", lambda _: bytes(10_000_000))
    began = time.monotonic()
    with pytest.raises(SourceTimeout):
        source.read(None)
    assert time.monotonic() - began < 20.0


def test_interrupt_ends_the_query_and_the_next_read_works(log: Log, started: list):
    """Told through its socket, the process interrupts its own query, so it is not killed."""
    add_slow_view(log)
    source = apart(log.path, AUDIT_TABLE=SLOW)
    caught: list[SourceError] = []

    def read() -> None:
        with pytest.raises(SourceTimeout) as error:
            source.read(None)
        caught.append(error.value)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: started and runs_duckdb(started[0].pid))
    source.interrupt()
    thread.join(60)
    assert caught
    assert [process.returncode for process in started] == [0]
    assert gauge(apart(log.path).read(None), R2) == 0.7


def test_it_ends_when_the_exporter_is_killed(log: Log, tmp_path: Path):
    add_slow_view(log)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AUDIT_URL": str(log.path), "AUDIT_TABLE": SLOW}
    once = subprocess.Popen([sys.executable, "-m", "exporter", "once"], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: any(runs_duckdb(child) for child in children(once.pid)))
        (reader,) = children(once.pid)
    finally:
        once.kill()
        once.wait()
    wait_until(lambda: not Path(f"/proc/{reader}/task").exists(), within=20)


def test_a_bug_in_the_process_is_logged_there_without_secrets(
    log: Log, started: list, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setenv("AIRFLOW_PASSWORD", "hunter2-of-the-tests")
    code = (
        "from exporter.sources.audit import duckdb, duckdb_child; "
        "duckdb.read_rows = lambda query, rows: {}['hunter2-of-the-tests']; "
        "duckdb_child.main(int(sys.argv[1]))"
    )
    with pytest.raises(SourceError, match="with status 1"):
        apart(log.path, program=(sys.executable, "-c", f"import sys; {code}")).read(None)
    said = capfd.readouterr().err
    assert "the process that reads the audit log failed on a bug" in said
    assert "KeyError" in said
    assert "hunter2" not in said


def test_the_process_is_not_told_airflows_password_or_the_refresh_token(log: Log, monkeypatch: pytest.MonkeyPatch):
    requests: list[bytes] = []
    real = duckdb_child.pickle.dumps

    def remembered(content: object) -> bytes:
        requests.append(real(content))
        return requests[-1]

    monkeypatch.setattr(duckdb_child.pickle, "dumps", remembered)
    source = apart(
        log.path,
        AIRFLOW_BASE_URL="http://airflow.test",
        AIRFLOW_USERNAME="somebody",
        AIRFLOW_PASSWORD="hunter2-of-the-tests",
        EXPORTER_REFRESH_TOKEN="a-token-of-the-tests",
    )
    source.read(None)
    assert len(requests) == 1
    assert b"hunter2" not in requests[0]
    assert b"a-token-of" not in requests[0]


def test_signals_to_the_group_leave_the_read_alone(log: Log, started: list, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in a terminal: the exporter ends the process, so that no traceback is in the way of what it says."""
    code = (
        "import os, signal; from exporter.sources.audit import duckdb, duckdb_child; made = duckdb.read_rows; "
        "duckdb.read_rows = lambda *given: (os.kill(os.getpid(), signal.SIGINT), made(*given))[1]; "
        "duckdb_child.main(int(sys.argv[1]))"
    )
    assert gauge(apart(log.path, program=(sys.executable, "-c", f"import sys; {code}")).read(None), R2) == 0.7


def test_the_programs_log_level_is_the_exporters(log: Log, started: list, capfd: pytest.CaptureFixture):
    code = (
        "import logging, sys; from exporter.sources.audit import duckdb_child; made = duckdb_child._read; "
        "duckdb_child._read = lambda *given: (logging.getLogger('exporter.x').debug('here'), made(*given))[1]; "
        "duckdb_child.main(int(sys.argv[1]))"
    )
    for level, said in (("DEBUG", True), ("INFO", False)):
        apart(log.path, program=(sys.executable, "-c", code), EXPORTER_LOG_LEVEL=level).read(None)
        assert ("here" in capfd.readouterr().err) is said
