"""What comes from a source becomes finite, valid, bounded values here, in one place.

A number may be infinite or have a million digits, a text may be no valid Unicode or forge a line in the log, an answer
of 30 KB may unfold to gigabytes. What passes through these functions can be counted, stored in SQLite, encoded as UTF-8
and shown. What cannot be used is a ValueError whose message names it, shortened.
"""

import hashlib
import json
import math
import re
from typing import Any, Final

from exporter.showable import cut

LABEL_CHARACTERS: Final = 200
"""The longest label value. Prometheus itself has no limit; dashboards and its memory do."""
VALUE_CHARACTERS: Final = 40
"""The longest quotation of a value in a message."""
MAX_JSON_VALUES: Final = 250_000
"""Values in one JSON text: 1,000 rows of 250 fields. An empty object takes three bytes as text and 72 in memory; this
many of the kind take less than 40 MB."""
MAX_JSON_DEPTH: Final = 50
"""Levels in one JSON text. Airflow's and Google's own answers have fewer than ten."""
MAX_DIGITS: Final = 400
"""Digits of a whole number in a JSON text; one with more is infinite. A float holds 309."""
MIN_SECONDS: Final = -62_135_596_800.0
MAX_SECONDS: Final = 253_402_300_799.0
"""The years 1 to 9999, which Python's calendar, SQL engines and dashboards know."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
# One match for each comma or bracket, or one for each bracket, with the texts before it, whatever those hold. Both
# match at the end of anything, or a text without an end would be gone through again from every place in it.
_SEPARATORS: Final = re.compile(rb'(?:[^",\[{]++|' + _STRING + rb")*+(?:[,\[{]|\Z)", re.DOTALL)
_BRACKETS: Final = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+(?:[\[\]{}]|\Z)", re.DOTALL)


def finite(value: Any) -> float:
    """The number as a finite float; True is 1 and False is 0.

    Raises:
        ValueError: it is no number, or not finite, or too large for a float.
    """
    if not isinstance(value, int | float):
        raise ValueError(f"not a number but a {type(value).__name__}")  # noqa: TRY004 -- one kind of error for callers
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def whole(value: Any, least: int, most: int) -> int:
    """The whole number from `least` to `most`, both included.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"not a whole number from {least} to {most}: {shown(value)}")
    return value


def unix_seconds(value: Any) -> float:
    """Unix seconds of a moment in the years 1 to 9999.

    Raises:
        ValueError: it is something else.
    """
    number = finite(value)
    if not MIN_SECONDS <= number <= MAX_SECONDS:
        raise ValueError(f"not a time in the years 1 to 9999: {shown(value)}")
    return number


def text(value: str, limit: int = LABEL_CHARACTERS) -> str:
    """The text as valid Unicode of at most `limit` characters, for label values and names.

    Lone surrogates become U+FFFD. A text that is cut ends in `…` and eight characters that depend on the whole of it,
    so that two long texts which begin alike stay two.
    """
    valid = _SURROGATE.sub("\ufffd", value)
    if len(valid) <= limit:
        return valid
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{valid[: limit - 9]}…{digest}"


def shown(value: Any, limit: int = VALUE_CHARACTERS) -> str:
    """The value as a message quotes it: on one line, and short however large the value is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    if isinstance(value, str):
        return cut(repr(value[:limit]) if len(value) <= limit else repr(value[:limit] + "…"), 2 * limit)
    if value is None or isinstance(value, int | float):
        return str(value)
    return f"a {type(value).__name__}"


def parse_json(content: bytes) -> Any:
    """The value of a JSON text, which is measured before anything is made of it.

    Whole numbers of more than MAX_DIGITS digits become infinite; NaN and Infinity are taken as Python's json does.

    Raises:
        ValueError: it is no JSON, nested deeper than MAX_JSON_DEPTH or of more than MAX_JSON_VALUES values.
    """
    measure(content)
    try:
        return json.loads(content, parse_int=_whole_number)
    except (ValueError, RecursionError):
        raise ValueError("not complete JSON") from None


def measure(content: bytes) -> None:
    """Refuse a JSON text that would take too much to parse. For answers that somebody else's code parses.

    Raises:
        ValueError: it is nested deeper than MAX_JSON_DEPTH or has more than MAX_JSON_VALUES values.
    """
    opened = content.count(b"[") + content.count(b"{")
    if opened + content.count(b",") > MAX_JSON_VALUES:
        _check_values(content)
    if opened > MAX_JSON_DEPTH:
        _check_depth(content)


def _check_values(content: bytes) -> None:
    for values, match in enumerate(_SEPARATORS.finditer(content), start=1):
        if values > MAX_JSON_VALUES and match.end() < len(content):  # at the end there is no separator
            raise ValueError(f"more than {MAX_JSON_VALUES:,} values")


def _check_depth(content: bytes) -> None:
    depth = 0
    for match in _BRACKETS.finditer(content):
        bracket = content[match.end() - 1 : match.end()]
        depth += bracket in (b"[", b"{")
        depth -= bracket in (b"]", b"}")
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)
