"""The table that `check` prints."""

from exporter.check import OK, PROBLEM, Finding, table


def test_the_table_is_aligned():
    assert table([Finding("dags", OK, "daily"), Finding("audit log", PROBLEM, "gone")]) == (
        "dags       ok       daily\naudit log  PROBLEM  gone"
    )


def test_a_name_from_outside_begins_no_line_of_its_own_and_can_be_printed():
    text = table([Finding("dags", OK, "daily\naudit log  PROBLEM  forged \ud800")])
    assert text == r"dags  ok  daily\naudit log  PROBLEM  forged \ud800"
    assert text.encode()
