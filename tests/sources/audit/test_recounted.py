"""Property: whatever happens to a log, its counters never step back, never exceed the rows that were ever written, and
equal them where rows are only added, or only old ones leave while new ones come. By the real query, on DuckDB."""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.counters import recounted
from exporter.errors import SourceError
from exporter.ledger import Ledger
from exporter.snapshot import Reading
from exporter.sources.audit.query import horizon_us
from tests.sources.audit.duckdb_log import DAY, NOW, source_for

RELEASES = "shop_releases_total"
FILES = ("0.jsonl", "1.jsonl")


def catalogue(labels: str) -> Catalog:
    return parse_catalog(
        f"""
version: 1
audit: {{table: monitoring_audit.logs, timestamp: timestamp{labels}}}
metrics:
  - name: {RELEASES}
    type: counter
    help: Releases.
    labels: [decision]
    from: [{{audit: {{count: verdict, values: {{go: GO, stop: STOP}}}}}}]
""",
        "c.yaml",
    )


CATALOGUES = {"": catalogue(""), "model": catalogue(", labels: {model: model}")}


@dataclass(frozen=True, slots=True)
class Row:
    at: float
    model: str
    verdict: str
    file: str

    def text(self) -> str:
        time = datetime.fromtimestamp(self.at, UTC).isoformat()
        return json.dumps({"timestamp": time, "model": self.model, "verdict": self.verdict}) + "\n"


@dataclass
class World:
    """A folder of two files, what happens to it, and an exporter that reads it."""

    folder: Path
    label: str
    now: float = NOW
    newest: float = NOW - 9 * DAY
    rows: list[Row] = field(default_factory=list)
    deleted: list[Row] = field(default_factory=list)
    written: list[Row] = field(default_factory=list)
    reading: Reading | None = None
    late: bool = False
    """Rows came to light that are not newer than all that was seen."""
    left: bool = False
    """Rows left for good."""
    made: int = 0

    def add(self, number: int, *, ago: float = 0.0) -> None:
        for _ in range(number):
            self.made += 1
            self.newest += 1 if not ago else 0
            verdict = ("GO", "STOP")[self.made % 4 == 0]
            row = Row(self.newest - ago, "ab"[self.made % 3 == 0], verdict, FILES[self.made % 2])
            self.rows.append(row)
            self.written.append(row)

    def happen(self, what: str, number: int) -> None:
        before = sorted(self.rows, key=lambda row: row.at)
        if what in ("append", "roll"):
            self.add(number)
        if what in ("trim", "roll"):
            for row in before[:number]:
                self.rows.remove(row)
            self.left = self.left or bool(before)
        if what == "late":
            self.add(number, ago=100.5)
            self.late = True
        if what == "delete":
            for row in before[-number:]:
                self.rows.remove(row)
                self.deleted.append(row)
            self.left = self.left or bool(before)
        if what == "restore" and self.deleted:
            self.rows += self.deleted
            self.deleted.clear()
            self.late = True
        if what == "future":
            self.add(1, ago=self.newest - self.now - number * DAY)
            self.late = True
        if what == "wait":
            self.now += number * DAY

    def refresh(self, fault: str) -> None:
        for file in FILES:
            lines = [row.text() for row in self.rows if row.file == file]
            if fault == "torn" and lines:
                lines[-1] = lines[-1][:-20]
                self.late = True
            if fault == "away" and file == FILES[1]:
                (self.folder / file).unlink(missing_ok=True)
                self.late = True
            else:
                (self.folder / file).write_text("".join(lines))
        source = source_for(self.folder / "*.jsonl", CATALOGUES[self.label], clock=lambda: self.now)
        try:
            found = source.read(self.reading)
        except SourceError:
            return
        if fault == "ends":  # before anything was kept; it starts again, with the same files
            self.restart()
            found = source.read(self.reading)
        labels = {RELEASES: (self.label, "decision") if self.label else ("decision",)}
        self.reading = recounted(found, self.reading, labels)
        self.restart()

    def restart(self) -> None:
        if self.reading is None:
            return
        for write in (True, False):
            ledger = Ledger.open(self.folder)
            if write:
                ledger.save_reading(self.reading)
            else:
                self.reading = ledger.load_reading("audit", self.reading.identity)
            ledger.close()

    def shown(self) -> dict[tuple[str, ...], float]:
        samples = self.reading.observations[RELEASES].samples if self.reading is not None else ()
        return {tuple(value for _, value in sample.labels): sample.value for sample in samples}  # type: ignore[union-attr]

    def truth(self) -> Counter[tuple[str, ...]]:
        """Rows that were ever written and whose time has come, by series."""
        due = [row for row in self.written if row.at * 1_000_000 <= horizon_us(self.now)]
        return Counter((*((row.model,) if self.label else ()), row.verdict.lower()) for row in due)


STEPS = st.tuples(
    st.sampled_from(["append", "roll", "trim", "late", "delete", "restore", "future", "wait", "nothing"]),
    st.integers(1, 3),
    st.sampled_from(["", "", "", "away", "torn", "ends"]),
)
NUMBERS = st.integers(1, 3)
GROWING = st.tuples(st.sampled_from(["append", "late"]), NUMBERS, st.sampled_from(["", "away", "torn", "ends"]))
ROLLING = st.tuples(st.sampled_from(["append", "roll", "trim"]), NUMBERS, st.sampled_from(["", "ends"]))


@settings(max_examples=settings.default.max_examples // 2)
@given(
    label=st.sampled_from(sorted(CATALOGUES)),
    steps=st.lists(STEPS, max_size=7) | st.lists(GROWING, max_size=5) | st.lists(ROLLING, min_size=2, max_size=7),
)
@example(label="model", steps=[("append", 3, ""), *[("roll", 1, "")] * 8])
@example(label="", steps=[("append", 3, ""), ("nothing", 1, "away"), ("append", 1, "torn"), ("late", 1, "")])
@example(
    label="model",
    steps=[("append", 3, ""), ("delete", 2, ""), ("restore", 1, ""), ("roll", 1, ""), ("append", 1, "")],
)
@example(label="", steps=[("append", 2, ""), ("future", 1, ""), ("roll", 1, ""), ("wait", 2, ""), ("append", 1, "")])
def test_counters_never_step_back_and_never_exceed_what_was_written(label: str, steps: list[tuple[str, int, str]]):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), label)
        world.add(4)
        highest: dict[tuple[str, ...], float] = {}
        for what, number, fault in [("nothing", 1, ""), *steps, ("nothing", 1, "")]:
            world.happen(what, number)
            world.refresh(fault)
            shown, truth = world.shown(), world.truth()
            assert all(value >= highest.get(series, 0) for series, value in shown.items())
            assert all(value <= truth[series] for series, value in shown.items())
            highest |= shown
            in_sight = fault not in ("away", "torn")
            if in_sight and (not world.late or not world.left):
                assert shown == {series: truth[series] for series in shown}
        if not world.left:
            assert sum(world.shown().values()) == sum(world.truth().values())
