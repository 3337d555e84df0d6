"""monitor_and_fine_tune: drift, validation, the challenger and what becomes of it, and the audit row."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import requests

from bike_pipeline import drift
from bike_pipeline.audit import AuditRow
from bike_pipeline.decision import decide, should_fine_tune
from bike_pipeline.records import BadCounts
from bike_pipeline.regmodel import RegModel
from bike_pipeline.settings import Settings
from bike_pipeline.warehouse import Warehouse

CURRENT_DAYS: Final = 14
"""test_current: the newest two weeks. No challenger is trained on them."""
REFERENCE_DAYS: Final = 56
"""The reference for drift: the eight weeks before the champion was chosen."""
HISTORY_DAYS: Final = 365
REFRESH_TIMEOUT: Final = (2.0, 5.0)


def current_window(as_of: datetime) -> tuple[datetime, datetime]:
    """test_current of a run: beginning and end."""
    return as_of - timedelta(days=CURRENT_DAYS), as_of


def check_raw_data(warehouse: Warehouse, as_of: datetime) -> int:
    """Whether there are counts of test_current; gives the number of rows.

    Raises:
        BadCounts: there are none.
    """
    start, end = current_window(as_of)
    rows = warehouse.counts(start, end)
    if not rows:
        raise BadCounts(f"no counts from {start:%Y-%m-%d} to {end:%Y-%m-%d}: has daily_fetch_bike_data run?")
    return len(rows)


def find_drift(model: RegModel, warehouse: Warehouse, as_of: datetime) -> drift.Drift:
    """Compare the newest days with those that the champion was chosen on.

    Raises:
        PipelineError: the API or the warehouse failed, or there are too few counts.
    """
    start, end = current_window(as_of)
    chosen = min(model.champion().as_of, start)
    rows = warehouse.counts(datetime(1970, 1, 1, tzinfo=as_of.tzinfo), end)
    if not rows or rows[-1].timestamp < start:
        raise BadCounts(f"no counts since {start:%Y-%m-%d}: has daily_fetch_bike_data run?")
    days = drift.daily_features(rows)
    first = days[0].day
    history = [day for day in days if day.day < first + timedelta(days=HISTORY_DAYS)]
    reference = [day for day in days if (chosen - timedelta(days=REFERENCE_DAYS)).date() <= day.day < chosen.date()]
    current = [day for day in days if start.date() <= day.day < end.date()]
    return drift.detect(history, reference, current)


def fine_tune(model: RegModel, as_of: datetime) -> dict[str, Any]:
    """Train a challenger on everything before test_current, judge it against the champion, and promote it if it won.

    Returns:
        What is pushed as XComs, by key.

    Raises:
        PipelineError: the API failed.
    """
    start, end = current_window(as_of)
    trained = model.train(start)
    champion, challenger = model.evaluate(start, end, trained.version)
    assert challenger is not None  # noqa: S101 -- one was named
    decision = decide(champion, challenger)
    if decision.verdict == "deploy":
        model.promote(trained.version, as_of=as_of, expected_champion=champion.version)
    return {
        "decision": decision.verdict,
        "decision_reason": decision.reason,
        "r2_current": challenger.test_current.r2,
        "r2_baseline": challenger.test_baseline.r2,
        "r2_train": trained.r2_train,
        "old_champion_r2_current": champion.test_current.r2,
        "old_champion_r2_baseline": champion.test_baseline.r2,
        "model_improvement": decision.improvement,
        "baseline_regression": decision.baseline_regression,
        "challenger_version": trained.version,
    }


def wants_fine_tuning(pulled: Callable[[str, str], Any]) -> bool:
    """Whether to train a challenger, from what the tasks before said."""
    return should_fine_tune(
        drift_detected=bool(pulled("monitor_drift", "drift_detected")), r2=float(pulled("validate_model", "r2"))
    )


def audit_row(
    settings: Settings, as_of: datetime, run_id: str, failed: list[str], pulled: Callable[[str, str], Any]
) -> AuditRow:
    """The audit row of a run, from its tasks' XComs; what a failed task did not say is unknown.

    Args:
        failed: ids of the tasks that failed, in the order of the run.
        pulled: an XCom by task and key; None where there is none.
    """
    summary = pulled("monitor_drift", "drift_summary") or {}
    tuned = pulled("fine_tune_model", "decision") is not None
    asked = pulled("decide_fine_tune", "fine_tune_triggered")
    if asked is None:
        decision = None
    elif not asked:
        decision = "not_triggered"
    else:
        decision = pulled("fine_tune_model", "decision")

    def newest(key: str, otherwise: str) -> Any:
        value = pulled("validate_new_champion", key)
        return pulled("validate_model", otherwise) if value is None else value

    # Known after a deployment also when the validation of the new champion failed.
    deployed = pulled("fine_tune_model", "challenger_version") if decision == "deploy" else None

    return AuditRow(
        timestamp=as_of,
        run_id=run_id,
        env=settings.env,
        drift_detected=pulled("monitor_drift", "drift_detected"),
        drift_share=summary.get("drift_share"),
        drifted_features_count=summary.get("drifted_features_count"),
        r2=newest("new_champion_r2", "r2"),
        rmse=newest("new_champion_rmse", "rmse"),
        champion_r2_baseline=newest("new_champion_r2_baseline", "r2_baseline"),
        r2_current=pulled("fine_tune_model", "r2_current"),
        r2_baseline=pulled("fine_tune_model", "r2_baseline"),
        r2_train=pulled("fine_tune_model", "r2_train"),
        model_improvement=pulled("fine_tune_model", "model_improvement"),
        fine_tune_triggered=asked,
        fine_tune_success=tuned if asked else (False if asked is not None else None),
        double_evaluation_enabled=True,
        baseline_regression=pulled("fine_tune_model", "baseline_regression"),
        deployment_decision=decision,
        error_message=f"failed: {', '.join(failed)}" if failed else None,
        model_uri=_uri(settings, deployed or newest("champion_version", "champion_version")),
    )


def _uri(settings: Settings, version: str | None) -> str | None:
    return None if version is None else f"{settings.regmodel_url}/models#{version}"


def ask_for_refresh(settings: Settings) -> str:
    """Tell the exporter that there is a new row, if it was said where it is. Says what came of it.

    The run does not fail when the exporter is away: it looks by itself within a minute.
    """
    if settings.refresh_url is None or settings.refresh_token is None:
        return "no PIPELINE_REFRESH_URL or EXPORTER_REFRESH_TOKEN: the exporter will look by itself"
    headers = {"Authorization": f"Bearer {settings.refresh_token}"}
    try:
        # The status is enough: a body that drips in is not waited for.
        with requests.post(settings.refresh_url, headers=headers, timeout=REFRESH_TIMEOUT, stream=True) as answer:
            return f"the exporter answered HTTP {answer.status_code}"
    except requests.RequestException as error:
        return f"the exporter was not told: {type(error).__name__}"


EXPECTED: Final = (
    ("check_raw_data", "return_value"),
    ("monitor_drift", "drift_detected"),
    ("validate_model", "r2"),
    ("decide_fine_tune", "fine_tune_triggered"),
    ("fine_tune_model", "decision"),
    ("validate_new_champion", "new_champion_r2"),
)
"""An XCom that each task pushes when it succeeds."""


def unfinished(pulled: Callable[[str, str], Any]) -> list[str]:
    """The first task that should have said something and did not: it failed, and those after it never ran.

    Told from the XComs, because a task of Airflow 3 has no access to the states of others.
    """
    for task_id, key in EXPECTED:
        if pulled(task_id, key) is None:
            return [task_id]
        if task_id == "decide_fine_tune" and not pulled(task_id, key):
            break
    return []
