"""What was trained, what was decided, and how Airflow's DAGs do."""

from grafana.generator.dashboard import dashboard
from grafana.generator.limits import Limits
from grafana.generator.panels import (
    AIRFLOW_OFF,
    NEUTRAL,
    RUNNING,
    Json,
    above,
    heatmap,
    query,
    r2_steps,
    select,
    stat,
    state_timeline,
    timeseries,
)

UID = "mlops-training-deployment"
NO_RUN = "Airflow is off, or no run in this range"
NEVER_TRAINED = "no challenger was trained in this range"


def build(limits: Limits) -> Json:
    """The dashboard `mlops-training-deployment`."""
    runs, decisions = select("bike_training_runs_total"), select("bike_model_deployments_total")
    succeeded = select("bike_training_runs_total", 'status="success"')
    dag_runs = select("airflow_dag_runs_total")
    # The largest value of each step: on a month's view a step is hours long, and most runs fit between two of them.
    active = f"max by (dag_id) (max_over_time({select('airflow_dag_run_active_seconds')}[$__rate_interval]))"

    def newest(name: str, legend: str) -> Json:
        return query(f"max by (instance) ({select(name)})", legend)

    def duration(share: float, metric: str, label: str, legend: str) -> Json:
        buckets = select(f"{metric}_bucket")
        expr = f"histogram_quantile({share}, sum by (le, {label}) (increase({buckets}[$__range])))"
        return query(expr, legend, instant=True)

    training = [
        stat(
            1, "Training runs in this range", "Challengers trained in the chosen time, by outcome.",
            [query(f"round(sum by (status) (increase({runs}[$__range])))", "{{status}}", instant=True)],
            width=6, unit="short", steps=NEUTRAL, text="value_and_name",
        ),
        stat(
            2, "Training runs in total", "Challengers trained since the audit log began, by outcome.",
            [query(f"sum by (status) ({runs})", "{{status}}", instant=True)],
            width=6, unit="short", text="value_and_name",
        ),
        stat(
            3, "Success rate", "Share of the training runs in the chosen time that succeeded.",
            [query(f"sum(increase({succeeded}[$__range])) / (sum(increase({runs}[$__range])) > 0)", "success rate",
                   instant=True)],
            width=6, unit="percentunit", steps=((None, "red"), (0.5, "orange"), (0.8, "green")), decimals=0,
            text="value", empty=NEVER_TRAINED,
        ),
        stat(
            4, "Newest improvement", "R² of the newest challenger minus that of the champion.",
            [newest("bike_model_improvement_delta", "{{instance}}")],
            width=6, unit="none", steps=((None, "red"), (0, "green")), decimals=3, text="value",
            empty="no challenger was trained yet",
        ),
    ]  # fmt: skip
    deployment = [
        stat(
            5, "Decisions in this range", "Monitoring runs in the chosen time by what was decided.",
            [query(f"round(sum by (decision) (increase({decisions}[$__range])))", "{{decision}}", instant=True)],
            width=6, unit="short", steps=NEUTRAL, text="value_and_name",
        ),
        stat(
            6, "Decisions in total", "Monitoring runs since the audit log began by what was decided.",
            [query(f"sum by (decision) ({decisions})", "{{decision}}", instant=True)],
            width=6, unit="short", text="value_and_name",
        ),
        timeseries(
            7, "Decisions over time", "Total by decision: each step is one run.",
            [query(f"sum by (decision) ({decisions})", "{{decision}}")], width=12, unit="short", decimals=0,
        ),
        timeseries(
            8, "Champion and challenger", "R² on test_current, with the limits of both rules.",
            [newest("bike_model_r2_champion_current", "champion {{instance}}"),
             newest("bike_model_r2_challenger_current", "challenger {{instance}}")],
            width=12, unit="none", steps=r2_steps(limits), decimals=3,
        ),
        timeseries(
            9, "Training runs over time", "Total by outcome: each step is one run.",
            [query(f"sum by (status) ({runs})", "{{status}}")], width=12, unit="short", decimals=0,
        ),
    ]  # fmt: skip
    airflow = [
        state_timeline(
            10, "DAG state", "When a run of each DAG was going on.",
            [query(f"{active} > bool 0", "{{dag_id}}")], width=12, mapping=RUNNING, empty=AIRFLOW_OFF,
        ),
        timeseries(
            11, "Age of the run that is going on", f"The rule airflow_dag_too_slow fires when {limits.monitored_dag} "
            "stays beyond the limit; 0 when nothing runs.",
            [query(active, "{{dag_id}}")],
            width=12, unit="s", steps=above(limits.running_seconds), low=0, empty=AIRFLOW_OFF,
        ),
        stat(
            12, "Since the last success", "Time since each DAG last ended well.",
            [query(f"time() - max by (dag_id) ({select('airflow_dag_last_success_timestamp_seconds')})", "{{dag_id}}")],
            width=8, unit="dtdurations", text="value_and_name", empty=AIRFLOW_OFF,
        ),
        stat(
            13, "DAG runs in this range", "Finished runs in the chosen time, by DAG and end state.",
            [query(f"round(sum by (dag_id, state) (increase({dag_runs}[$__range]))) > 0", "{{dag_id}} {{state}}",
                   instant=True)],
            width=8, unit="short", steps=NEUTRAL, text="value_and_name", empty=NO_RUN,
        ),
        stat(
            14, "DAG duration in this range", "Median and 95th percentile of the runs that ended in the chosen time.",
            [duration(0.5, "airflow_dag_run_duration_seconds", "dag_id", "{{dag_id}} p50"),
             duration(0.95, "airflow_dag_run_duration_seconds", "dag_id", "{{dag_id}} p95")],
            width=8, unit="dtdurations", text="value_and_name", empty=NO_RUN,
        ),
        heatmap(
            15, "DAG durations", "How long runs took, by when they ended.",
            [query(f"sum by (le) (increase({select('airflow_dag_run_duration_seconds_bucket')}[$__rate_interval]))",
                   "{{le}}", heatmap=True)],
            width=12, empty=AIRFLOW_OFF,
        ),
        heatmap(
            16, "Task durations", "How long tasks took, by when they ended.",
            [query(f"sum by (le) (increase({select('airflow_task_duration_seconds_bucket')}[$__rate_interval]))",
                   "{{le}}", heatmap=True)],
            width=12, empty=AIRFLOW_OFF,
        ),
        stat(
            17, "Slowest tasks in this range", "95th percentile of the five tasks that took longest.",
            [query(f"topk(5, histogram_quantile(0.95, sum by (le, dag_id, task_id) "
                   f"(increase({select('airflow_task_duration_seconds_bucket')}[$__range]))) > 0)",
                   "{{dag_id}} / {{task_id}}", instant=True)],
            width=24, unit="dtdurations", text="value_and_name", empty=NO_RUN,
        ),
    ]  # fmt: skip
    return dashboard(
        UID, "Training runs, deployment decisions, DAG and task durations.",
        [("Training", 5, training), ("Decisions", 7, deployment), ("Airflow", 8, airflow)],
        refresh="1m", since="now-30d",
    )  # fmt: skip
