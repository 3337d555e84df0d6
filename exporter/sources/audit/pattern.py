"""Which files a pattern such as `/data/**/part-*.csv` matches: every file once, within bounds.

`glob` of the standard library follows links in circles until the system stops it, and finds a file again under every
name that a link gives it, which would count its rows twice.
"""

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_ENTRIES: Final = 200_000
"""Entries of folders that are looked at: beyond so many, a pattern takes seconds at every probe."""
MAX_FILES: Final = 10_000
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Gone since, no folder, or a link that leads nowhere, such as one to itself."""


class TooMuchToSearch(ValueError):
    """A pattern matches more files, or goes through more entries, than the bounds allow; says which."""


def matching(pattern: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files that a pattern matches, sorted by path, with what `stat` says of them.

    `*`, `?` and `[…]` match within a name, `**` any number of folders; names that begin with a dot are matched only by
    a part that begins with one. A part with brackets that is the name of a file or folder is just that. Links are
    followed, but no folder is gone through twice for one `**`, and of a file with several names the first is taken.

    Raises:
        TooMuchToSearch: the bounds were passed.
        OSError: a folder cannot be read; its files would be missed.
    """
    search = _Search()
    seen: set[tuple[int, int]] = set()
    for path in sorted(set(search.below(Path(), pattern.parts))):
        try:
            about = path.stat()
        except OSError:  # gone since, or a link that leads nowhere
            continue
        if stat.S_ISREG(about.st_mode) and (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            if len(seen) > MAX_FILES:
                raise TooMuchToSearch(f"matches more than {MAX_FILES} files")
            yield path, about


class _Search:
    def __init__(self) -> None:
        self._entries = 0

    def below(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """The paths below a folder that match these parts of a pattern."""
        if not parts:
            yield folder
            return
        first, rest = parts[0], parts[1:]
        if first == "**":
            for each in self._folders(folder):
                yield from self.below(each, rest or ("*",))
        elif not any(mark in first for mark in "*?[") or ("[" in first and os.path.lexists(folder / first)):
            if (folder / first).exists():
                yield from self.below(folder / first, rest)
        else:
            for entry in self._list(folder):
                if fnmatch.fnmatchcase(entry.name, first) and (first[0] == "." or entry.name[0] != "."):
                    yield from self.below(folder / entry.name, rest)

    def _folders(self, top: Path) -> Iterator[Path]:
        """A folder and those below it, each once."""
        seen: set[tuple[int, int]] = set()
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                about = folder.stat()
            except OSError as error:
                if error.errno not in _NOWHERE:
                    raise
                continue
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                yield folder
                listed = self._list(folder)
                waiting += [folder / entry.name for entry in listed if entry.name[0] != "." and _is_folder(entry)]

    def _list(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                listed = []
                for entry in entries:
                    self._entries += 1
                    if self._entries > MAX_ENTRIES:
                        raise TooMuchToSearch(f"goes through more than {MAX_ENTRIES} entries of folders: narrow it")
                    listed.append(entry)
                return listed
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
            return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return False
