"""Counts of the simulated city as the pipeline's records."""

import math
from collections.abc import Iterator

import pandas as pd
import pytest

from bike_pipeline.records import Count


def records(table: pd.DataFrame) -> list[Count]:
    """A table of counts as the pipeline's records."""

    def rows() -> Iterator[Count]:
        for at, counter, count, temperature, rain, wind, holiday in table.itertuples(index=False):
            known = None if math.isnan(count) else count
            yield Count(at.to_pydatetime(), counter, known, temperature, rain, wind, bool(holiday))

    return list(rows())


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell has set for the pipeline is not the tests' business."""
    for name in ("AUDIT_URL", "AUDIT_TABLE", "AUDIT_ENV", "GOOGLE_CLOUD_PROJECT", "REGMODEL_URL", "PIPELINE_RETRIES"):
        monkeypatch.delenv(name, raising=False)
