"""Numbers from XComs: what is taken, what is missing and why, and that nothing is evaluated or runs away."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import XCom
from exporter.sources.airflow.xcom_value import MAX_CHARACTERS, number

PLAIN = XCom("d", "t", "k")
SHARE = XCom("d", "t", "k", field="drift_share")
LENGTH = XCom("d", "t", "k", field="drifted_features", take="length")
SUMMARY = {"drift_share": 0.375, "drifted_features": ["temp", "hour"], "note": "it's"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (0.8125, 0.8125),
        (True, 1.0),
        ("0.8125", 0.8125),
        (" -1e3 ", -1000.0),
        ("'12'", 12.0),
        ('"12"', 12.0),
        ("True", 1.0),
        ("false", 0.0),
        (10**400, None),
    ],
)
def test_plain_values(value: object, expected: float | None):
    if expected is None:
        with pytest.raises(ValueError, match="finite"):
            number(value, PLAIN)
    else:
        assert number(value, PLAIN) == expected


@pytest.mark.parametrize(
    "value", ["nan", "inf", float("nan"), float("inf"), "1_000", "0x10", "n/a", "", None, [], {}, "1" * 400, "1e999"]
)
def test_what_is_no_finite_number_is_missing(value: object):
    with pytest.raises(ValueError, match=r"."):
        number(value, PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        SUMMARY,
        str(SUMMARY),
        json.dumps(SUMMARY),
        json.dumps(str(SUMMARY)),
        json.dumps(json.dumps(SUMMARY)),
        "{'drift_share': np.float64(0.375), 'drifted_features': ('temp', 'hour')}",
        "{'p': nan, 'drift_share': 0.375, 'at': datetime.datetime(2024, 1, 1), 'drifted_features': \"['a', 'b']\"}",
        '{"p": NaN, "drift_share": "0.375", "drifted_features": {"temp": 1, "hour": 2}}',
    ],
)
def test_fields_and_lengths(text: object):
    assert number(text, SHARE) == 0.375
    assert number(text, LENGTH) == 2.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{'other': 1}", "has no 'drift_share'"),
        ("[1, 2]", "not a dict"),
        ("plain text", "not a dict"),
        ("{'drift_share': ", "cannot be parsed"),
        ("{'drift_share': __import__('os').system('true')}", "is null"),
        ("{'drift_share': 'much'}", "not a number"),
        ("{'drift_share': nan}", "not a finite number"),
        ("[" * 5000, "deep"),
        ("{'a': " * 30 + "1" + "}" * 30, "deep"),
        ("{'a': '" + "x" * MAX_CHARACTERS + "'}", "longer than"),
        ("{" + "-" * 3000 + "1: 2}", "cannot be parsed"),
        ("{'drift_share': " + "9" * 5000 + "}", "cannot be parsed"),
    ],
)
def test_reasons(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        number(text, SHARE)


def test_a_list_has_a_length_and_a_number_has_none():
    spec = XCom("d", "t", "k", take="length")
    assert number("['a', 'b', 'c']", spec) == 3.0
    assert number([], spec) == 0.0
    with pytest.raises(ValueError, match="no length"):
        number("7", spec)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.one_of(JSON, JSON.map(str), JSON.map(json.dumps), st.text(max_size=200)))
def test_any_value_gives_a_finite_number_or_a_reason(value: object):
    for spec in (PLAIN, SHARE, LENGTH):
        try:
            found = number(value, spec)
        except ValueError:
            continue
        assert found - found == 0


NAMES = st.lists(st.text(st.characters(exclude_characters="([{", codec="utf-8"), max_size=8), max_size=6)


@given(st.floats(allow_nan=False, allow_infinity=False), NAMES)
def test_what_python_wrote_with_str_comes_back(share: float, features: list[str]):
    text = str({"drift_share": share, "drifted_features": features})
    assert number(text, SHARE) == share
    assert number(text, LENGTH) == len(features)
