"""Every week: has the world drifted, is the champion still good, and if not, is a newly trained challenger better?

Ends with one row in the audit log, also when a task failed. Conf (optional): `{"as_of": "2025-05-12"}`.
"""

from typing import Any

try:
    from airflow.sdk import PokeReturnValue, dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.sensors.base import PokeReturnValue

from bike_pipeline import ingestion, monitoring, runs
from bike_pipeline.audit import open_audit_log
from bike_pipeline.records import PipelineError
from bike_pipeline.regmodel import RegModel
from bike_pipeline.settings import Settings, dag_arguments, sensor_arguments
from bike_pipeline.warehouse import open_warehouse


@dag(dag_id="monitor_and_fine_tune", doc_md=__doc__, **dag_arguments("0 1 * * 1"))
def monitor_and_fine_tune() -> None:
    """The tasks and their order."""

    @task.sensor(**sensor_arguments())
    def check_raw_data(**context: Any) -> PokeReturnValue:
        """Wait until there are counts of the weeks that are judged."""
        warehouse, as_of = open_warehouse(Settings.from_environment()), runs.as_of(context)
        return PokeReturnValue(*ingestion.arrived(lambda: monitoring.check_raw_data(warehouse, as_of)))

    @task
    def monitor_drift(**context: Any) -> None:
        """Two-sample tests, feature by feature. XComs: drift_detected, drift_summary."""
        settings = Settings.from_environment()
        found = monitoring.find_drift(RegModel(settings.regmodel_url), open_warehouse(settings), runs.as_of(context))
        context["ti"].xcom_push(key="drift_detected", value=found.detected)
        context["ti"].xcom_push(key="drift_summary", value=found.summary())

    @task
    def validate_model(**context: Any) -> None:
        """The champion on test_current and test_baseline. XComs: r2, rmse, r2_baseline, champion_version."""
        model = RegModel(Settings.from_environment().regmodel_url)
        champion, _ = model.evaluate(*monitoring.current_window(runs.as_of(context)))
        context["ti"].xcom_push(key="r2", value=champion.test_current.r2)
        context["ti"].xcom_push(key="rmse", value=champion.test_current.rmse)
        context["ti"].xcom_push(key="r2_baseline", value=champion.test_baseline.r2)
        context["ti"].xcom_push(key="champion_version", value=champion.version)

    @task.branch
    def decide_fine_tune(**context: Any) -> str:
        """Train a challenger, or go straight to the end? XCom: fine_tune_triggered."""
        ti = context["ti"]
        wanted = monitoring.wants_fine_tuning(lambda task_id, key: ti.xcom_pull(task_ids=task_id, key=key))
        ti.xcom_push(key="fine_tune_triggered", value=wanted)
        return "fine_tune_model" if wanted else "end_monitoring"

    @task
    def fine_tune_model(**context: Any) -> None:
        """Train a challenger, judge both models, and deploy, skip or reject. XComs: the double evaluation's values."""
        settings = Settings.from_environment()
        outcome = monitoring.fine_tune(RegModel(settings.regmodel_url), runs.as_of(context))
        for key, value in outcome.items():
            context["ti"].xcom_push(key=key, value=value)

    @task
    def validate_new_champion(**context: Any) -> None:
        """Whoever is champion now, on both test sets. XComs: new_champion_r2, new_champion_rmse and others."""
        model = RegModel(Settings.from_environment().regmodel_url)
        champion, _ = model.evaluate(*monitoring.current_window(runs.as_of(context)))
        context["ti"].xcom_push(key="new_champion_r2", value=champion.test_current.r2)
        context["ti"].xcom_push(key="new_champion_rmse", value=champion.test_current.rmse)
        context["ti"].xcom_push(key="new_champion_r2_baseline", value=champion.test_baseline.r2)
        context["ti"].xcom_push(key="champion_version", value=champion.version)

    @task(trigger_rule="all_done")
    def end_monitoring(**context: Any) -> str:
        """Write the audit row, whatever happened before, and fail if anything before failed."""
        settings, ti = Settings.from_environment(), context["ti"]

        def pulled(task_id: str, key: str) -> Any:
            return ti.xcom_pull(task_ids=task_id, key=key)

        failed = monitoring.unfinished(pulled)
        row = monitoring.audit_row(settings, runs.as_of(context), context["dag_run"].run_id, failed, pulled)
        open_audit_log(settings).write(row)
        told = monitoring.ask_for_refresh(settings)
        if failed:
            raise PipelineError(f"the audit row is written, but these tasks failed: {', '.join(failed)}")
        return told

    decided = decide_fine_tune()
    end = end_monitoring()
    check_raw_data() >> monitor_drift() >> validate_model() >> decided
    decided >> fine_tune_model() >> validate_new_champion() >> end
    decided >> end


monitor_and_fine_tune()
