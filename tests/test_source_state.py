"""One source in the refresh loop: its deadline and grace, its thread's end, the stop, and a kept reading's age."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, current_thread
from threading import enumerate as enumerate_threads

import pytest

from exporter.catalog import Catalog
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import SETTLE_SECONDS, Refresher
from exporter.snapshot import Reading, SourceStatus
from exporter.source_state import GRACE_SECONDS
from testbed.scripted import Clock, ScriptedSource, failing, reading, turn, value

R2 = "bike_model_r2_champion_current"
INTERVAL = 60.0
STALE = 3600.0
Build = Callable[..., Refresher]


@pytest.fixture
def build(catalog: Catalog, clock: Clock) -> Iterator[Build]:
    made: list[Refresher] = []

    def make(
        *sources: ScriptedSource,
        ledger: Ledger | None = None,
        monotonic: Callable[[], float] = clock.monotonic,
        probes: dict[str, float] | None = None,
    ) -> Refresher:
        refresher = Refresher(
            catalog,
            sources,
            ledger or Ledger.open(None),
            interval=INTERVAL,
            stale_after=STALE,
            probes=probes,
            wall=clock.wall,
            monotonic=monotonic,
            jitter=lambda: 0.0,
        )
        made.append(refresher)
        return refresher

    yield make
    for refresher in made:
        refresher.stop()


@pytest.fixture
def hung(catalog: Catalog, clock: Clock) -> Iterator[ScriptedSource]:
    """A source whose call neither answers nor can be interrupted."""
    source = ScriptedSource(lambda _: reading(catalog, clock))
    source.hang(interruptible=False)
    yield source
    source.release()


def status(refresher: Refresher, number: int = 0) -> SourceStatus:
    return refresher.state.snapshot.statuses[number]


# -- the deadline ------------------------------------------------------------------------------------------------------


def test_a_call_may_end_by_itself_for_a_moment_after_its_deadline(build: Build, hung: ScriptedSource, clock: Clock):
    """The source's own deadline gives the better error, so the loop waits for it a little longer."""
    refresher = build(hung)
    refresher.step()
    clock.advance(hung.timeout_seconds + GRACE_SECONDS)
    assert refresher.step() > 0
    assert status(refresher).up is None
    clock.advance(0.002)
    refresher.step()
    assert (status(refresher).up, status(refresher).reason) == (False, "timeout")


def test_the_loop_wakes_up_when_the_grace_has_ended(build: Build, hung: ScriptedSource, clock: Clock):
    refresher = build(hung)
    wait = refresher.step()
    assert wait == pytest.approx(hung.timeout_seconds + GRACE_SECONDS, abs=0.01)
    clock.advance(wait)
    assert refresher.step() == 1.0, "it is asked about again after a second, and not without a pause"
    assert status(refresher).up is False


def test_a_hung_call_is_one_failure_an_interval_and_says_for_how_long_it_hangs(
    build: Build, hung: ScriptedSource, clock: Clock
):
    hung.release()
    refresher = build(hung)
    turn(refresher)
    hung.hang(interruptible=False)
    clock.advance(INTERVAL)
    refresher.step()
    clock.advance(hung.timeout_seconds + GRACE_SECONDS + 1)
    refresher.step()
    assert status(refresher).busy_seconds == 36.0
    assert "36 s ago" in (status(refresher).error or "")
    for _ in range(10):
        clock.advance(INTERVAL / 2)
        refresher.step()
    assert status(refresher).failures == {"timeout": 1 + 5}
    assert status(refresher).refreshes == 1 + 1 + 5


def test_a_call_that_is_not_late_is_not_said_to_hang(
    build: Build, hung: ScriptedSource, catalog: Catalog, clock: Clock
):
    quick = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = build(hung, quick)
    refresher.step()
    refresher.wait(30)
    clock.advance(SETTLE_SECONDS)
    refresher.step()
    assert status(refresher, 1).up
    assert (status(refresher).busy_seconds, status(refresher).age_seconds) == (None, None)
    assert status(refresher).next_refresh_in_seconds == 0


def test_a_probe_that_hangs_is_interrupted_like_a_read(build: Build, catalog: Catalog, clock: Clock):
    go_on, looking = Event(), Event()

    def look(_: Reading) -> bool:
        looking.set()
        return not go_on.wait(30)

    source = ScriptedSource(lambda _: reading(catalog, clock))
    source.looks_changed = look
    refresher = build(source, probes={"audit": 2.0})
    turn(refresher)
    clock.advance(2)
    refresher.step()
    assert looking.wait(30)
    clock.advance(source.timeout_seconds + GRACE_SECONDS + 1)
    refresher.step()
    assert (status(refresher).reason, status(refresher).busy_seconds) == ("timeout", 36.0)
    go_on.set()


def test_what_a_probe_finds_is_read_as_by_a_refresh(build: Build, catalog: Catalog, clock: Clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source, probes={"audit": 2.0})
    turn(refresher)
    before = source.wanted
    source.looks_changed = lambda _: True
    clock.advance(2)
    turn(refresher)
    assert source.asked == 2
    assert source.wanted == before == frozenset()


# -- what is said ------------------------------------------------------------------------------------------------------


def test_when_it_was_tried_how_long_it_took_and_what_went_wrong(build: Build, catalog: Catalog, clock: Clock):
    answers = iter([None, 1.5, 0.5])

    def answer(_: Reading | None) -> Reading:
        seconds = next(answers)
        if seconds is None:
            raise SourceUnavailable("gone")
        clock.advance(seconds)
        return reading(catalog, clock)

    refresher = build(ScriptedSource(answer))
    turn(refresher)
    assert (status(refresher).error, status(refresher).reason) == ("gone", "unavailable")
    clock.advance(INTERVAL)
    began = clock.wall()
    turn(refresher)
    now = status(refresher)
    assert (now.last_attempt_at, now.last_success_at, now.duration_seconds) == (began, began + 1.5, 1.5)
    assert (now.error, now.reason, now.up) == (None, None, True)


def test_an_outage_whose_message_counts_seconds_is_logged_once(build: Build, clock: Clock, caplog):
    seconds = iter([5, 17, 123])
    source = ScriptedSource(lambda _: failing(SourceUnavailable(f"silent for {next(seconds)} s"))(None))
    refresher = build(source)
    for _ in range(3):
        turn(refresher)
        clock.advance(INTERVAL)
    assert caplog.text.count("silent for") == 1
    source.answer = failing(SourceUnavailable("refused"))
    turn(refresher)
    assert "refused" in caplog.text


def test_after_a_restart_an_operator_is_told_again(
    build: Build, catalog: Catalog, clock: Clock, caplog, tmp_path: Path
):
    noted = dataclasses.replace(reading(catalog, clock), notes=("3 rows have no timestamp",))
    ledger = Ledger.open(tmp_path)
    turn(build(ScriptedSource(lambda _: noted), ledger=ledger))
    turn(build(ScriptedSource(lambda _: noted), ledger=ledger))
    assert caplog.text.count("3 rows have no timestamp") == 2


def test_a_forced_read_hides_the_revision_alone(build: Build, catalog: Catalog, clock: Clock):
    """What counters go on from is in the reading that a source is given."""
    given: list[Reading | None] = []

    def answer(previous: Reading | None) -> Reading:
        given.append(previous)
        return reading(catalog, clock)

    refresher = build(ScriptedSource(answer))
    turn(refresher)
    assert refresher.request_refresh(force=True).outcome == "accepted"
    turn(refresher)
    shown = given[1]
    assert shown is not None
    assert (shown.token, shown.totals is None) == (None, False)


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sources_thread_that_dies_is_a_failure_of_its_source_and_made_anew(
    build: Build, catalog: Catalog, clock: Clock
):
    """A thread has no business dying; if one does, its source must not be up for ever with what it read last."""
    dying = [False]

    def monotonic() -> float:
        if dying[0] and current_thread().name == "source-audit":
            raise SystemExit("outside of everything that is caught")
        return clock.monotonic()

    source = ScriptedSource(lambda _: reading(catalog, clock))
    other = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    others = set(enumerate_threads())
    refresher = build(source, other, monotonic=monotonic)
    turn(refresher)
    turn(refresher)
    (thread,) = (thread for thread in set(enumerate_threads()) - others if thread.name == "source-audit")
    dying[0] = True
    other.hang()  # so that nothing of its own has the state made anew
    clock.advance(INTERVAL)
    refresher.step()
    thread.join(30)
    refresher.step()
    clock.advance(SETTLE_SECONDS)
    refresher.step()
    assert (status(refresher).up, status(refresher).error) == (False, "What source audit answered got lost.")
    assert status(refresher, 1).up
    assert value(refresher.state, "mlops_exporter_loop_errors_total") == 0
    other.release()
    dying[0] = False
    asked = source.asked
    clock.advance(INTERVAL)
    turn(refresher)
    assert status(refresher).up
    assert source.asked == asked + 1


def test_at_the_stop_no_source_is_closed_while_its_call_goes_on(
    build: Build, hung: ScriptedSource, catalog: Catalog, clock: Clock
):
    """Closing connections under a call that uses them is a crash in somebody's C code."""
    idle = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = build(hung, idle)
    refresher.step()
    assert hung.entered.wait(30)
    assert idle.entered.wait(30)
    refresher.stop(timeout=0.0)
    assert not hung.closed
    hung.release()
    refresher.stop(timeout=30.0)
    assert hung.closed
    assert idle.closed


# -- the kept reading --------------------------------------------------------------------------------------------------


def test_a_kept_reading_from_the_future_is_new_and_no_younger_than_that(
    build: Build, catalog: Catalog, clock: Clock, tmp_path: Path
):
    """The clock stood ten days ahead when it was read. It must not be shown ten days longer than others."""
    ledger = Ledger.open(tmp_path)
    clock.wall_now += 10 * 86400
    ledger.save_reading(reading(catalog, clock))
    clock.wall_now -= 10 * 86400
    refresher = build(ScriptedSource(failing(SourceUnavailable("gone"))), ledger=ledger)
    assert status(refresher).age_seconds == 0
    clock.advance(STALE)
    assert "audit" in turn(refresher).snapshot.readings
    clock.advance(1)
    assert "audit" not in turn(refresher).snapshot.readings


def test_the_same_goes_for_one_that_is_taken_over_while_running(
    build: Build, catalog: Catalog, clock: Clock, tmp_path: Path
):
    holder = Ledger.open(tmp_path)
    follower = Ledger.open(tmp_path)
    refresher = build(ScriptedSource(failing(SourceUnavailable("gone"))), ledger=follower)
    turn(refresher)
    clock.wall_now += 10 * 86400
    holder.save_reading(reading(catalog, clock))
    clock.wall_now -= 10 * 86400
    holder.close()
    clock.advance(INTERVAL)
    turn(refresher)
    clock.advance(STALE)
    assert "audit" in turn(refresher).snapshot.readings
    clock.advance(1)
    assert "audit" not in turn(refresher).snapshot.readings
