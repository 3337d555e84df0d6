"""The questions in full: method, path, body and what is made of the answers, by a session in memory."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from exporter.errors import BadData
from exporter.sources.airflow.api import LIST_ROWS, MAX_PAGES, TIME_CHARACTERS, AirflowApi
from exporter.sources.airflow.failures import XComUnreadable
from exporter.sources.airflow.records import PAGE_ROWS, Dag, DagRun, Page, TaskInstance, XComValue

NOW = 1_750_000_000.0
RUNS, TASKS = "/dags/~/dagRuns/list", "/dags/~/dagRuns/~/taskInstances/list"
XCOMS = "/dags/a%2F%2B/dagRuns/r%3A%20%C3%B6/taskInstances/t.u/xcomEntries"
SINCE, UNTIL = "2025-06-15T15:06:40.000000Z", "2025-06-15T15:08:20.250000Z"


@dataclass
class Answers:
    """Gives these answers in turn, and notes what was asked, and what for."""

    answers: list[Any]
    version: str = "v2"
    code: int = 200
    kind: str = "application/json"
    asked: list[tuple[str, str, Any, Any, bool]] = field(default_factory=list)
    named: list[str] = field(default_factory=list)

    def api(self) -> str:
        return self.version

    def now(self) -> float:
        return NOW

    def ask(
        self, method: str, path: str, *, body: Any = None, params: Any = None, values: bool = False
    ) -> requests.Response:
        self.asked.append((method, path, body, params, values))
        made = requests.Response()
        made.status_code = self.code
        made.headers["Content-Type"] = self.kind
        return made

    def json_object(self, response: requests.Response, what: str) -> Any:
        assert response is not None
        self.named.append(what)
        return json.loads(json.dumps(self.answers.pop(0)))


def made(*answers: Any, **changed: Any) -> tuple[AirflowApi, Answers]:
    session = Answers(list(answers), **changed)
    return AirflowApi(session), session  # type: ignore[arg-type]


def run(name: str, dag: str = "a") -> dict[str, Any]:
    return {"dag_id": dag, "dag_run_id": name, "state": "failed", "start_date": SINCE, "end_date": UNTIL}


def task(name: str) -> dict[str, Any]:
    return {**run("r"), "task_id": name, "map_index": -1}


def a_run(name: str) -> DagRun:
    return DagRun("a", name, "failed", NOW, NOW + 100.25)


def a_task(name: str) -> TaskInstance:
    return TaskInstance("a", "r", name, -1, "failed", NOW, NOW + 100.25)


# -- DAGs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "active"), [("v1", {"only_active": "true"}), ("v2", {"exclude_stale": "true"})])
def test_dags_are_asked_for_page_by_page_and_given_by_name(version: str, active: dict[str, str]):
    api, session = made(
        {"dags": [{"dag_id": "c", "is_paused": True}, {"dag_id": "a"}, {"dag_id": ""}], "total_entries": 4},
        {"dags": [{"dag_id": "b"}], "total_entries": 4},
        version=version,
    )
    assert api.dags() == (Dag("a", False), Dag("b", False), Dag("c", True))
    params = {"limit": LIST_ROWS, "order_by": "dag_id", **active}
    assert session.asked == [("GET", "/dags", None, {**params, "offset": seen}, False) for seen in (0, 3)]
    assert session.named == ["the list of DAGs"] * 2
    assert api.take_left_out() == ("1 of Airflow's DAGs are left out; of one, dag_id is no text: ''.",)
    assert api.take_left_out() == ()
    assert api.now() == NOW


def test_a_list_of_dags_ends_with_an_empty_page_with_its_number_or_after_so_many():
    page = {"dags": [{"dag_id": "a"}], "total_entries": 99}
    for answers, asked in (
        ([page, {"dags": [], "total_entries": 99}], 2),
        ([{"dags": [{"dag_id": "a"}]}], 1),
        ([page] * 99, MAX_PAGES),
    ):
        api, session = made(*answers)
        assert api.dags() == (Dag("a", False),)
        assert len(session.asked) == asked
    api, _ = made({"dags": [{"dag_id": "a"}] * (LIST_ROWS + 1)})
    with pytest.raises(BadData, match="'dags' has 101 rows"):
        api.dags()


# -- runs and tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [None, NOW + 100.25])
def test_what_ended_is_asked_for_in_one_page_or_in_all(until: float | None):
    window = {"end_date_gte": SINCE} | ({} if until is None else {"end_date_lte": UNTIL})
    runs = {"dag_ids": ["a", "b"], "states": ["success", "failed"], "order_by": "end_date", **window}
    tasks = {"dag_ids": ["a", "b"], "state": ["success", "failed"], **window}
    broken = {**run("x"), "end_date": "soon"}
    api, session = made(
        {"dag_runs": [run("r"), broken, run("s"), {}], "total_entries": 7},
        {"task_instances": [task("t"), {**task("u"), "map_index": -2}]},
    )
    assert api.ended_runs(("b", "a"), NOW, until) == Page((a_run("r"), a_run("s")), 4, 7)
    assert api.ended_tasks(("b", "a"), NOW, until) == Page((a_task("t"),), 2, 2)
    assert session.asked == [
        ("POST", RUNS, {**runs, "page_limit": PAGE_ROWS}, None, False),
        ("POST", TASKS, {**tasks, "page_limit": PAGE_ROWS}, None, False),
    ]
    assert session.named == ["finished runs", "finished tasks"]
    assert api.take_left_out() == (
        "2 of Airflow's finished runs are left out; of one, end_date is no time: 'soon'.",
        "1 of Airflow's finished tasks are left out; of one, map_index is not a whole number from -1 to 2147483647: "
        "-2.",
    )
    api, session = made(
        {"dag_runs": [run("r"), broken], "total_entries": 3},
        {"dag_runs": [run("s")], "total_entries": 3},
        {"task_instances": [task("t")], "total_entries": 2},
        {"task_instances": [task("u")], "total_entries": 2},
    )
    assert api.all_ended_runs(("b", "a"), NOW, until) == (a_run("r"), a_run("s"))
    assert api.all_ended_tasks(("b", "a"), NOW, until) == (a_task("t"), a_task("u"))
    assert [(path, body) for _, path, body, _, _ in session.asked] == [
        *((RUNS, {**runs, "page_limit": PAGE_ROWS, "page_offset": seen}) for seen in (0, 2)),
        *((TASKS, {**tasks, "page_limit": PAGE_ROWS, "page_offset": seen}) for seen in (0, 1)),
    ]
    assert session.named == ["finished runs"] * 2 + ["finished tasks"] * 2
    assert len(api.take_left_out()) == 1


def test_running_runs_are_asked_for_by_their_start():
    api, session = made({"dag_runs": [run("r")], "total_entries": 1})
    assert api.running(("b", "a")) == (a_run("r"),)
    body = {"dag_ids": ["a", "b"], "states": ["running"], "order_by": "start_date"}
    assert session.asked == [("POST", RUNS, {**body, "page_limit": PAGE_ROWS, "page_offset": 0}, None, False)]
    assert session.named == ["running runs"]
    broken = {**run("x"), "end_date": "soon"}
    api, _ = made({"dag_runs": [broken]})
    api.running(("a",))
    assert api.take_left_out()[0].startswith("1 of Airflow's running runs are left out")


def test_a_list_goes_on_after_a_full_page_and_not_for_ever():
    full = {"dag_runs": [run(f"r{number}") for number in range(PAGE_ROWS)], "total_entries": PAGE_ROWS}
    for last in ({"dag_runs": []}, {"dag_runs": [run("last")], "total_entries": PAGE_ROWS + 1}):
        api, session = made(full, last)
        assert len(api.running(("a",))) == PAGE_ROWS + len(last["dag_runs"])
        assert [body["page_offset"] for _, _, body, _, _ in session.asked] == [0, PAGE_ROWS]
    api, session = made({"dag_runs": [run("r")], "total_entries": 7}, {"dag_runs": [], "total_entries": 7})
    assert api.running(("a",)) == (a_run("r"),)
    assert len(session.asked) == 2
    api, session = made(*[{"dag_runs": [run("r")], "total_entries": 77}] * 99)
    with pytest.raises(BadData) as caught:
        api.running(("a",))
    assert str(caught.value) == f"Airflow's list of running runs has more than {MAX_PAGES} pages (77 rows)."
    assert len(session.asked) == MAX_PAGES
    for question, name in (("running", "dag_runs"), ("all_ended_runs", "dag_runs"), ("ended_tasks", "task_instances")):
        api, _ = made({name: [{}] * (PAGE_ROWS + 1)})
        with pytest.raises(BadData, match=f"'{name}' has 1,001 rows"):
            getattr(api, question)(("a",), *(() if question == "running" else (NOW, None)))


# -- XComs -------------------------------------------------------------------------------------------------------------

WHERE = ("a/+", "r: ö", "t.u")


def test_an_xcom_is_asked_for_by_its_quoted_names():
    api, session = made({"value": {"b": [1]}, "timestamp": SINCE})
    assert api.xcom(*WHERE, "k/ä") == XComValue({"b": [1]}, SINCE)
    assert session.asked == [("GET", f"{XCOMS}/k%2F%C3%A4", None, None, True)]
    assert session.named == ["XCom k/ä"]
    for answer, written in (
        ({"value": None}, ""),
        ({"timestamp": None}, ""),
        ({"timestamp": "x" * (TIME_CHARACTERS + 1)}, "x" * TIME_CHARACTERS),
        ({"timestamp": 7}, "7"),
        ({"timestamp": "a\nb"}, "a\\nb"),
    ):
        api, _ = made(answer)
        assert api.xcom(*WHERE, "k") == XComValue(None, written)


def test_an_xcom_that_is_not_there_or_cannot_be_shown():
    api, _ = made(code=404)
    assert api.xcom(*WHERE, "k") is None
    for code, kind in ((404, "text/html"), (200, "application/json"), (501, "application/json")):
        api, _ = made({"value": 5}, code=code, kind=kind)
        assert api.xcom(*WHERE, "k") == XComValue(5, "")
    api, _ = made(code=500)
    with pytest.raises(XComUnreadable) as caught:
        api.xcom(*WHERE, "k")
    assert str(caught.value) == "Airflow answers 500 for it, as it does for values that it cannot show"
    assert not caught.value.final
    api, session = made()
    with pytest.raises(XComUnreadable) as caught:
        api.xcom("a", "2026/1", "t", "k")
    assert str(caught.value) == "Airflow's API cannot be asked about the run '2026/1': its id holds a /"
    assert (caught.value.final, session.asked) == (True, [])


def test_keys_of_what_a_task_pushed():
    api, session = made({"xcom_entries": [{"key": "a"}, {"key": 7}, {}]})
    assert api.xcom_keys(*WHERE) == {"a", "7", "None"}
    assert session.asked == [("GET", XCOMS, None, {"limit": LIST_ROWS}, False)]
    assert session.named == ["the XComs of a/+"]
    api, session = made(code=404)
    assert (api.xcom_keys(*WHERE), session.named) == (frozenset(), [])
    for code, kind in ((404, "text/html"), (403, "application/json")):
        api, session = made({"xcom_entries": [{"key": "a"}]}, code=code, kind=kind)
        assert api.xcom_keys(*WHERE) == {"a"}
    api, _ = made({"xcom_entries": [{}] * (LIST_ROWS + 1)})
    with pytest.raises(BadData, match="'xcom_entries' has 101 rows"):
        api.xcom_keys(*WHERE)
