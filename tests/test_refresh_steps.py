"""The refresh loop, step by step: how one that fails is named, how long a turn waits, and what a request gets."""

import queue
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from exporter.choice import needed_from
from exporter.counters import recounted
from exporter.errors import SourceUnavailable
from exporter.families import families
from exporter.ledger import Ledger
from exporter.refresh import HEARTBEAT_SECONDS, NO_STATUS, SETTLE_SECONDS, UNHEALTHY_AFTER_SECONDS, Refresher
from exporter.schedule import REQUEST_SECONDS, RequestOutcome, Schedule
from exporter.snapshot import Observation, Reading, Sample
from exporter.source_state import SourceState
from testbed.exposed import Exposed
from testbed.scripted import INTERVAL, STALE, ScriptedSource, failing, reading, turn
from tests.test_fault_injection import Fault

R2 = "bike_model_r2_champion_current"
BILLED = "mlops_exporter_bigquery_bytes_billed_total"
Build = Callable[..., Refresher]


@pytest.fixture
def audit(catalog, clock) -> ScriptedSource:
    return ScriptedSource(lambda _: reading(catalog, clock))


@pytest.fixture
def airflow(catalog, clock) -> ScriptedSource:
    return ScriptedSource(lambda _: reading(catalog, clock, source="airflow", r2=None, deploys=None), name="airflow")


def value(exposition: bytes, name: str, **labels: str) -> float | None:
    return Exposed(exposition.decode()).value(name, **labels)


def finish(refresher: Refresher) -> None:
    """Wait for the calls under way, and take their results in the next turn."""
    while refresher.calling:
        refresher.wait(0.01)


# -- steps that fail ---------------------------------------------------------------------------------------------------

STEPS = {
    "taking a refresh request": Schedule.request,
    "taking over the state file": Ledger.take_over,
    "asking source audit": Schedule.refresh_is_due,
    "dropping the reading of source audit once it is too old": SourceState.showable,
    "waiting for source audit": SourceState.held_up.fget,  # type: ignore[attr-defined]
    "making the state that requests are answered from": families,
    "finding out which metrics are wanted from source audit": needed_from,
    "taking the reading of source audit": recounted,
    "saving the reading of source audit": Ledger.save_reading,
    "showing the reading of source audit": SourceState.showable,
    "saying how source audit is doing": SourceState.status,
    "taking a result": SourceState.ended,
    "a turn of the refresh loop": SourceState.next_event,
}


@pytest.mark.parametrize(("step", "function"), STEPS.items(), ids=STEPS)
def test_a_step_that_fails_is_named_and_not_tried_again_at_once(build, audit, caplog, clock, step, function):
    refresher = build(audit)
    turn(refresher)
    clock.advance(INTERVAL)
    refresher.request_refresh()
    with Fault(function, lambda *_, **__: True) as fault:
        assert refresher.step() >= (HEARTBEAT_SECONDS if fault.fired else 0)
        finish(refresher)
        refresher.step()
    assert f"{step} failed on a bug" in caplog.text
    for _ in range(3):
        clock.advance(INTERVAL)
        turn(refresher)
    assert refresher.state.snapshot.bugs == {}


def test_a_kept_reading_that_meets_a_bug_costs_itself(build, audit, caplog):
    turn(build(audit))
    with Fault(Ledger.load_reading, lambda *_, **__: True):
        assert value(build(audit).state.exposition.text, R2) is None
    assert "going on from the kept reading of source audit failed on a bug" in caplog.text


def test_a_source_of_which_nothing_can_be_said_is_down(build, audit, clock):
    refresher = build(audit)
    turn(refresher)
    clock.advance(INTERVAL)
    with Fault(SourceState.status, lambda *_, **__: True):
        (status,) = turn(refresher).snapshot.statuses
    assert (status.name, status.up, status.error, status.reason) == ("audit", False, NO_STATUS, "internal")


def test_a_reading_that_meets_a_bug_is_a_failed_refresh(build, audit):
    refresher = build(audit)
    with Fault(recounted, lambda *_, **__: True):
        (status,) = turn(refresher).snapshot.statuses
    assert (status.up, status.reason, status.duration_seconds) == (False, "internal", 0.0)
    assert status.error == "The reading of source audit met a bug in the exporter; the log has it."


def test_a_family_that_cannot_be_rendered_is_named_until_it_can(build, catalog, clock):
    model = ["\udcff"]

    def answer(_: Reading | None) -> Reading:
        made = reading(catalog, clock)
        active = Observation((Sample((("dag_id", model[0]),), 1.0),), clock.wall())
        return Reading(
            **{**vars(made), "observations": {**made.observations, "airflow_dag_run_active_seconds": active}}
        )

    refresher = build(ScriptedSource(answer, name="airflow"))
    for _ in range(2):
        ((step, error),) = turn(refresher).snapshot.bugs.items()
        assert step == "rendering airflow_dag_run_active_seconds"
        assert "(UnicodeEncodeError)" in error
        clock.advance(INTERVAL)
    model[0] = "d"
    assert turn(refresher).snapshot.bugs == {}


def test_where_no_thread_can_be_started_the_source_is_down_and_tried_again_soon(build, audit, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    refresher = build(audit, jitter=1.0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    refresher.step()
    (status,) = refresher.state.snapshot.statuses
    assert status.error == "No thread could be started to ask source audit: can't start new thread."
    assert (status.up, status.reason, status.next_refresh_in_seconds) == (False, "internal", 1.0)


def test_a_state_says_when_it_was_made_and_what_its_sources_counted(build, audit, clock, monkeypatch):
    def telemetry() -> Mapping[str, tuple[Sample, ...]]:
        return {BILLED: (Sample((), 7.0),)}

    monkeypatch.setattr(audit, "telemetry", telemetry)
    refresher = build(audit)
    clock.advance(7)
    state = turn(refresher)
    assert (state.snapshot.at, state.made_at) == (clock.wall(), clock.monotonic())
    assert (state.snapshot.state_wanted, state.snapshot.state_problem, state.snapshot.state_note) == (True, None, None)
    assert not build(on=Ledger.open(None)).state.snapshot.state_wanted
    assert value(state.exposition.text, BILLED) == 7
    assert refresher.uptime_seconds() == 7
    assert refresher.state_age_seconds(state) == 0
    clock.advance(0.5)
    assert refresher.state_age_seconds(state) == 0.5
    clock.advance(-1.0)
    assert refresher.state_age_seconds(state) == 0


def test_a_turn_takes_what_has_come_without_waiting_for_it(build, audit, airflow):
    refresher = build(audit, airflow)
    pause = threading.Event()
    for _ in range(3000):
        refresher.step()
        if refresher.state.snapshot.settled:
            break
        pause.wait(0.01)
    assert refresher.state.snapshot.settled


def test_a_state_file_that_cannot_be_written_is_no_bug(build, audit, ledger):
    with ledger.transaction() as connection:
        pass
    connection.execute("PRAGMA query_only = ON")
    snapshot = turn(build(audit)).snapshot
    assert "cannot be written" in (snapshot.state_problem or "")
    assert (snapshot.bugs, snapshot.readings.keys()) == ({}, {"audit"})


def test_without_a_newer_state_no_value_is_served_and_every_source_is_down(build, audit, clock):
    refresher = build(audit)
    state = turn(refresher)
    clock.advance(STALE + INTERVAL)
    assert not refresher.too_old(state)
    clock.advance(0.1)
    assert refresher.too_old(state)
    assert value(state.exposition.text, R2) == 0.75
    assert value(state.bare.text, R2) is None
    assert state.bare.left_out == {}
    assert value(state.bare.text, "mlops_exporter_source_up", source="audit") == 0
    assert value(state.bare.text, "mlops_exporter_build_info") == 1


def test_a_reading_that_is_too_old_does_not_wait_for_another_source(build, audit, airflow, clock):
    refresher = build(audit, airflow)
    turn(refresher)
    turn(refresher)
    audit.answer = failing(SourceUnavailable("gone", retry_after=STALE))
    clock.advance(STALE)
    assert value(turn(refresher).exposition.text, R2) == 0.75
    airflow.hang()
    clock.advance(INTERVAL)
    refresher.step()
    assert airflow.entered.is_set()
    assert value(refresher.state.exposition.text, R2) is None
    airflow.release()


# -- how long a turn waits ---------------------------------------------------------------------------------------------


def test_a_turn_waits_until_the_next_refresh_or_the_end_of_a_reading(build, audit, clock):
    refresher = build(audit)
    assert turn(refresher).snapshot.settled
    assert refresher.step() == INTERVAL
    clock.advance(STALE - 10)
    audit.answer = failing(SourceUnavailable("gone", retry_after=900))
    turn(refresher)
    assert refresher.step() == pytest.approx(10.001, abs=1e-6)
    assert build().step() == INTERVAL, "without sources"


def test_a_turn_waits_for_a_moment_where_another_source_is_under_way(build, audit, airflow, clock):
    airflow.hang()
    refresher = build(audit, airflow)
    refresher.step()
    refresher.wait(30)
    assert refresher.step() == SETTLE_SECONDS
    clock.advance(SETTLE_SECONDS - 0.5)
    assert refresher.step() == 0.5
    assert value(refresher.state.exposition.text, R2) is None
    airflow.release()


def test_a_turn_does_not_wait_where_a_fallback_is_wanted(build, clock, catalog, airflow):
    refresher = build(ScriptedSource(lambda _: reading(catalog, clock, r2=None)), airflow)
    refresher.step()
    finish(refresher)
    assert refresher.step() == 0
    assert R2 not in airflow.wanted
    turn(refresher)
    assert R2 in airflow.wanted


def test_nothing_waits_for_longer_than_a_heartbeat(build, monkeypatch, caplog):
    waited: list[float] = []

    class Impatient(queue.SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            assert timeout is not None
            waited.append(timeout)
            raise queue.Empty

    monkeypatch.setattr(queue, "SimpleQueue", Impatient)
    refresher = build()
    for seconds in (3600.0, 2.0, 0.0):
        refresher.wait(seconds)
    assert waited == [HEARTBEAT_SECONDS, 2.0, 0.0]
    assert "failed on a bug" not in caplog.text


# -- requests ----------------------------------------------------------------------------------------------------------

ACCEPTED, WAITING = RequestOutcome("accepted", 0.0, {}), RequestOutcome("waiting", 0.0, {})


def test_a_forced_request_takes_the_place_of_one_that_is_not_forced_and_not_the_other_way_round(build, catalog, clock):
    given: list[str | None] = []

    def answer(previous: Reading | None) -> Reading:
        given.append(previous.token if previous else None)
        return reading(catalog, clock)

    refresher = build(ScriptedSource(answer))
    turn(refresher)
    assert refresher.request_refresh() == ACCEPTED
    clock.advance(REQUEST_SECONDS)
    assert refresher.request_refresh() == WAITING
    assert refresher.request_refresh(force=True) == ACCEPTED
    assert refresher.request_refresh(force=True) == WAITING
    assert refresher.request_refresh() == WAITING
    turn(refresher)
    assert given == [None, None]
    assert build().request_refresh() == ACCEPTED, "without sources"


def test_the_same_goes_for_one_that_the_loop_has_taken_and_not_begun(build, audit, clock):
    audit.hang()
    refresher = build(audit)
    refresher.step()
    assert refresher.request_refresh() == ACCEPTED
    refresher.step()
    clock.advance(REQUEST_SECONDS)
    assert refresher.request_refresh() == WAITING
    assert refresher.request_refresh(force=True) == ACCEPTED
    refresher.step()
    assert refresher.request_refresh(force=True) == WAITING
    assert refresher.request_refresh() == WAITING
    audit.release()


def test_a_source_backs_off_until_a_moment_and_not_longer(build, audit, airflow, clock):
    audit.answer = failing(SourceUnavailable("no", retry_after=90))
    refresher = build(audit, airflow)
    turn(refresher)
    clock.advance(90 - REQUEST_SECONDS)
    assert refresher.request_refresh() == RequestOutcome("accepted", 0.0, {"audit": REQUEST_SECONDS})
    turn(refresher)
    clock.advance(REQUEST_SECONDS - 0.5)
    assert refresher.request_refresh() == RequestOutcome("too soon", 0.5, {"audit": 0.5})
    clock.advance(0.5)
    assert refresher.request_refresh() == ACCEPTED


def test_a_single_run_asks_every_source_whether_it_is_due_or_not(build, audit):
    refresher = build(audit)
    for asked in (1, 2):
        assert refresher.run_once().snapshot.bugs == {}
        assert audit.asked == asked


# -- the state file ----------------------------------------------------------------------------------------------------


class Counted(Ledger):
    """Another process has its folder for ever."""

    tried = 0

    def take_over(self) -> bool:
        self.tried += 1
        return False


def test_the_state_file_is_tried_once_in_a_heartbeat(build, audit, clock):
    ledger = Counted.open(None)
    refresher = build(audit, on=ledger)
    for advance, tried in ((0.0, 1), (0.0, 1), (HEARTBEAT_SECONDS - 0.1, 1), (0.1, 2), (0.0, 2)):
        clock.advance(advance)
        finish(refresher)
        refresher.step()
        assert ledger.tried == tried


@pytest.mark.parametrize("up", [False, True])
def test_there_may_be_nothing_to_take_over(up: bool, build, audit, tmp_path, clock):
    if not up:
        audit.answer = failing(SourceUnavailable("gone"))
    holder = Ledger.open(tmp_path / "shared")
    refresher = build(audit, on=Ledger.open(tmp_path / "shared"))
    turn(refresher)
    holder.close()
    clock.advance(HEARTBEAT_SECONDS)
    assert refresher.state.snapshot.state_problem is not None
    snapshot = turn(refresher).snapshot
    assert (snapshot.state_problem, snapshot.bugs, len(snapshot.readings)) == (None, {}, up)
    assert value(refresher.state.exposition.text, "mlops_exporter_loop_errors_total") == 0


def test_of_counters_that_are_taken_over_the_larger_value_goes_on(build, catalog, clock, tmp_path):
    """Here it is the one that was counted while the other exporter held the file. The source is told nothing that could
    make it say that nothing changed."""
    deploys = [17.0]
    given: list[Reading | None] = []

    def answer(previous: Reading | None) -> Reading:
        given.append(previous)
        return reading(catalog, clock, deploys=deploys[0])

    holder, follower = (Ledger.open(tmp_path / "shared") for _ in range(2))
    first = build(ScriptedSource(lambda _: reading(catalog, clock, deploys=5.0)), on=holder)
    turn(first)
    second = build(ScriptedSource(answer), on=follower)
    assert turn(second).snapshot.state_problem is not None
    first.stop()
    clock.advance(HEARTBEAT_SECONDS)
    assert turn(second).snapshot.state_problem is None
    deploys[0] = 3.0  # the others are gone from the log
    clock.advance(INTERVAL)
    shown = turn(second).exposition.text
    assert value(shown, "bike_model_deployments_total", decision="deploy") == 17
    assert given[1] is not None
    assert given[1].token is None


def test_a_loop_that_does_not_turn_is_not_alive_and_one_that_has_stopped_takes_no_request(
    build, audit, catalog, clock, monkeypatch
):
    monkeypatch.setattr("exporter.refresh.HEARTBEAT_SECONDS", 3600.0)  # nothing but the stop ends its wait
    refresher = build(audit)
    assert not refresher.alive()
    others = set(threading.enumerate())
    refresher.start()
    pause = threading.Event()
    while not refresher.state.snapshot.settled or refresher.calling:
        pause.wait(0.001)
    threads = {thread.name: thread for thread in set(threading.enumerate()) - others}
    assert {name: thread.daemon for name, thread in threads.items()} == {"refresh": True, "source-audit": True}
    clock.advance(UNHEALTHY_AFTER_SECONDS - 0.1)
    assert refresher.alive()
    clock.advance(0.1)
    assert not refresher.alive()
    began = time.monotonic()
    refresher.stop(timeout=20.0)
    assert time.monotonic() - began < 15
    assert not threads["refresh"].is_alive()
    clock.advance(-UNHEALTHY_AFTER_SECONDS)
    assert not refresher.alive()
    assert refresher.request_refresh() == RequestOutcome("unavailable", 0.0, {})


def test_the_stop_waits_for_every_thread_until_one_moment(build, audit, clock, monkeypatch):
    refresher = build(audit)
    refresher.start()
    assert audit.entered.wait(30)
    waited: list[tuple[str, float | None]] = []

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        waited.append((thread.name, timeout))
        clock.advance(1.5)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", join)
        refresher.stop()
        refresher.stop(timeout=0.0)
        refresher.stop(timeout=2.0)
    seconds = ((1.0, 0.0), (0.0, 0.0), (2.0, 0.5))
    assert waited == [pair for loop, source in seconds for pair in (("refresh", loop), ("source-audit", source))]


def test_the_stop_does_not_wait_for_a_loop_that_hangs(build, audit, monkeypatch):
    counting, go_on = threading.Event(), threading.Event()
    refresher = build(audit)

    def telemetry() -> Mapping[str, tuple[Sample, ...]]:
        counting.set()
        go_on.wait(30)
        return {}

    monkeypatch.setattr(audit, "telemetry", telemetry)
    refresher.start()
    assert counting.wait(30)
    began = time.monotonic()
    refresher.stop(timeout=0.1)
    assert time.monotonic() - began < 15
    go_on.set()


def test_a_source_that_cannot_be_closed_holds_nothing_up(build, audit, airflow, tmp_path, monkeypatch):
    def fail() -> None:
        raise SourceUnavailable("gone")

    monkeypatch.setattr(audit, "close", fail)
    ledger = Ledger.open(tmp_path / "own")
    refresher = build(audit, airflow, on=ledger)
    turn(refresher)
    refresher.stop()
    assert airflow.closed
    again = Ledger.open(tmp_path / "own")
    assert again.problem is None
    again.close()
