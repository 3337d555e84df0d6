"""The refresh loop in a process of its own, forked from the test."""

import gzip
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from exporter import refresh_process
from exporter.app import create_app
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.errors import ConfigError, RefreshProcessError, SourceUnavailable
from exporter.ledger import Ledger
from exporter.logs import configure_logging
from exporter.refresh import Refresher, State
from exporter.refresh_process import RefreshProcess
from exporter.snapshot import Gap, Observation, Reading, Sample
from testbed.scripted import Clock, ScriptedSource, reading

# Python 3.12 warns of a fork beside other threads: pytest's and other tests' do not run in the fork.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
R2 = "bike_model_r2_champion_current"
Make = Callable[..., RefreshProcess]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def ended() -> list[float]:
    return []


@pytest.fixture
def make(catalog: Catalog, ended: list[float]) -> Iterator[Make]:
    made: list[RefreshProcess] = []

    def one(answer: Callable[[Reading | None], Reading], *, interval: float = 60.0) -> RefreshProcess:
        def build(on_state: Callable[[State], None]) -> Refresher:
            source = ScriptedSource(answer)
            return Refresher(catalog, [source], Ledger.open(None), interval=interval, stale_after=60, on_state=on_state)

        made.append(RefreshProcess(build, interval=interval, end_worker=lambda: ended.append(time.monotonic())))
        return made[-1]

    yield one
    for process in made:
        process.stop()


def now_reading(catalog: Catalog, r2: float = 0.75) -> Reading:
    return reading(catalog, Clock(time.time()), r2=r2)


def until(true: Callable[[], object], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def settled(process: RefreshProcess) -> None:
    until(lambda: process.state.snapshot.settled)


def test_the_state_is_the_one_that_a_refresher_in_this_process_makes(make: Make, catalog: Catalog):
    gaps = (Gap("bike_drift_share", "the table has no column drift_share"),)
    answer = replace(now_reading(catalog), gaps=gaps, notes=("a note",))
    here = Refresher(catalog, [ScriptedSource(lambda _: answer)], Ledger.open(None), interval=60, stale_after=60)
    here.run_once()
    process = make(lambda _: answer)
    process.start()
    first = process.state
    assert not first.snapshot.settled
    settled(process)
    health_here, health = (create_app(one, catalog).test_client().get("/health").json for one in (here, process))
    for report in (health_here, health):
        for volatile in ("uptime_seconds",):
            report.pop(volatile)
        for volatile in ("age_seconds", "last_refresh_seconds"):
            report["sources"]["audit"].pop(volatile)
    assert health == health_here
    exposition = process.state.exposition
    wanted = [line for line in here.state.exposition.text.splitlines() if line.startswith((b"bike_", b"# HELP bike_"))]
    assert [line for line in exposition.text.splitlines() if line.startswith((b"bike_", b"# HELP bike_"))] == wanted
    assert gzip.decompress(exposition.text_gzip) == exposition.text
    assert gzip.decompress(exposition.openmetrics_gzip) == exposition.openmetrics
    assert exposition.openmetrics.endswith(b"# EOF\n")
    here.stop()


def test_every_new_state_arrives_with_the_same_bodies_however_many_series_there_are(make: Make, catalog: Catalog):
    reads = 0

    def answer(_: Reading | None) -> Reading:
        nonlocal reads
        reads += 1
        samples = tuple(Sample((("dag_id", f"dag_{number:05}"),), reads + number / 1e6) for number in range(20_000))
        one = now_reading(catalog)
        observations = {"airflow_dag_last_success_timestamp_seconds": Observation(samples, time.time())}
        return replace(one, source="airflow", observations=observations)

    def build(on_state: Callable[[State], None]) -> Refresher:
        source = ScriptedSource(answer, name="airflow")
        return Refresher(catalog, [source], Ledger.open(None), interval=0.2, stale_after=60, on_state=on_state)

    process = RefreshProcess(build, interval=0.2)
    process.start()
    try:
        seen: dict[int, State] = {}
        until(lambda: seen.setdefault(id(process.state), process.state) and len(seen) > 6, within=30)
        before = -1.0
        for state in list(seen.values())[1:]:
            text = state.exposition.text.decode()
            assert gzip.decompress(state.exposition.text_gzip).decode() == text
            values = [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("airflow_dag_last_success_timestamp_seconds{")
            ]
            assert len(values) == 20_000
            assert {int(value) for value in values} == {int(values[0])}  # all of one reading
            assert before < values[0]
            before = values[0]
    finally:
        process.stop()


def test_the_snapshot_that_arrives_holds_no_values(make: Make, catalog: Catalog):
    process = make(lambda _: now_reading(catalog))
    process.start()
    settled(process)
    held = process.state.snapshot.readings["audit"]
    assert set(held.observations) == {R2, "bike_model_deployments_total"}
    assert all(not observation.samples for observation in held.observations.values())
    assert not held.carries


def test_asking_is_answered_by_the_loop_and_has_the_source_asked(make: Make, catalog: Catalog):
    values = iter([0.1, 0.2, 0.3])
    process = make(lambda _: now_reading(catalog, next(values)))
    process.start()
    settled(process)
    assert process.ask_now().outcome == "accepted"
    until(lambda: f"{R2} 0.2\n".encode() in process.state.exposition.text)
    again = process.ask_now()
    assert again.outcome == "too soon"
    assert 0 < again.retry_after <= 5


def test_a_failing_source_is_told_of_like_in_one_process(make: Make, catalog: Catalog):
    def answer(_: Reading | None) -> Reading:
        raise SourceUnavailable("The table is gone.")

    process = make(answer)
    process.start()
    settled(process)
    client: FlaskClient = create_app(process, catalog).test_client()
    report = client.get("/health")
    assert report.status_code == 503
    assert report.json["sources"]["audit"]["last_error"] == "The table is gone."
    assert client.get("/-/healthy").status_code == 200
    assert client.get("/-/ready").status_code == 200


def test_settings_that_cannot_be_used_are_raised_with_all_their_problems():
    def build(_: Callable[[State], None]) -> Refresher:
        raise ConfigError(["first problem", "second problem"])

    process = RefreshProcess(build, interval=60)
    with pytest.raises(ConfigError) as caught:
        process.start()
    assert caught.value.problems == ("first problem", "second problem")
    assert process.pid is None


def test_a_bug_at_the_start_is_logged_and_raised(capfd: pytest.CaptureFixture[str]):
    def build(_: Callable[[State], None]) -> Refresher:
        configure_logging("INFO", "text")  # pytest's own handlers write nowhere that a fork could
        raise ZeroDivisionError

    process = RefreshProcess(build, interval=60)
    with pytest.raises(RefreshProcessError, match="did not start"):
        process.start()
    assert process.pid is None
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_start_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refresh_process, "START_SECONDS", 0.2)

    def build(_: Callable[[State], None]) -> Refresher:
        time.sleep(30)
        raise AssertionError

    process = RefreshProcess(build, interval=60)
    began = time.monotonic()
    with pytest.raises(RefreshProcessError, match="did not start"):
        process.start()
    assert time.monotonic() - began < 5
    assert process.pid is None


def test_stopping_ends_the_process_also_when_a_call_hangs(make: Make, catalog: Catalog):
    def answer(_: Reading | None) -> Reading:
        time.sleep(60)
        raise AssertionError

    for one in (lambda _: now_reading(catalog), answer):
        process = make(one)
        process.start()
        pid = process.pid
        assert pid is not None
        began = time.monotonic()
        process.stop()
        assert time.monotonic() - began < 2
        assert process.pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_its_death_is_noticed_and_the_worker_ended_after_a_pause_in_which_the_values_stay(
    make: Make, catalog: Catalog, ended: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(refresh_process, "RESTART_SECONDS", 0.5)
    process = make(lambda _: now_reading(catalog))
    process.start()
    settled(process)
    assert process.alive()
    assert process.pid is not None
    killed = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.alive())
    assert not ended
    assert f"{R2} 0.75\n".encode() in process.state.exposition.text
    with pytest.raises(RefreshProcessError, match="has ended"):
        process.ask_now()
    assert create_app(process, catalog).test_client().get("/-/healthy").status_code == 503
    until(lambda: ended)
    assert ended[0] - killed >= 0.5
    assert "ended by itself (signal 9)" in caplog.text


def test_one_that_does_not_react_holds_up_no_request(
    make: Make, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, ended: list[float]
):
    monkeypatch.setattr(refresh_process, "ANSWER_SECONDS", 0.2)
    process = make(lambda _: now_reading(catalog), interval=0.05)
    process.start()
    settled(process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.1)
    held = process.state
    began = time.monotonic()
    assert b"bike_model_r2_champion_current" in process.state.exposition.text
    with pytest.raises(RefreshProcessError, match="did not answer"):
        process.ask_now()
    assert time.monotonic() - began < 1
    monkeypatch.setattr(refresh_process, "UNHEALTHY_AFTER_SECONDS", 0.05)
    assert not process.alive()
    monkeypatch.undo()
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: process.state is not held and process.alive())
    assert process.ask_now().outcome == "too soon"  # it has seen the first wish by now
    assert not ended


def test_one_that_is_silent_for_too_long_is_killed_and_the_worker_ended(
    make: Make, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, ended: list[float], caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(refresh_process, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(refresh_process, "UNHEALTHY_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(refresh_process, "RESTART_SECONDS", 0.1)
    process = make(lambda _: now_reading(catalog))
    process.start()
    settled(process)
    time.sleep(1.0)
    assert process.alive()
    assert not ended
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    until(lambda: ended)
    assert process.pid is None
    assert "has said nothing for 0.5 s: it is killed" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_signals_to_the_group_are_left_to_the_worker(make: Make, catalog: Catalog, ended: list[float]):
    process = make(lambda _: now_reading(catalog), interval=0.05)
    process.start()
    settled(process)
    pid = process.pid
    assert pid is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
        os.kill(pid, number)
    state = process.state
    until(lambda: process.state is not state)
    assert process.pid == pid
    assert not ended


def test_many_wishes_at_once_each_get_their_own_answer(make: Make, catalog: Catalog):
    process = make(lambda _: now_reading(catalog))
    process.start()
    settled(process)
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: found.put(process.ask_now().outcome)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = [found.get_nowait() for _ in threads]
    assert outcomes.count("accepted") == 1
    assert set(outcomes) <= {"accepted", "waiting", "too soon"}


def test_a_body_that_is_cut_short_is_an_error(tmp_path: Path):
    path = tmp_path / "bodies"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        assert refresh_process._read(file.fileno(), 1, 2) == b"bc"
        with pytest.raises(EOFError, match="announced 3 bytes and wrote 2"):
            refresh_process._read(file.fileno(), 1, 3)


def test_without_memory_files_the_bodies_go_through_an_unnamed_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = refresh_process._body_file()
    try:
        refresh_process._write(descriptor, b"x" * 100_000, 5)
        assert refresh_process._read(descriptor, 5, 100_000) == b"x" * 100_000
        assert os.fstat(descriptor).st_nlink == 0
    finally:
        os.close(descriptor)
