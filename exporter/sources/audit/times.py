"""A row's time in GoogleSQL, from columns of every kind that logs have, as microseconds since 1970."""

from typing import Final

from exporter.catalog import UNITS, TimeSpec
from exporter.errors import BadData
from exporter.sources.audit.columns import NUMBER_TYPES, Column, as_number, literal

FIRST_SECOND: Final = -62_135_596_800
LAST_SECOND: Final = 253_402_300_799
"""The years 1 to 9999, which both engines know."""
ISO: Final = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    "([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?( ?([A-Za-z][A-Za-z0-9/_+-]*|[+-][0-9]{2}(:?[0-9]{2})?))?)?$"
)
"""A date, or a date and time of day, with an offset or a zone or without, to the end: not the half of one."""
ISO_ADVICE: Final = (
    "A text must be ISO 8601, such as 2026-03-01T06:00:00Z. For other texts set audit.timestamp.format in the "
    "catalogue, for epoch numbers audit.timestamp.unit (s, ms or us)"
)


def as_micros(column: Column, time: TimeSpec) -> str:
    """The row's time in microseconds since 1970; NULL where the column holds none.

    A local time that comes twice, when the clock is put back, is one of the two, by the engine's choice.

    Raises:
        BadData: the column's type does not go with what the catalogue says of it.
    """
    naive = f", {literal(time.zone)}" if time.zone != "UTC" else ""
    if time.unit is not None:
        if column.type not in NUMBER_TYPES | {"STRING"}:
            raise _misdeclared(column, "unit", "columns that hold epoch numbers")
        return _epoch(column, UNITS[time.unit])
    if time.format is not None:
        if column.type != "STRING":
            raise _misdeclared(column, "format", "columns that hold texts")
        return _formatted(column, time.format, naive)
    if column.type == "TIMESTAMP":
        return f"UNIX_MICROS({column.sql})"
    if column.type in ("DATETIME", "DATE"):
        return f"UNIX_MICROS(TIMESTAMP({column.sql}{naive}))"
    if column.type == "STRING":
        return _iso(column, naive)
    if column.type in NUMBER_TYPES:
        raise BadData(
            f"The audit table's column {column.name!r} has type {column.type}. If it holds seconds, milliseconds or "
            f"microseconds since 1970, say which in the catalogue: timestamp: {{column: {column.name}, unit: s}} (or "
            "ms, us)."
        )
    raise BadData(
        f"The audit table's column {column.name!r} has type {column.type}; a row's time must be TIMESTAMP, "
        "DATETIME, DATE, a STRING that holds one, or a number with its unit."
    )


def advice(time: TimeSpec) -> str:
    """What the column has to hold, for a log in which no row has a usable time."""
    if time.unit is not None:
        return f"The catalogue says that it holds numbers in {time.unit} since 1970: check audit.timestamp.unit"
    if time.format is not None:
        return f"The catalogue says that it holds texts such as {time.format}: check audit.timestamp.format"
    return ISO_ADVICE


def _misdeclared(column: Column, key: str, fits: str) -> BadData:
    return BadData(
        f"The audit table's column {column.name!r} has type {column.type}, but audit.timestamp.{key} in the catalogue "
        f"is for {fits}: take it out, or name another column."
    )


def _epoch(column: Column, micros: int) -> str:
    """Numbers outside the years 1 to 9999, which would not fit in microseconds, are no times."""
    low, high = FIRST_SECOND * 1_000_000 // micros, LAST_SECOND * 1_000_000 // micros
    if column.type == "INT64":
        return f"IF({column.sql} BETWEEN {low} AND {high}, CAST({column.sql} AS INT64), NULL) * {micros}"
    number = as_number(column)
    return f"CAST(ROUND(IF({number} BETWEEN {low} AND {high}, {number}, NULL) * {micros}) AS INT64)"


def _iso(column: Column, naive: str) -> str:
    """The engines also cast other texts, each its own; they agree on those that ISO matches."""
    text = f"TRIM({column.sql})"
    moment = f"SAFE_CAST({text} AS TIMESTAMP)"
    if naive:
        # A colon, digits and then a letter or a sign: the text has an offset or a zone of its own.
        local = f"TIMESTAMP(SAFE_CAST({text} AS DATETIME){naive})"
        moment = f"IF(REGEXP_CONTAINS({text}, ':[0-9.]+ ?[A-Za-z+-]'), {moment}, {local})"
    return f"UNIX_MICROS(IF(REGEXP_CONTAINS({text}, {literal(ISO)}), {moment}, NULL))"


def _formatted(column: Column, format_: str, naive: str) -> str:
    google = literal(format_.replace("%S.%f", "%E*S"))
    if "%z" in format_:
        return f"UNIX_MICROS(SAFE.PARSE_TIMESTAMP({google}, TRIM({column.sql})))"
    return f"UNIX_MICROS(TIMESTAMP(SAFE.PARSE_DATETIME({google}, TRIM({column.sql})){naive}))"
