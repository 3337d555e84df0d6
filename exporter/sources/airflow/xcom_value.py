"""Numbers from XComs.

A task pushes what it likes: numbers, numbers as text, `True` as text, dicts and lists as JSON or as Python's `str()`.
Nothing is ever evaluated: text is parsed, bounded in length and depth, and only literals are taken from it. What is
not a finite number in the end is missing, and the ValueError says why.

What is no JSON by itself comes in forms of Airflow's own (seen on 2.8.4 to 2.11.2 and 3.0.6 to 3.3.2):

- Airflow 3 wraps it: `{"__classname__": "numpy.float64", "__version__": 1, "__data__": 0.5}`, also inside of dicts and
  lists. NumPy's scalars and Decimals hold a number, sets and tuples a list.
- Airflow 2 writes `numpy.int64@version=1(7)` for the same. For a set or tuple it writes `(hour of day,temp)`, without
  quotes: how many elements that had cannot be told.
"""

import ast
import json
import math
import re
from typing import Any, Final

from exporter.catalog import XCom
from exporter.sources import boundary
from exporter.sources.airflow.counted import KeptXCom

MAX_CHARACTERS: Final = 64 * 1024
MAX_DEPTH: Final = 20
NOT_PUSHED: Final = "was not pushed"
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_FLAGS: Final = {"true": 1.0, "false": 0.0}
_NAMES: Final = {"nan": math.nan, "inf": math.inf, "true": True, "false": False, "null": None}
_SCALARS: Final = re.compile(r"numpy\.(bool_?|u?int\w*|u?long\w*|float\w*)|decimal\.Decimal", re.ASCII)
_COLLECTIONS: Final = frozenset({"builtins.set", "builtins.frozenset", "builtins.tuple", "builtins.list"})
_WRITTEN: Final = re.compile(r"([A-Za-z_][\w.]*)@version=\d+\((.*)\)", re.DOTALL)


def number(value: Any, spec: XCom) -> float:
    """The finite number that `spec` asks for in a value.

    Raises:
        ValueError: there is none, with the reason.
    """
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    if spec.field is not None:
        value = _unwrapped(_parsed(value))
        if not isinstance(value, dict):
            raise ValueError(f"not a dict, so it has no {spec.field!r}")
        if spec.field not in value:
            raise ValueError(f"has no {spec.field!r}")
        value = value[spec.field]
    if spec.take == "length":
        value = _unwrapped(_parsed(value))
        if not isinstance(value, list | dict):
            raise ValueError("not a list, so it has no length")
        return float(len(value))
    return _finite(value)


def kept_number(kept: KeptXCom, spec: XCom) -> float:
    """The finite number that `spec` asks for in an XCom that was fetched.

    Raises:
        ValueError: there is none, with the reason, which goes on where the XCom's name ends.
    """
    if kept.content is None:
        raise ValueError(kept.problem or NOT_PUSHED)
    try:
        return number(boundary.parse_json(kept.content.encode()), spec)
    except ValueError as error:
        raise ValueError(f"cannot be used: {error}") from None


def why_missing(kept: KeptXCom, spec: XCom) -> str | None:
    """Why an XCom that was fetched gives no number; None when it gives one."""
    try:
        kept_number(kept, spec)
    except ValueError as error:
        return str(error)
    return None


def _finite(value: Any) -> float:
    value = _unwrapped(value)
    if value is None:
        raise ValueError("is null")
    if isinstance(value, str):
        text = value.strip().strip("\"'")
        if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"not a number: {boundary.shown(value)}")
        return boundary.finite(float(text))
    return boundary.finite(value)


def _unwrapped(value: Any) -> Any:
    """What Airflow wrapped, if it did: a number, a flag or a list; anything else as it is.

    Raises:
        ValueError: it is of a kind that is not read.
    """
    for _ in range(MAX_DEPTH):
        if isinstance(value, dict) and "__classname__" in value:
            kind, content = value["__classname__"], value.get("__data__")
            if not isinstance(kind, str) or not _fits(kind, content):
                raise ValueError(f"a value of the kind {boundary.shown(kind)}, which cannot be read")
            value = content
        elif isinstance(value, str) and (match := _WRITTEN.fullmatch(value.strip())):
            if not _SCALARS.fullmatch(match[1]):
                raise ValueError(f"a value of the kind {boundary.shown(match[1])}, which cannot be read")
            value = match[2]
        else:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _fits(kind: str, content: Any) -> bool:
    if kind in _COLLECTIONS:
        return isinstance(content, list)
    return bool(_SCALARS.fullmatch(kind)) and isinstance(content, bool | int | float | str)


def _parsed(value: Any) -> Any:
    """A dict or list, from JSON or from Python's `str()` of one; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    if text[:1] == "(":
        raise ValueError("a set or tuple as text, whose elements cannot be told apart: push a list")
    if text[:1] not in ("{", "[", '"', "'") and not text.startswith(("set(", "frozenset(")):
        return value
    _check_depth(text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        try:
            content = _literal(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"cannot be parsed: {boundary.shown(value)}") from None
    return _parsed(content)  # pushed as text, then stored as JSON text: one layer of quotes more


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


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal. What is no literal, such as a call, is None: it costs one entry, not the whole dict.

    Sets and tuples become lists, and keys that no text can name objects of their own: they still count.
    """
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Dict(keys=keys, values=values):
            return {
                key if isinstance(key, str | int | float) else object(): _literal(value)
                for key, value in zip(map(_literal, keys), values, strict=True)
            }
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            if any(isinstance(item, ast.Starred) or _is_left_out(item) for item in items):
                return None
            return [_literal(item) for item in items]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _literal(operand)
            if not isinstance(value, int | float):
                return None
            return -value if isinstance(sign, ast.USub) else value
        case ast.Name(id=name):
            return _NAMES.get(name.lower())
        # NumPy 2 writes its scalars as np.float64(0.5).
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=kind), args=[argument], keywords=[]):
            return _literal(argument) if kind == "str_" or _SCALARS.fullmatch(f"numpy.{kind}") else None
        case ast.Call(func=ast.Name(id="Decimal"), args=[argument], keywords=[]):
            return _literal(argument)
        case ast.Call(func=ast.Name(id="set" | "frozenset"), args=[], keywords=[]):
            return []
        case ast.Call(func=ast.Name(id="frozenset"), args=[argument], keywords=[]):
            return _literal(argument)
        case _:
            return None


def _is_left_out(item: ast.expr) -> bool:
    """Whether the element is the `...` with which a shortened list stands for many."""
    return isinstance(item, ast.Constant) and item.value is ...
