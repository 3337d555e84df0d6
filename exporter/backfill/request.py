"""What the command line asks `backfill` for. Standard library only: every command's start imports it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_STEP: Final = "30s"
DEFAULT_UNTIL: Final = "3h"
DEFAULT_JOB: Final = "airflow-metrics"
DEFAULT_INSTANCE: Final = "airflow-exporter:9101"
"""Interval and labels of the exporter's job in prometheus.yml, and the hours that Prometheus may still be writing."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for, as text where it has to be checked."""

    since: str
    output: Path
    until: str = DEFAULT_UNTIL
    step: str = DEFAULT_STEP
    job: str = DEFAULT_JOB
    instance: str = DEFAULT_INSTANCE
    promtool: bool = False
