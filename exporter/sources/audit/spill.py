"""The private folder to which DuckDB spills what does not fit into its memory, and which goes with the read."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "mlops-exporter-spill-"


@contextlib.contextmanager
def spill_folder() -> Iterator[Path | None]:
    """A private folder for what a query spills, removed at the end; None where the system has no room for one.

    What a process left that was killed is removed first: the folder's lock goes with the process that held it.
    """
    sweep()
    try:
        folder, descriptor = _locked_folder()
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock.

    Another exporter that sweeps meanwhile may take it for a leftover, as it is not locked yet: then it is made anew.

    Raises:
        OSError: the system has no room for a folder, or for one more open file.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(descriptor)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def sweep() -> None:
    """Remove spill folders whose process is gone. Those of others, and what cannot be removed, stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
