"""The ledger's rows read back: a row that makes no sense is set aside with a warning, alone, and the rest is used."""

import logging

import pytest

from exporter.catalog import XCom
from exporter.ledger import Ledger
from exporter.sources.airflow.counted import (
    RUN,
    TASK,
    Counted,
    DagMark,
    KeptXCom,
    Pending,
    Success,
    Sum,
    Total,
    sum_key,
)
from exporter.sources.airflow.kept import MAX_EVENTS
from exporter.sources.airflow.records import DagRun, TaskInstance
from exporter.sources.airflow.totals import Totals

NOW = 1_750_000_000.0
ROWS = XCom("a", "load", "rows", field="f", take="length")
OTHER = XCom("b", "load", "rows")
TABLES = ("dag", "total", "seen", "xcom_pending", "xcom_added", "sum", "xcom")


def totals(ledger: Ledger, at: str = "here") -> Totals:
    return Totals(ledger, at, (10.0, 60.0), (1.0,), (ROWS, OTHER))


def filled(ledger: Ledger, at: str = "here") -> Totals:
    """Rows in every table, of the DAGs a and b alike."""
    made = totals(ledger, at)
    made.load()
    for dag, spec in (("a", ROWS), ("b", OTHER)):
        for run, end in (("r", NOW - 9), ("s", NOW)):
            made.fold(RUN, [dag], [DagRun(dag, run, "success", end - 20, end)], end, complete=True)
        made.fold(TASK, [dag], [TaskInstance(dag, "r", "t", -1, "failed", NOW - 9, NOW)], NOW, complete=False)
        (first,) = (one for one in made.load().pending if (one.dag_id, one.run_id) == (dag, "r"))
        made.add_xcom(first, "w", {sum_key(spec): 4.0}, {sum_key(spec): "odd"})
        made.keep_xcom(dag, "load", "rows", KeptXCom("s", NOW, "[1]", None))
        made.keep_xcom(dag, "load", "else", KeptXCom("s", NOW, None, "too long"))
    return made


def whole(dag: str, spec: XCom) -> Counted:
    """What `filled` counted of one DAG."""
    return Counted(
        dags={dag: DagMark(NOW, True, NOW, False, Success("s", NOW))},
        runs={(dag, "success"): Total(2, (0, 2, 0), 40.0, NOW)},
        tasks={(dag, "t", "failed"): Total(1, (0, 1), 9.0, NOW)},
        sums={sum_key(spec): Sum(4.0, NOW - 9, "odd")},
        pending=(Pending(dag, "s", NOW, "load", "rows", backlog=False),),
        xcoms={
            (dag, "load", "else"): KeptXCom("s", NOW, None, "too long"),
            (dag, "load", "rows"): KeptXCom("s", NOW, "[1]", None),
        },
    )


def of(dag: str, counted: Counted) -> Counted:
    """As much as was counted of one DAG."""

    def picked(kept):
        return {key: one for key, one in kept.items() if dag in (key, key[0])}

    return Counted(
        picked(counted.dags),
        picked(counted.runs),
        picked(counted.tasks),
        picked(counted.sums),
        tuple(one for one in counted.pending if one.dag_id == dag),
        picked(counted.xcoms),
    )


def rows(ledger: Ledger, at: str, dag: str) -> dict[str, int]:
    with ledger.transaction() as connection:
        where = "WHERE instance = ? AND dag_id = ?"
        return {
            name: connection.execute(f"SELECT count(*) FROM airflow_{name} {where}", (at, dag)).fetchone()[0]
            for name in TABLES
        }


def test_everything_that_was_counted_is_read_back():
    ledger = Ledger.open(None)
    filled(ledger)
    filled(ledger, "elsewhere")
    for at in ("here", "elsewhere"):
        counted = totals(ledger, at).load()
        assert of("a", counted) == whole("a", ROWS)
        assert of("b", counted) == whole("b", OTHER)
        assert set(counted.dags) == {"a", "b"}
    assert totals(ledger, "nowhere").load() == Counted({}, {}, {}, {}, (), {})


def test_what_is_still_to_be_added_comes_in_the_order_of_ends():
    ledger = Ledger.open(None)
    made = totals(ledger)
    made.load()
    for run, end in (("z", NOW), ("b", NOW + 1), ("a", NOW + 1), ("y", NOW + 2)):
        made.fold(RUN, ["b"], [DagRun("b", run, "success", end, end)], end, complete=False)
    assert [(one.run_id, one.backlog) for one in made.load().pending] == [(run, True) for run in "zaby"]


A = "WHERE instance = 'here' AND dag_id = 'a'"


@pytest.mark.parametrize(
    ("change", "table", "why"),
    [
        ("UPDATE airflow_total SET events = -1 {A} AND kind = 'run'", "total", "not a whole number from 0 to"),
        (f"UPDATE airflow_total SET events = {MAX_EVENTS + 1} {{A}} AND kind = 'run'", "total", "not a whole number"),
        ("UPDATE airflow_total SET counts = '[0, 2]' {A} AND kind = 'run'", "total", "not 3 counts: '[0, 2]'"),
        ("UPDATE airflow_total SET counts = '[0, 2, 0, 0]' {A} AND kind = 'run'", "total", "not 3 counts"),
        ("UPDATE airflow_total SET counts = '{{\"a\": 1}}' {A} AND kind = 'task'", "total", "not 2 counts"),
        ("UPDATE airflow_total SET counts = '[0, -1, 0]' {A} AND kind = 'run'", "total", "not a whole number from 0"),
        ("UPDATE airflow_total SET counts = 'nonsense' {A} AND kind = 'run'", "total", "Expecting value"),
        ("UPDATE airflow_total SET sum = -0.5 {A} AND kind = 'run'", "total", "below 0: -0.5"),
        ("UPDATE airflow_total SET last_end = 1e300 {A} AND kind = 'run'", "total", "not a time in the years"),
        ("UPDATE airflow_total SET kind = 'other' {A} AND kind = 'run'", "total", "'other'"),
        ("UPDATE airflow_sum SET total = 9e999 {A}", "sum", "not a finite number"),
        ("UPDATE airflow_sum SET total = -1e-9 {A}", "sum", "below 0: -1e-09"),
        ("UPDATE airflow_sum SET last_end = 1e300 {A}", "sum", "not a time in the years"),
        ("UPDATE airflow_xcom SET run_end = 1e300 {A} AND key = 'rows'", "xcom", "not a time in the years"),
        ("UPDATE airflow_xcom_pending SET run_end = NULL {A}", "xcom_pending", "not a number but a NoneType"),
    ],
)
def test_a_row_that_makes_no_sense_is_set_aside_alone(
    change: str, table: str, why: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    ledger = Ledger.open(None)
    filled(ledger)
    filled(ledger, "elsewhere")
    before = rows(ledger, "here", "a")
    with ledger.transaction() as connection:
        connection.execute(change.format(A=A))
    counted = totals(ledger).load()
    (said,) = (record.getMessage() for record in caplog.records)
    assert f"(airflow_{table}) cannot be used and is set aside: " in said
    assert why in said
    assert rows(ledger, "here", "a") == {**before, table: before[table] - 1}
    assert of("b", counted) == whole("b", OTHER)
    assert of("a", totals(ledger, "elsewhere").load()) == whole("a", ROWS)
    caplog.clear()
    assert totals(ledger).load() == counted
    assert caplog.records == []


@pytest.mark.parametrize(
    "change",
    ["run_until = 9e999", "task_until = -9e999", "success_end = 1e300", "success_end = NULL"],
)
def test_a_dag_whose_mark_makes_no_sense_is_forgotten_altogether(change: str, caplog: pytest.LogCaptureFixture):
    """Or what it counted would be counted twice."""
    caplog.set_level(logging.WARNING)
    ledger = Ledger.open(None)
    filled(ledger)
    filled(ledger, "elsewhere")
    assert all(rows(ledger, "here", "a").values())
    with ledger.transaction() as connection:
        connection.execute(f"UPDATE airflow_dag SET {change} {A}")
    counted = totals(ledger).load()
    assert of("a", counted) == Counted({}, {}, {}, {}, (), {})
    assert rows(ledger, "here", "a") == dict.fromkeys(TABLES, 0)
    assert of("b", counted) == whole("b", OTHER)
    assert of("a", totals(ledger, "elsewhere").load()) == whole("a", ROWS)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("state of DAG a cannot be used and is set aside, it is counted anew: ")


def test_what_is_at_the_limit_is_good(caplog: pytest.LogCaptureFixture):
    ledger = Ledger.open(None)
    filled(ledger)
    with ledger.transaction() as connection:
        connection.execute(f"UPDATE airflow_total SET events = {MAX_EVENTS}, sum = 0, last_end = NULL {A}")
        connection.execute(f"UPDATE airflow_dag SET success_run = NULL, success_end = NULL, run_until = NULL {A}")
    counted = totals(ledger).load()
    assert counted.runs["a", "success"] == Total(MAX_EVENTS, (0, 2, 0), 0.0, None)
    assert counted.mark("a") == DagMark(None, True, NOW, False, None)
    assert caplog.records == []
