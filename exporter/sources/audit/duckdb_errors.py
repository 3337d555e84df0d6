"""What DuckDB and the file system raise, in an operator's words."""

import contextlib
import re
import threading
from collections.abc import Iterator

import duckdb

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import AuditLocation
from exporter.sources.audit.files import denied, unreadable


@contextlib.contextmanager
def errors(location: AuditLocation, stop: threading.Event | None = None, seconds: float = 0.0) -> Iterator[None]:
    """The one place where the exceptions of DuckDB become ours, and those of the file system while it is at work.

    Args:
        stop: set when the call was interrupted, which then explains whatever failed.
        seconds: the deadline, for the message.
    """
    try:
        yield
    except SourceError:
        raise
    except (duckdb.Error, OSError) as error:
        said = _said(error)
        if "Could not set lock" in said:
            holder = re.search(r"\(PID (\d+)\)", said)
            raise SourceUnavailable(
                f"{location.path} is locked by a writer{f' (process {holder[1]})' if holder else ''}: let it close its "
                "connection between writes."
            ) from error
        if stop is not None and stop.is_set():
            raise SourceTimeout(f"The audit log was not read within {seconds:g} s.") from error
        raise _translate(location, error, said) from error


def _said(error: Exception) -> str:
    """The part of a driver's message that says what happened, without its advice."""
    lines = str(error).splitlines() or [type(error).__name__]
    # Of a CSV file the name comes later.
    return " ".join(line.strip() for line in lines[:6]) if "CSV" in lines[0] else lines[0]


def _translate(location: AuditLocation, error: Exception, said: str) -> SourceError:
    if isinstance(error, OSError):
        return unreadable(location, error)
    if "Permission denied" in said:
        return denied(location)
    if "No files found" in said or ("does not exist" in said and isinstance(error, duckdb.IOException)):
        return SourceUnavailable(
            f"{location.path} does not exist: check AUDIT_URL. DuckDB said: {said}", reason="not_found"
        )
    if location.kind == "duckdb" and isinstance(error, duckdb.PermissionException) and "Cannot access" in said:
        return BadData(
            f"{location.path} has a view that reads other files. Such views are not read: what they show can change, "
            "or be secret, without a sign in this file. Point AUDIT_URL at those files, or copy their rows into a "
            f"table. DuckDB said: {said[:300]}"
        )
    # Of these the message names the file, which may be one of many.
    if "GZIP" in said:
        return BadData(
            f"{location.path} cannot be read: a gzip file is damaged, or its end is missing. If a writer is at work, "
            f"let it write under another name and rename the file when it is whole. DuckDB said: {said[:300]}"
        )
    if "CSV Parser state machine" in said:
        file = re.search(r"file = (.+?) delimiter = ", said)
        return BadData(
            f"{file[1] if file else location.path} cannot be read: its lines end in different ways (\\n, \\r\\n). Let "
            "its writers end them alike; `dos2unix` repairs what is there."
        )
    if "not a valid DuckDB database" in said:
        return BadData(f"{location.path} is not a DuckDB database.")
    if isinstance(error, duckdb.IOException) and "version number" in said:
        return BadData(f"{location.path} was written by another version of DuckDB. DuckDB said: {said}")
    return BadData(f"{location.path} cannot be read: {said[:300]}")
