"""The first look: is the model good, is the data good, is everything running."""

from grafana.generator.dashboard import dashboard
from grafana.generator.limits import Limits
from grafana.generator.panels import (
    AIRFLOW_OFF,
    DRIFT,
    KEPT,
    NEUTRAL,
    PLAIN,
    STILL,
    UP,
    Json,
    above,
    gauge,
    query,
    r2_steps,
    select,
    stat,
    state_timeline,
    table,
    timeseries,
    traffic,
)

UID = "mlops-overview"
COUNTERS = {
    "bike_model_deployments_total": "decisions",
    "bike_training_runs_total": "training runs",
    "bike_records_ingested_total": "records",
    "bike_predictions_generated_total": "predictions",
    "airflow_dag_runs_total": "DAG runs",
}
NO_TRAFFIC = "no requests, or the API is not scraped"


def build(limits: Limits) -> Json:
    """The dashboard `mlops-overview`."""
    requests = select("fastapi_requests_total", traffic(limits))
    errors = select("fastapi_requests_total", 'status_code=~"5.."', traffic(limits))
    success = select("airflow_dag_last_success_timestamp_seconds", f'dag_id="{limits.ingestion_dag}"')
    records, predictions = select("bike_records_ingested_total"), select("bike_predictions_generated_total")
    silence = limits.silence_hours * 3600
    now = [
        stat(
            1, "Drift detected", "Whether the newest monitoring run found drift.",
            [query(f"max by (instance) ({select('bike_drift_detected')})", "{{instance}}")],
            width=4, unit="none", steps=above(1), mapping=DRIFT, text="value",
        ),
        gauge(
            2, "Drift share", "Share of the features that drifted. Beyond the limit high_drift_detected fires.",
            [query(f"max by (instance) ({select('bike_drift_share')})", "{{instance}}")],
            width=4, unit="percentunit", steps=above(limits.drift_high), low=0, high=1, decimals=0,
            empty="the audit log has no drift_share",
        ),
        stat(
            3, "Champion R² (test_current)",
            "R² of the champion on test_current, from the newest monitoring run that measured it.",
            [query(f"min by (instance) ({select('bike_model_r2_champion_current')})", "{{instance}}")],
            width=4, unit="none", steps=r2_steps(limits), decimals=3, graph=True, text="value",
        ),
        stat(
            4, "Production RMSE", "RMSE of the champion on test_current, in bikes an hour.",
            [query(f"max by (instance) ({select('bike_model_rmse_production')})", "{{instance}}")],
            width=4, unit="none", steps=above(limits.rmse_critical), decimals=1, graph=True, text="value",
        ),
        stat(
            5, "Drifted features", "How many features drifted in the newest monitoring run.",
            [query(f"max by (instance) ({select('bike_drifted_features_count')})", "{{instance}}")],
            width=4, unit="none", text="value", empty="the audit log has no drifted_features_count",
        ),
        stat(
            6, "Services", "Whether Prometheus reaches each scraped job: exporter, API, Prometheus, Pushgateway.",
            [query(f"min by (job) ({select('up')})", "{{job}}")],
            width=4, unit="none", steps=((None, "red"), (1, "green")), mapping=UP, text="value_and_name",
            empty="nothing is scraped",
        ),
    ]  # fmt: skip
    freshness = [
        stat(
            7, "Newest audit record", "Age of the newest row of the audit log. Monitoring runs weekly by default.",
            [query(f"time() - max by (instance) ({select('mlops_exporter_audit_last_record_timestamp_seconds')})",
                   "{{instance}}")],
            width=6, unit="dtdurations", text="value", empty="the audit log is empty or out of reach",
        ),
        stat(
            8, "Last successful ingestion",
            f"Time since {limits.ingestion_dag} last succeeded. The rule no_data_ingested fires beyond the limit.",
            [query(f"time() - max by (instance) ({success})", "{{instance}}")],
            width=6, unit="dtdurations", steps=above(silence), text="value", empty=AIRFLOW_OFF,
        ),
        state_timeline(
            9, "Source state", "Whether the exporter's last refresh of each source succeeded. A source that is "
            "switched off has no band.",
            [query(f"min by (source) (min_over_time({select('mlops_exporter_source_up')}[$__rate_interval]))",
                   "{{source}}")],
            width=12, mapping=UP, empty="the exporter is not scraped",
        ),
        timeseries(
            10, "Age of the shown values", "Time since each source last confirmed what is shown. Beyond the limit "
            "service_down fires.",
            [query(f"time() - max by (source) ({select('mlops_exporter_source_last_success_timestamp_seconds')})",
                   "{{source}}")],
            width=12, unit="s", steps=above(limits.stale_seconds), low=0, empty="no source has answered yet",
        ),
        table(
            11, "Where values come from", "The source that each metric shows at the moment.",
            [("Shown", f"max by (metric, source) ({select('mlops_exporter_metric_source_info')})", "none", PLAIN)],
            width=12, key={"metric": "Metric", "source": "Source"}, empty="the exporter is not scraped",
        ),
        stat(
            17, "Exporter state", "Whether the exporter keeps its counters and last readings over a restart. "
            "Not kept: counters begin anew; /health says why.",
            [query(f"min by (instance) ({select('mlops_exporter_state_persistent')})", "{{instance}}")],
            width=5, unit="none", steps=((None, "red"), (1, "green")), mapping=KEPT, text="value",
            empty="the exporter is not scraped",
        ),
        stat(
            18, "Series dropped", "Series that were left out because there were more than EXPORTER_MAX_SERIES.",
            [query(f"max by (instance) ({select('mlops_exporter_series_dropped')})", "{{instance}}")],
            width=5, unit="short", steps=above(1), text="value", empty="the audit log was not read yet",
        ),
        timeseries(
            19, "Loop errors", "Errors of the exporter's refresh loop that it did not expect. Any is a bug to report; "
            "the log has the traceback.",
            [query(f"sum by (instance) (increase({select('mlops_exporter_loop_errors_total')}[$__rate_interval]))",
                   "{{instance}}")],
            width=6, unit="short", steps=above(1), low=0, bars=True, empty="the exporter is not scraped",
        ),
        stat(
            20, "Counters in this range", "What each counter grew by in the chosen time. One that stands still for "
            "longer than its DAG's schedule counts nothing any more.",
            [query(f"round(sum(increase({select(name)}[$__range])))", legend, instant=True)
             for name, legend in COUNTERS.items()],
            width=8, unit="short", steps=NEUTRAL, mapping=STILL, text="value_and_name", empty=AIRFLOW_OFF,
        ),
    ]  # fmt: skip
    api = [
        timeseries(
            12, "API request rate", "Requests a second by status code, without those of health checks and scrapes.",
            [query(f"sum by (status_code) (rate({requests}[$__rate_interval]))", "{{status_code}}")],
            width=12, unit="reqps", stack=True, low=0, empty=NO_TRAFFIC,
        ),
        timeseries(
            13, "API error rate", "Share of the requests that ended in a 5xx. The rule api_error_rate_high looks at "
            "5 minutes with real traffic.",
            [query(f"(sum(rate({errors}[$__rate_interval])) or vector(0)) / "
                   f"(sum(rate({requests}[$__rate_interval])) > 0)", "5xx")],
            width=12, unit="percentunit", steps=above(limits.error_ratio), low=0, empty=NO_TRAFFIC,
        ),
    ]  # fmt: skip
    volumes = [
        stat(
            14, "Records ingested (24 h)", "New records of the last 24 hours.",
            [query(f"round(sum(increase({records}[24h])))", "records", instant=True)],
            width=6, unit="short", steps=NEUTRAL, empty=AIRFLOW_OFF,
        ),
        stat(
            15, "Predictions generated (24 h)", "New predictions of the last 24 hours.",
            [query(f"round(sum(increase({predictions}[24h])))", "predictions", instant=True)],
            width=6, unit="short", steps=NEUTRAL, empty=AIRFLOW_OFF,
        ),
        timeseries(
            16, "R² over time", "The champion on test_current, with the limits of both rules.",
            [query(f"min by (instance) ({select('bike_model_r2_champion_current')})", "{{instance}}")],
            width=12, unit="none", steps=r2_steps(limits), decimals=3,
        ),
    ]  # fmt: skip
    return dashboard(
        UID, "Model, data, sources and API at a glance.",
        [("Now", 5, now), ("Sources", 6, freshness), ("API", 7, api), ("Volumes and trend", 7, volumes)],
        refresh="10s", since="now-24h",
    )  # fmt: skip
