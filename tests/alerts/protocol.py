"""The table in docs/alerting.md: what the end-to-end test has seen.

    python -m pytest tests/alerts --protocol docs/alerting.md

writes it anew between its marks; without the option nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

BEGIN: Final = "<!-- protocol: begin -->"
END: Final = "<!-- protocol: end -->"


@dataclass
class Line:
    """A rule: seconds from its cause to the message, the message, and seconds from the cause's end to `resolved`."""

    uid: str
    fired: float
    text: str
    resolved: float = 0.0


def write(config: pytest.Config, lines: Sequence[Line], seconds: float, speed: float) -> None:
    """Put the table into the file that the option names.

    Args:
        seconds: how long the whole test took.
    """
    target = config.getoption("--protocol", default=None)
    if target is None:
        return
    path = Path(target)
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{path} has no {BEGIN} … {END}"
    rows = [f"| {line.uid} | {line.fired:.1f} | {line.text} | {line.resolved:.1f} |" for line in lines]
    head = [
        f"The whole took {seconds:.0f} s, with `for`, intervals and windows divided by {speed:g}.",
        "",
        "| rule | origin to message (s) | message as received | end to resolved (s) |",
        "|---|---|---|---|",
    ]
    path.write_text(before + "\n".join([BEGIN, *head, *rows, END]) + after, "utf-8")
