"""Refresh requests: sources are asked between two refreshes, and no more often than is good for them."""

import threading
from collections.abc import Callable

import pytest

from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.schedule import FORCED_REQUEST_SECONDS, REQUEST_SECONDS, RequestOutcome
from exporter.snapshot import Reading
from testbed.scripted import INTERVAL, STALE, Clock, ScriptedSource, failing, reading, settle, turn, value

R2 = "bike_model_r2_champion_current"


def wait_until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1200):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError("it did not happen in 60 s")


def test_a_request_has_every_source_asked_before_its_turn_which_stays(build, catalog, clock):
    audit = ScriptedSource(lambda _: reading(catalog, clock))
    airflow = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = build(audit, airflow)
    settle(refresher, audit, airflow)
    clock.advance(10)
    turn(refresher)
    assert (audit.asked, airflow.asked) == (0, 0)
    assert refresher.request_refresh() == RequestOutcome("accepted", 0.0, {})
    turn(refresher)
    assert (audit.asked, airflow.asked) == (1, 1)
    clock.advance(INTERVAL - 10)
    turn(refresher)
    assert (audit.asked, airflow.asked) == (2, 2)
    clock.advance(INTERVAL - 1)
    turn(refresher)
    assert (audit.asked, airflow.asked) == (2, 2)


def test_requests_are_one_until_it_is_begun_and_then_too_soon_for_a_while(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source)
    turn(refresher)
    assert [refresher.request_refresh().outcome for _ in range(3)] == ["accepted", "waiting", "waiting"]
    turn(refresher)
    clock.advance(2)
    assert refresher.request_refresh() == RequestOutcome("too soon", REQUEST_SECONDS - 2, {})
    assert source.asked == 2
    clock.advance(REQUEST_SECONDS - 2)
    assert refresher.request_refresh().outcome == "accepted"
    turn(refresher)
    assert source.asked == 3


def test_a_source_whose_call_is_under_way_is_asked_again_after_it(build, catalog, clock):
    """The call may have looked before the row was written that the wish is about."""
    source = ScriptedSource(lambda _: reading(catalog, clock))
    source.hang()
    refresher = build(source)
    refresher.step()
    assert source.entered.wait(30)
    assert refresher.request_refresh().outcome == "accepted"
    refresher.step()
    assert refresher.request_refresh().outcome == "waiting"
    source.release()
    turn(refresher)
    turn(refresher)
    assert source.asked == 2


def test_a_forced_request_hides_from_the_audit_log_alone_what_was_read_last(build, catalog, clock):
    given: dict[str, list[str | None]] = {"audit": [], "airflow": []}

    def answer(name: str) -> Callable[[Reading | None], Reading]:
        def read(previous: Reading | None) -> Reading:
            given[name].append(previous.token if previous else None)
            return reading(catalog, clock, source=name)

        return read

    refresher = build(*(ScriptedSource(answer(name), name=name) for name in given))
    turn(refresher)
    assert refresher.request_refresh(force=True).outcome == "accepted"
    turn(refresher)
    clock.advance(REQUEST_SECONDS)
    assert refresher.request_refresh(force=True) == RequestOutcome(
        "too soon", FORCED_REQUEST_SECONDS - REQUEST_SECONDS, {}
    )
    assert refresher.request_refresh().outcome == "accepted"
    turn(refresher)
    assert given == {"audit": [None, None, "t"], "airflow": [None, "t", "t"]}


@pytest.mark.parametrize("error", [SourceUnavailable("no", reason="auth"), SourceUnavailable("no", retry_after=90)])
def test_a_request_does_no_harm_where_asking_does(build, catalog, clock, error):
    refusing = ScriptedSource(failing(error))
    other = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = build(refusing, other)
    left = turn(refresher).snapshot.statuses[0].next_refresh_in_seconds
    assert refresher.request_refresh() == RequestOutcome("accepted", 0.0, {"audit": left})
    turn(refresher)
    assert (refusing.asked, other.asked) == (1, 2)


def test_where_every_source_is_left_alone_a_request_is_too_soon(build, clock):
    refresher = build(ScriptedSource(failing(SourceUnavailable("no", retry_after=90))))
    turn(refresher)
    assert refresher.request_refresh() == RequestOutcome("too soon", 90.0, {"audit": 90.0})


def test_a_source_that_is_merely_down_is_asked(build, catalog, clock):
    source = ScriptedSource(failing(SourceUnavailable("gone")))
    refresher = build(source)
    turn(refresher)
    source.answer = lambda _: reading(catalog, clock)
    refresher.request_refresh()
    assert value(turn(refresher), R2) == 0.75


def test_a_request_wakes_the_loop_at_once_and_does_not_wait_for_the_source(catalog, monkeypatch):
    monkeypatch.setattr("exporter.refresh.HEARTBEAT_SECONDS", 3600.0)  # nothing else wakes it
    source = ScriptedSource(lambda _: reading(catalog, Clock()))
    refresher = Refresher(catalog, [source], Ledger.open(None), interval=3600.0, stale_after=STALE)
    refresher.start()
    wait_until(lambda: refresher.state.snapshot.settled)
    source.entered.clear()
    source.hang()
    refresher.request_refresh()
    assert source.entered.wait(30), "without waiting for the loop's next turn"
    source.release()
    refresher.stop()
