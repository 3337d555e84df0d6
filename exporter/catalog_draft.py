"""`python -m exporter catalogue`: a starting catalogue for a table, to be edited by whoever knows the table."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import PurePath
from typing import Any, Final

from exporter.catalog import DERIVED_SUFFIXES
from exporter.catalog_columns import is_column
from exporter.errors import BadData
from exporter.showable import cut, escaped
from exporter.sources.audit.columns import NUMBER_TYPES, Column

MOST_VALUES: Final = 10
"""Different texts of a column that still become a counter's label values."""
EPOCHS: Final = {"s": (1e9, 1e11), "ms": (1e12, 1e14), "us": (1e15, 1e17)}
"""By unit, what epoch numbers of the years after 2001 look like."""

_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What YAML forbids, and breaks of lines and byte-order marks, which it does not keep."""
_ISO = re.compile(r"\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?\s*")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS_OF_YAML = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_TIMELY = re.compile(r"time|date|stamp|epoch|(^|_)(ts|at|ms|us)($|_)", re.IGNORECASE)
_ID = re.compile(r"(^|_|\s)(id|uuid|uri|url)$", re.IGNORECASE)

Rows = Sequence[Mapping[str, Any]]


def draft(columns: Sequence[Column], rows: Rows, table: str, prefix: str, notes: Sequence[str] = ()) -> str:
    """A catalogue that `check` accepts, with comments where its reader has to decide.

    Args:
        columns: the table's columns.
        rows: some of its rows, by column name.
        table: `schema.table`, or `project.dataset.table`.
        prefix: what metric names begin with; anything but letters, digits and underscores is replaced.
        notes: what else its reader has to know, in one line each.

    Raises:
        BadData: no column looks like a time, or none like a value.
    """
    held = {c.name: [row[c.name] for row in rows if row.get(c.name) is not None] for c in columns}
    nameable = {c.name: c for c in columns if is_column(c.name) and c.name == c.name.strip()}
    time, timestamp = _timestamp(list(nameable.values()), held)
    names: set[str] = set()
    metrics: list[str] = []
    left_out: list[str] = []
    for column in columns:
        if column.name == time:
            continue
        name = _metric_name(prefix, column.name, names)
        usable = column.name in nameable and not _ID.search(column.name)
        found = _metric(column, held[column.name], name) if usable else None
        if found is None:
            left_out.append(f"#   {cut(_text(column.name), 200)} ({cut(escaped(column.type), 200)})")
        else:
            names.add(name)
            metrics.append(found)
    if not metrics:
        raise BadData(
            f"None of the {len(columns)} columns holds numbers, flags or a few texts that come again. Into JSON and "
            "STRUCTs leads `path`, which you have to write yourself: docs/catalogue.md."
        )
    lines = [
        "# A starting catalogue, made from the table's columns: docs/catalogue.md explains every key.",
        "# Decide what the metrics are called, what they mean, and which you need.",
        *(f"# {note}" for note in notes),
        "version: 1",
        "",
        "audit:",
        f"  table: {table}",
        *timestamp,
        "  # Where rows of several models share the table, name the columns that tell them apart:",
        "  # labels: {model: model_name}",
        "",
        "metrics:",
        "\n".join(metrics).rstrip("\n"),
    ]
    if left_out:
        lines += ["", "# Columns that no metric was made of; `path` leads into JSON and STRUCTs:", *left_out]
    return "\n".join(lines) + "\n"


def prefix_of(name: str) -> str:
    """What metrics of a table or file are called first: `churn-runs.csv.gz` gives `churn_runs`."""
    stem = PurePath(name).name.split(".")[0]
    words = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return words if words and not words[0].isdigit() and words != "process" else f"log_{words}".rstrip("_")


def _timestamp(columns: Sequence[Column], held: Mapping[str, list[Any]]) -> tuple[str, list[str]]:
    """The column that says when a row was recorded, and the lines that declare it."""
    advice = "  # Times without a zone are read as UTC; for others: {column: …, zone: Europe/Berlin}"
    for column in columns:
        if column.type in ("TIMESTAMP", "DATETIME", "DATE"):
            return column.name, [advice] * (column.type != "TIMESTAMP") + [f"  timestamp: {_quoted(column.name)}"]
    for column in columns:
        texts = held[column.name]
        if column.type == "STRING" and texts and all(_ISO.fullmatch(str(text)) for text in texts):
            return column.name, [advice, f"  timestamp: {_quoted(column.name)}"]
    for column in sorted(columns, key=lambda column: _TIMELY.search(column.name) is None):
        numbers = _numbers(column, held[column.name])
        for unit, (low, high) in EPOCHS.items():
            if numbers and all(low <= number < high for number in numbers):
                what = f"  timestamp: {{column: {_quoted(column.name)}, unit: {unit}}}"
                return column.name, ["  # Is it the time of the row, and in this unit (s, ms, us)?", what]
    raise BadData(
        "No column looks like the time of a row: a TIMESTAMP, DATETIME or DATE, texts in ISO 8601, or epoch numbers. "
        "For texts of another order write `timestamp: {column: …, format: …}` yourself: docs/catalogue.md."
    )


def _metric(column: Column, values: list[Any], name: str) -> str | None:
    """The metric that a column makes; None for one that no metric can be made of by its look."""
    quoted = _quoted(column.name)
    flags = column.type == "STRING" and values and {str(value).strip().lower() for value in values} <= {"true", "false"}
    if column.type == "BOOL" or flags:
        return _entry(name, "gauge", f"Is {column.name} true in the newest row.", [f"      - audit: {quoted}"])
    if column.type in NUMBER_TYPES or (values and column.type == "STRING" and _numbers(column, values)):
        return _entry(name, "gauge", f"The newest value of {column.name}.", [f"      - audit: {quoted}"])
    texts = list(dict.fromkeys(str(value).strip().lower() for value in values)) if column.type == "STRING" else []
    texts = [text for text in texts if text and len(text) <= 100]
    if not 1 <= len(texts) <= MOST_VALUES or (len(texts) == len(values) and len(values) > 1):
        return None
    pairs = ", ".join(f"{_text(text)}: {_text(text)}" for text in texts)
    listed = f"          values: {{{pairs}}}  # others are not counted"
    origin = ["      - audit:", f"          count: {quoted}", listed]
    return _entry(
        f"{name}_total", "counter", f"Rows by {column.name}.", origin, "    labels: [value]  # a better name?"
    )


def _entry(name: str, kind: str, help_text: str, origin: Sequence[str], *more: str) -> str:
    head = [f"  - name: {name}", f"    type: {kind}", f"    help: {_text(help_text)}"]
    return "\n".join([*head, *more, "    from:", *origin, ""])


def _numbers(column: Column, values: list[Any]) -> list[float]:
    """The values as numbers; none if one of them is something else."""
    if column.type not in NUMBER_TYPES | {"STRING"}:
        return []
    try:
        return [float(value) for value in values if not isinstance(value, date | datetime)]
    except (TypeError, ValueError):
        return []


def _metric_name(prefix: str, column: str, taken: set[str]) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_") or "value"
    base = f"{prefix}_{words}"
    if base.endswith((*DERIVED_SUFFIXES, "_info", "_created", "_total")):
        base += "_value"
    return next(name for name in _numbered(base) if name not in taken)


def _numbered(base: str) -> Iterator[str]:
    yield base
    for number in itertools.count(2):
        yield f"{base}_{number}"


def _quoted(name: str) -> str:
    plain = _PLAIN.fullmatch(name) and name.lower() not in _WORDS_OF_YAML
    return name if plain else _text(name)


def _text(text: str) -> str:
    """The text in YAML's double quotes, with escapes for what no YAML file may hold."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))
