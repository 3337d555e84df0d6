"""What DuckDB may use while it reads a log: the log's files and nothing else, and bounded memory, threads and disk.

A log is data that others write. A view in a DuckDB file could otherwise read any file that the exporter can read, such
as its own environment under /proc, and show it as a label.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb

CONFIG: Final[Mapping[str, str]] = {
    "threads": "2",
    "memory_limit": "512MB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""A small guest: two threads, bounded memory, and nothing fetched from the network."""
MAX_SPILL: Final = "1GB"
"""Disk that a query may use when its memory is not enough."""


def open_database(path: str, spill: Path | None) -> duckdb.DuckDBPyConnection:
    """A connection that reads this DuckDB file, and no other.

    Raises:
        duckdb.Error: it cannot be opened.
    """
    return _guarded(duckdb.connect(path, read_only=True, config=_config(spill)))


def open_files(paths: Sequence[Path], spill: Path | None) -> duckdb.DuckDBPyConnection:
    """A connection that reads these files, and no others.

    Raises:
        duckdb.Error: it cannot be made.
    """
    connection = duckdb.connect(config=_config(spill))
    allowed = {form for path in paths for form in (str(path), no_pattern(path))}
    connection.execute(f"SET allowed_paths = [{', '.join(literal(path) for path in sorted(allowed))}]")
    return _guarded(connection)


def no_pattern(path: Path) -> str:
    """The path as DuckDB's readers have to be told it: a star, question mark or bracket in a name stands for itself."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def _config(spill: Path | None) -> dict[str, str | bool | int | float | list[str]]:
    # Without a folder a query that needs more than its memory fails.
    return {**CONFIG, "temp_directory": "" if spill is None else str(spill), "max_temp_directory_size": MAX_SPILL}


def _guarded(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The connection, before it ran anything of the log, with no way out and no way to change that."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection
