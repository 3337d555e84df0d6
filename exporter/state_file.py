"""The state file: made whole or not at all, checked when it is opened, and written by one process at a time.

That process holds flock's lock on a file beside it, which says who it is. The lock ends with the process, however that
ends, and a worker that gunicorn starts anew waits for the one that ends. SQLite's own exclusive lock would keep
`backfill` from reading, and would not name its holder.
"""

import contextlib
import fcntl
import logging
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from exporter.errors import StateError
from exporter.regular_file import require_regular
from exporter.showable import cut, escaped

log = logging.getLogger(__name__)

FILE_NAME: Final = "ledger.sqlite3"
LOCK_NAME: Final = "ledger.lock"
SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE reading (source TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
"""
MAX_STATE_BYTES: Final = 2**30
"""The largest file that is used: each start reads it whole. A reading of ten million series, the most that can be set,
has 150 MB."""
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file. It belongs to that file: beside another one it would be mixed into it."""
_NEW: Final = ".new"
"""Added to the name under which a file is written before it is whole."""
LOCKED_SECONDS: Final = 2.0
"""How long a statement waits for another connection to the same file, such as an operator's."""
HOLDER_CHARACTERS: Final = 100


class StateHeld(StateError):
    """Another process uses the folder; the message says which."""


class StateFile:
    """The state file of a folder, open, with the folder's lock.

    Attributes:
        connection: for use by one thread at a time.
    """

    def __init__(self, path: Path, lock: IO[str], connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._lock = lock
        self._files = {path: _identity(path), path.with_name(LOCK_NAME): _identity(lock.fileno())}

    @classmethod
    def open(
        cls, folder: Path, content: sqlite3.Connection, clock: Callable[[], float], *, replace: bool
    ) -> "StateFile":
        """Open the file. Where there is none, or none that can be used, one is made; what is there is set aside.

        Args:
            content: a database in memory with what a new file holds.
            clock: Unix seconds, for the name of a file that is set aside.
            replace: set aside what is there even if it can be used.

        Raises:
            StateHeld: another process uses the folder.
            OSError, sqlite3.Error, StateError: the folder or the disk cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _require_files(folder)
        lock = _locked(folder / LOCK_NAME)
        try:
            path = folder / FILE_NAME
            return cls(path, lock, _connection(path, content, clock, replace=replace))
        except BaseException:
            lock.close()
            raise

    def in_place(self) -> bool:
        """Whether the file and its lock are still those at their paths."""
        return all(identity is not None and _identity(path) == identity for path, identity in self._files.items())

    def close(self) -> None:
        """Close the file, then give the lock back."""
        self.connection.close()
        self._lock.close()


def new_in_memory() -> sqlite3.Connection:
    """A database in memory with the tables of a new state file."""
    connection = _memory()
    connection.executescript(f"BEGIN;{_SCHEMA};PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    return connection


def in_memory(origin: sqlite3.Connection) -> sqlite3.Connection:
    """A copy of a database, in memory.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    connection = _memory()
    try:
        origin.backup(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def copy_of(folder: Path) -> sqlite3.Connection:
    """A copy in memory of the folder's state file, which another process may be writing.

    Raises:
        StateError: there is none that can be used.
    """
    uri = f"{(folder / FILE_NAME).absolute().as_uri()}?mode=ro"
    try:
        _require_files(folder)
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_SECONDS)) as origin:
            _check(origin)
            return in_memory(origin)
    except (OSError, sqlite3.Error) as error:
        raise StateError(str(error)) from error


def _memory() -> sqlite3.Connection:
    return _tolerant(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))


def _tolerant(connection: sqlite3.Connection) -> sqlite3.Connection:
    """One text in a file that is no UTF-8 must not make an error of every statement that comes across it."""
    connection.text_factory = lambda content: content.decode("utf-8", "replace")
    return connection


def _require_files(folder: Path) -> None:
    """Raise OSError where something else stands in a file's place: to open a named pipe is to wait for ever."""
    for name in (LOCK_NAME, FILE_NAME, *(FILE_NAME + suffix for suffix in (_NEW, *_BESIDE))):
        with contextlib.suppress(FileNotFoundError):
            require_regular(folder / name)


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Which file is at the path, or is open. No other file gets its number as long as it is."""
    try:
        found = os.stat(file)  # noqa: PTH116 -- takes an open file, too
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _locked(path: Path) -> IO[str]:
    lock = path.open("a+", encoding="utf-8", errors="replace")
    try:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = cut(escaped(lock.read(2 * HOLDER_CHARACTERS).strip()), HOLDER_CHARACTERS)
            raise StateHeld(f"{path.parent} is in use by {holder or 'another process'}") from None
        if _identity(path) != _identity(lock.fileno()):
            raise StateHeld(f"{path.parent} was removed or made anew a moment ago")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
    except BaseException:
        lock.close()
        raise
    return lock


def _connection(
    path: Path, content: sqlite3.Connection, clock: Callable[[], float], *, replace: bool
) -> sqlite3.Connection:
    if path.exists() and path.stat().st_size > 0:
        try:
            if replace:
                raise StateError("it took the place of the file in use")
            return _opened(path)
        except StateError as error:
            aside = f"{FILE_NAME}.set-aside-{int(clock())}"
            for suffix in ("", *_BESIDE):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(FILE_NAME + suffix).replace(path.with_name(aside + suffix))
            log.warning("state file %s: %s; set aside as %s, a new one is begun", path, error, aside)
    _make(path, content)
    return _opened(path)


def _make(path: Path, content: sqlite3.Connection) -> None:
    """Have a file with this content at the path, or none: it is written under another name first."""
    new = path.with_name(FILE_NAME + _NEW)
    try:
        with new.open("wb") as file:
            file.write(content.serialize())
            file.flush()
            os.fsync(file.fileno())
        for suffix in _BESIDE:
            path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file, check it, and prove that it can be written.

    Raises:
        StateError: the file's content is the problem, so another file may do.
        sqlite3.Error: the folder or the disk is, or somebody has locked the file.
    """
    connection = _tolerant(sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False))
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _check(connection)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise StateError(f"not a usable SQLite file: {error}") from error
    except StateError:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Raise StateError unless this version wrote the file, it is no larger than may be read, every page of it is sound,
    and it brings no statements of its own, which would run inside ours and need not end."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise StateError(f"written with schema {version}, this version reads {SCHEMA_VERSION}")
    size = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
    if size > MAX_STATE_BYTES:
        raise StateError(f"it has {size} bytes, more than {MAX_STATE_BYTES}")
    own = connection.execute("SELECT type, name FROM sqlite_schema WHERE type IN ('trigger', 'view')").fetchone()
    if own is not None:
        raise StateError(f"it has a {own[0]}, {own[1]!r:.50}, which no exporter made")
    verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise StateError(f"damaged: {verdict}")
