"""The table's columns: which types can be read as what, and the GoogleSQL that reads them."""

from dataclasses import dataclass
from typing import Final

FLOAT_MAX: Final = 1.7976931348623157e308
"""Largest finite FLOAT64: a comparison with it drops infinities, and NaN in both engines."""

NUMBER_TYPES: Final = frozenset({"FLOAT64", "INT64", "NUMERIC", "BIGNUMERIC"})
LABEL_TYPES: Final = frozenset({"STRING", "INT64", "BOOL"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the table has: name as the table spells it, GoogleSQL type (`ARRAY<…>` for repeated ones)."""

    name: str
    type: str


def quote(name: str) -> str:
    """A column name, validated by the catalogue or spelled by the table itself, quoted for GoogleSQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def as_number(column: Column) -> str:
    """The column as FLOAT64; NULL where a text holds no number."""
    quoted = quote(column.name)
    if column.type == "FLOAT64":
        return quoted
    if column.type == "BOOL":
        return f"CAST(CAST({quoted} AS INT64) AS FLOAT64)"
    if column.type == "STRING":
        return (
            f"CASE LOWER(TRIM({quoted})) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 "
            f"ELSE SAFE_CAST(TRIM({quoted}) AS FLOAT64) END"
        )
    return f"CAST({quoted} AS FLOAT64)"


def as_flag(column: Column) -> str:
    """The column as BOOL; NULL where it says neither yes nor no."""
    quoted = quote(column.name)
    if column.type == "BOOL":
        return quoted
    if column.type == "STRING":
        return (
            f"CASE LOWER(TRIM({quoted})) WHEN 'true' THEN TRUE WHEN '1' THEN TRUE "
            "WHEN 'false' THEN FALSE WHEN '0' THEN FALSE END"
        )
    if column.type == "FLOAT64":
        # NaN, which differs from 0 in both engines, is how some writers spell NULL.
        return f"IF(ABS({quoted}) <= @float_max, {quoted} != 0, NULL)"
    return f"{quoted} != 0"


def as_text(column: Column) -> str:
    """The column as lower-case text without surrounding blanks."""
    return f"LOWER(TRIM(CAST({quote(column.name)} AS STRING)))"
