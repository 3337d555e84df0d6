"""A progress bar on a terminal; nothing anywhere else."""

from typing import Final, TextIO

_WIDTH: Final = 30


class Progress:
    """One line that is written over and over.

    Args:
        stream: where it goes; only a terminal sees it.
        total: what `show` counts up to.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream if stream.isatty() else None
        self._total = max(total, 1)

    def show(self, done: int, what: str) -> None:
        """Draw the bar."""
        if self._stream is not None:
            full = _WIDTH * done // self._total
            bar = "#" * full + "." * (_WIDTH - full)
            self._stream.write(f"\r\x1b[K[{bar}] {100 * done // self._total:3d} %  {what}")
            self._stream.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
