"""Counts of the simulated city as the pipeline's records."""

import math

import pandas as pd
import pytest

from bike_pipeline.records import Count


def records(table: pd.DataFrame) -> list[Count]:
    """A table of counts as the pipeline's records."""
    times, counters, counts, *others = (table[name].tolist() for name in table.columns)
    known = (None if math.isnan(count) else count for count in counts)
    return list(map(Count, (at.to_pydatetime() for at in times), counters, known, *others))


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell has set for the pipeline is not the tests' business."""
    for name in ("AUDIT_URL", "AUDIT_TABLE", "AUDIT_ENV", "GOOGLE_CLOUD_PROJECT", "REGMODEL_URL", "PIPELINE_RETRIES"):
        monkeypatch.delenv(name, raising=False)
