"""Runs a backfill for a test and reads its files back with Prometheus' own Python parser."""

from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.backfill.command import backfill
from exporter.backfill.request import Request
from exporter.catalog import Catalog
from exporter.snapshot import Labels
from tests.sources.duckdb_log import CATALOG, settings_for

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
    """All files, each parsed strictly."""
    found: History = {}
    for file in sorted(output.glob("*.om")):
        for family in text_string_to_metric_families(file.read_text("utf-8")):
            for sample in family.samples:
                labels = tuple(
                    (name, value) for name, value in sample.labels.items() if name not in ("job", "instance")
                )
                series = found.setdefault((sample.name, labels), {})
                assert float(sample.timestamp) not in series
                series[float(sample.timestamp)] = sample.value
    return found
