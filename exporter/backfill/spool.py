"""What changed at which moment of the grid, kept in a file so that memory does not grow with the length of history.

The log is read once, quickly, and let go; samples are written afterwards, which takes longer. A series takes at most
one record for each moment, whatever the number of rows: only the last state before a moment can be seen there.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from exporter.backfill.grid import Grid
from exporter.errors import OutputError
from exporter.snapshot import Labels

Key = tuple[str, Labels]
"""A series before its target's labels: the samples' name, and labels in the catalogue's order."""
_RECORD: Final = struct.Struct("<qqd")
_READ_BYTES: Final = _RECORD.size * 4096


@dataclass(frozen=True, slots=True)
class Window:
    """All series over the moments from `first` up to the one before `after`."""

    first: int
    after: int
    held: dict[int, float]
    changes: dict[int, list[tuple[int, float]]]

    def segments(self, columns: Sequence[int]) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        """What series that began together show: values, and the moments from which and before which they hold."""
        changed = {column: dict(self.changes.get(column, ())) for column in columns}
        begins = sorted({self.first, *(at for known in changed.values() for at in known)})
        values = {column: self.held[column] for column in columns if column in self.held}
        for begin, after in itertools.pairwise([*begins, self.after]):
            for column in columns:
                if begin in changed[column]:
                    values[column] = changed[column][begin]
            if len(values) == len(columns):
                yield begin, after, tuple(values[column] for column in columns)


class Spool:
    """Takes changes in the order of time, gives windows in the order of time. The file has no name and leaves none."""

    def __init__(self, grid: Grid, folder: Path) -> None:
        self._grid = grid
        self._folder = folder
        try:
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115 -- closed by close()
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
        self._columns: dict[Key, int] = {}
        self._values: dict[int, float] = {}
        self._changed: dict[int, None] = {}
        self._begun: dict[int, int] = {}
        self._lifted: dict[int, float] = {}
        self._moment = 0

    def at(self, at_us: int) -> None:
        """Say when what follows happened, in microseconds since 1970; never earlier than what came before."""
        moment = self._grid.first_from(at_us)
        if moment != self._moment:
            self._flush()
            self._moment = moment

    def put(self, key: Key, value: float) -> None:
        """A gauge has a new value."""
        column = self._columns.setdefault(key, len(self._columns))
        self._begun.setdefault(column, self._moment)
        if self._values.get(column) != value:
            self._values[column] = value
            self._changed[column] = None

    def add(self, key: Key, amount: float) -> None:
        """A counter grows; from 0, which is shown, if it is new."""
        column = self._columns.get(key)
        self.put(key, (0.0 if column is None else self._values[column]) + amount)

    def lift(self, key: Key, amount: float) -> None:
        """A series was higher by this all along. One that is not known is left alone."""
        column = self._columns.get(key)
        if column is not None:
            self._lifted[column] = amount

    def series(self, name: str) -> Iterator[tuple[Labels, int]]:
        """The series of a sample name that begin within the grid: labels and column."""
        for (known, labels), column in self._columns.items():
            if known == name and self._begun[column] < self._grid.count:
                yield labels, column

    def windows(self) -> Iterator[Window]:
        """The whole grid, block by block. Nothing can be added any more."""
        self._flush()
        records = self._records()
        record = next(records, None)
        held: dict[int, float] = {}
        for first, after in self._grid.windows():
            changes: dict[int, list[tuple[int, float]]] = {}
            while record is not None and record[0] < after:
                at, column, value = record
                changes.setdefault(column, []).append((at, value + self._lifted.get(column, 0.0)))
                record = next(records, None)
            yield Window(first, after, dict(held), changes)
            held.update((column, listed[-1][1]) for column, listed in changes.items())

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _flush(self) -> None:
        try:
            for column in self._changed:
                self._file.write(_RECORD.pack(self._moment, column, self._values[column]))
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror}") from error
        self._changed.clear()

    def _records(self) -> Iterator[tuple[int, int, float]]:
        self._file.seek(0)
        while piece := self._file.read(_READ_BYTES):
            yield from _RECORD.iter_unpack(piece)
