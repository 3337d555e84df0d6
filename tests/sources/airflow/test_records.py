"""Rows of Airflow's lists as records: what each field becomes, and what a row that cannot be used is called."""

import time
from typing import Any

import pytest

from exporter.errors import BadData
from exporter.sources.airflow.records import (
    ID_CHARACTERS,
    MAX_ENTRIES,
    MAX_MAP_INDEX,
    PAGE_ROWS,
    Dag,
    DagRun,
    Page,
    TaskInstance,
    dag_of,
    format_time,
    parse_time,
    rows_of,
    run_of,
    task_of,
    total_of,
)

START, END = "2026-11-22T23:53:16.435452+00:00", "2026-11-22T23:54:16Z"
STARTED, ENDED = 1_795_391_596.435452, 1_795_391_656.0
RUN: dict[str, Any] = {"dag_id": "d", "dag_run_id": "r", "state": "success", "start_date": START, "end_date": END}
TASK = {**RUN, "task_id": "t", "map_index": 3, "state": "failed"}


def test_every_field_comes_from_its_own_name():
    assert dag_of({"dag_id": "d", "is_paused": True}) == Dag("d", paused=True)
    assert dag_of({"dag_id": "d"}) == Dag("d", paused=False)
    assert run_of(RUN) == DagRun("d", "r", "success", STARTED, ENDED)
    assert run_of({**RUN, "start_date": None, "end_date": None}) == DagRun("d", "r", "success", None, None)
    assert task_of(TASK) == TaskInstance("d", "r", "t", 3, "failed", STARTED, ENDED)
    assert task_of({**TASK, "map_index": None}).map_index == -1
    assert [task_of({**TASK, "map_index": index}).map_index for index in (-1, 0, MAX_MAP_INDEX)] == [
        -1,
        0,
        MAX_MAP_INDEX,
    ]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dag_id": ""}, "dag_id is no text: ''"),
        ({"dag_run_id": None}, "dag_run_id is no text: None"),
        ({"task_id": 7}, "task_id is no text: 7"),
        ({"state": []}, "state is no text: a list"),
        ({"start_date": "soon"}, "start_date is no time: 'soon'"),
        ({"end_date": 5}, "end_date is no time: 5"),
        ({"map_index": -2}, f"map_index is not a whole number from -1 to {MAX_MAP_INDEX}: -2"),
        ({"map_index": MAX_MAP_INDEX + 1}, f"map_index is not a whole number from -1 to {MAX_MAP_INDEX}: 2147483648"),
    ],
)
def test_what_cannot_be_used_is_named(changed: dict[str, Any], why: str):
    for row_of in (task_of,) if {"task_id", "map_index"} & changed.keys() else (task_of, run_of):
        with pytest.raises(ValueError, match=r".") as caught:
            row_of({**TASK, **changed})
        assert str(caught.value) == why


def test_an_id_is_cut_where_airflow_itself_would_not_take_it():
    longest = "x" * ID_CHARACTERS
    assert dag_of({"dag_id": longest}).dag_id == longest
    assert len(dag_of({"dag_id": longest + "x"}).dag_id) == ID_CHARACTERS


def test_a_list_is_rows_and_no_more_than_were_asked_for():
    assert rows_of({"dags": [{}, {"a": 1}]}, "dags", 2) == [{}, {"a": 1}]
    for answer in ({}, {"dags": 3}, {"dags": [{}, 1]}, {"dags": {"a": {}}}):
        with pytest.raises(BadData) as caught:
            rows_of(answer, "dags", 2)
        assert str(caught.value) == "Airflow's answer has no list 'dags'."
    with pytest.raises(BadData) as caught:
        rows_of({"dags": [{}] * 1501}, "dags", 1500)
    assert str(caught.value) == "Airflow's list 'dags' has 1,501 rows where at most 1,500 were asked for."


def test_how_many_rows_match_in_all():
    assert total_of({"total_entries": 7}, 3) == 7
    assert total_of({"total_entries": 2}, 3) == total_of({}, 3) == 3
    assert (total_of({"total_entries": 0}, 0), total_of({"total_entries": MAX_ENTRIES}, 0)) == (0, MAX_ENTRIES)
    for total in (-1, MAX_ENTRIES + 1):
        with pytest.raises(BadData) as caught:
            total_of({"total_entries": total}, 0)
        assert str(caught.value) == (
            f"Airflow's answer cannot be used: total_entries is not a whole number from 0 to {MAX_ENTRIES}: {total}."
        )


@pytest.mark.parametrize(
    ("listed", "total", "complete"),
    [(3, 3, True), (3, 2, True), (3, 4, False), (PAGE_ROWS - 1, 1, True), (PAGE_ROWS, PAGE_ROWS, False)],
)
def test_a_page_is_complete_when_nothing_more_matches_and_it_is_not_full(listed: int, total: int, complete: bool):
    assert Page((), listed, total).complete is complete


def test_times_are_bounded_and_without_a_zone_they_are_utc(monkeypatch: pytest.MonkeyPatch):
    """Wherever this machine stands."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert parse_time("2026-11-22T23:54:16") == ENDED
    time.tzset()
    assert parse_time("2026-11-22T23:54:16") == parse_time("2026-11-23T00:54:16+01:00") == ENDED
    assert [parse_time(text) for text in ("soon", "", None, 5)] == [None] * 4
    assert format_time(STARTED) == "2026-11-22T23:53:16.435452Z"
    assert (format_time(-5.0), format_time(0.0)) == ("1970-01-01T00:00:00.000000Z",) * 2
    assert format_time(1e15) == format_time(253402300799.0) == "9999-12-31T23:59:59.000000Z"
