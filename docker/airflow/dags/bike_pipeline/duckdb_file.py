"""A DuckDB file that several processes take turns to write."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import duckdb

from bike_pipeline.records import PipelineError

WAIT_SECONDS: Final = 60.0
"""How long to wait for another process to let go of the file."""
PAUSE_SECONDS: Final = 0.1
STORAGE_VERSION: Final = "v1.0.0"
"""The storage format of DuckDB 1.0, which every later client can open."""

HEADER_BYTES: Final = 3 * 4096
"""Three blocks, which DuckDB writes first."""

TYPES: Final = {
    "TIMESTAMP": "TIMESTAMPTZ",
    "FLOAT64": "DOUBLE",
    "INT64": "BIGINT",
    "BOOL": "BOOLEAN",
    "STRING": "VARCHAR",
}
"""DuckDB's types by GoogleSQL's."""


class FileTrouble(PipelineError):
    """The file cannot be opened, read or written."""


def declared(columns: Mapping[str, str]) -> str:
    """Columns, by name and GoogleSQL type, as DuckDB's CREATE TABLE takes them."""
    return ", ".join(f'"{name}" {TYPES[kind]}' for name, kind in columns.items())


def _size(path: Path) -> int | None:
    """In bytes; None when there is no file. Less than HEADER_BYTES for a moment when another process is making it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def opened(path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the file as its default database, in one transaction; the file is made if there is none.

    The transaction is committed when the block ends, and rolled back when it raises.

    Raises:
        FileTrouble: the file stayed locked, or without a header, for `wait_seconds`, or DuckDB failed.
    """
    deadline = time.monotonic() + wait_seconds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileTrouble(f"{path.parent}: {error.strerror}") from error
    with duckdb.connect(config={"threads": "2", "memory_limit": "512MB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        quoted = str(path).replace("'", "''")
        while True:
            # Said only for a new file: an old one keeps its format, whichever it is.
            size = _size(path)
            version = "" if size is not None else f" (STORAGE_VERSION '{STORAGE_VERSION}')"
            try:
                connection.execute(f"ATTACH '{quoted}' AS held{version}")
                break
            except duckdb.IOException as error:
                locked = "lock" in str(error).lower()
                # Before: by now it may be finished. A file that is not even there now cannot be made.
                was_being_made = (size or 0) < HEADER_BYTES and path.exists()
                if not locked and not was_being_made:
                    raise FileTrouble(f"{path}: {error}") from error
                if time.monotonic() > deadline:
                    why = "another process held its lock" if locked else "it had no complete header"
                    raise FileTrouble(f"{path}: {why} for {wait_seconds:.0f} s") from error
            except duckdb.Error as error:
                raise FileTrouble(f"{path}: {error}") from error
            time.sleep(PAUSE_SECONDS)
        try:
            connection.execute("USE held")
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except duckdb.Error as error:
            raise FileTrouble(f"{path}: {error}") from error
