"""What the refresh loop keeps: over a clock's jump, rows that are deleted, an outage, and a restart."""

import dataclasses

from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.snapshot import Reading
from testbed.scripted import INTERVAL, STALE, ScriptedSource, failing, reading, turn, value

R2 = "bike_model_r2_champion_current"


def test_a_wall_clock_that_steps_back_changes_neither_ages_nor_the_schedule(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source)
    turn(refresher)
    clock.wall_now -= 10 * 86400
    source.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    state = turn(refresher)
    assert source.asked == 2
    assert value(state, R2) == 0.75
    assert state.snapshot.statuses[0].age_seconds == INTERVAL
    clock.advance(STALE)
    assert value(turn(refresher), R2) is None


def test_counters_go_on_when_rows_are_deleted(build, catalog, clock):
    """A table whose old rows expire counts fewer; the exposed counter must not, and new rows must still count."""
    counts = iter([(5.0, 5.0), (2.0, 0.0), (3.0, 1.0), (0.0, 0.0), (4.0, 4.0)])

    def answer(_: Reading | None) -> Reading:
        deploys, newer = next(counts)
        return reading(catalog, clock, deploys=deploys, newer=newer)

    source = ScriptedSource(answer)
    refresher = build(source)
    seen = []
    for _ in range(5):
        seen.append(value(turn(refresher), "bike_model_deployments_total", decision="deploy"))
        clock.advance(INTERVAL)
    assert seen == [5, 5, 6, 6, 10]


def test_a_counter_whose_column_was_gone_for_a_while_goes_on(build, catalog, clock):
    counts = iter([5.0, None, 1.0])
    source = ScriptedSource(lambda _: reading(catalog, clock, deploys=next(counts)))
    refresher = build(source)
    seen = []
    for _ in range(3):
        seen.append(value(turn(refresher), "bike_model_deployments_total", decision="deploy"))
        clock.advance(INTERVAL)
    assert seen == [5, None, 5]


def test_a_reading_that_is_only_confirmed_is_not_counted_twice(build, catalog, clock):
    first = iter([5.0, 2.0])

    def answer(previous: Reading | None) -> Reading:
        try:
            return reading(catalog, clock, deploys=next(first))
        except StopIteration:
            assert previous is not None
            return dataclasses.replace(previous, read_at=clock.wall())

    refresher = build(ScriptedSource(answer))
    for _ in range(5):
        state = turn(refresher)
        clock.advance(INTERVAL)
    assert value(state, "bike_model_deployments_total", decision="deploy") == 5


def test_a_restart_during_an_outage_serves_what_was_known_with_its_true_age(build, catalog, clock, ledger):
    turn(build(ScriptedSource(lambda _: reading(catalog, clock))))
    success = clock.wall()
    clock.advance(600)
    again = build(ScriptedSource(failing(SourceUnavailable("gone"))), on=ledger)
    assert value(again.state, R2) == 0.75
    state = turn(again)
    assert value(state, R2) == 0.75
    assert value(state, "mlops_exporter_source_up", source="audit") == 0
    assert value(state, "mlops_exporter_source_last_success_timestamp_seconds", source="audit") == success
    assert state.snapshot.statuses[0].age_seconds == 600


def test_counters_survive_a_restart_without_stepping_back(build, catalog, clock, ledger):
    counts = iter([5.0, 1.0])
    refresher = build(ScriptedSource(lambda _: reading(catalog, clock, deploys=next(counts))))
    turn(refresher)
    clock.advance(INTERVAL)
    turn(refresher)
    again = build(ScriptedSource(lambda _: reading(catalog, clock, deploys=2.0, newer=1.0)), on=ledger)
    assert value(turn(again), "bike_model_deployments_total", decision="deploy") == 6


def test_a_kept_reading_that_is_too_old_or_of_another_table_is_not_shown(build, catalog, clock, ledger):
    turn(build(ScriptedSource(lambda _: reading(catalog, clock))))
    other = ScriptedSource(failing(SourceUnavailable("gone")))
    other.identity = "another table"
    assert value(turn(build(other, on=ledger)), R2) is None
    clock.advance(STALE + 1)
    assert value(turn(build(ScriptedSource(failing(SourceUnavailable("gone"))), on=ledger)), R2) is None


def test_a_kept_reading_of_another_catalogue_keeps_only_its_counters(build, catalog, clock, ledger):
    before = dataclasses.replace(reading(catalog, clock, deploys=5.0), catalog="older")
    turn(build(ScriptedSource(lambda _: before)))
    again = build(ScriptedSource(lambda _: reading(catalog, clock, deploys=1.0)), on=ledger)
    assert value(again.state, R2) is None
    assert value(turn(again), "bike_model_deployments_total", decision="deploy") == 5


def test_a_state_folder_that_fills_up_is_named_and_values_are_served_all_the_same(build, catalog, clock, tmp_path):
    ledger = Ledger.open(tmp_path / "other")
    refresher = build(ScriptedSource(lambda _: reading(catalog, clock)), on=ledger)
    with ledger.transaction() as connection:
        pass
    connection.execute("PRAGMA query_only = ON")  # what a full or read-only disk does: every write fails
    state = turn(refresher)
    assert value(state, R2) == 0.75
    assert value(state, "mlops_exporter_state_persistent") == 0
    assert "cannot be written" in (state.snapshot.state_problem or "")
    connection.execute("PRAGMA query_only = OFF")
    clock.advance(INTERVAL)
    assert value(turn(refresher), "mlops_exporter_state_persistent") == 1
