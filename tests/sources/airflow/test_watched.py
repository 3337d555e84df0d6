"""Which DAGs are watched, when Airflow's list of them is asked for, and what is said about it."""

import pytest

from exporter.errors import SourceUnavailable
from exporter.sources.airflow.records import Dag
from exporter.sources.airflow.watched import ALL_DAGS_EVERY_SECONDS, DAGS_EVERY_SECONDS, WatchedDags
from testbed.fake_airflow import settings

NEEDED = ("c", "a")


class Listed:
    """An Airflow that lists these DAGs, at a monotonic time of its own."""

    def __init__(self, *dags: str, paused: tuple[str, ...] = ()) -> None:
        self.names = list(dags)
        self.paused = paused
        self.asked = 0
        self.at = 1000.0

    def dags(self) -> tuple[Dag, ...]:
        self.asked += 1
        return tuple(Dag(name, name in self.paused) for name in self.names)


def watched(airflow: Listed, needed: tuple[str, ...] = NEEDED, **env: str) -> WatchedDags:
    """Brought up to date for the first time."""
    made = WatchedDags(airflow, settings("http://x", **env), needed, lambda: airflow.at)  # type: ignore[arg-type]
    assert (made.ids, made.missing, made.paused, list(made.notes())) == ((), (), (), [])
    made.bring_up_to_date()
    assert airflow.asked == 1
    return made


@pytest.mark.parametrize(
    ("env", "ids", "missing"),
    [
        ({}, ("a", "c"), ("c",)),
        ({"AIRFLOW_DAG_IDS": "e,b,z"}, ("e", "b", "z"), ("z",)),
        ({"AIRFLOW_DAG_IDS": "*"}, ("a", "b", "d", "e"), ("c",)),
        ({"AIRFLOW_DAG_IDS": "*", "AIRFLOW_MAX_DAGS": "3"}, ("a", "b", "d"), ("c",)),
        ({"AIRFLOW_DAG_IDS": "*", "AIRFLOW_MAX_DAGS": "4"}, ("a", "b", "d", "e"), ("c",)),
    ],
)
def test_those_that_are_asked_for_or_all_with_the_needed_ones_first(
    env: dict[str, str], ids: tuple[str, ...], missing: tuple[str, ...]
):
    found = watched(Listed("e", "d", "b", "a"), **env)
    assert (found.ids, found.missing, found.paused) == (ids, missing, ())
    left_out = [note for note in found.notes() if "not watched" in note]
    assert left_out == (["1 DAGs are not watched: AIRFLOW_MAX_DAGS is 3."] if len(ids) == 3 and "d" in ids else [])


def test_what_an_operator_should_know():
    airflow = Listed("a", "b", "c", paused=("a", "c"))
    assert list(watched(airflow).notes()) == ["Paused in Airflow: a, c."]
    airflow = Listed("b", "c", "e", paused=("b", "c"))
    found = watched(airflow, AIRFLOW_DAG_IDS="x,c,y,e", AIRFLOW_MAX_DAGS="2")
    assert (found.ids, found.missing, found.paused) == (("x", "c"), ("x", "y"), ("c",))
    assert list(found.notes()) == [
        "Airflow has no DAG x, y that this user may see: check AIRFLOW_DAG_IDS, the catalogue, and the user's "
        "permissions.",
        "Paused in Airflow: c.",
        "2 DAGs are not watched: AIRFLOW_MAX_DAGS is 2.",
    ]


@pytest.mark.parametrize(
    ("dags", "env", "every"),
    [
        (("a", "c"), {}, DAGS_EVERY_SECONDS),
        (("a",), {}, ALL_DAGS_EVERY_SECONDS),
        (("a", "c"), {"AIRFLOW_DAG_IDS": "*"}, ALL_DAGS_EVERY_SECONDS),
    ],
)
def test_the_list_is_asked_for_again_when_its_time_has_come(dags: tuple[str, ...], env: dict[str, str], every: float):
    airflow = Listed(*dags)
    found = watched(airflow, **env)
    for at, asked in ((0.0, 1), (every - 0.001, 1), (every, 2), (every + 1, 2), (2 * every, 3)):
        airflow.at = 1000.0 + at
        found.bring_up_to_date()
        assert airflow.asked == asked


def test_a_list_that_could_not_be_had_is_asked_for_at_the_next_refresh():
    airflow = Listed("a", "c")
    found = watched(airflow)
    airflow.at += DAGS_EVERY_SECONDS
    answer, airflow.dags = airflow.dags, lambda: (_ for _ in ()).throw(SourceUnavailable("down"))  # type: ignore
    with pytest.raises(SourceUnavailable):
        found.bring_up_to_date()
    assert found.ids == ("a", "c")
    airflow.dags = answer  # type: ignore[method-assign]
    airflow.names.append("b")
    found.bring_up_to_date()
    assert airflow.asked == 2


def test_one_that_has_runs_is_there_whatever_the_list_says():
    found = watched(Listed("b"))
    assert found.missing == ("a", "c")
    found.have_runs(iter(["b", "c"]))
    assert found.missing == ("a",)
    found.have_runs([])
    assert found.missing == ("a",)
    assert found.ids == ("a", "c")
