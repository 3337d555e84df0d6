"""Rows of the state file that are sound SQLite and nonsense: one that cannot be used is left out, all else goes on."""

import copy
import dataclasses
import json
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.catalog_parser import load_catalog
from exporter.ledger import FILE_NAME, Ledger
from exporter.reading_json import reading_from_json, reading_to_json
from exporter.refresh import Refresher
from exporter.snapshot import HistogramSample, Observation, Reading, Totals
from exporter.sources import Source
from testbed.exposed import Exposed
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, source
from testbed.faults import FaultProxy
from testbed.scripted import Clock, ScriptedSource, reading, turn

CATALOG = load_catalog()
R2 = "bike_model_r2_champion_current"
DEPLOYS = (("decision", "deploy"),)
NUMBERS = [float("inf"), float("-inf"), float("nan"), 1.8e308, -1.0, 10**400, -(10**30), 2**63, 0, 1e300, True]
TEXTS = ["", "x" * 200_000, "\ud800", "a\nb", "[", "{}", "null", "NaN", "AAAA", "8" * 5000, "[" * 100_000]
JUNK = st.one_of(
    st.sampled_from([*NUMBERS, *TEXTS, None, [], {}, [[]], [[[]]], {"": None}, [["a", "b"]], [None, None]]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)


def whole(clock: Clock) -> Reading:
    """A reading with every kind of value."""
    simple = reading(CATALOG, clock, deploys=3.0)
    observations = {name: dataclasses.replace(found, newer=None) for name, found in simple.observations.items()} | {
        "airflow_dag_run_duration_seconds": Observation((HistogramSample((("dag_id", "d"),), (1, 0, 2), 7.5),), 5.0)
    }
    totals = Totals(clock.wall() - 60, ((),), {("bike_model_deployments_total", DEPLOYS): array("d", [3.0])})
    return dataclasses.replace(simple, observations=observations, totals=totals, notes=("a note",))


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something stands."""
    yield path
    if isinstance(content, dict | list | tuple):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*path, key))


def changed(content: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """The value with something else at one place."""
    if not path:
        return junk
    content = copy.copy(content)
    content[path[0]] = changed(content[path[0]], path[1:], junk)
    return content


def refreshed(ledger: Ledger, clock: Clock, *more: Source) -> Refresher:
    return Refresher(
        CATALOG,
        [ScriptedSource(lambda _: reading(CATALOG, clock, r2=0.75, deploys=1.0)), *more],
        ledger,
        interval=60.0,
        stale_after=3600.0,
        wall=clock.wall,
        monotonic=clock.monotonic,
    )


def assert_all_goes_on(refresher: Refresher) -> None:
    """What is shown at once, and after a refresh, is an exposition; the refresh is taken."""
    list(text_string_to_metric_families(refresher.state.exposition.text.decode()))
    state = turn(refresher)
    list(text_string_to_metric_families(state.exposition.text.decode()))
    assert state.snapshot.settled
    assert Exposed(state.exposition.text.decode()).value(R2) == 0.75


def keep(folder: Path, text: str | bytes) -> Ledger:
    """A ledger with this text in place of a reading."""
    ledger = Ledger.open(folder)
    with ledger.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO reading VALUES ('audit', CAST(? AS TEXT))", (text,))
    return ledger


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_kept_reading_with_anything_in_any_place_costs_at_most_itself(tmp_path: Path, data: st.DataObject):
    clock = Clock()
    content = json.loads(json.dumps(reading_to_json(whole(clock))))
    path = data.draw(st.sampled_from(list(places(content))))
    ledger = keep(tmp_path, json.dumps(changed(content, path, data.draw(JUNK))))
    refresher = refreshed(ledger, clock)
    if (found := ledger.load_reading("audit", "scripted")) is not None:
        again = json.loads(json.dumps(reading_to_json(found), allow_nan=False))
        assert reading_to_json(reading_from_json(again)) == reading_to_json(found)
    assert_all_goes_on(refresher)
    refresher.stop()


@pytest.mark.parametrize("text", [*(text.encode("utf-8", "surrogatepass") for text in TEXTS), b"\xff\xfe", b"\x00"])
def test_a_kept_text_that_is_no_reading_is_deleted_and_said_once(tmp_path: Path, caplog, text: bytes):
    clock = Clock()
    refresher = refreshed(ledger := keep(tmp_path, text), clock)
    assert caplog.text.count("cannot be used and is deleted") == 1
    assert ledger.load_reading("audit", "scripted") is None
    assert caplog.text.count("cannot be used") == 1
    assert_all_goes_on(refresher)
    refresher.stop()


def replaced(where: str, junk: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *path, last = where.split("/")
        for key in path:
            content = content[int(key) if key.isdigit() else key]
        content[int(last) if last.isdigit() else last] = junk

    return change


@pytest.mark.parametrize(
    ("where", "junk"),
    [
        ("read_at", float("inf")),
        ("read_at", 10**400),
        ("source", "airflow"),
        ("observations/airflow_dag_run_duration_seconds/samples/0", [[["dag_id", "d"]], [1, 2], float("inf")]),
        ("observations/airflow_dag_run_duration_seconds/samples/0", [[["dag_id", "d"]], [1, -2], 3.0]),
        ("observations/airflow_dag_run_duration_seconds/samples/0", []),
        ("observations/airflow_dag_run_duration_seconds/samples/0", [[["dag id", "d"]], [1, 2], 3.0]),
        ("observations/airflow_dag_run_duration_seconds/samples", [[[["a", "d"]], 1.0]] * 2),
        ("totals/newest", 1e300),
        ("totals/sets", [[], []]),
        ("totals/columns/0/2", "AAAAAAAA+H8="),  # NaN
        ("totals/columns/0/2", "AAAAAAAA8H8="),  # infinite
        ("totals/columns/0/2", "AAAAAAAA8L8="),  # -1
        ("notes", [1]),
        ("facts", {"rows": float("nan")}),
    ],
)
def test_what_is_not_finite_or_not_valid_is_no_reading(tmp_path: Path, where: str, junk: Any):
    content = json.loads(json.dumps(reading_to_json(whole(Clock()))))
    ledger = keep(tmp_path, json.dumps(content))
    assert ledger.load_reading("audit", "scripted") is not None
    ledger.close()
    replaced(where, junk)(content)
    ledger = keep(tmp_path, json.dumps(content))
    assert ledger.load_reading("audit", "scripted") is None
    ledger.close()


def test_a_kept_label_is_valid_and_bounded(tmp_path: Path):
    content = json.loads(json.dumps(reading_to_json(whole(Clock()))))
    replaced("observations/airflow_dag_run_duration_seconds/samples/0/0/0/1", "\ud800" + "x" * 100_000)(content)
    ledger = keep(tmp_path, json.dumps(content))
    found = ledger.load_reading("audit", "scripted")
    ledger.close()
    assert found is not None
    ((_, label),) = next(iter(found.observations["airflow_dag_run_duration_seconds"].samples)).labels
    assert len(label) == 200
    assert label.startswith("\ufffdxxx")


def test_a_kept_reading_that_is_too_large_is_not_even_fetched(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr("exporter.ledger.MAX_READING_BYTES", 1000)
    ledger = keep(tmp_path, "9" * 1001)
    assert ledger.load_reading("audit", "scripted") is None
    assert "1001 bytes" in caplog.text
    ledger.close()


# -- tables of Airflow -------------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from([*NUMBERS, *(text for text in TEXTS if text != "\ud800"), b"\xff", None, -1, 2**62]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=20),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_row_of_airflows_tables_with_anything_in_any_cell_stops_neither_the_loop_nor_the_audit_log(
    tmp_path: Path, data: st.DataObject
):
    clock = Clock(NOW)
    fake = FakeAirflow()
    for number in range(3):
        end = NOW - 100 * number - 50
        fake.run(DAGS[0], f"r{number}", start=end - 30, end=end, fetch_to_bigquery__records_count=2)
        fake.task(DAGS[0], f"r{number}", "t", start=end - 30, end=end)
    with FaultProxy(script=fake) as proxy:
        path = tmp_path / FILE_NAME
        path.unlink(missing_ok=True)
        ledger = Ledger.open(tmp_path)
        source(proxy.url, ledger).read(None)
        ledger.close()
        change_a_cell(path, data)
        ledger = Ledger.open(tmp_path)
        refresher = refreshed(ledger, clock, source(proxy.url, ledger))
        assert_all_goes_on(refresher)
        clock.advance(60)
        assert_all_goes_on(refresher)
        refresher.stop()


@pytest.mark.parametrize("cell", ["total SET counts", "xcom SET run_id", "sum SET problem", "dag SET success_run"])
def test_a_text_of_airflows_tables_that_is_no_utf_8_does_not_stop_its_counters(tmp_path: Path, cell: str):
    fake = FakeAirflow()
    fake.run(DAGS[0], "r", start=NOW - 90, end=NOW - 10, fetch_to_bigquery__records_count=2)
    with FaultProxy(script=fake) as proxy:
        ledger = Ledger.open(tmp_path)
        source(proxy.url, ledger).read(None)
        with ledger.transaction() as connection:
            connection.execute(f"UPDATE airflow_{cell} = CAST(x'ff' AS TEXT)")
        ledger.close()
        ledger = Ledger.open(tmp_path)
        airflow = source(proxy.url, ledger)
        airflow.read(None)
        assert not [note for note in airflow.read(None).notes if note.startswith("Counters stand still")]
        ledger.close()


def change_a_cell(path: Path, data: st.DataObject) -> None:
    """Put something else in one cell, if its table can hold that at all."""
    with sqlite3.connect(path) as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'airflow_%' OR name = 'tables_of')"
        tables = [name for (name,) in connection.execute(names) if count(connection, name)]
        table = data.draw(st.sampled_from(sorted(tables)))
        columns = connection.execute(f"SELECT name, type FROM pragma_table_info('{table}') ORDER BY cid").fetchall()
        column, kind = data.draw(st.sampled_from(columns))
        value = data.draw(CELLS)
        try:
            connection.execute(f"UPDATE OR IGNORE {table} SET {column} = CAST(? AS {kind})", (value,))
        except (sqlite3.IntegrityError, OverflowError):
            connection.rollback()
    connection.close()


def count(connection: sqlite3.Connection, table: str) -> int:
    number: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return number
