"""Whatever rows the log holds: no value is invented, counters never step back, and the exposition can be parsed."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.sources.audit.query import horizon_us
from testbed.exposed import Exposed
from testbed.scripted import Clock, turn
from tests.sources.audit.duckdb_log import CATALOG, DAY, NOW, Log, counts, gauge, source_for

COLUMNS = {
    "timestamp": "TIMESTAMPTZ",
    "r2": "DOUBLE",
    "rmse": "DOUBLE",
    "r2_current": "DECIMAL(18, 6)",
    "drift_detected": "BOOLEAN",
    "drift_share": "VARCHAR",
    "drifted_features_count": "BIGINT",
    "deployment_decision": "VARCHAR",
    "fine_tune_triggered": "BOOLEAN",
    "fine_tune_success": "BOOLEAN",
}
GAUGES = {
    "r2": "bike_model_r2_champion_current",
    "rmse": "bike_model_rmse_production",
    "r2_current": "bike_model_r2_challenger_current",
    "drift_detected": "bike_drift_detected",
    "drift_share": "bike_drift_share",
    "drifted_features_count": "bike_drifted_features_count",
}
DOUBLES = st.none() | st.sampled_from([0.0, 999.0, math.nan, math.inf, -math.inf, -0.0]) | st.floats(-1e6, 1e6)
# Whole seconds close together, so that equal timestamps are common; some in the future, some missing.
TIMES = st.none() | st.integers(0, 6).map(lambda days: NOW - days * DAY) | st.sampled_from([NOW + 5 * DAY, 4e9])
ROWS = st.fixed_dictionaries(
    {"at": TIMES},
    optional={
        "r2": DOUBLES,
        "rmse": DOUBLES,
        "r2_current": st.none() | st.integers(-999_999, 999_999).map(lambda n: n / 1000),
        "drift_detected": st.none() | st.booleans(),
        "drift_share": st.none()
        | st.sampled_from(["", " ", "0.5", " 0.25 ", "1e-3", "True", "FALSE", "nan", "inf", "n/a", "0,5"])
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        "drifted_features_count": st.none() | st.integers(-5, 50),
        "deployment_decision": st.none()
        | st.sampled_from(["deploy", "Deploy ", "skip", "reject", "not_triggered", "?"]),
        "fine_tune_triggered": st.none() | st.booleans(),
        "fine_tune_success": st.none() | st.booleans(),
    },
)


def as_number(column: str, row: Mapping[str, Any]) -> float | None:
    """What the row says of a column, by the rules on paper; None for nothing."""
    value = row.get(column)
    if value is None:
        return None
    if row.get("rmse") == 999.0 and row.get("r2") == 0.0 and column in ("r2", "rmse"):
        return None
    if isinstance(value, str):
        text = value.strip(" ").lower()
        if text in ("true", "false"):
            return float(text == "true")
        try:
            value = float(text)
        except ValueError:
            return None
    number = float(value)
    return number if math.isfinite(number) else None


def comparable(row: Mapping[str, Any]) -> bool:
    """Whether Python and SQL agree on what this row's text says."""
    text = row.get("drift_share")
    return text is None or (
        text.isascii() and "_" not in text and not any(c in text for c in "\t\n\r\v\f\x1c\x1d\x1e\x1f")
    )


def newest(column: str, rows: list[Mapping[str, Any]]) -> float | None:
    """The newest value that is not missing; the larger one of equally new ones."""
    found = [
        (row["at"], number)
        for row in rows
        if row["at"] is not None
        and row["at"] * 1_000_000 <= horizon_us(NOW)
        and (number := as_number(column, row)) is not None
    ]
    return max(found)[1] if found else None


def counts_now(row: Mapping[str, Any]) -> bool:
    """Whether the row has a time, and that has come."""
    return row["at"] is not None and row["at"] * 1_000_000 <= horizon_us(NOW)


def count(rows: list[Mapping[str, Any]], decision: str) -> int:
    return sum(
        1 for row in rows if counts_now(row) and (row.get("deployment_decision") or "").strip(" ").lower() == decision
    )


@given(
    rows=st.lists(ROWS, max_size=8).filter(
        # A log without any usable time is refused whole: see test_tables.py.
        lambda rows: all(comparable(row) for row in rows) and (not rows or any(row["at"] is not None for row in rows))
    )
)
def test_every_value_is_the_one_that_the_rules_on_paper_give(rows: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "audit.duckdb", COLUMNS)
        log.add(rows)
        reading = source_for(log.path).read(None)
    for column, metric in GAUGES.items():
        assert gauge(reading, metric) == newest(column, rows), column
    assert counts(reading, "bike_model_deployments_total") == {
        decision: count(rows, decision) for decision in ("deploy", "skip", "reject")
    }
    trained = [row for row in rows if counts_now(row) and row.get("fine_tune_triggered")]
    assert counts(reading, "bike_training_runs_total") == {
        "success": sum(row.get("fine_tune_success") is True for row in trained),
        "failed": sum(row.get("fine_tune_success") is False for row in trained),
    }
    assert reading.facts["rows"] == sum(row["at"] is not None for row in rows)


@settings(max_examples=settings.default.max_examples // 2)
@given(batches=st.lists(st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_counters_never_step_back_while_rows_are_added_and_the_exposition_can_be_parsed(
    batches: list[list[dict[str, Any]]],
):
    clock = Clock(NOW)
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "audit.duckdb", COLUMNS)
        source = source_for(log.path, clock=clock.wall)
        refresher = Refresher(
            CATALOG,
            [source],
            Ledger.open(None),
            interval=60,
            stale_after=3600,
            wall=clock.wall,
            monotonic=clock.monotonic,
        )
        before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for batch in batches:
            log.add(batch)
            clock.advance(60)
            exposition = turn(refresher).exposition
            list(parse_openmetrics(exposition.openmetrics.decode()))
            list(text_string_to_metric_families(exposition.text.decode()))
            now = Exposed(exposition.text)
            assert not [sample for sample in now.samples if math.isnan(sample.value)]
            counters = {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in now.samples
                if sample.name.startswith("bike_") and sample.name.endswith("_total")
            }
            assert all(counters[series] >= value for series, value in before.items())
            before = counters
        refresher.stop()
