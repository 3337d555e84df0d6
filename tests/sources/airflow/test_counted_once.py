"""The totals by themselves: what a fold counts, what it has counted before, how sums add up, and what is forgotten."""

import json
from dataclasses import replace

import pytest

from exporter.catalog import XCom
from exporter.errors import StateError
from exporter.ledger import Ledger
from exporter.sources.airflow.counted import (
    OVERFLOW,
    RUN,
    TASK,
    DagMark,
    KeptXCom,
    Pending,
    Success,
    Sum,
    Total,
    sum_key,
)
from exporter.sources.airflow.records import DagRun, TaskInstance
from exporter.sources.airflow.totals import OVERLAP_SECONDS, REMEMBER_XCOMS_SECONDS, Totals

NOW = 1_750_000_000.0
RECORDS = XCom("a", "load", "records")
ROWS = XCom("a", "load", "records", field="rows")
NAMES = XCom("a", "load", "names", take="length")
ELSEWHERE = XCom("b", "load", "records")
COUNTERS = (RECORDS, ROWS, NAMES, ELSEWHERE)


def totals(ledger: Ledger | None = None, runs: tuple[float, ...] = (10.0, 60.0), tasks=(1.0,), at: str = "here"):
    return Totals(ledger or Ledger.open(None), at, runs, tasks, COUNTERS)


def loaded(ledger: Ledger | None = None) -> Totals:
    made = totals(ledger)
    made.load()
    return made


def run(name: str, end: float | None, state: str = "failed", *, dag: str = "a", took: float | None = 5.0) -> DagRun:
    start = None if took is None else (end or NOW) - took
    return DagRun(dag, name, state, start, end)


def task(name: str, end: float, state: str = "success", *, run: str = "r", index: int = -1) -> TaskInstance:
    return TaskInstance("a", run, name, index, state, end - 5, end)


def fold(made: Totals, *events: DagRun | TaskInstance, until: float = NOW, complete: bool = True, dags=("a",)):
    kind = TASK if any(isinstance(event, TaskInstance) for event in events) else RUN
    return made.fold(kind, dags, events, until, complete=complete)


# -- events ------------------------------------------------------------------------------------------------------------


def test_each_end_is_counted_once_by_state_and_duration():
    made = loaded()
    ends = [
        run("short", NOW - 90, took=10.0),
        run("long", NOW - 80, took=10.5),
        run("longest", NOW - 70, took=61.0),
        run("no time", NOW - 60, took=0.0),
        run("no start", NOW - 50, took=None),
        run("backwards", NOW - 40, took=-1.0),
    ]
    assert fold(made, run("running", None, "running"), *ends, ends[0], run("other", NOW, dag="b")) == {"a"}
    expected = Total(6, (2, 1, 1), 81.5, NOW - 40)
    assert made.load().runs == {("a", "failed"): expected}
    assert fold(made, *ends) == frozenset()
    assert fold(made, run("early", NOW - 100, took=20.0)) == {"a"}
    assert made.load().runs["a", "failed"] == Total(7, (2, 2, 1), 101.5, NOW - 40)
    assert fold(made, run("short", NOW - 90 + 1e-6), run("short", NOW - 10, "success")) == {"a"}
    known = made.load()
    assert (known.runs["a", "failed"].events, known.runs["a", "success"].events) == (8, 1)
    assert known.tasks == {}


def test_an_end_that_nobody_knows_is_counted_once_for_ever():
    made = loaded()
    for hours in range(3):
        fold(made, run("r", None), until=NOW + 3600 * hours)
    assert made.load().runs == {("a", "failed"): Total(1, (0, 0, 0), 0.0, None)}
    fold(made, run("s", NOW + 7200 - 1), until=NOW + 7200)
    assert made.load().runs["a", "failed"].last_end == NOW + 7199
    fold(made, run("t", None), run("u", NOW + 7200), until=NOW + 7200)
    assert made.load().runs["a", "failed"] == Total(4, (2, 0, 0), 10.0, NOW + 7200)


def test_task_instances_are_told_apart_by_run_task_and_copy():
    made = loaded()
    events = [task("t", NOW), task("u", NOW), task("t", NOW, run="s"), task("t", NOW, index=0), task("t", NOW, index=1)]
    for _ in range(2):
        fold(made, *events)
    assert made.load().tasks == {
        ("a", "t", "success"): Total(4, (0, 4), 20.0, NOW),
        ("a", "u", "success"): Total(1, (0, 1), 5.0, NOW),
    }
    assert made.load().mark("a") == DagMark(task_until=NOW, task_complete=True)
    fold(made, run("r", NOW, "success"))
    assert made.load().runs["a", "success"].events == 1


def test_what_is_older_than_the_overlap_was_counted():
    made = loaded()
    fold(made)
    edge = NOW - OVERLAP_SECONDS
    assert fold(made, run("on the edge", edge), run("before it", edge - 1e-3)) == {"a"}
    assert made.load().runs["a", "failed"].events == 1
    for _ in range(2):
        fold(made, run("on the edge", edge), until=NOW + 1)
    assert made.load().runs["a", "failed"].events == 1


def test_identities_are_kept_as_long_as_the_overlap_and_by_dag():
    ledger = Ledger.open(None)
    made = loaded(ledger)
    edge = NOW - OVERLAP_SECONDS
    fold(made, run("old", edge - 1), run("edge", edge), run("new", NOW), dags=("a", "b"), until=edge)
    fold(made, run("other", edge - 1, dag="b"), dags=("b",), until=edge)
    totals(ledger, at="elsewhere").load()
    fold(made, until=NOW)
    with ledger.transaction() as connection:
        kept = connection.execute("SELECT run_id, ended FROM airflow_seen ORDER BY run_id").fetchall()
    assert kept == [
        ("edge", round(edge * 1e6)),
        ("new", round(NOW * 1e6)),
        ("other", round((edge - 1) * 1e6)),
    ]


def test_a_mark_never_goes_back_and_a_look_back_is_complete_once_and_for_all():
    made = loaded()
    assert made.load().mark("a") == DagMark()
    fold(made, until=NOW - 50, complete=False)
    assert made.load().mark("a") == DagMark(run_until=NOW - 50)
    fold(made, until=NOW - 60, complete=True)
    assert made.load().mark("a") == DagMark(run_until=NOW - 50, run_complete=True)
    fold(made, until=NOW, complete=False)
    assert made.load().mark("a") == DagMark(run_until=NOW, run_complete=True)


# -- successes and the XComs to fetch ----------------------------------------------------------------------------------


def test_the_newest_success_is_noted_and_its_xcoms_are_to_be_fetched():
    made = loaded()
    fold(made, run("r", NOW - 90, "success"), run("no", NOW - 50), run("no end", None, "success"), complete=False)
    assert made.load().mark("a").success == Success("r", NOW - 90)
    backlog = tuple(Pending("a", "r", NOW - 90, "load", key, backlog=True) for key in ("names", "records"))
    assert set(made.load().pending) == set(backlog)
    fold(made)
    fold(made, run("early", NOW - 95, "success"), run("s", NOW - 10, "success"), dags=("a",))
    known = made.load()
    assert known.mark("a").success == Success("s", NOW - 10)
    assert {(one.run_id, one.backlog) for one in known.pending} == {("r", True), ("early", False), ("s", False)}
    again = run("r", NOW - 5, "success")
    fold(made, again)
    assert {one.run_end for one in made.load().pending if one.run_id == "r"} == {NOW - 5}
    assert made.load().mark("a").success == Success("r", NOW - 5)


# -- sums --------------------------------------------------------------------------------------------------------------


def pending(made: Totals, name: str, end: float) -> Pending:
    """The XCom `records` of a run that has just ended."""
    fold(made, run(name, end, "success"), until=end)
    (found,) = (one for one in made.load().pending if (one.run_id, one.run_end, one.key) == (name, end, "records"))
    return found


def sums(made: Totals) -> dict[XCom, Sum]:
    known = made.load().sums
    return {spec: known[sum_key(spec)] for spec in COUNTERS if sum_key(spec) in known}


def add(made: Totals, what: Pending, written: str | None, amount: float | None, problem: str | None = None) -> None:
    values = {} if amount is None else {sum_key(RECORDS): amount}
    made.add_xcom(what, written, values, {} if problem is None else {sum_key(RECORDS): problem})


def test_every_success_adds_its_values_once():
    made = loaded()
    first = pending(made, "r", NOW)
    other = replace(first, run_end=NOW - 1)
    add(made, other, "w", 50.0)
    assert sums(made) == {}
    made.add_xcom(first, "w", {sum_key(RECORDS): 4.0, sum_key(ROWS): 2.0}, {})
    for _ in range(2):
        add(made, first, "w2", 50.0)
        assert sums(made) == {RECORDS: Sum(4.0, NOW, None), ROWS: Sum(2.0, NOW, None)}
    assert {one.key for one in made.load().pending} == {"names"}
    made.add_xcom(pending(made, "s", NOW + 9), "w", {sum_key(RECORDS): 3.0}, {sum_key(ROWS): "no rows"})
    assert sums(made) == {RECORDS: Sum(7.0, NOW + 9, None), ROWS: Sum(2.0, NOW + 9, "no rows")}


def test_a_writing_is_added_once_however_often_its_run_ends():
    made = loaded()
    add(made, pending(made, "r", NOW), "w", 4.0)
    add(made, pending(made, "s", NOW + 1), "w", 1.0)
    add(made, pending(made, "r", NOW + 2), "w", 4.0)
    assert sums(made)[RECORDS].total == 5.0
    assert {one.key for one in made.load().pending} == {"names"}
    add(made, pending(made, "r", NOW + 3), "w2", 4.0)
    add(made, pending(made, "r", NOW + 4), "w2", 4.0)
    assert sums(made)[RECORDS].total == 9.0


@pytest.mark.parametrize("written", ["", None])
def test_a_writing_without_a_time_is_no_writing_that_was_seen_before(written: str | None):
    made = loaded()
    for number in range(2):
        add(made, pending(made, "r", NOW + number), written, 4.0)
    assert sums(made)[RECORDS].total == 8.0


def test_a_writing_that_gave_nothing_may_still_be_added():
    """Its values could not be used; the catalogue, or the exporter, knows better by the time the run ends again."""
    made = loaded()
    add(made, pending(made, "r", NOW), "w", None, "no number")
    assert sums(made)[RECORDS] == Sum(0.0, NOW, "no number")
    add(made, pending(made, "r", NOW + 1), "w", 4.0)
    assert sums(made)[RECORDS] == Sum(4.0, NOW + 1, None)


def test_which_writings_were_added_is_known_for_ninety_days():
    made = loaded()
    add(made, pending(made, "old", NOW - 1), "w", 1.0)
    add(made, pending(made, "r", NOW), "w", 1.0)
    add(made, pending(made, "next", NOW + REMEMBER_XCOMS_SECONDS), "w", 1.0)
    for name in ("r", "old"):
        add(made, pending(made, name, NOW + REMEMBER_XCOMS_SECONDS + 5), "w", 1.0)
    assert sums(made)[RECORDS].total == 4.0


def test_the_problem_is_that_of_the_newest_run():
    made = loaded()
    for name, end, problem, shown in (
        ("r", NOW, "first", "first"),
        ("early", NOW - 5, "older", "first"),
        ("s", NOW, "as new", "as new"),
        ("t", NOW + 1, "newer", "newer"),
    ):
        add(made, pending(made, name, end), None, None, problem)
        assert sums(made)[RECORDS] == Sum(0.0, max(end, NOW), shown)
    add(made, pending(made, "early2", NOW - 4), None, 3.0)
    assert sums(made)[RECORDS] == Sum(3.0, NOW + 1, "newer")


def test_a_sum_that_would_be_infinite_stays_what_it_is():
    made = loaded()
    add(made, pending(made, "r", NOW), None, 1.5e308)
    add(made, pending(made, "s", NOW + 1), None, 1.5e308)
    assert sums(made)[RECORDS] == Sum(1.5e308, NOW + 1, OVERFLOW)
    add(made, pending(made, "t", NOW + 2), None, 1e300)
    assert sums(made)[RECORDS] == Sum(1.5e308 + 1e300, NOW + 2, None)


# -- the file ----------------------------------------------------------------------------------------------------------


def filled(ledger: Ledger, at: str = "here") -> None:
    """Something in every table."""
    made = totals(ledger, at=at)
    made.load()
    add(made, pending(made, "r", NOW), "w", 4.0)
    fold(made, task("t", NOW))
    made.keep_xcom("a", "load", "names", KeptXCom("r", NOW, '["x"]', None))


def rows(ledger: Ledger, at: str) -> dict[str, int]:
    with ledger.transaction() as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {name} WHERE instance = ?", (at,)).fetchone()[0]
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'airflow%'").fetchall()
        }


def test_an_xcom_is_kept_until_a_newer_one_comes():
    ledger = Ledger.open(None)
    filled(ledger)
    assert loaded(ledger).load().xcoms == {("a", "load", "names"): KeptXCom("r", NOW, '["x"]', None)}
    loaded(ledger).keep_xcom("a", "load", "names", KeptXCom("s", NOW + 1, None, "too long"))
    assert loaded(ledger).load().xcoms == {("a", "load", "names"): KeptXCom("s", NOW + 1, None, "too long")}


@pytest.mark.parametrize(("runs", "tasks"), [((10.0, 70.0), (1.0,)), ((10.0, 60.0), (2.0,))])
def test_other_buckets_forget_everything_of_this_airflow_alone(runs: tuple[float, ...], tasks: tuple[float, ...]):
    ledger = Ledger.open(None)
    filled(ledger)
    filled(ledger, "elsewhere")
    before = rows(ledger, "here")
    assert all(before.values()), before
    assert totals(ledger).load().runs != {}
    anew = totals(ledger, runs, tasks)
    assert anew.load() == totals(Ledger.open(None)).load()
    assert {name for name, count in rows(ledger, "here").items() if count} == {"airflow_instance"}
    assert rows(ledger, "elsewhere") == before
    fold(anew, run("r", NOW))
    assert anew.load().runs["a", "failed"].events == 1
    assert totals(ledger).load().runs == {}, "and again, when the buckets change once more"


def test_the_tables_have_an_owner_and_the_buckets_their_airflow():
    ledger = Ledger.open(None)
    totals(ledger).load()
    with ledger.transaction() as connection:
        assert connection.execute("SELECT * FROM airflow_instance").fetchall() == [
            ("here", json.dumps([[10.0, 60.0], [1.0]]))
        ]
        connection.execute("UPDATE tables_of SET version = 99 WHERE owner = 'airflow'")
    with pytest.raises(StateError, match="tables of airflow"):
        totals(ledger).load()
