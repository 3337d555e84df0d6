"""The table's columns: which types can be read as what, and the GoogleSQL that reads them."""

from dataclasses import dataclass
from typing import Final

from exporter.catalog import Path, dotted

FLOAT_MAX: Final = 1.7976931348623157e308
"""Largest finite FLOAT64: a comparison with it drops infinities, and NaN in both engines."""

MAX_COLUMNS: Final = 10_000
"""Of a table, as BigQuery's own limit. Twice the columns take DuckDB four times as long: seconds above this."""
NUMBER_TYPES: Final = frozenset({"FLOAT64", "INT64", "NUMERIC", "BIGNUMERIC"})
LABEL_TYPES: Final = frozenset({"STRING", "INT64", "BOOL"})
FLAT_TYPES: Final = NUMBER_TYPES | {"BOOL", "BYTES", "DATE", "DATETIME", "TIME", "TIMESTAMP"}
"""Types of which no value has parts, so that no path leads into them."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the table has: name as the table spells it, GoogleSQL type (`ARRAY<…>` for repeated ones).

    `expression` is the GoogleSQL that reads it, where that is not the column as it stands: see `at_path`. `protected`
    says why it may not be read, where it may not: it costs its own metrics.
    """

    name: str
    type: str
    expression: str = ""
    protected: str = ""

    @property
    def sql(self) -> str:
        """The GoogleSQL that reads it."""
        return self.expression or quote(self.name)


def quote(name: str) -> str:
    """A column name, validated by the catalogue or spelled by the table itself, quoted for GoogleSQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """A text quoted for GoogleSQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def at_path(column: Column, path: Path) -> Column:
    """What stands at a path in a column of JSON, of texts that hold JSON, of STRUCTs or of lists, as a STRING.

    NULL where there is no such place, where it holds an object or a list, and where a text is no JSON.
    """
    whole = column.sql if column.type in ("STRING", "JSON") else f"TO_JSON_STRING({column.sql})"
    steps = "".join(f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in path)
    value = f"JSON_VALUE({whole}, {literal('$' + steps)})"
    return Column(f"{column.name}, path {dotted(path)}", "STRING", value)


def as_number(column: Column) -> str:
    """The column as FLOAT64; NULL where a text holds no number."""
    quoted = column.sql
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
    quoted = column.sql
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
    return f"LOWER(TRIM(CAST({column.sql} AS STRING)))"
