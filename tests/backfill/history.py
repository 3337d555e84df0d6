"""Runs a backfill for a test and reads its files back with Prometheus' own Python parser."""

import functools
import re
from collections.abc import Iterable, Iterator
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
        for sample in _strictly(HISTOGRAM.sub("", text)):
            _take(found, (sample.name, _own(sample.labels.items())), float(sample.timestamp), sample.value)
        for line in "".join(HISTOGRAM.findall(text)).splitlines():
            if not line.startswith("#"):
                series, value, at = line.rsplit(" ", 2)
                _take(found, _parsed(series), float(at), float(value))
    return found


def _take(found: History, key: tuple[str, Labels], at: float, value: float) -> None:
    series = found.setdefault(key, {})
    assert not series or next(reversed(series)) < at
    series[at] = value


HISTOGRAM = re.compile(r"^# HELP .*\n# TYPE .* histogram\n(?:[^#].*\n)*", re.MULTILINE)
SERIES = re.compile(r"(\w+)\{(.*)\}")


def _strictly(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


@functools.cache
def _parsed(series: str) -> tuple[str, Labels]:
    parts = SERIES.fullmatch(series)
    assert parts, series
    return parts[1], _own(re.findall(r'(\w+)="([^"]*)"', parts[2]))


def _own(labels: Iterable[tuple[str, str]]) -> Labels:
    """Labels but those of the target."""
    return tuple((name, value) for name, value in labels if name not in ("job", "instance"))
