"""What a benchmark found, and how it is written down: results.md, and the regions of other documents that quote it."""

import datetime
import importlib.metadata
import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = Path(__file__).resolve().parent / "results.md"
QUOTED_IN: Final = (ROOT / "docs" / "benchmarks.md",)
PACKAGES: Final = ("gunicorn", "flask", "prometheus-client", "duckdb", "google-cloud-bigquery", "requests")
_REGION: Final = re.compile(r"<!-- measured: ([a-z-]+) -->\n(.*?)<!-- end of measured -->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, unit: str = "", scale: float = 1.0) -> str:
        """Median and range: `12 (10–15) ms`."""
        tail = f" {unit}" if unit else ""
        low, high = number(min(self.values) * scale), number(max(self.values) * scale)
        middle = number(self.median * scale)
        return f"{middle}{tail}" if low == high else f"{middle} ({low}–{high}){tail}"


def ratio(ours: Spread, other: Spread) -> Spread:
    """Round by round, so that what disturbed the machine in one round disturbed both."""
    return Spread.of(a / b for a, b in zip(ours.values, other.values, strict=True) if b)


def number(value: float) -> str:
    """Three significant digits, and no fewer than the whole part has."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for, what was measured, and whether that is enough; None where it could not be measured."""

    what: str
    goal: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "**not met**"


@dataclass(frozen=True)
class Table:
    """Rows under a heading; every cell is text."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def markdown(self) -> str:
        lines = [f"{self.caption}\n"] if self.caption else []
        lines += [_row(self.columns), _row(["---"] * len(self.columns)), *(_row(row) for row in self.rows)]
        return "\n".join(lines) + "\n"


@dataclass
class Section:
    """One benchmark's part of results.md.

    Attributes:
        how: what is measured and how, in a paragraph.
        headlines: what the summary says of it: the question, the exporter's answer, and that of the others.
        notes: what a reader must know to read the numbers right.
        packages: versions of what was compared and is not among the exporter's own packages.
    """

    name: str
    title: str
    how: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    headlines: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def markdown(self) -> str:
        parts = [f"## {self.title}\n", f"{self.how}\n", f"`python -m benchmarks {self.name}`, {self.seconds:.0f} s.\n"]
        parts += [table.markdown() for table in self.tables]
        parts += ["\n".join(f"- {note}" for note in self.notes) + "\n"] if self.notes else []
        return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def paragraphs(docstring: str | None) -> str:
    """A module's docstring without its first line, which says less than the title."""
    return (docstring or "").partition("\n\n")[2].strip()


def targets_table(sections: Iterable[Section]) -> str:
    """Every target and how it went."""
    rows = [(t.what, t.goal, t.measured, t.verdict) for section in sections for t in section.targets]
    return Table(("what", "target", "measured", ""), rows).markdown()


def summary_table(sections: Iterable[Section]) -> str:
    """The few numbers of the summary."""
    rows = [headline for section in sections for headline in section.headlines]
    return Table(("", "exporter", "otherwise"), rows).markdown()


def document(sections: Sequence[Section], *, quick: bool) -> str:
    """The whole of results.md."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for section in sections:
        versions |= section.packages
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    minutes = sum(section.seconds for section in sections) / 60
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = [
        "# Measured\n",
        "Written by `make bench`; do not edit. A number is the median of the rounds, with the lowest and the highest "
        "in brackets; ratios are made round by round. docs/benchmarks.md says how to read them.\n",
        f"- Machine: {os.cpu_count()} CPUs ({platform.machine()}), {_memory_gib():.0f} GiB, {platform.system()}; the "
        "load generator ran on the same CPUs.",
        f"- Python {platform.python_version()}; {listed}.",
        f"- {today}; {minutes:.0f} minutes in all.",
    ]
    if quick:
        head.append("- **Quick mode: few rounds and small sizes. These are not the numbers to quote.**")
    parts = ["\n".join(head) + "\n", "## In short\n", region("summary", summary_table(sections))]
    parts += ["## Targets\n", region("targets", targets_table(sections))]
    return "\n".join([*parts, *(section.markdown() for section in sections)]).rstrip("\n") + "\n"


def region(name: str, content: str) -> str:
    """Content that other documents quote by name."""
    return f"<!-- measured: {name} -->\n{content}<!-- end of measured -->\n"


def regions(text: str) -> dict[str, str]:
    """The quoted regions of a document, by name."""
    return dict(_REGION.findall(text))


def quote(results: str, text: str) -> str:
    """A document with its regions filled from results.md; a region that results.md lacks stays as it is."""
    known = regions(results)

    def fill(match: re.Match[str]) -> str:
        return region(match[1], known.get(match[1], match[2])).removesuffix("\n")

    return _REGION.sub(fill, text)


def write(sections: Sequence[Section], output: Path, *, quick: bool) -> None:
    """Write the document, and into the documents that quote it when it is the real one."""
    text = document(sections, quick=quick)
    output.write_text(text, "utf-8")
    if output.resolve() == RESULTS:
        for path in QUOTED_IN:
            path.write_text(quote(text, path.read_text("utf-8")), "utf-8")


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
