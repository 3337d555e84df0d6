"""Files that are regular ones: opening whatever else may stand at their paths could wait for ever."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`.

    A named pipe without a writer would hold up its reader for ever, and a device such as /dev/zero never ends.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger; `strerror` says which.
    """
    try:
        require_regular(path)
        # What stands there may have changed since: an open that does not wait, and another look.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL character
        raise OSError(errno.EINVAL, "it is no path", str(path)) from error
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor).st_mode, path)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes", str(path))
    return content


def require_regular(path: Path) -> None:
    """Refuse whatever stands at the path and is no regular file, before somebody opens it.

    Raises:
        OSError: it is none, or nothing is there; `strerror` says which.
    """
    _require_regular(path.stat().st_mode, path)


def _require_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is a {kind}, not a file", str(path))
