"""Counters of rows with many label sets: whatever comes and goes, none of them steps back."""

from array import array
from pathlib import Path

from exporter import counters
from exporter.counters import merged, newest_counted, recounted
from exporter.ledger import Ledger
from exporter.snapshot import Grid, Labels, Observation, Reading, Totals

NAME = "shop_releases_total"
COUNTERS = {NAME: ("model", "decision")}
GO: Labels = (("decision", "go"),)

Counted = dict[str, tuple[float, float]]
"""By model, how many rows there are, and how many of them are newer than any before."""


def counted(at: float, models: Counted | None, *, cut: bool = False, label: str = "model") -> Reading:
    """What a source counts at a time, which is that of the newest row, too; None: the column is missing."""
    observations = {}
    if models is not None:
        sets: tuple[Labels, ...] = tuple(((label, model),) for model in models)
        rows, newer = (array("d", (pair[place] for pair in models.values())) for place in (0, 1))
        observations[NAME] = Observation(Grid(sets, ((GO, rows),)), at, (newer,))
    return Reading("audit", "i", "c", at, at, "t", observations, facts={"series_dropped": 5 if cut else 0})


def shown(reading: Reading) -> dict[str, float]:
    return {dict(s.labels)["model"]: s.value for s in reading.observations[NAME].samples}  # type: ignore[union-attr]


def run(*steps: Reading) -> Reading:
    reading = None
    for step in steps:
        reading = recounted(step, reading, COUNTERS)
    assert reading is not None
    return reading


def test_the_first_count_is_shown_as_it_is():
    assert shown(run(counted(1, {"a": (10, 10), "b": (0, 0)}))) == {"a": 10, "b": 0}


def test_late_rows_count_while_the_log_only_grows():
    assert shown(run(counted(1, {"a": (10, 10)}), counted(2, {"a": (14, 1)}))) == {"a": 14}


def test_new_rows_count_while_old_ones_leave():
    steps = [counted(at, {"a": (10, 1)}) for at in range(2, 10)]
    assert shown(run(counted(1, {"a": (10, 10)}), *steps)) == {"a": 18}


def test_rows_that_were_away_and_come_back_are_not_counted_twice():
    reading = run(counted(1, {"a": (10, 10)}), counted(1, {"a": (4, 0)}), counted(1, {"a": (10, 0)}))
    assert shown(reading) == {"a": 10}
    assert shown(recounted(counted(2, {"a": (11, 1)}), reading, COUNTERS)) == {"a": 11}


def test_rows_that_left_are_noted_as_long_as_the_counter_holds_them():
    whole = run(counted(1, {"a": (10, 10), "b": (1, 1)}))
    assert whole.notes == ()
    less = recounted(counted(1, {"a": (4, 0), "b": (1, 0)}), whole, COUNTERS)
    again = recounted(counted(2, {"a": (5, 1), "b": (1, 0)}), less, COUNTERS)
    assert (
        less.notes
        == again.notes
        == (f"rows that were counted are gone from the log: {NAME} went on from what was shown, as counters do",)
    )
    assert recounted(counted(3, {"a": (13, 0), "b": (1, 0)}), again, COUNTERS).notes == ()


def test_the_newest_row_that_was_counted_never_steps_back():
    assert newest_counted(None) is None
    assert newest_counted(run(counted(5, {"a": (3, 3)}), counted(2, {"a": (1, 0)}))) == 5
    nothing = Reading(
        "audit", "i", "c", 1, 1, "t", {NAME: Observation(Grid((), ((GO, array("d")),)), None, (array("d"),))}
    )
    assert newest_counted(run(nothing)) is None
    assert newest_counted(run(counted(5, {"a": (3, 3)}), nothing)) == 5


def test_a_model_whose_rows_are_gone_has_no_series_and_goes_on_from_its_total_when_it_comes_back():
    gone = run(counted(1, {"a": (10, 10), "b": (1, 1)}), counted(2, {"b": (1, 0)}))
    assert shown(gone) == {"b": 1}
    assert "gone from the log" in gone.notes[0]
    back = run(counted(1, {"a": (10, 10), "b": (1, 1)}), *[counted(2, {"b": (1, 0)})] * 2, counted(4, {"a": (1, 1)}))
    assert shown(back) == {"a": 11}


def test_a_model_that_the_cap_leaves_out_comes_back_with_what_its_rows_say():
    cut = run(*(counted(at, {name: (rows, rows)}, cut=True) for at, name, rows in [(1, "a", 10), (2, "b", 1)]))
    assert cut.notes == ()
    assert shown(recounted(counted(4, {"a": (12, 1), "b": (1, 0)}), cut, COUNTERS)) == {"a": 12, "b": 1}


def test_a_column_that_was_missing_for_a_while_changes_no_count():
    reading = run(counted(1, {"a": (10, 10)}), counted(2, {"a": (4, 0)}), counted(3, None), counted(4, None))
    assert NAME not in reading.observations
    assert shown(recounted(counted(5, {"a": (5, 1)}), reading, COUNTERS)) == {"a": 11}


def test_other_labels_begin_anew():
    before = run(counted(1, {"a": (10, 10)}, label="customer"))
    renamed = recounted(counted(3, {"a": (1, 0)}), before, COUNTERS)
    assert shown(renamed) == {"a": 1}
    assert renamed.totals is not None
    assert renamed.totals.sets == ((("model", "a"),),)


def test_a_count_without_labels_begins_anew_with_them():
    plain = Observation(Grid(((),), ((GO, array("d", [9])),)), 1.0, (array("d", [9]),))
    before = recounted(Reading("audit", "i", "c", 1, 1, "t", {NAME: plain}), None, {NAME: ("decision",)})
    assert [(s.labels, s.value) for s in before.observations[NAME].samples] == [(GO, 9)]  # type: ignore[union-attr]
    assert shown(recounted(counted(2, {"a": (3, 1)}), before, COUNTERS)) == {"a": 3}


def test_what_is_remembered_is_bounded_and_the_last_to_leave_stays(monkeypatch):
    monkeypatch.setattr(counters, "REMEMBERED", 2)
    reading = run(*(counted(at, {name: (5, 5)}) for at, name in enumerate("abcde")))
    assert reading.totals is not None
    assert [dict(labels)["model"] for labels in reading.totals.sets] == ["e", "d", "c"]


def test_of_two_exporters_counts_of_one_log_the_larger_go_on():
    one = run(counted(1, {"a": (10, 10), "b": (3, 3)}), counted(5, {"a": (4, 0), "b": (3, 0)})).totals
    other = run(counted(1, {"c": (2, 2), "a": (12, 12)}), counted(2, {"c": (2, 0)})).totals
    assert one is not None
    for totals in (merged(one, other), merged(other, one)):
        assert totals is not None
        assert totals.newest == 5
        values = totals.columns[NAME, GO]
        assert {dict(labels)["model"]: value for labels, value in zip(totals.sets, values, strict=True)} == {
            "a": 12,
            "b": 3,
            "c": 2,
        }
    both = merged(one, other)
    assert both is not None
    assert both.sets[:2] == one.sets
    assert merged(one, None) == merged(None, one) == one
    assert merged(None, None) is None


def test_two_exporters_that_counted_nothing_in_common_make_up_nothing():
    stop: Labels = (("decision", "stop"),)
    one = Totals(None, ((("model", "a"),),), {(NAME, GO): array("d", [2.0])})
    other = Totals(None, ((("model", "b"),),), {(NAME, stop): array("d", [0.0])})
    both = merged(one, other)
    assert both is not None
    assert (both.newest, both.sets) == (None, (*one.sets, *other.sets))
    assert {key: list(values) for key, values in both.columns.items()} == {(NAME, GO): [2, 0], (NAME, stop): [0, 0]}


def test_counters_of_several_labels_go_on_each_by_itself_and_one_note_names_all():
    names = {"shop_releases_total": ("model", "region", "decision"), "shop_trainings_total": ("model", "region", "ok")}
    sets: tuple[Labels, ...] = ((("model", "a"), ("region", "eu")), (("model", "a"), ("region", "us")))

    def asked(at: float, rows: list[float], newer: list[float]) -> Reading:
        made = Observation(Grid(sets, ((GO, array("d", rows)),)), at, (array("d", newer),))
        known = dict.fromkeys(names, made)
        return Reading("audit", "i", "c", at, at, "t", known, notes=("3 rows have no time",))

    first = recounted(asked(1, [5, 7], [5, 7]), None, names)
    second = recounted(asked(2, [2, 8], [0, 1]), first, names)
    for name in names:
        assert [sample.value for sample in second.observations[name].samples] == [5, 8]  # type: ignore[union-attr]
        assert second.observations[name].newer is None, "it is counted"
    assert first.notes == ("3 rows have no time",)
    assert second.notes == (
        "3 rows have no time",
        "rows that were counted are gone from the log: shop_releases_total, shop_trainings_total went on from what was "
        "shown, as counters do",
    )


def test_a_confirmed_reading_is_not_counted_twice():
    reading = run(counted(1, {"a": (10, 10)}), counted(2, {"a": (4, 0)}))
    assert recounted(reading, reading, COUNTERS) is reading


def test_a_reading_without_counts_stays_as_it_is():
    reading = counted(1, None)
    assert recounted(reading, None, COUNTERS) == reading


def test_counts_go_on_across_a_restart(tmp_path: Path):
    ledger = Ledger.open(tmp_path)
    ledger.save_reading(run(counted(1, {"a": (10, 10), "b": (3, 3)}), counted(2, {"a": (4, 0)})))
    ledger.close()
    again = Ledger.open(tmp_path)
    reading = again.load_reading("audit", "i")
    again.close()
    assert newest_counted(reading) == 2
    assert shown(recounted(counted(3, {"a": (3, 0), "b": (1, 1)}), reading, COUNTERS)) == {"a": 10, "b": 4}
