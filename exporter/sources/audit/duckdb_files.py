"""Parquet, CSV and JSON-lines files as one view of DuckDB's.

CSV and JSON say no types, so their columns are read as the texts that they hold, and the query makes numbers, flags and
times of them one by one: what a type that is guessed from all rows does to a column, one row does to itself. A line
that cannot be read is left out; `lines_left_out` says which.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import duckdb

from exporter.errors import BadData
from exporter.showable import cut, escaped
from exporter.sources.audit.columns import MAX_COLUMNS
from exporter.sources.audit.duckdb_access import literal, no_pattern
from exporter.sources.audit.file_heads import csv_header, require_kind

_Key = TypeVar("_Key")

MAX_REJECTS: Final = 1000
"""Lines of a CSV file that are remembered as left out; beyond them the number is `at least`."""
JSON_FILES_AT_ONCE: Final = 8
"""DuckDB sets 32 MiB aside for every JSON file that a statement reads, however small the file is."""

_REASONS: Final = {
    "MISSING COLUMNS": "fewer fields than the header",
    "TOO MANY COLUMNS": "more fields than the header",
    "UNQUOTED VALUE": "a quotation mark in the wrong place, or none at the end (which takes lines after it along)",
    "INVALID ENCODING": "bytes that are not UTF-8 (save the file in UTF-8)",
    "LINE SIZE OVER MAXIMUM": "more than 2,000,000 bytes",
}
"""Why a line of a CSV file is left out, by DuckDB's word for it."""
_HIVE: Final = "hive_partitioning = true, hive_types_autocast = false"


def make_view(connection: duckdb.DuckDBPyConnection, kind: str, files: Sequence[Path], name: str) -> tuple[str, ...]:
    """Make the files look like a table, and give notes on those that hold nothing.

    Columns may differ between files; those that a file lacks are NULL. Folders such as `month=03` are columns, too.

    Args:
        kind: parquet, csv or jsonl.
        files: at least one.
        name: quoted name of the view.

    Raises:
        BadData: a file is not what its name says, or none holds anything.
        OSError: a file cannot be read.
        duckdb.Error: as DuckDB raises it.
    """
    for file in files:
        require_kind(kind, file)
    if kind == "csv":
        scans, empty = _csv_scans(files)
    elif kind == "jsonl":
        scans, empty = _json_scans(connection, files)
    else:
        grouped = _grouped((_hive(file), file) for file in files)
        scans = [f"read_parquet({_listed(some)}, union_by_name = true, {_HIVE})" for _, some in grouped]
        empty = 0
    if not scans:
        raise BadData(
            f"{files[0]} is empty: no row was written to it yet."
            if len(files) == 1
            else f"All of the {len(files)} files are empty, {files[0]} for one: no row was written to them yet."
        )
    rows = " UNION ALL BY NAME ".join(f"SELECT * FROM {scan}" for scan in scans)  # noqa: S608 -- quoted
    connection.execute(f"CREATE VIEW {name} AS {rows}")
    return (f"{_number(empty, 'file')} without any content",) if empty else ()


def lines_left_out(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Sentences about the lines of CSV files that the last query left out, one for each reason."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchone():
        return ()
    found = connection.execute(
        "SELECT kind, count(*), any_value(file_path ORDER BY file_path, line), any_value(line ORDER BY file_path, line)"
        " FROM (SELECT scan_id, file_id, line, any_value(CAST(error_type AS VARCHAR)) AS kind FROM reject_errors "
        "GROUP BY ALL) JOIN reject_scans USING (scan_id, file_id) GROUP BY kind ORDER BY kind"
    ).fetchall()
    return tuple(
        f"{'at least ' if count >= MAX_REJECTS else ''}{_number(count, 'line')} with "
        f"{_REASONS.get(reason, reason.lower())}, left out ({'the first is ' if count > 1 else ''}line {line} of "
        f"{cut(escaped(path), 200)})"
        for reason, count, path, line in found
    )


def _csv_scans(files: Iterable[Path]) -> tuple[list[str], int]:
    """Table functions that read CSV files, and how many are empty."""
    headers = [(csv_header(file), file) for file in files]
    grouped = _grouped(((header, _hive(file)), file) for header, file in headers if header is not None)
    scans = []
    for (header, _), some in grouped:
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header.names)
        scans.append(
            f"read_csv({_listed(some)}, auto_detect = false, header = true, delim = {literal(header.delimiter)}, "
            f"quote = '\"', escape = '\"', columns = {{{columns}}}, {_HIVE}, "
            f"ignore_errors = true, store_rejects = true, rejects_limit = {MAX_REJECTS})"
        )
    return scans, sum(header is None for header, _ in headers)


def _json_scans(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> tuple[list[str], int]:
    """Tables, or table functions, with the rows of JSON-lines files, and how many of the files are empty.

    A broken line, such as one that is being written, is a row without any value.
    """
    full = [file for file in files if file.stat().st_size]
    parts = [
        some[start : start + JSON_FILES_AT_ONCE]
        for _, some in _grouped((_hive(file), file) for file in full)
        for start in range(0, len(some), JSON_FILES_AT_ONCE)
    ]
    scans = []
    for number, some in enumerate(parts):
        keys = connection.execute(
            f"SELECT DISTINCT unnest(json_keys(json)) FROM read_ndjson_objects({_listed(some)}, ignore_errors = true) "  # noqa: S608 -- quoted
            f"LIMIT {MAX_COLUMNS + 1}"
        ).fetchall()
        if len(keys) > MAX_COLUMNS:
            raise BadData(f"The JSON objects of {some[0]} have more than {MAX_COLUMNS} different keys.")
        # Of keys that differ in case only, one; lower case comes first.
        names = {key.lower(): key for (key,) in sorted(keys)}
        if not names:
            continue
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names.values())
        scan = (
            f"read_json({_listed(some)}, format = 'newline_delimited', columns = {{{columns}}}, {_HIVE}, "
            "ignore_errors = true)"
        )
        if len(parts) > 1:
            part = f"part{number}"
            connection.execute(f"CREATE TEMP TABLE {part} AS SELECT * FROM {scan}")  # noqa: S608 -- quoted
            scan = part
        scans.append(scan)
    if full and not scans:
        raise BadData(f"{full[0]} holds no JSON object on a line of its own. Write one object a line.")
    return scans, len(files) - len(full)


def _grouped(files: Iterable[tuple[_Key, Path]]) -> Iterator[tuple[_Key, list[Path]]]:
    """Files by what one table function has to be told of all of them."""
    groups: dict[_Key, list[Path]] = {}
    for key, file in files:
        groups.setdefault(key, []).append(file)
    yield from groups.items()


def _hive(file: Path) -> frozenset[str]:
    """The columns that a file's folders make, such as `month=03`: one table function takes files with the same ones."""
    return frozenset(part.partition("=")[0].lower() for part in file.parts[:-1] if "=" in part[1:])


def _listed(files: Iterable[Path]) -> str:
    return "[" + ", ".join(literal(no_pattern(file)) for file in files) + "]"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
