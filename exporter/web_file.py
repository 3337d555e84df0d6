"""The web configuration that holds now: the file is read again when it, or a certificate that it names, changes.

A new file that cannot be used changes nothing: the last good one holds, the log says why once, and `/health` for as
long as it lasts. Nor does a new file turn TLS or passwords off: a file that is half written must not open the exporter.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from exporter.errors import MESSAGE_CHARACTERS, ConfigError
from exporter.showable import cut
from exporter.web_config import WebConfig, load_web_config

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at the files: a certificate that was replaced is served to connections a second later."""
_GONE: Final = "the file has no {what} any more: restart the exporter to serve without"
_NEW: Final = "the file has tls_server_config now: restart the exporter to serve HTTPS"

_Mark = tuple[int, int, int, int] | None
"""What changes with a file: device, inode, size, time of change; None where there is none."""


class WebFile:
    """The file and what it said when it was last good.

    Args:
        path: the file's path.

    Attributes:
        current: what holds now; replaced, never changed.
        problem: why the newest content cannot be used; None where it can.

    Raises:
        ConfigError: it cannot be used; with every problem.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        # Marks are taken before the content: what changes in between is read again at the next look.
        self._marks = {path: _mark(path)}
        self.current = load_web_config(path)
        self._marks |= {file: _mark(file) for file in self.current.files}

    def look(self) -> None:
        """Read the files again if one of them has changed since. May wait for a slow disk."""
        marks = {file: _mark(file) for file in self._marks}
        if marks == self._marks and self.problem is None:
            return  # with a problem, a file that is missing may have come
        self._marks = marks
        try:
            config = load_web_config(self.path)
            self._refuse_less(config)
        except ConfigError as error:
            problem = f"{cut('; '.join(error.problems), MESSAGE_CHARACTERS)}. What was read before still holds"
            if problem != self.problem:
                log.error("web configuration: %s", problem)
            self.problem = problem
            return
        self._marks = {self.path: marks[self.path], **{file: marks.get(file) or _mark(file) for file in config.files}}
        self.problem, self.current = None, config
        log.info("web configuration: %s has been read again: %s", self.path, config.summary)

    def _refuse_less(self, config: WebConfig) -> None:
        problems = []
        if self.current.tls is not None and config.tls is None:
            problems.append(_GONE.format(what="tls_server_config"))
        if self.current.tls is None and config.tls is not None:
            problems.append(_NEW)
        if self.current.users and not config.users:
            problems.append(_GONE.format(what="basic_auth_users"))
        if problems:
            raise ConfigError(f"{self.path}: {problem}" for problem in problems)

    async def watch(self) -> None:
        """Look until cancelled, on a thread, so that a disk that hangs holds up no request."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                log.exception("the web configuration cannot be looked at: a bug; what was read before still holds")


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns
