"""The process that lives for one read: what it answers, and what comes of it when it does not."""

import contextlib
import logging
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
from exporter.logs import configure_logging
from exporter.snapshot import Grid
from exporter.sources.audit import duckdb as duckdb_source
from exporter.sources.audit.duckdb import PROGRAM, Child, DuckDBAudit
from testbed.process import children
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, ROOT, Log, gauge, settings_for, source_for
from tests.sources.audit.test_labels import catalogue

R2 = "bike_model_r2_champion_current"


def apart(path: Path | str, *, program: tuple[str, ...] = PROGRAM, at: float = NOW, **env: str) -> DuckDBAudit:
    return DuckDBAudit(settings_for(str(path), **env), CATALOG, lambda: at, Child(program))


def instead(code: str) -> tuple[str, ...]:
    """A program that does this."""
    return (sys.executable, "-c", f"import os, sys, time; {code}")


def changed(code: str) -> tuple[str, ...]:
    """The child, with its reading changed: `made` is what `read_rows` gives."""
    return instead(
        "from exporter.sources.audit import duckdb_child, duckdb_reader; made = duckdb_reader.read_rows; "
        f"{code}; duckdb_child.main(int(sys.argv[1]))"
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

    monkeypatch.setattr(duckdb_source.subprocess, "Popen", Remembered)
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


def test_files_that_were_not_written_are_not_read_again_unless_the_query_is_too_old(log: Log, started: list):
    source = apart(log.path)
    first = source.read(None)
    later = apart(log.path, at=NOW + 60).read(first)
    assert (later.read_at, later.queried_at) == (NOW + 60, NOW)
    assert later.observations is first.observations
    assert not source.changed(first)
    assert len(started) == 1
    apart(log.path, at=NOW + 100, AUDIT_MAX_QUERY_AGE_SECONDS="99").read(first)
    assert len(started) == 2
    log.add([{"at": NOW, "r2": 0.8}])
    assert source.changed(first)
    assert gauge(source.read(later), R2) == 0.8
    assert len(started) == 3


def test_many_label_sets_arrive_whole(tmp_path: Path, started: list):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE", "a": "VARCHAR"})
    log.run(
        "INSERT INTO monitoring_audit.logs SELECT make_timestamptz(1789999999000000), i / 20000.0, "
        "printf('model-%05d', i) FROM range(20000) t(i)"
    )
    source = DuckDBAudit(settings_for(str(log.path)), catalogue("{model: a}"), lambda: NOW)
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


def test_the_sample_is_made_and_announced(tmp_path: Path, started: list, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "new" / "audit.duckdb"
    source = apart(path, AUDIT_SAMPLE_DATA="true")
    reading = source.read(None)
    assert reading.facts["sample_data"] is True
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("exporter.sources.audit.duckdb_init", "WARNING")
    assert record.getMessage().startswith("SAMPLE DATA: there was no audit log")
    caplog.clear()
    source.read(reading)
    assert caplog.records == []
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


ENDS = {
    "os.kill(os.getpid(), 9)": "on signal 9",
    "os.abort()": "on signal 6",
    "sys.exit(3)": "with status 3",
    "os._exit(0)": "with status 0",
    "os.write(1, b'\\x80\\x05\\x95\\x00\\x01'); os._exit(0)": "with status 0",
    "os.write(1, b'nonsense'); os._exit(0)": "with status 0",
}


def test_a_process_that_ends_without_an_answer_is_one_failed_read(log: Log, started: list):
    files = open_files()
    for code, how in ENDS.items():
        with pytest.raises(SourceError, match=how) as caught:
            apart(log.path, program=instead(code)).read(None)
        assert caught.value.reason == "internal", code
        assert open_files() == files, code
    assert gauge(apart(log.path).read(None), R2) == 0.7


def test_a_process_that_cannot_be_started_is_one_failed_read(log: Log):
    files = open_files()
    with pytest.raises(SourceUnavailable, match="cannot be started: No such file"):
        apart(log.path, program=("/nowhere/python",)).read(None)
    assert open_files() == files


def hanging(log: Log) -> DuckDBAudit:
    program = instead("time.sleep(60)")
    return apart(log.path, program=program, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")


def test_a_process_that_hangs_is_killed_after_the_deadline(log: Log, started: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duckdb_source, "START_SECONDS", 0.2)
    source = hanging(log)
    began = time.monotonic()
    with pytest.raises(SourceTimeout, match="within 1 s"):
        source.read(None)
    assert 1.2 < time.monotonic() - began < 45.0
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_so_is_one_that_does_not_even_take_the_request(log: Log, started: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duckdb_source, "START_SECONDS", -0.5)
    source = hanging(log)
    monkeypatch.setattr(duckdb_source.pickle, "dumps", lambda _: bytes(10_000_000))
    began = time.monotonic()
    with pytest.raises(SourceTimeout):
        source.read(None)
    assert time.monotonic() - began < 45.0


def test_interrupt_ends_the_read_and_the_next_one_works(log: Log, started: list):
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
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert gauge(apart(log.path).read(None), R2) == 0.7


# -- when the exporter is gone -----------------------------------------------------------------------------------------

SECRETS = {
    "AIRFLOW_PASSWORD": "hunter2-of-the-tests",
    "AIRFLOW_USERNAME": "user-of-the-tests",
    "EXPORTER_REFRESH_TOKEN": "refresh-of-the-tests",
    "SOMEBODY_ELSES_SECRET": "another-of-the-tests",
}


@contextlib.contextmanager
def reading(
    tmp_path: Path, program: str, at_work: Callable[[int], bool] = runs_duckdb, **env: str
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """An exporter, and the child by which it reads, once that is at work."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **SECRETS, **env}
    exporter = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: any(at_work(child) for child in children(exporter.pid)))
        (child,) = children(exporter.pid)
        yield exporter, child
    finally:
        exporter.kill()
        exporter.wait()


ONCE = "import sys; sys.argv = ['exporter', 'once']; from exporter.__main__ import main; sys.exit(main())"
HANGS_IN_A_PIPE = """
import sys
from exporter.catalog_parser import load_catalog
from exporter.settings import Settings
from exporter.sources.audit.duckdb import Child, DuckDBAudit
code = (
    "import sys; from exporter.sources.audit import duckdb_child, duckdb_reader; "
    "duckdb_reader.open_database = lambda path, spill: duckdb_reader.duckdb.connect('pipe.duckdb'); "
    "duckdb_child.main(int(sys.argv[1]))"
)
settings = Settings.from_env({"AUDIT_URL": sys.argv[1]})
DuckDBAudit(settings, load_catalog(), reader=Child((sys.executable, "-c", code))).read(None)
"""


def gone(pid: int) -> bool:
    """Whether the process has ended, though nobody may have reaped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one: between the opening and the reading
        return True


def waits_for_a_pipe(pid: int) -> bool:
    """Whether DuckDB waits in the kernel for somebody who opens the other end of a named pipe."""
    return Path(f"/proc/{pid}/task/{pid}/wchan").read_text() in ("wait_for_partner", "fifo_open")


def test_a_child_in_a_query_holds_no_secret_and_ends_at_once_when_the_exporter_is_killed(log: Log, tmp_path: Path):
    add_slow_view(log)
    environment = {"AUDIT_URL": str(log.path), "AUDIT_TABLE": SLOW, "EXPORTER_STATE_DIR": "", "TMPDIR": str(tmp_path)}
    with reading(tmp_path, ONCE, **environment) as (exporter, child):
        content = Path(f"/proc/{child}/environ").read_bytes()
        exporter.kill()
        wait_until(lambda: gone(child), within=30)  # it would read for hours
    assert b"of-the-tests" not in content
    names = {item.split(b"=")[0].decode() for item in content.split(b"\0") if item}
    assert {"PYTHONPATH", "TMPDIR"} <= names <= {"PYTHONPATH", *duckdb_source.PASSED_ON}


def test_so_does_one_that_hangs_in_a_read_of_a_named_pipe(log: Log, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.duckdb")
    program = HANGS_IN_A_PIPE.replace("sys.argv[1]}", f"{str(log.path)!r}" + "}")
    with reading(tmp_path, program, waits_for_a_pipe) as (exporter, child):
        exporter.kill()
        wait_until(lambda: gone(child), within=30)  # it would read for hours


# -- what it says ------------------------------------------------------------------------------------------------------


def test_a_bug_in_the_process_is_logged_without_secrets(log: Log, started: list, capfd: pytest.CaptureFixture):
    """A secret reaches the child's log only in the data that it reads."""
    kept = logging.getLogger().handlers[:]
    configure_logging("INFO", "text", ["hunter2-of-the-tests"])
    try:
        with pytest.raises(SourceError, match="with status 1"):
            apart(
                log.path, program=changed("duckdb_reader.read_rows = lambda query, rows: {}['hunter2-of-the-tests']")
            ).read(None)
    finally:
        logging.getLogger().handlers[:] = kept
    said = capfd.readouterr().err
    assert "the process that reads the audit log failed on a bug" in said
    assert "KeyError: '[secret]'" in said
    assert "hunter2" not in said


def test_what_it_says_without_logging_is_logged_too(log: Log, started: list, caplog: pytest.LogCaptureFixture):
    apart(log.path, program=changed("sys.stderr.write('from a library\\n'); print('and this')")).read(None)
    assert "the process that reads the audit log said: from a library" in caplog.text


def test_the_request_holds_no_secret(log: Log, monkeypatch: pytest.MonkeyPatch):
    requests: list[bytes] = []
    real = duckdb_source.pickle.dumps

    def remembered(content: object) -> bytes:
        requests.append(real(content))
        return requests[-1]

    monkeypatch.setattr(duckdb_source.pickle, "dumps", remembered)
    source = apart(
        log.path,
        AIRFLOW_BASE_URL="http://airflow.test",
        AIRFLOW_USERNAME="somebody",
        AIRFLOW_PASSWORD="hunter2-of-the-tests",
        EXPORTER_REFRESH_TOKEN="a-token-of-the-tests",
    )
    source.read(None)
    assert len(requests) == 1
    assert b"of-the-tests" not in requests[0]


def test_signals_to_the_group_leave_the_read_alone(log: Log, started: list):
    """Ctrl-C in a terminal: the exporter ends the process, so that no traceback is in the way of what it says."""
    code = "duckdb_reader.read_rows = lambda *given: (os.kill(os.getpid(), 2), made(*given))[1]"
    assert gauge(apart(log.path, program=changed(code)).read(None), R2) == 0.7


def test_the_childs_log_level_is_the_exporters(log: Log, started: list, caplog: pytest.LogCaptureFixture):
    code = (
        "import logging; "
        "duckdb_reader.read_rows = lambda *given: (logging.getLogger('exporter.x').debug('here'), made(*given))[1]"
    )
    with caplog.at_level("DEBUG"):
        for level, said in (("DEBUG", True), ("INFO", False)):
            caplog.clear()
            apart(log.path, program=changed(code), EXPORTER_LOG_LEVEL=level).read(None)
            assert (("exporter.x", 10, "here") in caplog.record_tuples) is said


def test_sources_are_made_without_importing_a_driver():
    code = (
        "import sys; from exporter.catalog_parser import load_catalog; from exporter.ledger import Ledger; "
        "from exporter.settings import Settings; from exporter.sources import build_sources; "
        "build_sources(Settings.from_env({'GOOGLE_CLOUD_PROJECT': 'project-one'}), load_catalog(), Ledger.open(None)); "
        "build_sources(Settings.from_env({}), load_catalog(), Ledger.open(None)); "
        "drivers = {'duckdb', 'sqlglot', 'google.cloud.bigquery', 'google.auth', 'google.api_core'}; "
        "print(drivers & set(sys.modules) or 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "none"
