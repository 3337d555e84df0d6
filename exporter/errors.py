"""The exceptions of this package.

    ExporterError
    ├── ConfigError          settings or catalogue: every problem at once, in `problems`
    ├── OutputError          a command's output could not be written
    ├── StateError           the state directory cannot be used; the exporter goes on without it
    └── SourceError          one refresh of one source failed; `reason` is a value of FAILURE_REASONS
        ├── SourceUnavailable    it could not be reached, or refused to answer
        ├── SourceTimeout        it did not answer in time
        └── BadData              it answered something that cannot be used

Drivers' exceptions are turned into these at each source's boundary and nowhere else. Messages are shown in logs,
`/health` and on the landing page, so they are written for the operator, name no secret, and say what to do.
"""

from collections.abc import Iterable
from typing import Final

from exporter.showable import cut, escaped

FAILURE_REASONS: Final = (
    "unavailable",
    "timeout",
    "auth",
    "permission",
    "not_found",
    "quota",
    "bad_data",
    "internal",
)
"""Values of the `reason` label of `mlops_exporter_source_refresh_failures_total`, all exposed from the start at 0."""

BACKING_OFF: Final = frozenset({"auth", "permission", "quota"})
"""Reasons for which asking again at every interval does harm: it locks accounts or eats quota."""

MESSAGE_CHARACTERS: Final = 1000
"""The longest message of a SourceError: it may quote what a server said."""

PROBLEM_CHARACTERS: Final = 600
"""The longest sentence of a ConfigError: what it quotes may come from a file of any content."""


class ExporterError(Exception):
    """Base of all errors raised on purpose in this package."""


class ConfigError(ExporterError):
    """Settings or catalogue cannot be used.

    `problems` holds one plain sentence for each thing that is wrong, escaped and cut at PROBLEM_CHARACTERS.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(cut(escaped(problem), PROBLEM_CHARACTERS) for problem in problems)
        super().__init__("\n".join(self.problems))


class OutputError(ExporterError):
    """A command's output could not be written."""


class StateError(ExporterError):
    """The state directory or the file in it cannot be read or written."""


class SourceError(ExporterError):
    """A refresh of a source failed.

    Args:
        message: what happened and what to do about it, in one or two plain sentences; escaped and cut at
            MESSAGE_CHARACTERS.
        reason: a value of FAILURE_REASONS.
        retry_after: seconds the source asked to be left alone for, if it said so.
    """

    default_reason = "internal"

    def __init__(self, message: str, *, reason: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(cut(escaped(message), MESSAGE_CHARACTERS))
        self.reason = reason or self.default_reason
        self.retry_after = retry_after


class SourceUnavailable(SourceError):
    """The source could not be reached, or refused to answer."""

    default_reason = "unavailable"


class SourceTimeout(SourceError):
    """The source did not answer before the deadline."""

    default_reason = "timeout"


class BadData(SourceError):
    """The source answered, but with something that cannot be used."""

    default_reason = "bad_data"
