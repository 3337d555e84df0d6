"""Between two refreshes: probes, which cost nothing, find out what is new and have it read."""

import dataclasses
import math

import pytest

from exporter.catalog import Catalog
from exporter.errors import SourceError, SourceTimeout, SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.schedule import BURST, Schedule
from exporter.snapshot import Reading
from testbed.scripted import INTERVAL, Clock, ScriptedSource, failing, reading, settle, turn, value

R2 = "bike_model_r2_champion_current"
PROBE = 2.0


def probed(
    catalog: Catalog, clock: Clock, ledger: Ledger, *sources: ScriptedSource, every: float | None = PROBE
) -> Refresher:
    return Refresher(
        catalog,
        sources,
        ledger,
        interval=INTERVAL,
        stale_after=3600.0,
        probes={"audit": every} if every else None,
        wall=clock.wall,
        monotonic=clock.monotonic,
        jitter=lambda: 0.0,
    )


def test_between_refreshes_only_the_free_look_happens_until_it_says_that_something_changed(catalog, clock, ledger):
    audit = ScriptedSource(lambda _: reading(catalog, clock))
    airflow = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = probed(catalog, clock, ledger, audit, airflow)
    shown = settle(refresher, audit, airflow)
    for _ in range(10):
        clock.advance(2)
        assert turn(refresher) is shown, "nothing new is nothing to render"
    assert (audit.asked, audit.looked, airflow.asked) == (0, 10, 0)
    audit.looks_changed = lambda previous: previous.token == "t"
    audit.answer = lambda _: dataclasses.replace(reading(catalog, clock, r2=0.9), token="u")
    clock.advance(2)
    assert value(turn(refresher), R2) == 0.9
    assert (audit.asked, audit.looked, airflow.asked, airflow.looked) == (1, 11, 0, 0)
    clock.advance(2)
    turn(refresher)
    assert (audit.asked, audit.looked) == (1, 12)
    clock.advance(INTERVAL - 24)
    turn(refresher)
    assert (audit.asked, airflow.asked) == (2, 1), "the turns stay as they were"
    refresher.stop()


def test_a_look_that_fails_is_no_failure_of_the_source_and_one_that_is_down_is_not_looked_at(catalog, clock, ledger):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = probed(catalog, clock, ledger, source)
    turn(refresher)

    def unreachable(_previous: Reading) -> bool:
        raise SourceUnavailable("gone")

    source.looks_changed = unreachable
    clock.advance(2)
    state = turn(refresher)
    assert (source.looked, state.snapshot.statuses[0].up, state.snapshot.statuses[0].failures) == (1, True, {})
    source.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    assert not turn(refresher).snapshot.statuses[0].up
    clock.advance(10)
    turn(refresher)
    assert source.looked == 1
    refresher.stop()


@pytest.mark.parametrize(
    ("error", "looks"),
    [
        (SourceUnavailable("gone"), 5),
        (SourceTimeout("slow"), 5),
        (SourceError("who are you?", reason="auth"), 1),
        (SourceUnavailable("not now", retry_after=15.0), 1),
    ],
    ids=lambda found: type(found).__name__ if isinstance(found, SourceError) else str(found),
)
def test_a_probe_that_was_refused_is_not_repeated_before_the_next_refresh(catalog, clock, ledger, error, looks):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = probed(catalog, clock, ledger, source)
    settle(refresher, source)

    def refused(_previous: Reading) -> bool:
        raise error

    source.looks_changed = refused
    for _ in range(5):
        clock.advance(PROBE)
        turn(refresher)
    assert (source.asked, source.looked) == (0, looks)
    clock.advance(INTERVAL - 5 * PROBE)
    turn(refresher)
    clock.advance(PROBE)
    turn(refresher)
    assert (source.asked, source.looked) == (1, looks + 1)
    refresher.stop()


def reads(schedule: Schedule, start: float, seconds: float, *, new: bool) -> int:
    """How often a source is read in so many seconds in which every look at it finds something new, or nothing."""
    count = 0
    for second in range(int(seconds)):
        now = start + second
        due = schedule.refresh_is_due(now)
        if not due and not schedule.probe_is_due(now):
            continue
        if due or new:
            count += 1
            schedule.begun()
            schedule.succeeded(now, new=new)
        schedule.probed(now, now)
    return count


def test_a_log_that_changes_all_the_time_is_read_as_often_as_without_probes():
    """But for a few reads ahead of it, and for as many again after a time in which it was quiet."""
    hour, turns = 3600, 60
    assert reads(Schedule(INTERVAL, math.inf, due=0.0), 0, hour, new=True) == turns
    schedule = Schedule(INTERVAL, PROBE, due=0.0)
    assert turns < reads(schedule, 0, hour, new=True) <= turns + BURST
    assert reads(schedule, hour, hour, new=True) == turns
    assert reads(schedule, 2 * hour, hour, new=False) == turns
    assert reads(schedule, 3 * hour, BURST * PROBE + 1, new=True) == 1 + BURST, "each is read at once again"


@pytest.mark.parametrize(("took", "next_probe"), [(0.0, 10.0), (4.0, 10.0), (8.0, 16.0)])
def test_probes_are_counted_from_when_the_log_was_looked_at_and_take_half_of_the_time_at_most(took, next_probe):
    schedule = Schedule(INTERVAL, 10.0, due=0.0)
    schedule.begun()
    schedule.succeeded(took, new=True)
    schedule.probed(0.0, took)
    assert not schedule.probe_is_due(next_probe - 0.1)
    assert schedule.probe_is_due(next_probe)


def test_without_a_probe_interval_nobody_looks(catalog, clock, ledger):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = probed(catalog, clock, ledger, source, every=None)
    for _ in range(20):
        turn(refresher)
        clock.advance(2)
    assert (source.asked, source.looked) == (1, 0)
    refresher.stop()
