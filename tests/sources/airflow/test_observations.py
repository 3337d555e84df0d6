"""From what was counted to observations: which series there are, since when, and why a metric is missing."""

from dataclasses import dataclass, field, replace

import pytest

from exporter.catalog import NO_AUDIT, AirflowFigure, Catalog, MetricSpec, NewestColumn, XCom
from exporter.snapshot import HistogramSample, Observation, Sample
from exporter.sources.airflow.counted import (
    OVERFLOW,
    Counted,
    DagMark,
    KeptXCom,
    Pending,
    Success,
    Sum,
    Total,
    sum_key,
)
from exporter.sources.airflow.observations import (
    Findings,
    Remarks,
    active_seconds,
    figure_of,
    name_of,
    needed_from_xcoms,
    newest_xcom,
)
from exporter.sources.airflow.records import DagRun

NOW = 1_750_000_000.0
NEW, OLD, ROWS = XCom("a", "validate", "new_r2"), XCom("a", "monitor", "r2"), XCom("a", "load", "rows")
COLUMN = NewestColumn("r2")
COUNTS = ((1, 0, 2), (0, 0, 0))


def metric(name: str, kind: str, *origins, alias_of: str | None = None) -> MetricSpec:
    return MetricSpec(name, kind, "Help.", (), origins, alias_of, (1.0, 2.0) if kind == "histogram" else ())


METRICS = {
    one.name: one
    for one in (
        metric("runs_total", "counter", AirflowFigure("dag_runs")),
        metric("run_seconds", "histogram", AirflowFigure("dag_run_duration")),
        metric("task_seconds", "histogram", AirflowFigure("task_duration")),
        metric("active_seconds", "gauge", AirflowFigure("dag_run_active")),
        metric("last_success", "gauge", AirflowFigure("dag_last_success")),
        metric("rows_total", "counter", ROWS),
        metric("r2", "gauge", NEW, OLD),
        metric("r2_of_the_log", "gauge", COLUMN, OLD),
        metric("only_in_the_log", "gauge", COLUMN),
        metric("r2_by_its_old_name", "gauge", alias_of="r2_of_the_log"),
    )
}
CATALOG = Catalog(NO_AUDIT, tuple(METRICS.values()), "x")


@dataclass
class Dags:
    """As much of the watched DAGs as observations are made of."""

    ids: tuple[str, ...] = ("b", "a")
    missing: tuple[str, ...] = ()


def total(events: int, last_end: float | None, counts: tuple[int, ...] = COUNTS[0]) -> Total:
    return Total(events, counts, 7.5, last_end)


COMPLETE = DagMark(NOW - 60, True, NOW - 60, True, Success("r", NOW - 90))
COUNTED = Counted(
    dags={"a": COMPLETE, "b": DagMark(NOW, False, NOW, False)},
    runs={("a", "success"): total(3, NOW - 90), ("a", "failed"): total(1, NOW - 95), ("b", "failed"): total(9, NOW)},
    tasks={
        ("a", "u", "failed"): total(2, NOW - 80),
        ("a", "t", "success"): total(3, None),
        ("b", "t", "failed"): total(9, NOW),
    },
    sums={sum_key(ROWS): Sum(40.0, NOW - 90, None)},
    pending=(),
    xcoms={("a", "validate", "new_r2"): KeptXCom("r", NOW - 90, "0.5", None)},
)


@dataclass
class Said:
    """What one refresh came to."""

    made: dict[str, Observation]
    remarks: Remarks = field(default_factory=Remarks)


def said(counted: Counted = COUNTED, dags: Dags | None = None, needed: tuple[str, ...] = ("r2",)) -> Said:
    remarks, ages = Remarks(), dict.fromkeys((dags or Dags()).ids, 5.0)
    found = Findings(CATALOG, dags or Dags(), counted, ages, NOW, needed, remarks)  # type: ignore[arg-type]
    return Said(found.observations(), remarks)


# -- runs and tasks ----------------------------------------------------------------------------------------------------


def test_runs_are_shown_by_end_state_once_their_history_is_counted():
    made = said().made
    failed, success = ((("dag_id", "a"), ("state", state)) for state in ("failed", "success"))
    assert made["runs_total"] == Observation((Sample(failed, 1.0), Sample(success, 3.0)), NOW - 90)
    assert made["run_seconds"] == Observation(
        (HistogramSample(failed, COUNTS[0], 7.5), HistogramSample(success, COUNTS[0], 7.5)), NOW - 90
    )
    complete = replace(COUNTED, dags={"a": COMPLETE, "b": COMPLETE})
    assert [sample.labels[0][1] for sample in said(complete).made["runs_total"].samples] == ["b", "b", "a", "a"]
    nothing = said(replace(COUNTED, runs={}, tasks={})).made
    assert nothing["runs_total"] == Observation((Sample(failed, 0.0), Sample(success, 0.0)), None)
    assert nothing["run_seconds"].samples == (
        HistogramSample(failed, COUNTS[1], 0.0),
        HistogramSample(success, COUNTS[1], 0.0),
    )


def test_tasks_are_shown_in_order_with_both_states():
    made = said().made["task_seconds"]
    assert [(dict(sample.labels)["task_id"], dict(sample.labels)["state"]) for sample in made.samples] == [
        ("t", "failed"),
        ("t", "success"),
        ("u", "failed"),
        ("u", "success"),
    ]
    labels = (("dag_id", "a"), ("task_id", "t"), ("state", "success"))
    assert made.samples[0] == HistogramSample((*labels[:2], ("state", "failed")), COUNTS[1], 0.0)
    assert made.samples[1] == HistogramSample(labels, COUNTS[0], 7.5)
    assert made.observed_at == NOW - 80
    only_runs = replace(COUNTED, dags={"a": DagMark(NOW, True, NOW, False)})
    assert said(only_runs).made["task_seconds"].samples == ()
    assert len(said(only_runs).made["runs_total"].samples) == 2


def test_running_runs_and_last_successes_are_shown_by_dag():
    made = said().made
    assert made["active_seconds"] == Observation(
        (Sample((("dag_id", "b"),), 5.0), Sample((("dag_id", "a"),), 5.0)), NOW
    )
    assert made["last_success"] == Observation((Sample((("dag_id", "a"),), NOW - 90),), NOW - 90)


def test_a_dag_that_is_missing_is_shown_if_it_was_counted():
    made = said(replace(COUNTED, dags={"a": COMPLETE, "c": COMPLETE}), Dags(("c", "a"), ("c", "a"))).made
    assert [sample.labels[0][1] for sample in made["runs_total"].samples] == ["a", "a"]
    assert [sample.labels for sample in made["active_seconds"].samples] == [(("dag_id", "a"),)]


def test_the_age_is_that_of_the_oldest_running_run():
    def running(dag: str, start: float | None) -> DagRun:
        return DagRun(dag, "r", "running", start, None)

    runs = [running("a", NOW - 5), running("a", NOW - 90), running("a", NOW - 7), running("b", None)]
    runs += [running("c", NOW + 5), running("else", NOW - 5)]
    assert active_seconds(runs, ("a", "b", "c", "d"), NOW) == {"a": 90.0, "b": 0.0, "c": 0.0, "d": 0.0}
    assert active_seconds([running("a", NOW - 0.5)], ("a",), NOW) == {"a": 0.5}


# -- XComs -------------------------------------------------------------------------------------------------------------


def test_xcoms_are_needed_where_nothing_else_is_preferred_or_by_name():
    always = {"runs_total", "run_seconds", "task_seconds", "active_seconds", "last_success", "rows_total", "r2"}
    assert needed_from_xcoms(CATALOG, ()) == always
    assert needed_from_xcoms(CATALOG, ("only_in_the_log",)) == always | {"only_in_the_log"}
    alias = {"r2_by_its_old_name", "r2_of_the_log"}
    assert needed_from_xcoms(CATALOG, ("r2_by_its_old_name",)) == always | alias


def test_figures_and_names():
    assert [figure_of(METRICS[name]) for name in ("task_seconds", "r2", "r2_by_its_old_name")] == [
        "task_duration",
        None,
        None,
    ]
    assert name_of(NEW) == "XCom a/validate/new_r2"


def test_only_the_newest_successful_runs_xcom_counts():
    kept = KeptXCom("r", NOW - 90, "0.5", None)
    found = {("a", "validate", "new_r2"): kept}
    assert newest_xcom(COUNTED, found, NEW) is kept
    assert newest_xcom(COUNTED, found, OLD) is None
    assert newest_xcom(replace(COUNTED, dags={}), found, NEW) is None
    for other in (replace(kept, run_id="s"), replace(kept, run_end=NOW)):
        assert newest_xcom(COUNTED, {("a", "validate", "new_r2"): other}, NEW) is None


def with_xcoms(new: KeptXCom | None, old: KeptXCom | None) -> Counted:
    pairs = ((NEW, new), (OLD, old))
    return replace(COUNTED, xcoms={(spec.dag, spec.task, spec.key): kept for spec, kept in pairs if kept is not None})


def test_a_gauge_shows_the_first_xcom_that_gives_a_number():
    good = KeptXCom("r", NOW - 90, "0.5", None)
    bad, absent = replace(good, content='"many"'), replace(good, content=None)
    refused = replace(absent, problem="is too long")
    shown = Observation((Sample((), 0.5),), NOW - 90)
    many = "r2: XCom a/validate/new_r2 cannot be used: not a number: 'many'"
    for new, old, made, notes, gap in (
        (good, bad, shown, [], None),
        (bad, good, shown, [many], None),
        (absent, good, shown, [], None),
        (refused, good, shown, ["r2: XCom a/validate/new_r2 is too long"], None),
        (absent, None, None, [], None),
        (None, good, None, [], None),
        (absent, absent, None, [], "XCom a/validate/new_r2 was not pushed; XCom a/monitor/r2 was not pushed"),
        (bad, absent, None, [many], f"{many.removeprefix('r2: ')}; XCom a/monitor/r2 was not pushed"),
    ):
        found = said(with_xcoms(new, old))
        assert found.made.get("r2") == made
        assert [note for note in found.remarks.notes if note.startswith("r2:")] == notes
        assert found.remarks.gaps == ({} if gap is None else {"r2": f"newest successful run: {gap}"})
    found = said(with_xcoms(absent, absent), needed=())
    assert found.remarks == Remarks()
    assert said(with_xcoms(None, good)).made["r2_of_the_log"] == shown


def test_a_counter_shows_its_sum_once_the_look_back_is_added_up():
    assert said().made["rows_total"] == Observation((Sample((), 40.0),), NOW - 90)
    assert said(replace(COUNTED, sums={})).made["rows_total"] == Observation((Sample((), 0.0),), None)
    waits = Pending("a", "r", NOW, "load", "rows", backlog=True)
    others = (replace(waits, backlog=False), replace(waits, key="else"), replace(waits, task_id="else"))
    assert "rows_total" in said(replace(COUNTED, pending=(*others, replace(waits, dag_id="b")))).made
    held = said(replace(COUNTED, pending=(*others, waits)))
    assert "rows_total" not in held.made
    assert held.remarks == Remarks(["rows_total: still adding up the look back."])
    early = said(replace(COUNTED, dags={"a": DagMark(NOW, False, NOW, True)}))
    assert ("rows_total" in early.made, early.remarks) == (False, Remarks())


def test_a_sum_with_a_problem_is_shown_unless_it_overflows():
    left_out = said(replace(COUNTED, sums={sum_key(ROWS): Sum(4.0, NOW, "was not pushed")}))
    assert left_out.made["rows_total"] == Observation((Sample((), 4.0),), NOW)
    assert left_out.remarks == Remarks(["rows_total: XCom a/load/rows of the newest run is left out: was not pushed"])
    over = said(replace(COUNTED, sums={sum_key(ROWS): Sum(4.0, NOW, OVERFLOW)}))
    assert "rows_total" not in over.made
    assert over.remarks == Remarks([], {"rows_total": f"XCom a/load/rows: {OVERFLOW}"})


@pytest.mark.parametrize(
    ("dags", "why"),
    [
        (Dags(("b",)), "DAG a is not watched: AIRFLOW_DAG_IDS leaves it out"),
        (Dags(("a", "b"), ("a",)), "Airflow has no DAG a"),
        (Dags(("b",), ("a",)), "Airflow has no DAG a"),
    ],
)
def test_what_comes_from_a_dag_that_is_not_there_is_missing_and_says_so(dags: Dags, why: str):
    runs = {key: one for key, one in COUNTED.runs.items() if key[0] == "b"}
    found = said(replace(COUNTED, runs=runs), dags)
    assert {"rows_total", "r2", "r2_of_the_log"}.isdisjoint(found.made)
    assert found.remarks == Remarks([], dict.fromkeys(("rows_total", "r2", "r2_of_the_log"), why))


def test_without_any_dag_nothing_is_said_to_be_left_out():
    """Airflow's list is empty or not known yet."""
    found = said(replace(COUNTED, dags={}, runs={}), Dags(()))
    assert found.remarks == Remarks()
