"""The refresh loop, turned by hand with a clock that only moves when told."""

import dataclasses
import threading

import pytest

from exporter import health
from exporter.catalog import Catalog
from exporter.errors import BadData, SourceError, SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.schedule import BACK_OFF_LIMIT
from exporter.snapshot import Observation, Reading
from testbed.scripted import INTERVAL, STALE, Clock, ScriptedSource, failing, reading, turn, value

R2 = "bike_model_r2_champion_current"


def test_a_refresh_shows_the_sources_values(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    state = turn(build(source))
    assert value(state, R2) == 0.75
    assert value(state, "mlops_exporter_source_up", source="audit") == 1
    assert value(state, "mlops_exporter_source_refreshes_total", source="audit") == 1


def test_before_the_first_refresh_there_is_something_true_to_say_and_no_up(build, catalog, clock):
    refresher = build(ScriptedSource(lambda _: reading(catalog, clock)))
    assert value(refresher.state, "mlops_exporter_build_info") == 1
    assert value(refresher.state, "mlops_exporter_source_up") is None
    assert value(refresher.state, R2) is None
    assert health.overall(refresher.state.snapshot) == "starting"


def test_sources_are_asked_once_an_interval(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source)
    for _ in range(5):
        turn(refresher)
        clock.advance(INTERVAL / 2)
    assert source.asked == 3


def test_the_first_failure_shows_as_down_and_the_last_reading_is_held_until_it_is_stale(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source)
    turn(refresher)
    success = clock.wall()
    source.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    state = turn(refresher)
    assert value(state, "mlops_exporter_source_up", source="audit") == 0
    assert value(state, R2) == 0.75
    assert value(state, "mlops_exporter_source_last_success_timestamp_seconds", source="audit") == success
    assert state.snapshot.statuses[0].held
    assert health.overall(state.snapshot) == "degraded"
    while clock.wall() - success < STALE:
        assert value(turn(refresher), R2) == 0.75
        clock.advance(INTERVAL)
    clock.advance(1)
    state = turn(refresher)
    assert value(state, R2) is None
    assert value(state, "mlops_exporter_source_last_success_timestamp_seconds", source="audit") == success
    assert health.overall(state.snapshot) == "down"


def test_a_stale_reading_is_dropped_even_if_no_call_ends(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source)
    turn(refresher)
    source.hang(interruptible=False)
    clock.advance(INTERVAL)
    refresher.step()
    clock.advance(STALE)
    refresher.step()
    assert value(refresher.state, R2) is None


def test_a_source_that_is_down_at_the_start_shows_within_one_interval_of_its_return(build, catalog, clock):
    source = ScriptedSource(failing(SourceUnavailable("not there yet")))
    refresher = build(source)
    for _ in range(10):
        assert value(turn(refresher), R2) is None
        clock.advance(INTERVAL)
    source.answer = lambda _: reading(catalog, clock)
    assert value(turn(refresher), R2) == 0.75
    assert value(refresher.state, "mlops_exporter_source_refresh_failures_total", reason="unavailable") == 10


def test_failures_are_retried_after_the_interval_and_a_bit_never_faster(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    refresher = build(source, jitter=1.0)
    turn(refresher)
    source.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    turn(refresher)
    clock.advance(INTERVAL)
    turn(refresher)
    assert source.asked == 2
    clock.advance(INTERVAL * 0.1)
    turn(refresher)
    assert source.asked == 3


def test_a_source_that_was_never_up_is_asked_again_after_doubling_waits_up_to_the_interval(build, catalog, clock):
    source = ScriptedSource(failing(SourceUnavailable("not there yet")))
    refresher = build(source)
    waits = []
    for _ in range(8):
        waits.append(turn(refresher).snapshot.statuses[0].next_refresh_in_seconds)
        clock.advance(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, INTERVAL, INTERVAL]
    source.answer = lambda _: reading(catalog, clock)
    turn(refresher)
    source.answer = failing(SourceUnavailable("gone again"))
    clock.advance(INTERVAL)
    assert turn(refresher).snapshot.statuses[0].next_refresh_in_seconds == INTERVAL


@pytest.mark.parametrize("reason", ["auth", "permission", "quota"])
def test_where_asking_does_harm_the_wait_doubles_up_to_a_limit(build, clock, reason):
    source = ScriptedSource(failing(SourceUnavailable("no", reason=reason)))
    refresher = build(source)
    waits = []
    for _ in range(6):
        waits.append(turn(refresher).snapshot.statuses[0].next_refresh_in_seconds)
        clock.advance(waits[-1])
    assert waits == [60, 120, 240, BACK_OFF_LIMIT, BACK_OFF_LIMIT, BACK_OFF_LIMIT]


def test_retry_after_is_obeyed(build, clock):
    source = ScriptedSource(failing(SourceUnavailable("slow down", reason="quota", retry_after=900)))
    assert turn(build(source)).snapshot.statuses[0].next_refresh_in_seconds == 900


def test_a_bug_in_a_source_is_counted_as_internal_and_logged_with_its_traceback(build, catalog, clock, caplog):
    def broken(_previous: Reading | None) -> Reading:
        raise ZeroDivisionError("oops")

    source = ScriptedSource(broken)
    refresher = build(source)
    state = turn(refresher)
    assert value(state, "mlops_exporter_source_refresh_failures_total", reason="internal") == 1
    assert "ZeroDivisionError" in caplog.text
    source.answer = lambda _: reading(catalog, clock)
    clock.advance(INTERVAL)
    assert value(turn(refresher), R2) == 0.75


def test_a_hung_call_neither_blocks_the_other_source_nor_leaks_threads(build, catalog, clock):
    hung = ScriptedSource(lambda _: reading(catalog, clock))
    hung.hang(interruptible=False)
    other = ScriptedSource(lambda _: reading(catalog, clock, source="airflow"), name="airflow")
    refresher = build(hung, other)
    refresher.step()
    assert hung.entered.wait(30)
    clock.advance(hung.timeout_seconds + 6)
    counts = set()
    for _ in range(20):
        turn(refresher)
        counts.add(threading.active_count())
        clock.advance(INTERVAL)
    assert other.asked == 20
    assert hung.asked == 1
    assert len(counts) == 1
    state = refresher.state
    assert value(state, "mlops_exporter_source_up", source="audit") == 0
    assert value(state, "mlops_exporter_source_up", source="airflow") == 1
    assert value(state, "mlops_exporter_source_refresh_failures_total", source="audit", reason="timeout") >= 19


def test_a_call_past_its_deadline_is_interrupted_and_the_source_recovers(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    source.hang()
    refresher = build(source)
    refresher.step()
    assert source.entered.wait(30)
    clock.advance(source.timeout_seconds + 6)
    refresher.step()
    assert value(refresher.state, "mlops_exporter_source_up", source="audit") == 0
    refresher.wait(5.0)
    clock.advance(INTERVAL * 1.2)
    assert value(turn(refresher), R2) == 0.75
    assert refresher.state.snapshot.statuses[0].refreshes == 2


def test_a_late_answer_is_taken_and_not_counted_twice(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    source.hang(interruptible=False)
    refresher = build(source)
    refresher.step()
    assert source.entered.wait(30)
    clock.advance(source.timeout_seconds + 6)
    refresher.step()
    source.release()
    refresher.wait(5.0)
    refresher.step()
    assert value(refresher.state, R2) == 0.75
    assert refresher.state.snapshot.statuses[0].refreshes == 1


def test_one_sources_result_does_not_wait_for_the_other_for_long(build, catalog, clock):
    slow = ScriptedSource(lambda _: reading(catalog, clock))
    slow.hang()
    fast = ScriptedSource(lambda _: reading(catalog, clock, source="airflow", r2=0.5), name="airflow")
    refresher = build(slow, fast)
    refresher.step()
    refresher.wait(5.0)
    refresher.step()
    assert value(refresher.state, R2) is None
    clock.advance(2)
    refresher.step()
    assert value(refresher.state, R2) == 0.5


def test_gaps_and_notes_are_logged_once(build, catalog, clock, caplog):
    """Missing metrics in one short line, which is no warning: tables without some columns are normal."""
    from exporter.snapshot import Gap

    caplog.set_level("INFO")
    gaps = (Gap("bike_drift_share", "no column drift_share"), Gap("bike_drift_detected", "no column drift_detected"))
    noted = ScriptedSource(
        lambda _: dataclasses.replace(reading(catalog, clock, gaps=gaps), notes=("3 rows have no timestamp",))
    )
    refresher = build(noted)
    for _ in range(3):
        turn(refresher)
        clock.advance(INTERVAL)
    about_metrics = [record for record in caplog.records if "no value for 2 metrics" in record.getMessage()]
    assert [record.levelname for record in about_metrics] == ["INFO"]
    assert "no column" not in caplog.text
    assert caplog.text.count("3 rows have no timestamp") == 1


def test_the_same_outage_is_logged_once_and_so_is_the_return(build, catalog, clock, caplog):
    caplog.set_level("INFO")
    source = ScriptedSource(failing(BadData("nonsense")))
    refresher = build(source)
    for _ in range(3):
        turn(refresher)
        clock.advance(INTERVAL)
    source.answer = lambda _: reading(catalog, clock)
    turn(refresher)
    assert caplog.text.count("nonsense") == 1
    assert caplog.text.count("is back") == 1


def test_a_fallback_is_told_what_to_stand_in_for_and_asked_at_once(build, catalog, clock):
    """Nothing while the preferred source gives the value; all that it can once that source is down; one metric when
    only its column is missing."""
    audit = ScriptedSource(lambda _: reading(catalog, clock))
    airflow = ScriptedSource(lambda _: reading(catalog, clock, source="airflow", r2=0.5, deploys=None), name="airflow")
    refresher = build(audit, airflow)
    turn(refresher)
    turn(refresher)
    assert R2 not in airflow.wanted
    assert "bike_drift_share" in airflow.wanted
    assert "bike_records_ingested_total" not in airflow.wanted
    assert airflow.asked == 2
    clock.advance(INTERVAL)
    turn(refresher)
    assert airflow.asked == 3
    audit.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    turn(refresher)
    turn(refresher)
    assert R2 in airflow.wanted
    assert airflow.asked == 5, "its own turn, and once more because it was wanted"
    audit.answer = lambda _: reading(catalog, clock)
    clock.advance(INTERVAL)
    turn(refresher)
    turn(refresher)
    assert airflow.asked == 6
    clock.advance(INTERVAL)
    turn(refresher)
    assert R2 not in airflow.wanted
    assert airflow.asked == 7


def test_while_the_audit_log_is_down_the_newer_value_is_shown(build, catalog, clock):
    audit = ScriptedSource(lambda _: reading(catalog, clock, r2=0.75))
    fallback = ScriptedSource(lambda _: reading(catalog, clock, source="airflow", r2=0.5, deploys=None), name="airflow")
    refresher = build(audit, fallback)
    assert value(turn(refresher), R2) == 0.75
    audit.answer = failing(SourceUnavailable("gone"))
    clock.advance(INTERVAL)
    turn(refresher)
    state = turn(refresher)
    assert value(state, R2) == 0.5
    assert value(state, "mlops_exporter_metric_source_info", metric=R2, source="airflow") == 1
    assert value(state, "bike_model_deployments_total", decision="deploy") == 3
    audit.answer = lambda _: reading(catalog, clock, r2=0.8)
    clock.advance(INTERVAL)
    state = turn(refresher)
    assert value(state, R2) == 0.8
    assert value(state, "mlops_exporter_metric_source_info", metric=R2, source="audit") == 1


class StandIn(ScriptedSource):
    """Gives a metric only while it is wanted, observed long ago."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        super().__init__(lambda _: self.made(catalog, clock), "airflow")

    def made(self, catalog: Catalog, clock: Clock) -> Reading:
        made = reading(catalog, clock, source="airflow", r2=0.5 if R2 in self.wanted else None, deploys=None)
        return dataclasses.replace(
            made, observations={name: Observation(o.samples, 5.0) for name, o in made.observations.items()}
        )


def test_a_stand_in_is_told_what_is_needed_and_asked_at_once(build, catalog, clock):
    answers = {"r2": None, "fails": False}

    def audit(_previous: Reading | None) -> Reading:
        if answers["fails"]:
            raise SourceUnavailable("cut")
        return reading(catalog, clock, r2=answers["r2"])

    source, stand_in = ScriptedSource(audit), StandIn(catalog, clock)
    refresher = build(source, stand_in)
    turn(refresher)
    turn(refresher)
    assert R2 in stand_in.wanted
    assert value(refresher.state, R2) == 0.5
    assert value(refresher.state, "mlops_exporter_metric_source_info", metric=R2, source="airflow") == 1
    assert stand_in.asked == 2
    answers["r2"] = 0.75
    clock.advance(INTERVAL)
    turn(refresher)
    assert value(refresher.state, R2) == 0.75
    clock.advance(INTERVAL)
    turn(refresher)
    assert R2 not in stand_in.wanted
    answers["fails"] = True
    clock.advance(INTERVAL)
    turn(refresher)
    turn(refresher)
    assert R2 in stand_in.wanted
    assert value(refresher.state, R2) == 0.75, "the audit log's value is newer and still held"
    clock.advance(STALE)
    turn(refresher)
    assert value(refresher.state, R2) == 0.5


def test_run_once_waits_for_what_is_needed(build, catalog, clock):
    stand_in = StandIn(catalog, clock)
    assert value(build(ScriptedSource(lambda _: reading(catalog, clock, r2=None)), stand_in).run_once(), R2) == 0.5


def test_run_once_ends_when_every_source_was_tried(build, catalog, clock):
    source = ScriptedSource(lambda _: reading(catalog, clock))
    other = ScriptedSource(failing(SourceUnavailable("gone")), name="airflow")
    state = build(source, other).run_once()
    assert value(state, R2) == 0.75
    assert [status.up for status in state.snapshot.statuses] == [True, False]


def test_stop_ends_within_its_timeout_with_a_call_in_flight(build, catalog):
    """On real clocks and real threads: the hung call cannot be interrupted, and nothing waits for it."""
    import time

    source = ScriptedSource(lambda _: reading(catalog, Clock()))
    source.hang(interruptible=False)
    ledger = Ledger.open(None)
    refresher = Refresher(catalog, [source], ledger, interval=INTERVAL, stale_after=STALE)
    refresher.start()
    assert source.entered.wait(30)
    assert refresher.alive()
    began = time.monotonic()
    refresher.stop(timeout=0.1)
    assert time.monotonic() - began < 15, "the call would hang for twice as long"
    assert not refresher.alive()
    source.release()


def test_a_bug_in_one_step_is_counted_named_and_logged_once_and_everything_else_goes_on(build, catalog, clock, caplog):
    class Broken(ScriptedSource):
        broken = False

        def telemetry(self):
            if self.broken:
                raise RuntimeError("bug")
            return {}

    source = Broken(lambda _: reading(catalog, clock, r2=0.8))
    refresher = build(source)
    turn(refresher)
    source.broken = True
    for _ in range(3):
        clock.advance(INTERVAL)
        state = turn(refresher)
        assert value(state, R2) == 0.8
        assert value(state, "mlops_exporter_source_up", source="audit") == 1
    assert value(state, "mlops_exporter_loop_errors_total") == 3
    assert list(state.snapshot.bugs) == ["counting what source audit did"]
    assert health.overall(state.snapshot) == "degraded"
    assert caplog.text.count("Traceback") == 1
    source.broken = False
    clock.advance(INTERVAL)
    state = turn(refresher)
    assert value(state, "mlops_exporter_loop_errors_total") == 3
    assert health.overall(state.snapshot) == "ok"


def test_source_errors_carry_only_known_reasons():
    from exporter.errors import FAILURE_REASONS

    for error in (SourceError, *SourceError.__subclasses__()):
        assert error("x").reason in FAILURE_REASONS
