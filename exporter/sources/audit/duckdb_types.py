"""DuckDB's types beside GoogleSQL's, in which the query and the table's columns are written."""

from collections.abc import Mapping
from typing import Final

DUCKDB_TYPES: Final[Mapping[str, str]] = {
    "TIMESTAMP": "TIMESTAMPTZ",
    "FLOAT64": "DOUBLE",
    "INT64": "BIGINT",
    "BOOL": "BOOLEAN",
    "STRING": "VARCHAR",
    "DATETIME": "TIMESTAMP",
    "JSON": "JSON",
}
"""What a column of a GoogleSQL type is created as."""
_INTEGERS: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
    | {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_INTEGERS, "INT64"),
    "DOUBLE": "FLOAT64",
    "FLOAT": "FLOAT64",
    "BOOLEAN": "BOOL",
    "VARCHAR": "STRING",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIMESTAMP": "DATETIME",
    "TIMESTAMP_S": "DATETIME",
    "TIMESTAMP_MS": "DATETIME",
    "TIMESTAMP_NS": "DATETIME",
    "DATE": "DATE",
}


def google_type(kind: str) -> str:
    """The GoogleSQL type that a DuckDB type reads as; others keep their name, which no metric can be read from."""
    if kind.startswith("DECIMAL"):
        return "NUMERIC" if not kind.endswith("]") else kind
    if kind.startswith("ENUM") and not kind.endswith("]"):
        return "STRING"
    return _TYPES.get(kind, kind)
