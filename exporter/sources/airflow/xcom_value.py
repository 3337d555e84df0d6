"""Numbers from XComs.

A task pushes what it likes: numbers, numbers as text, `True` as text, dicts and lists as JSON or as Python's `str()`.
Nothing is ever evaluated: text is parsed, bounded in length and depth, and only literals are taken from it. What is
not a finite number in the end is missing, and the ValueError says why.
"""

import ast
import json
import math
import re
from typing import Any, Final

from exporter.catalog import XCom
from exporter.sources.airflow.counted import KeptXCom

MAX_CHARACTERS: Final = 64 * 1024
MAX_DEPTH: Final = 20
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_FLAGS: Final = {"true": 1.0, "false": 0.0}
_NAMES: Final = {"nan": math.nan, "inf": math.inf, "true": True, "false": False, "null": None}
_SHOWN: Final = 40


def number(value: Any, spec: XCom) -> float:
    """The finite number that `spec` asks for in a value.

    Raises:
        ValueError: there is none, with the reason.
    """
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    if spec.field is not None:
        value = _parsed(value)
        if not isinstance(value, dict):
            raise ValueError(f"not a dict, so it has no {spec.field!r}")
        if spec.field not in value:
            raise ValueError(f"has no {spec.field!r}")
        value = value[spec.field]
    if spec.take == "length":
        value = _parsed(value)
        if not isinstance(value, list | tuple | set | dict):
            raise ValueError("not a list, so it has no length")
        return float(len(value))
    return _finite(value)


def kept_number(kept: KeptXCom, spec: XCom) -> float:
    """The finite number that `spec` asks for in an XCom that was fetched.

    Raises:
        ValueError: there is none, with the reason.
    """
    if kept.content is None:
        raise ValueError(kept.problem or "was not pushed")
    return number(json.loads(kept.content), spec)


def _finite(value: Any) -> float:
    if value is None:
        raise ValueError("is null")
    if isinstance(value, str):
        text = value.strip().strip("\"'")
        if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"not a number: {_short(value)}")
        found = float(text)
    elif isinstance(value, bool | int | float):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    else:
        raise ValueError(f"not a number but a {type(value).__name__}")  # noqa: TRY004 -- what number() promises
    if not math.isfinite(found):
        raise ValueError("not a finite number")
    return found


def _parsed(value: Any) -> Any:
    """A dict or list, from JSON or from Python's `str()` of one; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    if text[:1] not in ("{", "[", "(", '"', "'"):
        return value
    _check_depth(text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        try:
            content = _literal(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"cannot be parsed: {_short(value)}") from None
    # Pushed as text, then stored as JSON text: one layer of quotes more.
    return _parsed(content) if isinstance(content, str) and content != value else content


def _check_depth(text: str) -> None:
    """Brackets inside strings count too: no honest value comes near the limit."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
        elif character in ")]}":
            depth -= 1


def _literal(node: ast.expr) -> Any:
    """The value of a literal. What is no literal, such as a call, is None: it costs one entry, not the whole dict."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Dict(keys=keys, values=values):
            pairs = [(_literal(key), _literal(value)) for key, value in zip(keys, values, strict=True) if key]
            return {key: value for key, value in pairs if isinstance(key, str | int | float)}
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_literal(item) for item in items]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _literal(operand)
            if not isinstance(value, int | float):
                return None
            return -value if isinstance(sign, ast.USub) else value
        case ast.Name(id=name):
            return _NAMES.get(name.lower())
        # NumPy 2 writes its scalars as np.float64(0.5).
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy")), args=[argument], keywords=[]):
            return _literal(argument)
        case _:
            return None


def _short(value: str) -> str:
    text = " ".join(value.split())
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
