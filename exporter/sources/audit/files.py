"""The files that hold the embedded audit log: which they are, and a revision that moves when one of them is written.

Looking at them needs no DuckDB: whether there is anything to read is found out for the price of a `stat` for each file.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from exporter.catalog import Catalog
from exporter.errors import BadData, SourceError, SourceUnavailable
from exporter.settings import AuditLocation, Settings
from exporter.sources.audit.pattern import TooMuchToSearch, matching
from exporter.sources.audit.query import audit_identity, audit_table
from exporter.yaml_nodes import is_unicode

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The log's files, sorted, and their revision: a digest of everything that moves when one of them is written."""

    paths: tuple[Path, ...]
    revision: str


@dataclass(frozen=True)
class EmbeddedLog:
    """The settings by which an embedded log is read, without any secret: a DuckDB file, or the Parquet, CSV or
    JSON-lines files that AUDIT_URL names or matches.

    Attributes:
        schema, table: of the table in a DuckDB file; files are read under the same name.
        env: only rows with this value in the env column are read; None for all.
        timeout_seconds: overall deadline of one read.
        makes_sample: whether a file that does not exist is made, with sample history.
    """

    catalog: Catalog
    location: AuditLocation
    schema: str
    table: str
    env: str | None
    max_series: int
    timeout_seconds: float
    makes_sample: bool
    identity: str

    @classmethod
    def of(cls, settings: Settings, catalog: Catalog) -> Self:
        """The embedded log of these settings."""
        schema, table = audit_table(settings, catalog).split(".")
        return cls(
            catalog=catalog,
            location=settings.embedded,
            schema=schema,
            table=table,
            env=settings.audit_env,
            max_series=settings.max_series,
            timeout_seconds=settings.audit_timeout_seconds,
            makes_sample=settings.wants_sample_data,
            identity=audit_identity(settings, catalog),
        )

    @property
    def awaits_sample(self) -> bool:
        """Whether a file with the sample history is to be made first.

        Raises:
            SourceUnavailable: the folder cannot be looked into.
        """
        with file_errors(self.location):
            return self.makes_sample and not Path(self.location.path).exists()

    def look(self) -> FoundFiles:
        """Look at the files once.

        The revision also covers a write-ahead log beside a database, and EXPORTER_MAX_SERIES, with which other rows of
        the same file are asked for.

        Raises:
            SourceUnavailable: there is none, what is there is no file, or the folder cannot be read.
            BadData: the name of one cannot be written down.
        """
        state: list[object] = [self.max_series]
        paths = []
        with file_errors(self.location):
            for path, found in self._files():
                _require_utf8(path)
                paths.append(path)
                for part, known in ((path, found), (path.with_name(path.name + ".wal"), None)):
                    with contextlib.suppress(FileNotFoundError):
                        about = known or part.stat()
                        state.append([str(part), about.st_ino, about.st_size, about.st_mtime_ns])
        return FoundFiles(tuple(paths), hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24])

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        path = Path(self.location.path)
        if self.location.is_glob:
            found = False
            try:
                for match in matching(path):
                    found = True
                    yield match
            except TooMuchToSearch as error:
                raise SourceUnavailable(f"AUDIT_URL {path} {error}.") from error
            if not found:
                raise SourceUnavailable(f"No file matches {path}: check AUDIT_URL.", reason="not_found")
            return
        try:
            about = path.stat()
        except FileNotFoundError as error:
            if self.location.kind == "duckdb":
                raise SourceUnavailable(
                    f"There is no file {path}. Create it with `python -m exporter init-audit`, or set "
                    "AUDIT_SAMPLE_DATA=true to have it made with sample history.",
                    reason="not_found",
                ) from error
            raise SourceUnavailable(f"No file matches {path}: check AUDIT_URL.", reason="not_found") from error
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "a special file")
            raise SourceUnavailable(
                f"{path} is {kind}, not a file. Let AUDIT_URL name the log's file, or a pattern such as /data/*.csv."
            )
        yield path, about


def _require_utf8(path: Path) -> None:
    """Refuse a name that is bytes and no text, such as Latin-1: DuckDB cannot be told it."""
    if not is_unicode(str(path)):
        raise BadData(f"The name of {path} is not UTF-8: rename the file, or its folder.")


@contextlib.contextmanager
def file_errors(location: AuditLocation) -> Iterator[None]:
    """The one place where the file system's exceptions become ours."""
    try:
        yield
    except OSError as error:
        raise unreadable(location, error) from error


def unreadable(location: AuditLocation, error: OSError) -> SourceError:
    """What an operator is told of a file that cannot be opened, looked at or written."""
    if isinstance(error, PermissionError):
        return denied(location)
    if isinstance(error, FileNotFoundError):
        return SourceUnavailable(f"{location.path} does not exist: check AUDIT_URL.", reason="not_found")
    return SourceUnavailable(f"{location.path}: {error.strerror or error}")


def denied(location: AuditLocation) -> SourceError:
    """What an operator is told where the file's mode or owner is in the way."""
    return SourceUnavailable(f"{location.path} cannot be read or written: permission denied.", reason="permission")
