"""The sample history: what a first start without any configuration shows.

Twenty-six weekly monitoring runs of a bike-traffic model, made up: slow decline, two drift episodes, retrainings that
were deployed, skipped, rejected and one that failed, and one row of the sentinels that mean "not validated". It ships
as `exporter/sample/audit_log.csv`; its dates are moved by whole weeks so that the newest row is less than a week old.
"""

import csv
import math
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Final

SAMPLE_COMMENT: Final = "Sample history made by mlops-exporter; not the log of a real pipeline."
"""Comment of a table that was made with this history, by which it is known later."""


def sample_rows(now: float) -> list[dict[str, str | None]]:
    """The rows, oldest first, as text; None is NULL. The newest is dated less than a week before `now`."""
    text = resources.files("exporter").joinpath("sample", "audit_log.csv").read_text("utf-8")
    rows: list[dict[str, str | None]] = [
        {name: value or None for name, value in row.items()} for row in csv.DictReader(text.splitlines())
    ]
    newest = max(datetime.fromisoformat(str(row["timestamp"])) for row in rows)
    weeks = math.floor((datetime.fromtimestamp(now, UTC) - newest) / timedelta(weeks=1))
    for row in rows:
        moved = datetime.fromisoformat(str(row["timestamp"])) + timedelta(weeks=weeks)
        row["timestamp"] = moved.isoformat()
    return rows
