"""Counters with many label sets: whatever comes and goes, none of them steps back."""

from array import array
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from exporter import carry
from exporter.carry import carried
from exporter.ledger import Ledger
from exporter.snapshot import Carry, Grid, Labels, Observation, Reading, Sample

NAME = "shop_releases_total"
COUNTERS = {NAME: ("model", "decision")}
GO: Labels = (("decision", "go"),)


def counted(at: float, models: dict[str, float] | None, *, cut: bool = False, label: str = "model") -> Reading:
    """What the source counts now; None: the column is missing."""
    observations = {}
    if models is not None:
        sets: tuple[Labels, ...] = tuple(((label, model),) for model in models)
        observations[NAME] = Observation(Grid(sets, ((GO, array("d", models.values())),)), at)
    return Reading("audit", "i", "c", at, at, "t", observations, facts={"series_dropped": 5 if cut else 0})


def shown(reading: Reading) -> dict[str, float]:
    return {dict(s.labels)["model"]: s.value for s in reading.observations[NAME].samples}  # type: ignore[union-attr]


def run(*steps: Reading) -> Reading:
    reading = None
    for step in steps:
        reading = carried(step, reading, COUNTERS)
    assert reading is not None
    return reading


def test_rows_that_leave_the_log_are_kept_in_the_count(caplog):
    reading = run(counted(1, {"a": 10, "b": 1}), counted(2, {"a": 4, "b": 2}), counted(3, {"a": 5, "b": 2}))
    assert shown(reading) == {"a": 11, "b": 2}
    assert caplog.text.count("counts fewer rows") == 1


def test_only_series_that_were_carried_on_are_remembered_one_by_one():
    reading = run(counted(1, {"a": 10, "b": 1}), counted(2, {"a": 4, "b": 2}))
    assert reading.carries == {(NAME, (("model", "a"), *GO)): Carry(4, 6)}


def test_a_model_whose_rows_are_gone_has_no_series_and_goes_on_from_its_total_when_it_comes_back():
    gone = run(counted(1, {"a": 10, "b": 1}), counted(2, {"b": 1}))
    assert shown(gone) == {"b": 1}
    back = carried(counted(4, {"a": 1, "b": 1}), carried(counted(3, {"b": 1}), gone, COUNTERS), COUNTERS)
    assert shown(back) == {"a": 11, "b": 1}


def test_a_model_that_the_cap_leaves_out_comes_back_with_what_its_rows_say():
    reading = run(
        counted(1, {"a": 10}, cut=True),
        counted(2, {"b": 1}, cut=True),
        counted(3, {"b": 1}, cut=True),
        counted(4, {"a": 12, "b": 1}),
    )
    assert shown(reading) == {"a": 12, "b": 1}


def test_a_column_that_was_missing_for_a_while_changes_no_count():
    reading = run(counted(1, {"a": 10}), counted(2, {"a": 4}), counted(3, None), counted(4, None), counted(5, {"a": 5}))
    assert shown(reading) == {"a": 11}


def test_other_labels_begin_anew():
    before = counted(1, {"a": 10}, label="customer")
    renamed = carried(
        counted(3, {"a": 1}),
        carried(counted(2, {"a": 4}, label="customer"), before, {NAME: ("customer", "decision")}),
        COUNTERS,
    )
    assert shown(renamed) == {"a": 1}
    assert renamed.carries == {}


def test_a_count_without_labels_begins_anew_with_them():
    plain = Reading("audit", "i", "c", 1, 1, "t", {NAME: Observation((Sample(GO, 9.0),), 1.0)})
    before = carried(plain, None, {NAME: ("decision",)})
    assert before.carries == {(NAME, GO): Carry(9, 0)}
    assert shown(carried(counted(2, {"a": 3}), before, COUNTERS)) == {"a": 3}


def test_what_is_remembered_is_bounded_and_the_latest_to_go_stays(monkeypatch):
    monkeypatch.setattr(carry, "REMEMBERED", 2)
    steps = [counted(at, {name: 5}) for at, name in enumerate(("a", "b", "c", "d", "e"))]
    assert list(run(*steps).carries) == [(NAME, (("model", name), *GO)) for name in ("c", "d")]


def test_a_confirmed_reading_is_not_counted_twice():
    reading = run(counted(1, {"a": 10}), counted(2, {"a": 4}))
    assert carried(reading, reading, COUNTERS) is reading


def test_counts_go_on_across_a_restart(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(run(counted(1, {"a": 10, "b": 3}), counted(2, {"a": 4}, cut=False)))
    ledger.close()
    again = Ledger.open(tmp_path)
    reading = again.load_reading("audit", "i")
    again.close()
    assert reading is not None
    assert shown(carried(counted(3, {"a": 3, "b": 1}), reading, COUNTERS)) == {"a": 10, "b": 4}


MODELS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 5).map(float))


@given(st.lists(st.tuples(st.none() | MODELS, st.booleans()), min_size=1, max_size=8))
def test_no_series_ever_steps_back(steps: list[tuple[dict[str, float] | None, bool]]):
    highest: dict[str, float] = {}
    reading = None
    for at, (models, cut) in enumerate(steps):
        reading = carried(counted(at, models, cut=cut), reading, COUNTERS)
        for model, value in (shown(reading) if models is not None else {}).items():
            assert value >= highest.get(model, 0.0)
            assert value >= models[model]
            highest[model] = value
