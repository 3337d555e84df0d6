"""The files that hold the embedded audit log: which they are, and a mark that moves when one of them is written.

Looking at them needs no DuckDB: whether there is anything to read is found out for the price of a `stat` for each file.
"""

import abc
import contextlib
import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from exporter.catalog import Catalog
from exporter.counters import newest_counted
from exporter.errors import SourceError, SourceUnavailable
from exporter.settings import AuditLocation, Settings
from exporter.snapshot import Reading, Sample
from exporter.sources.audit.answer import confirmed
from exporter.sources.audit.query import SOURCE_NAME, audit_identity


class AuditFiles:
    """A DuckDB file, or the Parquet, CSV or JSON-lines files that AUDIT_URL names or matches."""

    def __init__(self, settings: Settings) -> None:
        self.location = settings.embedded
        self._max_series = settings.max_series
        self._wants_sample = settings.wants_sample_data

    @property
    def awaits_sample(self) -> bool:
        """Whether a file with the sample history is to be made first.

        Raises:
            SourceUnavailable: the folder cannot be looked into.
        """
        with file_errors(self.location):
            return self._wants_sample and not Path(self.location.path).exists()

    def found(self) -> list[Path]:
        """The files, sorted.

        Raises:
            SourceUnavailable: there is none, or the folder cannot be read.
        """
        path = self.location.path
        with file_errors(self.location):
            if self.location.kind == "duckdb":
                if not Path(path).exists():
                    raise SourceUnavailable(
                        f"There is no file {path}. Create it with `python -m exporter init-audit`, or set "
                        "AUDIT_SAMPLE_DATA=true to have it made with sample history.",
                        reason="not_found",
                    )
                return [Path(path)]
            names = sorted(glob.glob(path, recursive=True)) if self.location.is_glob else [path]  # noqa: PTH207 -- absolute patterns too
            files = [Path(name) for name in names if Path(name).is_file()]
            if not files:
                raise SourceUnavailable(f"No file matches {path}: check AUDIT_URL.", reason="not_found")
            return files

    def token(self, files: list[Path]) -> str:
        """A digest of everything that moves when a file is written: also a write-ahead log beside a database. Another
        EXPORTER_MAX_SERIES asks for other rows of the same file.

        Raises:
            SourceUnavailable: a file cannot be looked at.
        """
        state: list[object] = [self._max_series]
        with file_errors(self.location):
            for file in files:
                for path in (file, file.with_name(file.name + ".wal")):
                    with contextlib.suppress(FileNotFoundError):
                        stat = path.stat()
                        state.append([str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns])
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]


class EmbeddedAudit(abc.ABC):
    """A source that looks at the files, and has them queried only if one was written. See `exporter.sources.Source`.

    Args:
        clock: Unix seconds.
    """

    name = SOURCE_NAME

    def __init__(self, settings: Settings, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._catalog = catalog
        self._clock = clock
        self._files = AuditFiles(settings)
        self.timeout_seconds = settings.audit_timeout_seconds
        self.identity = audit_identity(settings, catalog)

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:  # noqa: ARG002 -- one query answers for every metric
        """Look at the files, and query them if they changed. See `Source.read`."""
        now = self._clock()
        if not self._files.awaits_sample:
            known = confirmed(
                previous,
                identity=self.identity,
                catalog=self._catalog.fingerprint,
                token=self._files.token(self._files.found()),
                now=now,
                max_age=self._settings.audit_max_query_age_seconds,
            )
            if known is not None:
                return known
        return self._query(now, newest_counted(previous))

    @abc.abstractmethod
    def _query(self, now: float, since: float | None) -> Reading:
        """Query the files, within `timeout_seconds`, after the sample was made where one is wanted.

        Args:
            now: Unix seconds.
            since: see `build_query`.

        Raises:
            SourceError: as `Source.read`.
        """

    def changed(self, previous: Reading) -> bool:
        """Whether the files are others than those that were read. See `Source.changed`."""
        return self._files.token(self._files.found()) != previous.token

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Nothing to count: nothing is billed."""
        return {}

    def close(self) -> None:  # noqa: B027 -- not left to subclasses
        """Nothing stays open between reads."""


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
