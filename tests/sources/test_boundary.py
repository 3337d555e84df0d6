"""What comes from outside: finite numbers, valid texts, bounded JSON, whatever is sent."""

import hashlib
import json
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sources.boundary import (
    LABEL_CHARACTERS,
    MAX_DIGITS,
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_SECONDS,
    MIN_SECONDS,
    finite,
    parse_json,
    shown,
    text,
    unix_seconds,
    whole,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=400)
"""Texts with lone surrogates, line breaks and everything else."""
ANY_NUMBER = st.integers() | st.floats() | st.integers(300, 6000).map(lambda digits: 10**digits)
ANY = st.none() | st.booleans() | ANY_NUMBER | ANY_TEXT | st.lists(st.none(), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=60,
)


def outcome(check: Callable[[Any], Any], given: object) -> tuple[Any, str | None]:
    """What it gives, or why it refuses."""
    try:
        return check(given), None
    except ValueError as error:
        return None, str(error)


@given(ANY)
def test_a_number_is_finite_or_refused_with_a_short_reason(value: object):
    for check in (finite, unix_seconds, lambda given: whole(given, -5, 2**31 - 1)):
        found, why = outcome(check, value)
        assert why is not None or (math.isfinite(found) and found == float(value))  # type: ignore[arg-type]
        assert len(why or "") < 200
        assert (why or "").isprintable()


def test_bounds_belong_to_what_is_allowed():
    assert whole(7, 7, 7) == 7
    assert unix_seconds(MAX_SECONDS) == MAX_SECONDS
    assert (finite(True), finite(False)) == (1.0, 0.0)
    for value, why in ((10**30, "more than 20 digits"), (True, "True"), (1.0, "1.0"), ("7", "'7'"), (None, "None")):
        with pytest.raises(ValueError, match=f"not a whole number from 0 to 9: .*{why}"):
            whole(value, 0, 9)
    with pytest.raises(ValueError, match="years 1 to 9999: 1e\\+300"):
        unix_seconds(1e300)


@pytest.mark.parametrize("beyond", [MIN_SECONDS - 1, MAX_SECONDS + 1])
def test_times_end_with_the_years_1_and_9999(beyond: float):
    assert unix_seconds(MIN_SECONDS) == MIN_SECONDS
    with pytest.raises(ValueError, match=f"^not a time in the years 1 to 9999: {beyond}$"):
        unix_seconds(beyond)


@pytest.mark.parametrize(
    ("value", "why"),
    [("7", "not a number but a str"), (None, "not a number but a NoneType"), (10**400, "not a finite number")],
)
def test_what_is_no_number_is_said_by_its_kind(value: object, why: str):
    with pytest.raises(ValueError, match=f"^{why}$"):
        finite(value)


@pytest.mark.parametrize("value", ["x" * 201, "x" * 300, "\ud800" * 201], ids=["longer", "long", "surrogates"])
def test_a_text_that_is_cut_ends_in_what_depends_on_the_whole_of_it(value: str):
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    assert text(value) == value.replace("\ud800", "\ufffd")[:191] + "…" + digest
    assert text(value[:200]) == value[:200].replace("\ud800", "\ufffd")


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (10**20 - 1, "9" * 20),
        (10**20, "a number of more than 20 digits"),
        (-(10**20), "a number of more than 20 digits"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ([1], "a list"),
        ("x" * 40, "'" + "x" * 40 + "'"),
        ("x" * 41, "'" + "x" * 40 + "…'"),
        ("\0" * 40, ("'" + "\\x00" * 40)[:79] + "…"),
    ],
    ids=lambda given: str(given)[:12].encode("unicode_escape").decode(),
)
def test_how_a_message_quotes_a_value(value: object, quoted: str):
    assert shown(value) == quoted


@given(ANY_TEXT, st.integers(20, 300))
def test_a_text_is_valid_and_not_longer_than_allowed(value: str, limit: int):
    found = text(value, limit)
    found.encode("utf-8")
    assert len(found) <= limit
    assert text(found, limit) == found
    if len(value) <= limit and not any("\ud800" <= character <= "\udfff" for character in value):
        assert found == value


@given(ANY_TEXT, ANY_TEXT)
def test_long_texts_that_begin_alike_stay_two(one: str, other: str):
    same = "x" * LABEL_CHARACTERS
    assert (text(same + one) == text(same + other)) == (one == other)


@given(ANY)
def test_what_a_message_quotes_is_short(value: object):
    assert len(shown(value)) <= 80
    assert shown(value).isprintable()


@given(JSON)
def test_ordinary_json_is_what_json_says(value: object):
    content = json.dumps(value).encode()
    assert parse_json(content) == json.loads(content)


@given(st.binary(max_size=200) | ANY_TEXT.map(lambda value: value.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_refused(content: bytes):
    _, why = outcome(parse_json, content)
    assert (why or "").isprintable()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
        (b"[" * 100_000, "deep"),
        (b"[" + b"{}," * 2**20 + b"{}]", "values"),
        (b"[" + b'"",' * 2**20 + b"1]", "values"),
        (b'"' + b'\\"' * 2**20, "^not complete JSON$"),
        (b'[[[[ "' * 70_000, "more than"),
        (b'{"a": "\xff"}', "^not complete JSON$"),
        (b"", "^not complete JSON$"),
    ],
    ids=["lists", "objects", "open lists", "empty rows", "empty texts", "quotes", "open texts", "no UTF-8", "nothing"],
)
def test_too_much_is_refused_before_anything_is_made_of_it(content: bytes, why: str):
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=why):
            parse_json(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(content) + 2**20
    assert time.process_time() - began < 5


def test_as_much_as_is_allowed_is_read():
    rows = [{"note": "a, b, {c} [d] \\" + '"' * 3, "fields": [1, 2, {"deep": [[]]}]} for _ in range(20_000)]
    assert parse_json(json.dumps(rows).encode()) == rows
    deep: object = 1
    for _ in range(MAX_JSON_DEPTH):
        deep = [deep]
    assert parse_json(json.dumps(deep).encode()) == deep
    commas = "," * (MAX_JSON_VALUES + 1)
    assert parse_json(json.dumps([commas]).encode()) == [commas]


def test_json_has_so_many_values_and_levels_and_not_one_more():
    many = b"[" + b",".join([b'""'] * MAX_JSON_VALUES) + b"]"
    assert len(parse_json(many)) == MAX_JSON_VALUES
    assert len(parse_json(many.replace(b'""', b'","', 1))) == MAX_JSON_VALUES
    with pytest.raises(ValueError, match=r"^more than 250,000 values$"):
        parse_json(many[:-1] + b",1]")
    assert parse_json(b"[[]," + b"[" * (MAX_JSON_DEPTH - 1) + b"]" * MAX_JSON_DEPTH)
    for opening, closing in ((b"[", b"]"), (b'{"a":[', b"]}")):
        deep = MAX_JSON_DEPTH // (1 + len(opening) // 6)
        assert parse_json(opening * deep + closing * deep)
        with pytest.raises(ValueError, match=r"^nested more than 50 deep$"):
            parse_json(opening * (deep + 1) + closing * (deep + 1))


def test_numbers_have_so_many_digits_and_not_one_more():
    assert parse_json(b"[%s, %s]" % (b"9" * MAX_DIGITS, b"9" * (MAX_DIGITS + 1))) == [10**MAX_DIGITS - 1, math.inf]


def test_numbers_of_any_length_cost_themselves():
    found = parse_json(b'{"large": ' + b"9" * 100_000 + b', "small": -' + b"9" * 5000 + b', "fine": 7}')
    assert found == {"large": math.inf, "small": -math.inf, "fine": 7}
