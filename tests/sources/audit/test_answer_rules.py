"""What the audit query's rows become, rule by rule: label sets, their limit, and rows that no engine should give."""

from typing import Any

import pytest

from exporter.errors import BadData
from exporter.snapshot import Gap
from exporter.sources.audit.answer import read_rows
from exporter.sources.audit.query import AuditQuery
from tests.sources.audit.memory_log import (
    NOW,
    PLAIN,
    answered,
    asked,
    catalogue,
    counter,
    gauge,
    history,
    newer,
    rows,
    shown,
)

# -- label sets --------------------------------------------------------------------------------------------------------

LABELLED = catalogue(
    gauge("x"),
    "{name: old, type: gauge, help: O., alias_of: gauge}",
    gauge("t", "text"),
    counter("{count: k, values: {yes: Y, no: N}}"),
    "{name: before_total, type: counter, help: B., alias_of: rows_total, labels: [kind]}",
    audit=", labels: {model: m, region: r}",
)
A_SET = 7
"""Series of one label set: two gauges, an alias, two counts and an alias of each."""
FLEET = rows(
    "m, r, x, t, k",
    "-1.0, 'b', 2, 1.0, 'n/a', 'Y'",
    "-2.0, 'a', 1, 2.0, '2.5', 'N'",
    "-3.0, 'a', 1, 3.0, '3.5', 'N'",
    "-3.0, 'a', 2, 4.0, NULL, 'Y'",
    "-0.5, NULL, 2, 5.0, '?', 'Y'",
    "-0.4, 'c', NULL, 6.0, '?', 'Y'",
    "9000.0, 'd', 1, 7.0, '7', 'Y'",
    "9001.0, 'a', 1, 7.0, '7', 'Y'",
    "NULL, 'e', 1, 8.0, '-', 'Y'",
)


def test_the_answer_for_each_label_set():
    answer = answered(LABELLED, FLEET)
    assert shown(answer) == {("b", "2"): 1.0, ("a", "1"): 2.0, ("a", "2"): 4.0}
    assert shown(answer, "text") == {("a", "1"): 2.5}
    assert (answer.observations["gauge"].observed_at, answer.observations["text"].observed_at) == (NOW - 1, NOW - 2)
    assert shown(answer, "rows_total") == {
        ("b", "2", "yes"): 1.0, ("b", "2", "no"): 0.0, ("a", "1", "yes"): 0.0, ("a", "1", "no"): 2.0,
        ("a", "2", "yes"): 1.0, ("a", "2", "no"): 0.0, ("d", "1", "yes"): 0.0, ("d", "1", "no"): 0.0,
    }  # fmt: skip
    assert newer(answer) == [[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 0.0]]
    assert answer.observations["rows_total"].observed_at == NOW - 0.4
    assert answer.notes == (
        "column t: 3 rows with text that is not a number, left out",
        "2 rows dated in the future: left out of values and counts until their time has come",
        "1 row without a usable timestamp, left out",
        "2 rows without a usable value for model and region (NULL, blank, or longer than 200 characters), left out",
    )
    assert (answer.rows, answer.last_record_at, answer.first_future_at) == (8, NOW - 0.4, NOW + 9000)
    assert (answer.label_sets, answer.series_dropped) == (4, 0)
    assert answer.facts() == {"rows": 8, "last_record_at": NOW - 0.4, "label_sets": 4, "series_dropped": 0}


def test_beyond_the_limit_the_newest_sets_are_shown_and_all_rows_are_told_of():
    full = answered(LABELLED, FLEET)
    for most_series, sets in ((1, 1), (A_SET, 1), (2 * A_SET - 1, 1), (2 * A_SET, 2), (4 * A_SET, 4)):
        query, found = asked(LABELLED, FLEET, max_series=most_series)
        assert (query.most_series, query.set_series, query.most_sets) == (most_series, A_SET, sets)
        answer = read_rows(query, found)
        assert list(shown(answer)) == list(shown(full))[:sets]
        assert (answer.rows, answer.last_record_at, answer.first_future_at) == (8, NOW - 0.4, NOW + 9000)
        assert (answer.label_sets, answer.series_dropped) == (sets, (4 - sets) * A_SET)
        left_out = (
            f"EXPORTER_MAX_SERIES is {most_series}: {4 - sets} of 4 label sets ({(4 - sets) * A_SET} series) are left "
            "out, those with the oldest rows"
        )
        assert answer.notes == (*full.notes, *([left_out] if sets < 4 else []))


def test_a_label_set_of_which_nothing_is_shown_counts_as_one_series():
    query, found = asked(catalogue(gauge("lost"), audit=", labels: {model: m}"), rows("m", "-1.0, 'a'"), max_series=3)
    assert (query.set_series, query.most_sets) == (1, 3)
    assert read_rows(query, found).label_sets == 1


def test_an_empty_log_with_labels():
    answer = answered(LABELLED, f"FROM ({FLEET}) LIMIT 0")
    assert (answer.rows, answer.label_sets, answer.series_dropped, answer.notes) == (0, 0, 0, ())
    assert (answer.last_record_at, answer.first_future_at) == (None, None)
    assert answer.gaps == (Gap("gauge", "column x holds no value yet"), Gap("text", "column t holds no value yet"))
    assert shown(answer, "rows_total") == {}


def test_a_log_with_labels_and_without_a_usable_time_is_refused():
    with pytest.raises(BadData, match=r"^None of the log's 2 rows has a usable time in column at\."):
        answered(LABELLED, rows("m, r, x, t, k", *["NULL::DOUBLE, 'a', 1, 1.0, 'x', 'Y'"] * 2))


def test_the_history_of_label_sets_names_them():
    found = history(LABELLED, rows("m, r, x, t, k", "-1.0, 'a', 1, 2.0, '2', 'Y'"), NOW)
    assert [(row["l0"], row["l1"], row["x0"], row["c0"]) for row in found] == [("a", "1", 2.0, 1)]


# -- rows that no engine gives -----------------------------------------------------------------------------------------


def labelled_rows(**values: Any) -> tuple[AuditQuery, list[dict[str, Any]]]:
    query, found = asked(LABELLED, rows("m, r, x, t, k", "-1.0, 'a', 1, 2.0, '2', 'Y'"), **values)
    return query, found


def test_a_log_without_a_usable_time_is_refused_with_advice():
    with pytest.raises(BadData) as caught:
        answered(PLAIN, "SELECT 'yesterday' AS at, 1.0 AS x, 'Y' AS k")
    assert str(caught.value).startswith(
        "None of the log's 1 row has a usable time in column at. A text must be ISO 8601"
    )


def test_one_row_is_awaited_without_labels():
    query, found = asked(PLAIN, rows("x, k", "-1.0, 1.0, 'Y'"))
    for count in (0, 2):
        with pytest.raises(BadData) as caught:
            read_rows(query, found * count)
        assert str(caught.value) == f"The audit query returned {count} rows instead of one."


def test_more_label_sets_than_were_asked_for_are_refused():
    query, (row,) = labelled_rows(max_series=2 * A_SET)
    found = [{**row, "l0": name} for name in "abc"]
    assert read_rows(query, found[:2]).label_sets == 2
    with pytest.raises(BadData) as caught:
        read_rows(query, found)
    assert str(caught.value) == "The audit query returned more than the 2 label sets that it asks for."


def test_texts_that_become_equal_when_they_are_made_valid_are_one_label_set():
    query, (row,) = labelled_rows()
    found = [{**row, "l0": name, "v0": value} for name, value in (("\ud800", 1.0), ("\udfff", 2.0), ("z", 3.0))]
    assert list(shown(read_rows(query, found)).values()) == [1.0, 3.0]


def test_values_without_a_time_are_as_old_as_can_be_and_the_newest_one_counts():
    query, (row,) = labelled_rows()
    times = (("a", None), ("b", 3_000_000), ("c", 2_000_000))
    found = [{**row, "l0": name, "t0": time} for name, time in times]
    assert read_rows(query, found).observations["gauge"].observed_at == 3.0
    assert read_rows(query, found[:1]).observations["gauge"].observed_at == 0.0
    before_1970 = read_rows(query, [{**row, "t0": -5_000_000}]).observations["gauge"]
    assert before_1970.observed_at == -5.0


def test_a_number_that_cannot_be_one_names_its_column():
    query, found = asked(PLAIN, rows("x, k", "-1.0, 1.0, 'Y'"))
    for value, kind in ((b"x", "bytes"), ([1], "list"), (10**400, "int")):
        with pytest.raises(BadData) as caught:
            read_rows(query, [{**found[0], "v0": value}])
        assert str(caught.value) == f"The audit query returned {kind} for v0, not a number."


@pytest.mark.parametrize(
    ("micros", "seconds"),
    [(-(10**19), -62_135_596_800.0), (10**19, 253_402_300_799.0), (0, 0.0), (1_500_000, 1.5)],
)
def test_times_are_seconds_within_the_years_that_calendars_know(micros: int, seconds: float):
    query, found = asked(PLAIN, rows("x, k", "-1.0, 1.0, 'Y'"))
    answer = read_rows(query, [{**found[0], "t0": micros, "newest": micros, "first_future": micros}])
    assert (answer.observations["gauge"].observed_at, answer.last_record_at, answer.first_future_at) == (seconds,) * 3
