"""Text from outside in a message: one line, valid, and no longer than it has to be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import PROBLEM_CHARACTERS, ConfigError
from exporter.showable import QUOTED_CHARACTERS, cut, escaped, is_showable, quoted

ANY = st.text(st.characters())


@given(ANY)
def test_whatever_is_escaped_is_showable_and_stays_so(text: str):
    assert is_showable(escaped(text))
    assert escaped(escaped(text)) == escaped(text)
    assert is_showable(quoted(text))
    assert len(quoted(text)) <= QUOTED_CHARACTERS
    json.dumps(escaped(text), ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ["plain", "R² in Zürich, 東京, 🙂", "C:\\path", "it's"])
def test_text_of_any_language_stays_as_it_is(text: str):
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("\ud800", r"\ud800"), ("\u2028", r"\u2028"), ("\x85", r"\x85")],
    ids=ascii,
)
def test_line_breaks_controls_and_half_pairs_are_escaped(text: str, shown: str):
    assert escaped(text) == shown


def test_what_is_cut_says_so():
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "ab…")


def test_each_problem_is_one_bounded_line():
    error = ConfigError(["a\nerror: forged", "x" * 10_000])
    assert error.problems == (r"a\nerror: forged", "x" * (PROBLEM_CHARACTERS - 1) + "…")
    assert str(error).count("\n") == 1
