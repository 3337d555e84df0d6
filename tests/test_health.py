"""What `/health` says besides the state of the sources: of the state folder, and of counters that stand still."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from exporter.catalog_parser import load_catalog
from exporter.health import overall, report
from exporter.ledger import FILE_NAME, Ledger
from exporter.refresh import Refresher
from exporter.snapshot import Snapshot, SourceStatus
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, source
from testbed.faults import FaultProxy
from testbed.scripted import Clock, ScriptedSource, reading, turn

CATALOG = load_catalog()


def snapshot(**state: object) -> Snapshot:
    found = reading(CATALOG, Clock())
    return Snapshot(1.0, (SourceStatus("audit", up=True),), {"audit": found}, **state)  # type: ignore[arg-type]


def test_state_that_should_survive_a_restart_and_would_not_is_degraded():
    assert overall(snapshot()) == "ok"
    assert overall(snapshot(state_problem="the disk is full")) == "degraded"
    assert overall(snapshot(state_problem="EXPORTER_STATE_DIR is none", state_wanted=False)) == "ok"
    assert overall(snapshot(state_note="made anew")) == "ok"


@pytest.mark.parametrize(
    ("up", "status"),
    [
        ((True, False), "degraded"),
        ((False, True), "degraded"),
        ((False, False), "down"),
        ((True, True), "ok"),
        ((True, None), "starting"),
        ((None, True), "starting"),
        ((False, None), "starting"),
    ],
)
def test_a_source_that_is_up_keeps_the_whole_from_being_down_though_it_has_nothing_to_show(up, status: str):
    """Nor is the whole ready before each source was tried once."""
    statuses = tuple(SourceStatus(name, up=one) for name, one in zip(("audit", "airflow"), up, strict=True))
    assert overall(Snapshot(1.0, statuses, {})) == status


def test_ages_go_on_growing_while_nobody_makes_a_new_snapshot():
    """Those of a hung call too: it is the reason why an operator looks."""
    hung = SourceStatus("audit", up=False, age_seconds=100.04, busy_seconds=40.0)
    fresh = SourceStatus("airflow")
    body = report(CATALOG, Snapshot(1.0, (hung, fresh), {}), age_seconds=7.26, uptime_seconds=0, interval=60)
    assert body["snapshot_age_seconds"] == 7.3
    assert body["sources"]["audit"]["age_seconds"] == 107.3
    assert body["sources"]["audit"]["hung_call_seconds"] == 47.3
    assert body["sources"]["airflow"]["age_seconds"] is None
    assert "hung_call_seconds" not in body["sources"]["airflow"]


@pytest.mark.parametrize(("folder", "status"), [(True, "degraded"), (False, "ok")])
def test_a_folder_that_cannot_be_used_is_degraded_and_none_is_not(tmp_path: Path, folder: bool, status: str):
    clock = Clock()
    (tmp_path / "file").write_text("")
    ledger = Ledger.open(tmp_path / "file" / "state" if folder else None)
    refresher = Refresher(
        CATALOG,
        [ScriptedSource(lambda _: reading(CATALOG, clock))],
        ledger,
        interval=60.0,
        stale_after=3600.0,
        wall=clock.wall,
        monotonic=clock.monotonic,
    )
    body = report(CATALOG, turn(refresher).snapshot, age_seconds=0, uptime_seconds=0, interval=60)
    refresher.stop()
    assert body["status"] == status
    assert body["state"]["survives_restart"] is False
    assert "lost at a restart" in body["state"]["problem"]


def test_counters_of_airflow_that_stand_still_are_degraded(tmp_path: Path):
    """Also when what was written last, the reading, could be written."""
    clock = Clock(NOW)
    fake = FakeAirflow()
    fake.run(DAGS[0], "a", start=NOW - 90, end=NOW - 10)
    with FaultProxy(script=fake) as proxy:
        ledger = Ledger.open(tmp_path)
        airflow = source(proxy.url, ledger)
        refresher = Refresher(
            CATALOG, [airflow], ledger, interval=60.0, stale_after=3600.0, wall=clock.wall, monotonic=clock.monotonic
        )
        assert overall(turn(refresher).snapshot) == "ok"
        clock.advance(60)
        with sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            refresher.step()
            refresher.wait(30)
            somebody.execute("ROLLBACK")
        somebody.close()
        state = turn(refresher)
        assert state.snapshot.readings["airflow"].notes
        assert overall(state.snapshot) == "degraded"
        assert overall(dataclasses.replace(state.snapshot, state_problem=None)) == "degraded"
        clock.advance(60)
        assert overall(turn(refresher).snapshot) == "ok"
        refresher.stop()
