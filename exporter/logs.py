"""Logging, configured once: text for people or one JSON object a line, to standard error.

Secrets are blotted out, and a message from outside is one line whatever it holds.
"""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from exporter.showable import escaped, is_showable

RARE_SECONDS: Final = 60.0
"""Least time between two lines of a RareWarning."""
BLOT: Final = "[secret]"
_QUIET: Final = ("urllib3", "google", "sqlglot", "werkzeug")
"""Libraries that stay at WARNING even at level DEBUG: below it they log requests and answers, tokens among them."""


class _Formatter(logging.Formatter):
    """Formats a record and replaces every known secret, wherever in the record it comes from."""

    def __init__(self, secrets: Iterable[str], as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        # Also as repr() writes it: a message may quote an argument.
        forms = {form for secret in secrets for form in (secret, repr(secret)[1:-1]) if form}
        self._secrets = tuple(sorted(forms, key=len, reverse=True))
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        if not self._as_json:
            return self._blotted(super().format(record))
        content = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": self._blotted(record.getMessage()),
        }
        if record.exc_info:
            content["traceback"] = self._blotted(self.formatException(record.exc_info))
        line = json.dumps(content, ensure_ascii=False)
        return line if is_showable(line) else json.dumps(content)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """The record's one line: text from outside in it begins no line of its own, and moves no cursor."""
        return escaped(self._blotted(super().formatMessage(record)))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 -- logging's name
        """The record's time in UTC."""
        return time.strftime(datefmt or "%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))

    def _blotted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        return text


class RareWarning:
    """A warning that anybody on the network can cause: logged at most every RARE_SECONDS, with how often it was caused.

    Args:
        log: where.
        message: has %d for that number and %s for the detail of the last time.
        clock: seconds.
    """

    def __init__(self, log: logging.Logger, message: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._message = message
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._logged_at = -math.inf

    def __call__(self, detail: object) -> None:
        """It was caused once more."""
        now = self._clock()
        with self._lock:
            self._count += 1
            if now - self._logged_at < RARE_SECONDS:
                return
            count, self._count, self._logged_at = self._count, 0, now
        self._log.warning(self._message, count, detail)


def configure_logging(level: str, log_format: str, secrets: Iterable[str] = ()) -> None:
    """Send all loggers to standard error.

    Args:
        level: name of the lowest level that is logged.
        log_format: `text` or `json`.
        secrets: strings that never appear in the output.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(secrets, log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # asyncio's warnings are about clients that have gone, one for each piece of their answers.
    logging.getLogger("asyncio").setLevel(max(logging.ERROR, root.level))
