"""What `/health` says besides the state of the sources: of the state folder, and of counters that stand still."""

import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from exporter import __version__
from exporter.catalog_parser import load_catalog, parse_catalog
from exporter.health import overall, report, without_details
from exporter.ledger import FILE_NAME, Ledger
from exporter.refresh import Refresher
from exporter.snapshot import Gap, Observation, Reading, Sample, Snapshot, SourceStatus
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


SMALL = parse_catalog(
    """
version: 1
audit: {table: a.b, timestamp: at}
metrics:
  - {name: shown, type: gauge, help: h, from: [{audit: a}]}
  - {name: missing, type: gauge, help: h, from: [{audit: b}, {xcom: {dag: d, task: t, key: k}}]}
  - {name: empty, type: gauge, help: h, from: [{audit: c}]}
  - {name: alias, type: gauge, help: h, alias_of: empty}
  - {name: fallback, type: gauge, help: h, from: [{xcom: {dag: d, task: t, key: l}}]}
""",
    "small.yaml",
)


def test_the_whole_report():
    found = Reading(
        "audit", "i", "c", 1.0, 1.0, None,
        {"shown": Observation((Sample((), 1.0),), 1.0)},
        gaps=(Gap("missing", "the table has no column b"),),
        notes=("1 row is odd",),
        facts={"engine": "duckdb", "last_record_at": 1_700_000_000.0, "rows": 4},
    )  # fmt: skip
    up = SourceStatus(
        "audit", up=True, last_success_at=1_700_000_060.0, age_seconds=1.22, refreshes=7, failures={"auth": 2},
        duration_seconds=0.12345,
    )  # fmt: skip
    down = SourceStatus("airflow", up=False, error="gone", reason="unavailable")
    state = {"state_problem": "full", "state_wanted": True, "state_note": "made anew", "bugs": {"a step": "a bug"}}
    made = Snapshot(1.0, (up, down), {"audit": found}, **state)  # type: ignore[arg-type]
    nothing = "no reading that is good to show"
    empty = {
        "up": False, "last_success": None, "age_seconds": None, "last_error": "gone",
        "last_error_reason": "unavailable", "held": False, "refreshes": 0, "failures": {}, "last_refresh_seconds": None,
        "notes": [], "serves": [],
    }  # fmt: skip
    assert report(SMALL, made, age_seconds=2.04, uptime_seconds=3.06, interval=60.0) == {
        "status": "degraded",
        "snapshot_age_seconds": 2.0,
        "version": __version__,
        "uptime_seconds": 3.1,
        "refresh_interval_seconds": 60.0,
        "sources": {
            "audit": {
                "up": True,
                "last_success": "2023-11-14T22:14:20Z",
                "age_seconds": 3.3,
                "last_error": None,
                "last_error_reason": None,
                "held": False,
                "refreshes": 7,
                "failures": {"auth": 2},
                "last_refresh_seconds": 0.123,
                "engine": "duckdb",
                "rows": 4,
                "last_record": "2023-11-14T22:13:20Z",
                "notes": ["1 row is odd"],
                "serves": ["shown"],
            },
            "airflow": empty,
        },
        "metrics_without_value": {
            "missing": f"audit: the table has no column b; airflow: {nothing}",
            "empty": "audit: no value yet",
            "alias": "alias of empty",
            "fallback": f"airflow: {nothing}",
        },
        "bugs": {"a step": "a bug"},
        "state": {"survives_restart": False, "problem": "full", "note": "made anew"},
        "web_configuration": {"problem": None},
    }
    late = report(SMALL, made, age_seconds=2.0, uptime_seconds=3.0, interval=60.0, too_old=True)
    assert late["status"] == "down"
    alone = report(SMALL, Snapshot(1.0, (up,), {"audit": found}), age_seconds=0, uptime_seconds=0, interval=60.0)
    assert alone["metrics_without_value"]["fallback"] == "airflow: not configured"
    assert alone["state"] == {"survives_restart": True, "problem": None, "note": None}


@pytest.mark.parametrize(("up", "status"), [(True, "degraded"), (False, "down"), (None, "starting")])
def test_a_web_configuration_that_cannot_be_used_is_named_and_makes_nothing_better(up: bool | None, status: str):
    made = Snapshot(1.0, (SourceStatus("audit", up=up),), {})
    body = report(SMALL, made, age_seconds=0, uptime_seconds=0, interval=60.0, web_problem="no such file")
    assert (body["status"], body["web_configuration"]) == (status, {"problem": "no such file"})


@pytest.mark.parametrize("at", [None, "soon"])
def test_a_log_without_a_row_has_no_time_of_the_last_one(at: str | None):
    found = Reading("audit", "i", "c", 1.0, 1.0, None, {}, facts={"last_record_at": at})
    made = Snapshot(1.0, (SourceStatus("audit", up=True),), {"audit": found})
    body = report(SMALL, made, age_seconds=0, uptime_seconds=0, interval=60.0)
    assert body["sources"]["audit"]["last_record"] is None
    assert "last_record_at" not in body["sources"]["audit"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"bugs": {"a step": "a bug"}}, "degraded"),
        ({"statuses": (SourceStatus("audit", up=True, held=True),)}, "degraded"),
        ({"notes": ("Counters stand still: the disk is full.",)}, "degraded"),
        ({"notes": ("3 rows", "Counters stand still: the disk is full.")}, "degraded"),
        ({"notes": ("It is said that Counters stand still",)}, "ok"),
    ],
)
def test_what_makes_it_degraded(change: dict[str, Any], status: str):
    found = Reading("audit", "i", "c", 1.0, 1.0, None, {}, notes=change.pop("notes", ()))
    made = Snapshot(1.0, change.pop("statuses", (SourceStatus("audit", up=True),)), {"audit": found}, **change)
    assert overall(made) == status


def test_a_report_that_cannot_be_made_names_the_bug_and_no_data():
    assert without_details(KeyError("secret"), 60.0) == {
        "status": "degraded",
        "version": __version__,
        "snapshot_age_seconds": None,
        "refresh_interval_seconds": 60.0,
        "sources": {},
        "metrics_without_value": {},
        "bugs": {"reporting health": "bug in the exporter (KeyError); the log has the traceback"},
    }


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


def test_counters_of_airflow_that_stand_still_are_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when what was written last, the reading, could be written."""
    monkeypatch.setattr("exporter.state_file.LOCKED_SECONDS", 0.2)
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
