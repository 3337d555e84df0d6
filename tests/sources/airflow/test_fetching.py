"""Which XComs are fetched, in which refresh, and what one that cannot be had costs: by an Airflow in memory."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from exporter.catalog import NO_AUDIT, Catalog, MetricSpec, XCom
from exporter.errors import SourceError, SourceUnavailable
from exporter.ledger import Ledger
from exporter.sources.airflow.counted import NOTHING, Counted, DagMark, KeptXCom, Success, Sum, sum_key
from exporter.sources.airflow.failures import XComUnreadable
from exporter.sources.airflow.observations import Remarks
from exporter.sources.airflow.records import DagRun, XComValue
from exporter.sources.airflow.totals import Totals
from exporter.sources.airflow.xcom_fetch import MAPPED, XCOM_ATTEMPTS, XComFetcher
from exporter.sources.airflow.xcom_value import MAX_CHARACTERS

NOW = 1_750_000_000.0
NEW, OLD = XCom("a", "validate", "new_r2"), XCom("a", "monitor", "r2")
OTHER, SHARE = XCom("b", "predict", "rmse"), XCom("a", "monitor", "summary", field="share")
ROWS, COLUMNS = XCom("a", "load", "size", field="rows"), XCom("a", "load", "size", field="columns")
NAMES = XCom("b", "load", "names", take="length")
FAILS = XComUnreadable("Airflow answers 500", final=False)
FORBIDDEN = SourceUnavailable("The Airflow user may not read it", reason="permission")


def metric(name: str, kind: str, *origins: XCom) -> MetricSpec:
    return MetricSpec(name, kind, "Help.", (), origins)


CATALOG = Catalog(
    NO_AUDIT,
    (
        metric("rows_total", "counter", ROWS),
        metric("columns_total", "counter", COLUMNS),
        metric("names_total", "counter", NAMES),
        metric("r2", "gauge", OTHER, NEW, OLD),
        metric("rmse", "gauge", OTHER),
        metric("share", "gauge", SHARE),
    ),
    "x",
)
COUNTERS = (ROWS, COLUMNS, NAMES)


@dataclass
class Given:
    """Gives what was pushed, by (task, key), of whatever run; an exception is raised. Notes what is asked."""

    pushed: dict[tuple[str, str], Any] = field(default_factory=dict)
    mapped: frozenset[str] = frozenset()
    written: str = "w"
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> XComValue | None:
        self.asked.append((dag_id, run_id, task_id, key))
        if (task_id, key) not in self.pushed:
            return None
        value = self.pushed[task_id, key]
        if isinstance(value, Exception):
            raise value
        return XComValue(value, self.written)

    def xcom_keys(self, dag_id: str, run_id: str, task_id: str) -> frozenset[str]:
        self.asked.append((dag_id, run_id, task_id))
        return self.mapped


class Fetching:
    """A fetcher with totals in memory, of an Airflow with one successful run of each DAG."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.totals = Totals(Ledger.open(None), "here", (1.0,), (1.0,), COUNTERS)
        self.totals.load()
        self.fetcher = XComFetcher(given, self.totals, CATALOG, COUNTERS)  # type: ignore[arg-type]

    def ends(self, name: str, dag: str = "a", end: float = NOW) -> None:
        self.totals.fold("run", [dag], [DagRun(dag, name, "success", end - 5, end)], end, complete=True)

    def gauges(self, *needed: str, dags: tuple[str, ...] = ("a", "b"), counted: Counted | None = None) -> Remarks:
        remarks = Remarks()
        self.fetcher.fetch_gauges(counted or self.totals.load(), dags, needed, remarks)
        return remarks

    def sums(self, may_go_on: Callable[[], bool] = lambda: True) -> Remarks:
        remarks = Remarks()
        self.fetcher.add_up(self.totals.load(), may_go_on, remarks)
        return remarks

    def kept(self, spec: XCom) -> KeptXCom | None:
        return self.totals.load().xcoms.get((spec.dag, spec.task, spec.key))

    def sum(self, spec: XCom) -> Sum | None:
        return self.totals.load().sums.get(sum_key(spec))

    def to_add(self) -> list[tuple[str, str]]:
        return [(one.run_id, one.key) for one in self.totals.load().pending]


def fetching(mapped: frozenset[str] = frozenset(), **pushed: Any) -> Fetching:
    """With what was pushed as `task__key=value`."""
    named = {(name.split("__")[0], name.split("__")[1]): value for name, value in pushed.items()}
    made = Fetching(Given(named, mapped))
    made.ends("r")
    made.ends("s", "b", NOW - 5)
    return made


# -- one XCom ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pushed", "mapped", "content", "problem"),
    [
        ({"monitor__r2": 0.5}, frozenset(), "0.5", None),
        ({"monitor__r2": {"a": [None]}}, frozenset(), '{"a": [null]}', None),
        ({}, frozenset(), None, None),
        ({}, frozenset({"r2"}), None, MAPPED),
        ({}, frozenset({"else"}), None, None),
        ({"monitor__r2": "x" * (MAX_CHARACTERS - 2)}, frozenset(), json.dumps("x" * (MAX_CHARACTERS - 2)), None),
        (
            {"monitor__r2": "x" * (MAX_CHARACTERS - 1)},
            frozenset(),
            None,
            f"cannot be used: longer than {MAX_CHARACTERS} characters",
        ),
        ({"monitor__r2": FAILS}, frozenset(), None, "cannot be used: Airflow answers 500"),
    ],
)
def test_an_xcom_is_what_was_pushed_or_why_there_is_none(
    pushed: dict[str, Any], mapped: frozenset[str], content: str | None, problem: str | None
):
    made = fetching(mapped, **pushed)
    assert made.fetcher.look(OLD, "r", NOW) == KeptXCom("r", NOW, content, problem)
    assert made.kept(OLD) is None
    assert made.given.asked[0] == ("a", "r", "monitor", "r2")
    if not pushed:
        assert made.given.asked[1:] == [("a", "r", "monitor")]
        made.fetcher.look(SHARE, "r", NOW)
        assert made.given.asked[2:] == [("a", "r", "monitor", "summary")], "what a task pushed is asked for once"
        made.fetcher.look(OLD, "s", NOW)
        made.fetcher.look(NEW, "s", NOW)
        assert made.given.asked[4::2] == [("a", "s", "monitor"), ("a", "s", "validate")]


# -- gauges ------------------------------------------------------------------------------------------------------------


def test_a_gauge_takes_the_first_xcom_that_gives_a_number_and_asks_for_no_more():
    made = fetching(predict__rmse="many", validate__new_r2=0.5, monitor__r2=0.25)
    assert made.gauges("r2") == Remarks()
    assert [asked[2:] for asked in made.given.asked] == [("predict", "rmse"), ("validate", "new_r2")]
    assert made.kept(NEW) == KeptXCom("r", NOW, "0.5", None)
    assert made.kept(OTHER) == KeptXCom("s", NOW - 5, '"many"', None)
    made.given.asked.clear()
    assert made.gauges("r2", "rmse", "rows_total") == Remarks()
    assert made.given.asked == []
    made.ends("r2", end=NOW + 5)
    made.gauges("r2")
    assert made.given.asked == [("a", "r2", "validate", "new_r2")]


def test_an_xcom_that_two_gauges_need_is_fetched_once_in_a_refresh_too():
    made = fetching(predict__rmse=0.5)
    made.gauges("r2", "rmse")
    assert made.given.asked == [("b", "s", "predict", "rmse")]


def test_only_what_is_needed_and_watched_and_has_succeeded_is_fetched():
    made = fetching(predict__rmse=2, monitor__summary={}, monitor__r2=3)
    made.gauges()
    assert made.given.asked == []
    made.gauges("r2", "rmse", "share", dags=("a",))
    assert [asked[2:] for asked in made.given.asked if len(asked) == 4] == [
        ("validate", "new_r2"),
        ("monitor", "r2"),
        ("monitor", "summary"),
    ]
    never = Fetching(Given({("monitor", "r2"): 3}))
    never.ends("r")
    never.gauges("r2")
    assert {asked[0] for asked in never.given.asked} == {"a"}


def test_a_gauge_that_airflow_fails_to_give_is_asked_for_so_often_and_then_given_up():
    made = fetching(predict__rmse=FAILS)
    for _ in range(XCOM_ATTEMPTS - 1):
        remarks = made.gauges("rmse")
        assert remarks == Remarks(["rmse: XCom b/predict/rmse could not be fetched: Airflow answers 500"], {})
        assert made.kept(OTHER) is None
    assert made.gauges("rmse") == Remarks()
    assert made.kept(OTHER) == KeptXCom("s", NOW - 5, None, "cannot be used: Airflow answers 500")
    assert made.given.asked == [("b", "s", "predict", "rmse")] * XCOM_ATTEMPTS
    made.ends("t", "b", NOW)
    assert made.gauges("rmse").notes != [], "each XCom has its own attempts, and they begin anew"


def test_one_that_will_never_be_given_is_asked_for_once():
    made = fetching(predict__rmse=XComUnreadable("longer than 1 MiB", final=True))
    assert made.gauges("rmse") == Remarks()
    assert made.kept(OTHER) == KeptXCom("s", NOW - 5, None, "cannot be used: longer than 1 MiB")


def test_a_missing_permission_costs_the_gauges_that_need_it_and_any_other_error_the_refresh():
    made = fetching(predict__rmse=FORBIDDEN, validate__new_r2=1)
    assert made.gauges("rmse", "share").gaps == {"rmse": "The Airflow user may not read it"}
    assert made.kept(SHARE) is not None
    made.gauges("r2")
    assert made.kept(NEW) is not None, "the next origin is tried"
    made = fetching(predict__rmse=SourceUnavailable("down", reason="unavailable"))
    with pytest.raises(SourceError, match="down"):
        made.gauges("rmse")


# -- counters ----------------------------------------------------------------------------------------------------------


def test_each_counter_adds_its_part_of_an_xcom_that_is_asked_for_once():
    made = fetching(load__size={"rows": 4, "columns": 2.5}, load__names=["x", "y"])
    assert made.sums() == Remarks()
    assert made.given.asked == [("b", "s", "load", "names"), ("a", "r", "load", "size")]
    assert [made.sum(spec) for spec in COUNTERS] == [
        Sum(4.0, NOW, None),
        Sum(2.5, NOW, None),
        Sum(2.0, NOW - 5, None),
    ]
    assert made.to_add() == []
    made.ends("r", end=NOW + 1)
    made.sums()
    assert made.sum(ROWS) == Sum(4.0, NOW, None), "written before, so added before"
    made.given.written = "w2"
    made.ends("r", end=NOW + 2)
    made.sums()
    assert made.sum(ROWS) == Sum(8.0, NOW + 2, None)


@pytest.mark.parametrize(
    ("size", "mapped", "rows", "columns"),
    [
        ({"rows": -0.5, "columns": 0}, frozenset(), "is negative (-0.5)", None),
        ({"rows": -1234567.0, "columns": "2"}, frozenset(), "is negative (-1.23457e+06)", None),
        ({"columns": "many"}, frozenset(), "has no 'rows'", "not a number: 'many'"),
        (XComUnreadable("longer than 1 MiB", final=True), frozenset(), "longer than 1 MiB", "longer than 1 MiB"),
        (None, frozenset(), "was not pushed", "was not pushed"),
        (None, frozenset({"size"}), MAPPED, MAPPED),
    ],
)
def test_what_adds_nothing_says_why(size: Any, mapped: frozenset[str], rows: str, columns: str | None):
    made = fetching(mapped, **({} if size is None else {"load__size": size}), load__names=[])
    assert made.sums() == Remarks()
    assert made.sum(ROWS) == Sum(0.0, NOW, rows)
    found = made.sum(COLUMNS)
    assert found is not None
    assert found.problem == columns
    assert made.sum(NAMES) == Sum(0.0, NOW - 5, None)
    assert made.to_add() == []
    assert (made.given.asked[-1] == ("a", "r", "load")) == (size is None), "what else its task pushed is asked for"


def test_an_xcom_that_airflow_fails_to_give_holds_up_no_other():
    made = fetching(load__names=FAILS, load__size={"rows": 4, "columns": 2})
    for number in range(XCOM_ATTEMPTS - 1):
        assert made.sums() == Remarks()
        assert made.sum(ROWS) == Sum(4.0, NOW, None)
        assert (made.sum(NAMES), made.to_add()) == (None, [("s", "names")]), number
    made.sums()
    assert (made.sum(NAMES), made.to_add()) == (Sum(0.0, NOW - 5, "Airflow answers 500"), [])


def test_time_that_runs_out_leaves_the_rest_for_the_next_refresh():
    made = fetching(load__names=["x"], load__size={"rows": 4, "columns": 2})
    left = iter([True])
    made.sums(lambda: next(left, False))
    assert made.to_add() == [("r", "size")]
    assert made.sum(ROWS) is None
    made.sums()
    assert made.sum(ROWS) == Sum(4.0, NOW, None)


def test_a_missing_permission_costs_the_counters_that_need_it():
    made = fetching(load__names=["x"], load__size=FORBIDDEN)
    made.ends("t", "b", NOW + 5)
    remarks = made.sums()
    assert remarks.gaps == dict.fromkeys(("rows_total", "columns_total"), "The Airflow user may not read it")
    assert made.to_add() == [("r", "size"), ("t", "names")], "nothing more is asked for in this refresh"
    made.given.pushed["load", "size"] = SourceUnavailable("down", reason="unavailable")
    with pytest.raises(SourceError, match="down"):
        made.sums()


def test_what_the_catalogue_no_longer_asks_for_is_dropped_without_a_question():
    """Even when there is no time for questions: it takes none."""
    made = fetching(load__names=["x"], load__size={"rows": 4, "columns": 2})
    fewer = XComFetcher(made.given, made.totals, CATALOG, (ROWS,))  # type: ignore[arg-type]
    fewer.add_up(made.totals.load(), lambda: False, Remarks())
    assert (made.given.asked, made.to_add()) == ([], [("r", "size")])
    made.ends("t", "b", NOW - 1)
    fewer.add_up(made.totals.load(), lambda: True, Remarks())
    assert (made.given.asked, made.to_add()) == ([("a", "r", "load", "size")], [])
    assert (made.sum(ROWS), made.sum(COLUMNS), made.sum(NAMES)) == (Sum(4.0, NOW, None), None, None)


def test_nothing_counted_needs_nothing():
    made = Fetching(Given())
    assert made.gauges("r2", counted=NOTHING) == Remarks()
    assert (
        made.gauges("r2", counted=Counted({"a": DagMark(success=Success("r", NOW))}, {}, {}, {}, (), {})) == Remarks()
    )
    assert {asked[0] for asked in made.given.asked} == {"a"}
