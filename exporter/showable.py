"""Text from outside, made fit for one line of a log, a message or a page: escaped and cut."""

import re
from typing import Final

QUOTED_CHARACTERS: Final = 200
"""How much of a bad value a message quotes: enough to recognise it."""

_UNSHOWABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks and half surrogate pairs: what no header, URL, log line or page can hold."""


def is_showable(text: str) -> bool:
    """Whether the text is one line of characters that can be sent as UTF-8."""
    return _UNSHOWABLE.search(text) is None


def escaped(text: str) -> str:
    """The text with a backslash escape, as in Python, for each character that is not showable."""
    return _UNSHOWABLE.sub(lambda match: repr(match[0])[1:-1], text)


def cut(text: str, length: int) -> str:
    """The text's first `length` characters, of which the last is … where something is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def quoted(text: str) -> str:
    """A bad value as a message shows it: in quotes, escaped, cut at QUOTED_CHARACTERS."""
    return cut(repr(text), QUOTED_CHARACTERS)
