"""What survives a restart: one SQLite file in EXPORTER_STATE_DIR.

It holds the last good reading of every source, from which an exporter that is restarted during an outage goes on, and
the tables of whoever counts in its transactions (`make_tables`; `sources/airflow/totals.py` does). Without a file that
can be used, the same tables live in memory, and everything works until the process ends:

- Another process uses the folder: memory begins with a copy of its file, so that counters go on from there. Once that
  process is gone, `take_over` goes on with the file.
- The folder cannot be written, or the disk is full at the start: `take_over` makes the file from memory once it can.
- The file is removed or replaced while it is in use: the next transaction makes it anew, with all that it held.
"""

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from exporter.errors import StateError
from exporter.reading_json import dumps, reading_from_json, reading_to_json
from exporter.snapshot import Reading
from exporter.state_file import FILE_NAME, StateFile, StateHeld, copy_of, in_memory, new_in_memory

log = logging.getLogger(__name__)

MAX_READING_BYTES: Final = 256 * 2**20
"""The largest kept reading that is looked at. One of ten million series, the most that can be set, has 150 MB."""


class Ledger:
    """The state file, or memory. One connection, one lock: callers on any thread, one transaction at a time.

    Args:
        connection: with the tables of a state file.
        problem: why it does not survive a restart; None if it does, or if `folder` is to be tried.
        folder: of the state file; None to leave it at `connection`.
        clock: Unix seconds.

    Attributes:
        wanted: whether state is meant to survive a restart.
        note: what happened to the file since the start, and was put right; for `/health`.
        held: which folder another process uses, and which process; None if it does not.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        problem: str | None,
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.wanted = folder is not None
        self.note: str | None = None
        self.held: str | None = None
        self._connection = connection
        self._lock = threading.Lock()
        self._folder = folder
        self._clock = clock
        self._file: StateFile | None = None
        self._without_file = problem
        self._failure: str | None = None

    @classmethod
    def open(cls, state_dir: Path | None, clock: Callable[[], float] = time.time) -> "Ledger":
        """Open or make the file in `state_dir`. Never fails: what is wrong is logged and kept in `problem`."""
        if state_dir is None:
            return cls(new_in_memory(), "EXPORTER_STATE_DIR is none: state is lost at a restart")
        ledger = cls(new_in_memory(), None, state_dir, clock)
        if not ledger.take_over():
            with contextlib.suppress(StateError):
                ledger._connection = copy_of(state_dir)
        return ledger

    @property
    def problem(self) -> str | None:
        """Why state will not survive a restart, or why it was not written last; None if nothing is wrong."""
        return self._without_file or self._failure

    def take_over(self) -> bool:
        """Use the folder's file from now on, if that was not possible before, and give whether it begins now.

        The file then holds what it held, or what was in memory if there was none. Not to be called while somebody
        relies on what an earlier transaction has found.
        """
        with self._lock:
            return self._folder is not None and self._file is None and self._use_file(self._folder)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written, or nothing.

        Raises:
            StateError: the file cannot be written (a full disk, a folder that became read-only).
        """
        with self._lock:
            try:
                self._return_to_path()
                changes = self._connection.total_changes
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                failure = f"state cannot be written: {error}"
                if failure != self._failure:
                    log.warning("%s; values are served all the same", failure)
                self._failure = failure
                raise StateError(failure) from error
            else:
                if self._failure and self._connection.total_changes != changes:
                    log.info("state can be written again")
                    self._failure = None
            finally:
                # Still open only if something above failed; SQLite itself ends it on some errors, such as a full disk.
                with contextlib.suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def save_reading(self, reading: Reading) -> None:
        """Keep the reading in place of the source's last one.

        Raises:
            StateError: the file cannot be written.
        """
        text = dumps(reading_to_json(reading))
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO reading (source, json) VALUES (?, ?) "
                "ON CONFLICT (source) DO UPDATE SET json = excluded.json",
                (reading.source, text),
            )

    def load_reading(self, source: str, identity: str) -> Reading | None:
        """The source's last good reading, if one was kept and it was made of the same thing. One that cannot be used
        is deleted. Never raises."""
        try:
            reading = self._kept_reading(source)
        except StateError as error:
            log.warning("the kept reading of source %s cannot be read and is left out: %s", source, error)
            return None
        except (ValueError, RecursionError) as error:
            log.warning("the kept reading of source %s cannot be used and is deleted: %s", source, error)
            with contextlib.suppress(StateError), self.transaction() as connection:
                connection.execute("DELETE FROM reading WHERE source = ?", (source,))
            return None
        if reading is not None and reading.identity != identity:
            log.info("the kept reading of source %s was made of another table or filter and is left out", source)
            return None
        return reading

    def close(self) -> None:
        """Close the file and let another process have it."""
        with self._lock:
            self._connection.close()
            if self._file is not None:
                self._file.close()
            self._folder = self._file = None

    def _kept_reading(self, source: str) -> Reading | None:
        """Raises StateError, ValueError or RecursionError."""
        with self.transaction() as connection:
            # As bytes: a text that is no UTF-8 would be an error of the whole statement.
            row = connection.execute(
                "SELECT CASE WHEN octets <= ? THEN content END, octets FROM (SELECT CAST(json AS BLOB) AS content, "
                "length(CAST(json AS BLOB)) AS octets FROM reading WHERE source = ?)",
                (MAX_READING_BYTES, source),
            ).fetchone()
        if row is None:
            return None
        if row[0] is None:
            raise ValueError(f"it has {row[1]} bytes, more than {MAX_READING_BYTES}")
        reading = reading_from_json(json.loads(row[0]))
        if reading.source != source:
            raise ValueError(f"it is of source {reading.source!r:.50}")
        return reading

    # -- with the lock ---------------------------------------------------------------------------------------------

    def _use_file(self, folder: Path, *, replace: bool = False) -> bool:
        before = self._without_file
        try:
            self._file = StateFile.open(folder, self._connection, self._clock, replace=replace)
        except StateHeld as error:
            self.held = str(error)
            self._without_file = f"state folder {error}: state is lost at a restart until that process is gone"
        except (OSError, sqlite3.Error, StateError) as error:
            self._without_file = f"state folder {folder} cannot be used ({error}): state is lost at a restart"
        else:
            self._connection.close()
            self._connection = self._file.connection
            self.held = None
            self._without_file = self._failure = None
            if before:
                log.info("state folder %s can be used now", folder)
            return True
        if self._without_file != before:
            log.warning("%s", self._without_file)
        return False

    def _return_to_path(self) -> None:
        """Make the file anew if it is no longer the one at its path. The one that is open still holds everything.

        Raises:
            sqlite3.Error: it cannot be read any more.
        """
        if self._file is None or self._folder is None or self._file.in_place():
            return
        content = in_memory(self._connection)
        self._file.close()
        self._file, self._connection = None, content
        log.warning("state file %s was removed or replaced while in use", self._folder / FILE_NAME)
        if self._use_file(self._folder, replace=True):
            at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
            self.note = f"the state file was removed or replaced while in use, and made anew at {at}; nothing is lost"


def make_tables(connection: sqlite3.Connection, owner: str, versions: Sequence[Sequence[str]]) -> None:
    """Make the tables that a user of the ledger keeps in its file, or bring those of an earlier version up to date.

    Args:
        connection: inside a transaction of the ledger.
        owner: whose tables they are; their version is kept under this name.
        versions: the statements that lead from each version to the next, the first one from nothing to version 1.

    Raises:
        StateError: a later version wrote them.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS tables_of (owner TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT")
    row = connection.execute("SELECT version FROM tables_of WHERE owner = ?", (owner,)).fetchone()
    version = row[0] if row else 0
    if version > len(versions):
        raise StateError(
            f"the tables of {owner} in {FILE_NAME} have version {version}, written by a later exporter; this one knows "
            f"{len(versions)}: use the later one, or another EXPORTER_STATE_DIR"
        )
    if version < len(versions):
        for statements in versions[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO tables_of VALUES (?, ?)", (owner, len(versions)))
