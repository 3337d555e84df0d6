"""What tells the log's rows apart, in GoogleSQL: their time, their labels, and the environment of AUDIT_ENV.

Where a metric's column is missing, so is that metric. Without one of these, no row can be used.
"""

from collections.abc import Mapping
from typing import Final

from exporter.catalog import AuditSpec, Path, Place, dotted
from exporter.errors import BadData
from exporter.showable import cut
from exporter.sources.audit.columns import FLAT_TYPES, LABEL_TYPES, Column, at_path
from exporter.sources.audit.times import as_micros

Columns = Mapping[str, Column]
"""The table's columns by their names in lower case."""

LABEL_CHARACTERS: Final = 200
"""Longest value of a label that is taken from a column: Prometheus keeps each in memory as long as its series."""


def moment(columns: Columns, audit: AuditSpec) -> str:
    """The row's time in microseconds since 1970; NULL where there is none.

    Raises:
        BadData: no column of that name, or of a type that is no time.
    """
    column = columns.get(audit.timestamp.lower())
    if column is None:
        raise BadData(
            f"The audit table has no column {audit.timestamp!r}, which says when a row was recorded. Name the right "
            "column in the catalogue (audit.timestamp), or add it with `python -m exporter init-audit`. "
            f"{_has(columns)}"
        )
    return as_micros(_inside(column, audit.time.path, "audit.timestamp"), audit.time)


def label_value(columns: Columns, label: str, place: Place) -> str:
    """The label's value as text; NULL where the row has none that can be used.

    Raises:
        BadData: no column of that name, or of a type that makes no label.
    """
    found = columns.get(place.column.lower())
    if found is None:
        raise BadData(
            f"The audit table has no column {place.column!r}, which says the label {label!r}. Name the right column in "
            f"the catalogue (audit.labels), or add it with `python -m exporter init-audit`. {_has(columns)}"
        )
    column = _inside(found, place.path, f"audit.labels: {label}")
    if column.type not in LABEL_TYPES:
        raise BadData(
            f"The audit table's column {column.name!r} has type {column.type}; the values of the label {label!r} must "
            "be STRING, INT64 or BOOL."
        )
    if column.type != "STRING":
        return f"CAST({column.sql} AS STRING)"
    return f"IF(CHAR_LENGTH(TRIM({column.sql})) BETWEEN 1 AND {LABEL_CHARACTERS}, TRIM({column.sql}), NULL)"


def environment(columns: Columns, place: Place | None, env: str) -> str:
    """The row's environment as text.

    Raises:
        BadData: no column of that name, or of a type that is no text.
    """
    found = columns.get(place.column.lower()) if place else None
    if place is None or found is None:
        name = place.column if place else "env"
        raise BadData(
            f"AUDIT_ENV is {env!r}, but the audit table has no column {name!r} to filter on. "
            f"Unset AUDIT_ENV, or name the column in the catalogue (audit.env). {_has(columns)}"
        )
    column = _inside(found, place.path, "audit.env")
    if column.type not in LABEL_TYPES:
        raise BadData(
            f"AUDIT_ENV filters on column {column.name!r}, which has type {column.type}, not STRING, INT64 or BOOL."
        )
    return column.sql if column.type == "STRING" else f"CAST({column.sql} AS STRING)"


def no_path(column: Column, path: Path) -> str | None:
    """Why no path leads into the column, or None if one may."""
    if column.type in FLAT_TYPES:
        return f"column {column.name} has type {column.type}, in which there is no path {dotted(path)}"
    return None


def _has(columns: Columns) -> str:
    """The columns that there are, for whoever looks for one."""
    return f"Its columns: {cut(', '.join(column.name for column in columns.values()), 300)}."


def _inside(column: Column, path: Path, key: str) -> Column:
    """What stands at a path in the column; the column itself where there is no path."""
    if not path:
        return column
    reason = no_path(column, path)
    if reason:
        raise BadData(f"{key}: {reason}.")
    return at_path(column, path)
