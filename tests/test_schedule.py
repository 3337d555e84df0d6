"""When a source is asked: the limits and edges of the schedule, in seconds that nobody waits for."""

import math

import pytest

from exporter.errors import BACKING_OFF, FAILURE_REASONS
from exporter.schedule import (
    BACK_OFF_LIMIT,
    BURST,
    FORCED_REQUEST_SECONDS,
    JITTER,
    REQUEST_SECONDS,
    RETRY_AFTER_LIMIT,
    RequestGate,
    Schedule,
)

INTERVAL = 60.0
PLAIN = sorted(set(FAILURE_REASONS) - BACKING_OFF)


def schedule(interval: float = INTERVAL, *, probe: float = math.inf, was_up: bool = True) -> Schedule:
    """A source that is due at 1000 s, and was up before."""
    return Schedule(interval, probe, due=1000.0, up=True if was_up else None, was_up=was_up)


def waits(of: Schedule, reason: str, times: int, *, now: float = 1000.0) -> list[float]:
    """How long the source is left alone after each of so many failures."""
    found = []
    for _ in range(times):
        of.failed(now, reason, None, 0.0)
        found.append(of.due - now)
        now = of.due
    return found


# -- refreshes ---------------------------------------------------------------------------------------------------------


def test_refreshes_do_not_drift_however_long_each_takes():
    one = schedule()
    for number in range(1, 101):
        one.succeeded(one.due + 7.5, new=False)
        assert one.due == 1000 + number * INTERVAL


def test_a_refresh_that_took_longer_than_the_interval_is_followed_after_an_interval():
    for late in (INTERVAL, INTERVAL + 1):
        one = schedule()
        one.succeeded(1000 + late, new=False)
        assert one.due == 1000 + late + INTERVAL
    one = schedule()
    one.succeeded(1000 + INTERVAL - 1, new=False)
    assert one.due == 1000 + INTERVAL


def test_a_refresh_before_its_turn_leaves_the_turn_where_it_was():
    one = schedule()
    one.succeeded(999.0, new=False)
    assert one.due == 1000
    one.succeeded(1000.0, new=False)
    assert one.due == 1000 + INTERVAL


def test_a_refresh_is_due_at_its_moment_or_when_it_is_requested():
    one = schedule()
    assert [one.refresh_is_due(now) for now in (999.9, 1000.0, 1000.1)] == [False, True, True]
    one.request(0.0, force=False)
    assert one.refresh_is_due(0.0)
    one.begun()
    assert not one.refresh_is_due(0.0)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", PLAIN)
def test_a_source_that_was_up_is_asked_again_after_the_interval(reason: str):
    one = schedule()
    assert waits(one, reason, 5) == [INTERVAL] * 5
    assert one.up is False
    assert one.backs_off_until == 0


@pytest.mark.parametrize("reason", sorted(BACKING_OFF))
@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (15.0, [15, 30, 60, 120, 240, BACK_OFF_LIMIT, BACK_OFF_LIMIT]),
        (BACK_OFF_LIMIT, [BACK_OFF_LIMIT] * 3),
        (3 * BACK_OFF_LIMIT, [3 * BACK_OFF_LIMIT] * 3),
    ],
)
def test_backing_off_doubles_up_to_the_limit_and_is_never_shorter_than_the_interval(
    reason: str, interval: float, expected: list[float]
):
    one = schedule(interval)
    assert waits(one, reason, len(expected)) == expected
    assert one.backs_off_until == one.due


def test_a_source_that_was_never_up_is_asked_after_1_2_4_seconds_up_to_the_interval():
    assert waits(schedule(was_up=False), PLAIN[0], 8) == [1, 2, 4, 8, 16, 32, INTERVAL, INTERVAL]
    assert waits(schedule(5.0, was_up=False), PLAIN[0], 5) == [1, 2, 4, 5, 5]


def test_thousands_of_failures_are_no_larger_number_than_a_float_holds():
    assert waits(schedule(), "auth", 3000)[-1] == BACK_OFF_LIMIT


def test_a_success_ends_backing_off():
    one = schedule()
    waits(one, "auth", 4)
    one.succeeded(one.due, new=False)
    assert (one.up, one.backs_off_until) == (True, 0)
    assert waits(one, "auth", 1, now=one.due) == [INTERVAL]


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (1.0, INTERVAL),
        (INTERVAL + 1, INTERVAL + 1),
        (RETRY_AFTER_LIMIT, RETRY_AFTER_LIMIT),
        (10 * RETRY_AFTER_LIMIT, RETRY_AFTER_LIMIT),
        (math.inf, RETRY_AFTER_LIMIT),
    ],
)
def test_a_retry_after_is_obeyed_up_to_an_hour_and_shortens_no_wait(asked: float, wait: float):
    """A server that says a year by mistake is asked again today."""
    one = schedule()
    one.failed(1000.0, PLAIN[0], asked, 0.0)
    assert one.due == 1000 + wait
    assert one.backs_off_until == one.due
    one.request(1000.0, force=True)
    assert not one.requested


def test_up_to_a_tenth_is_added_at_random():
    for jitter in (0.0, 0.5, 1.0):
        one = schedule()
        one.failed(1000.0, PLAIN[0], None, jitter)
        assert one.due == pytest.approx(1000 + INTERVAL * (1 + JITTER * jitter))
    assert JITTER == 0.1


# -- requests and probes -----------------------------------------------------------------------------------------------


def test_a_request_is_refused_until_backing_off_ends_and_not_longer():
    one = schedule()
    one.failed(1000.0, "auth", None, 0.0)
    one.request(one.due - 0.1, force=True)
    assert (one.requested, one.forced) == (False, False)
    one.request(one.due, force=False)
    assert (one.requested, one.forced) == (True, False)
    one.request(one.due, force=True)
    one.request(one.due, force=False)
    assert (one.requested, one.forced) == (True, True), "a later request that is not forced takes nothing back"
    one.begun()
    assert (one.requested, one.forced) == (False, False)


def test_a_probe_is_due_some_time_after_the_last_look_began_while_the_source_is_up():
    one = schedule(probe=2.0)
    assert not one.probe_is_due(1e9), "nothing was read yet"
    one.probed(900.0, 900.5)
    assert [one.probe_is_due(now) for now in (901.9, 902.0)] == [False, True]
    assert one.next_due() == 902.0
    one.probed(999.0, 999.0)
    assert one.next_due() == 1000.0
    one.failed(1000.0, PLAIN[0], None, 0.0)
    assert not one.probe_is_due(1e9)
    assert one.next_due() == 1000 + INTERVAL


@pytest.mark.parametrize(("took", "after"), [(0.0, 2.0), (1.0, 2.0), (1.5, 3.0), (60.0, 120.0)])
def test_probes_take_half_of_the_time_at_most(took: float, after: float):
    one = schedule(probe=2.0)
    one.probed(900.0, 900.0 + took)
    assert one.probe_due == 900.0 + after


@pytest.mark.parametrize(
    ("reason", "retry_after", "again"),
    [*((reason, None, False) for reason in sorted(BACKING_OFF)), (PLAIN[0], None, True), (PLAIN[0], 5.0, False)],
)
def test_a_probe_that_was_refused_is_not_repeated(reason: str, retry_after: float | None, again: bool):
    one = schedule(probe=2.0)
    one.probed(900.0, 900.0)
    one.probe_failed(reason, retry_after)
    assert one.probe_is_due(950.0) is again
    one.probed(1000.0, 1000.0)
    assert one.probe_is_due(1002.0), "after the next refresh it is"


def test_without_probes_none_is_ever_due():
    one = schedule()
    one.probed(900.0, 900.0)
    assert not one.probe_is_due(1e9)
    assert one.next_due() == 1000.0


def test_a_few_reads_ahead_of_one_an_interval_end_probing_until_they_are_made_up_for():
    one = schedule(probe=2.0)
    one.due = 1e9
    for number in range(BURST):
        one.probed(1000.0 + number, 1000.0 + number)
        assert one.probe_is_due(1002.0 + number), f"after {number} reads"
        one.succeeded(1000.0 + number, new=True)
    one.probed(1005.0, 1005.0)
    assert one.next_due() == 1007.0
    one.succeeded(1005.0, new=True)
    one.probed(1005.0, 1005.0)
    assert one.next_due() == 1000.0 + INTERVAL
    assert [one.probe_is_due(1000.0 + INTERVAL + late) for late in (-0.1, 0.0)] == [False, True]
    one.succeeded(5000.0, new=False)
    one.probed(5000.0, 5000.0)
    assert one.next_due() == 5002.0, "a read that only confirmed costs nothing"
    one.succeeded(5000.0, new=True)
    assert one.paid_until == 5000.0 + INTERVAL, "time without reads is not saved up"


def test_requests_are_accepted_seconds_apart_and_forced_ones_a_minute():
    gate = RequestGate()
    assert gate.wait(0.0, force=False) <= 0
    assert gate.wait(0.0, force=True) <= 0
    gate.accept(10.0, force=False)
    assert gate.wait(11.0, force=False) == gate.wait(11.0, force=True) == REQUEST_SECONDS - 1
    gate.accept(20.0, force=True)
    assert gate.wait(21.0, force=False) == REQUEST_SECONDS - 1
    assert gate.wait(21.0, force=True) == FORCED_REQUEST_SECONDS - 1
    gate.accept(30.0, force=False)
    assert gate.wait(20 + FORCED_REQUEST_SECONDS, force=True) == 0
