"""Numbers from XComs: what is taken, what is missing and why, and that nothing is evaluated or runs away."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import XCom
from exporter.sources.airflow.counted import KeptXCom
from exporter.sources.airflow.xcom_value import MAX_CHARACTERS, MAX_DEPTH, kept_number, number, why_missing

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
        ("TRUE", 1.0),
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
        "{'drift_share': numpy.float64(0.375), 'drifted_features': {'temp', 'hour'}}",
        "{'drift_share': +0.375, 'drifted_features': ['temp', -1], **rest, 'low': -0.5}",
        "{'drift_share': Decimal('0.375'), 'drifted_features': frozenset({'temp', 'hour'})}",
        "{'drift_share': np.str_('0.375'), 'drifted_features': frozenset(['temp', 'hour'])}",
        " \n{'drift_share': '0.375', 'drifted_features': {'temp': 1, None: 2}} ",
        {"drift_share": "0.375", "drifted_features": "'[1, 2]'"},
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


PLAIN_LENGTH = XCom("d", "t", "k", take="length")
NO_SET = "a set or tuple as text, whose elements cannot be told apart: push a list"


@pytest.mark.parametrize(
    ("value", "spec", "why"),
    [
        (None, PLAIN, "is null"),
        ("X1", PLAIN, "not a number: 'X1'"),
        ("1X", PLAIN, "not a number: '1X'"),
        ("[1]", PLAIN, "not a number: '[1]'"),
        (" 1_000 ", PLAIN, "not a number: ' 1_000 '"),
        ([1], PLAIN, "not a number but a list"),
        ("1" * (MAX_CHARACTERS + 1), PLAIN, f"longer than {MAX_CHARACTERS} characters"),
        ({"drifted_features": f"[{' ' * MAX_CHARACTERS}]"}, LENGTH, f"longer than {MAX_CHARACTERS} characters"),
        ("7", SHARE, "not a dict, so it has no 'drift_share'"),
        ({"a": 1}, SHARE, "has no 'drift_share'"),
        ("{'drift_share': {'a': f(1)}}", SHARE, "not a number but a dict"),
        ("{'drift_share': -f(1)}", SHARE, "is null"),
        ("{'drift_share': np.array(1)}", SHARE, "is null"),
        ("{'drift_share': np.float64(0.5, 1)}", SHARE, "is null"),
        ("7", PLAIN_LENGTH, "not a list, so it has no length"),
        ("(a,b)", PLAIN_LENGTH, NO_SET),
        ("{a", PLAIN_LENGTH, "cannot be parsed: '{a'"),
        ("set([1])", PLAIN_LENGTH, "not a list, so it has no length"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), PLAIN_LENGTH, f"nested more than {MAX_DEPTH} deep"),
        (f'["{"X" * 30}", {"[" * MAX_DEPTH}{"]" * MAX_DEPTH}]', PLAIN_LENGTH, f"nested more than {MAX_DEPTH} deep"),
        (f"{'[' * 15}], {'[' * 7}{']' * 21}", PLAIN_LENGTH, f"nested more than {MAX_DEPTH} deep"),
        ("numpy.int8@version=1(" * MAX_DEPTH + "7" + ")" * MAX_DEPTH, PLAIN, f"nested more than {MAX_DEPTH} deep"),
        ("a.B@version=1(7)", PLAIN, "a value of the kind 'a.B', which cannot be read"),
        ({"__classname__": "a.B", "__data__": 7}, PLAIN, "a value of the kind 'a.B', which cannot be read"),
        (
            {"__classname__": "builtins.set", "__data__": 7},
            PLAIN,
            "a value of the kind 'builtins.set', which cannot be read",
        ),
    ],
)
def test_the_reason_in_full(value: object, spec: XCom, why: str):
    """It goes on where the XCom's name ends, here and where the value was kept as JSON."""
    with pytest.raises(ValueError, match=r".") as caught:
        number(value, spec)
    assert str(caught.value) == why
    kept = KeptXCom("r", 1.0, json.dumps(value), None)
    assert why_missing(kept, spec) == f"cannot be used: {why}"
    with pytest.raises(ValueError, match=r".") as caught:
        kept_number(kept, spec)
    assert str(caught.value) == f"cannot be used: {why}"


@pytest.mark.parametrize(("problem", "why"), [(None, "was not pushed"), ("is too large", "is too large")])
def test_what_could_not_be_had_has_no_number(problem: str | None, why: str):
    assert why_missing(KeptXCom("r", 1.0, None, problem), PLAIN) == why
    with pytest.raises(ValueError, match=f"^{why}$"):
        kept_number(KeptXCom("r", 1.0, None, problem), PLAIN)
    kept = KeptXCom("r", 1.0, '"0.5"', None)
    assert (kept_number(kept, PLAIN), why_missing(kept, PLAIN)) == (0.5, None)


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        ("7" + " " * (MAX_CHARACTERS - 1), PLAIN, 7.0),
        (f"[{' ' * (MAX_CHARACTERS - 2)}]", PLAIN_LENGTH, 0.0),
        ({"drifted_features": f"[{' ' * (MAX_CHARACTERS - 2)}]"}, LENGTH, 0.0),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, PLAIN_LENGTH, 1.0),
        (f'["{"X" * 30}"]', PLAIN_LENGTH, 1.0),
        (f"{'[' * 15}], {'[' * 6}{']' * 20}", PLAIN_LENGTH, 1.0),
        (f"[{'[],' * 30}(), {'{},' * 30}{'(),' * 30}]", PLAIN_LENGTH, 91.0),
        ("numpy.int8@version=1(" * (MAX_DEPTH - 1) + "7" + ")" * (MAX_DEPTH - 1), PLAIN, 7.0),
    ],
)
def test_the_limits_themselves_are_within(value: object, spec: XCom, expected: float):
    assert number(value, spec) == expected


def test_a_list_has_a_length_and_a_number_has_none():
    assert number("['a', 'b', 'c']", PLAIN_LENGTH) == 3.0
    assert number([], PLAIN_LENGTH) == 0.0
    with pytest.raises(ValueError, match="no length"):
        number("7", PLAIN_LENGTH)


def wrapped(kind: object, content: object) -> dict[str, object]:
    """As Airflow 3 gives what is no JSON by itself."""
    return {"__classname__": kind, "__version__": 1, "__data__": content}


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "int64", "uint32", "intc", "longlong"])
@pytest.mark.parametrize("major", [2, 3])
def test_numpys_numbers(kind: str, major: int):
    value = wrapped(f"numpy.{kind}", 7) if major == 3 else f"numpy.{kind}@version=1(7)"
    assert number(value, PLAIN) == 7.0
    assert number({"drift_share": value}, SHARE) == 7.0
    assert number(str({"drift_share": value}), SHARE) == 7.0
    assert number({"drifted_features": [value, value]}, LENGTH) == 2.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (wrapped("numpy.bool_", True), 1.0),
        (wrapped("numpy.bool", False), 0.0),
        ("numpy.bool_@version=1(True)", 1.0),
        (" numpy.float32@version=1(-0.5)\n", -0.5),
        (wrapped("decimal.Decimal", 12.5), 12.5),
        (wrapped("decimal.Decimal", "12.5"), 12.5),
        ("decimal.Decimal@version=1(12.5)", 12.5),
        (str({"drift_share": "numpy.float32@version=1(0.25)"}), None),
        ("{'drift_share': +0.25, 'at': now()}", None),
        ("{'drift_share': -(-0.25), 'at': now()}", None),
        ("-0.25", -0.25),
    ],
)
def test_other_kinds_of_numbers(value: object, expected: float | None):
    if expected is None:
        assert number(value, SHARE) == 0.25
        assert number(str(value).replace("0.25", "-0.25"), SHARE) == -0.25
    else:
        assert number(value, PLAIN) == expected


@pytest.mark.parametrize("kind", ["set", "frozenset", "tuple"])
def test_collections_have_the_length_that_they_had(kind: str):
    plain = XCom("d", "t", "k", take="length")
    for length in (0, 1, 3, 7):
        value = wrapped(f"builtins.{kind}", [wrapped("numpy.int64", n) for n in range(length)])
        assert number(value, plain) == length
        assert number({"drifted_features": value}, LENGTH) == length


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            wrapped("pandas.core.frame.DataFrame", [1, 2]),
            r"kind 'pandas\.core\.frame\.DataFrame', which cannot be read",
        ),
        ("pandas.core.frame.DataFrame@version=1(c,h)", r"kind 'pandas\.core\.frame\.DataFrame', which cannot be read"),
        (wrapped("datetime.datetime", 1.5), "'datetime.datetime', which cannot be read"),
        (wrapped("numpy.complex128", 1.5), "'numpy.complex128', which cannot be read"),
        (wrapped(3, 1.5), "kind 3, which cannot be read"),
        (wrapped("x" * 100_000, 1.5), "which cannot be read"),
        (wrapped("numpy.float64", [1.5]), "cannot be read"),
        (wrapped("builtins.set", 3), "cannot be read"),
        ({"__classname__": "numpy.float64"}, "cannot be read"),
        (wrapped("numpy.float64", float("nan")), "not a finite number"),
        ("numpy.float64@version=1(nan)", "not a number"),
        ("numpy.int64@version=1(" * 1000 + "7" + ")" * 1000, "deep"),
    ],
)
def test_what_cannot_be_read_is_named(value: object, why: str):
    for spec in (PLAIN, XCom("d", "t", "k", take="length")):
        with pytest.raises(ValueError, match=r"^.{1,250}$"):
            number(value, spec)
    with pytest.raises(ValueError, match=why):
        number(value, PLAIN)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("{'a', 'b', 'c'}", 3),
        ("set()", 0),
        ("frozenset({1, 2})", 2),
        ("frozenset()", 0),
        ("{(1, 2): 3, None: 4, 'a': 5}", 3),
        ("[np.float64(0.5), datetime.date(2024, 1, 1)]", 2),
        ("(a,b)", None),  # as Airflow 2 writes a set or tuple: {'a,b'} looks the same
        ("(1,2)", None),
        ("()", None),
        ("[1, 2, ..., 9]", None),
        ("array([1., 2.])", None),
        ("np.array([1, 2])", None),
        ("[*x]", None),
        ("temp", None),
    ],
)
def test_a_length_is_right_or_an_error(text: str, length: int | None):
    for value, spec in ((text, XCom("d", "t", "k", take="length")), ({"drifted_features": text}, LENGTH)):
        if length is None:
            with pytest.raises(ValueError, match=r"."):
                number(value, spec)
        else:
            assert number(value, spec) == length


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


NO_BRACKETS = st.text(st.characters(exclude_characters="([{", codec="utf-8"), max_size=8)
PYTHON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NO_BRACKETS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.frozensets(NO_BRACKETS, max_size=4).map(set)
    ),
    max_leaves=8,
)


@given(st.lists(PYTHON, max_size=6), st.integers(0, 4))
def test_any_pushed_list_has_its_length_whatever_it_holds(values: list[object], wraps: int):
    """As JSON, as Python's text, and wrapped as often as one likes: the length, or an error."""
    spec = XCom("d", "t", "k", take="length")
    assert number(str(values), spec) == len(values)
    value: object = values
    for _ in range(wraps):
        value = wrapped("builtins.tuple", [value])
    assert number(value, spec) == (len(values) if wraps == 0 else 1)


def airflow2(value: object) -> object:
    """A value as version 1 of the API gives it: Airflow's own serializers write sets and tuples without quotes."""
    if isinstance(value, set | tuple | frozenset):
        return "(" + ",".join(str(airflow2(one)) for one in value) + ")"
    if isinstance(value, list):
        return [airflow2(one) for one in value]
    return value


@given(st.one_of(st.lists(PYTHON, max_size=5), st.lists(PYTHON, max_size=5).map(tuple), st.sets(st.text(max_size=6))))
def test_airflow_2s_texts_give_the_length_or_an_error(pushed: object):
    try:
        length = number(str(airflow2(pushed)), XCom("d", "t", "k", take="length"))
    except ValueError:
        return
    assert length == len(pushed)  # type: ignore[arg-type]


NAMES = st.lists(st.text(st.characters(exclude_characters="([{", codec="utf-8"), max_size=8), max_size=6)


@given(st.floats(allow_nan=False, allow_infinity=False), NAMES)
def test_what_python_wrote_with_str_comes_back(share: float, features: list[str]):
    text = str({"drift_share": share, "drifted_features": features})
    assert number(text, SHARE) == share
    assert number(text, LENGTH) == len(features)
