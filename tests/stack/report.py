"""What a run found: one line for each check as it ends, figures, and a closing line with the counts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError


class Report:
    """Prints as it goes."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._counts = {"passed": 0, "failed": 0, "skipped": 0}
        self._figures: list[str] = []
        self._skipped: list[str] = []
        self._failed: list[str] = []

    def say(self, text: str) -> None:
        """A line with the seconds since the start before it."""
        print(f"{time.monotonic() - self._started:5.0f} s  {text}", flush=True)  # noqa: T201 -- a program's own output

    def figure(self, text: str) -> None:
        """A measured figure, printed now and again at the end."""
        self.say(text)
        self._figures.append(text)

    def skip(self, what: str, why: str) -> None:
        """A check that is not run."""
        self._counts["skipped"] += 1
        self._skipped.append(f"{what}: {why}")

    @contextmanager
    def check(self, what: str) -> Iterator[None]:
        """A check: passed unless the block raises AssertionError or a command fails in it."""
        started = time.monotonic()
        try:
            yield
        except (AssertionError, CalledProcessError) as error:
            said = str(error)
            if isinstance(error, CalledProcessError):
                said = f"exit code {error.returncode}: {error.cmd}\n{error.stdout or ''}{error.stderr or ''}"
            self._counts["failed"] += 1
            self._failed.append(what)
            self.say(f"FAIL  {what}\n{said}")
        else:
            self._counts["passed"] += 1
            self.say(f"ok    {what} ({time.monotonic() - started:.0f} s)")

    def close(self, stand_ins: dict[str, str]) -> int:
        """Print figures, stand-ins, what was not run, and the counts. Returns the exit code."""
        sections = {
            "Measured": self._figures,
            "Stand-ins": [f"{image}: {made_of}" for image, made_of in stand_ins.items()],
            "Not run": self._skipped,
            "Failed": self._failed,
        }
        for title, lines in sections.items():
            if lines:
                self.say(f"-- {title}")
                for line in lines:
                    self.say(f"   {line}")
        print(", ".join(f"{count} {name}" for name, count in self._counts.items()), flush=True)  # noqa: T201
        return int(self._counts["failed"] > 0)
