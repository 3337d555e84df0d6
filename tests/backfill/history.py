"""Runs a backfill for a test and reads its files back with Prometheus' own Python parser."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from exporter.backfill.command import backfill
from exporter.backfill.request import Request
from exporter.catalog import Catalog
from exporter.snapshot import Labels
from tests.sources.audit.duckdb_log import CATALOG, settings_for

NOW = 1_790_000_100.0
"""A moment of every grid: a multiple of 5 minutes."""

History = dict[tuple[str, Labels], dict[float, float]]
"""By sample name and labels (without job and instance): value by time."""


def run(
    log: Path | str,
    output: Path,
    *,
    catalog: Catalog = CATALOG,
    now: float = NOW,
    env: dict[str, str] | None = None,
    **request: Any,
) -> list[str]:
    """Backfill and give what was said."""
    said: list[str] = []
    settings = settings_for(str(log), **{"EXPORTER_STATE_DIR": "none", **(env or {})})
    backfill(
        Request(**{"since": "2d", "until": "now", "output": output, **request}),
        settings,
        catalog,
        said.append,
        clock=lambda: now,
    )
    return said


def read(output: Path) -> History:
    """All files, each parsed strictly.

    Of a histogram with several moments Prometheus' parser keeps one series only (it takes the others for repeats), so
    histograms are read line by line.
    """
    found: History = {}
    for file in sorted(output.glob("*.om")):
        text = file.read_text("utf-8")
        assert text.endswith("\n# EOF\n")
        for sample in [*_strictly(HISTOGRAM.sub("", text)), *_by_line("".join(HISTOGRAM.findall(text)))]:
            labels = tuple((name, value) for name, value in sample.labels.items() if name not in ("job", "instance"))
            series = found.setdefault((sample.name, labels), {})
            at = float(sample.timestamp)
            assert at not in series
            assert not series or next(reversed(series)) < at
            series[at] = sample.value
    return found


HISTOGRAM = re.compile(r"^# HELP .*\n# TYPE .* histogram\n(?:[^#].*\n)*", re.MULTILINE)
LINE = re.compile(r"(\w+)\{(.*)\} (\S+) (\d+)")


def _strictly(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def _by_line(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        if not line.startswith("#"):
            parts = LINE.fullmatch(line)
            assert parts, line
            yield Sample(parts[1], dict(re.findall(r'(\w+)="([^"]*)"', parts[2])), float(parts[3]), float(parts[4]))
