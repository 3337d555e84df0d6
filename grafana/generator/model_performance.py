"""How good champion and challenger are, how fast the API answers, how much is processed."""

from grafana.generator.dashboard import dashboard
from grafana.generator.limits import Limits
from grafana.generator.panels import AIRFLOW_OFF, Json, above, query, r2_steps, select, stat, timeseries, traffic

UID = "mlops-model-performance"


def build(limits: Limits) -> Json:
    """The dashboard `mlops-model-performance`."""

    def newest(name: str, legend: str, aggregate: str = "max") -> Json:
        return query(f"{aggregate} by (instance) ({select(name)})", legend)

    def quantile(share: float, legend: str) -> Json:
        buckets = select("fastapi_request_duration_seconds_bucket", traffic(limits))
        return query(f"histogram_quantile({share}, sum by (le) (rate({buckets}[$__rate_interval])))", legend)

    def daily(name: str, legend: str) -> Json:
        return query(f"round(sum(increase({select(name)}[24h])))", legend)

    now = [
        stat(
            1, "Champion R² (test_current)", "The number that model_performance_critical and _warning test.",
            [newest("bike_model_r2_champion_current", "{{instance}}", "min")],
            width=6, unit="none", steps=r2_steps(limits), decimals=3, text="value",
        ),
        stat(
            2, "Champion R² (test_baseline)", "On the data that the first champion was tested with.",
            [newest("bike_model_r2_champion_baseline", "{{instance}}")], width=6, unit="none", decimals=3, text="value",
        ),
        stat(
            3, "Production RMSE", "Champion on test_current, in bikes an hour. Tested by model_rmse_high.",
            [newest("bike_model_rmse_production", "{{instance}}")],
            width=6, unit="none", steps=above(limits.rmse_critical), decimals=1, text="value",
        ),
        stat(
            4, "Improvement of the newest challenger", "R² of the challenger minus that of the champion.",
            [newest("bike_model_improvement_delta", "{{instance}}")],
            width=6, unit="none", steps=((None, "red"), (0, "green")), decimals=3, text="value",
            empty="no challenger was trained yet",
        ),
    ]  # fmt: skip
    duel = [
        timeseries(
            5, "Champion and challenger on test_current", "R² on the newest data, with the limits of both rules.",
            [newest("bike_model_r2_champion_current", "champion {{instance}}"),
             newest("bike_model_r2_challenger_current", "challenger {{instance}}")],
            width=12, unit="none", steps=r2_steps(limits), decimals=3,
        ),
        timeseries(
            6, "Champion and challenger on test_baseline", "R² on the baseline: a challenger that is worse here has "
            "forgotten something.",
            [newest("bike_model_r2_champion_baseline", "champion {{instance}}"),
             newest("bike_model_r2_challenger_baseline", "challenger {{instance}}")],
            width=12, unit="none", steps=r2_steps(limits), decimals=3,
        ),
    ]  # fmt: skip
    errors = [
        timeseries(
            7, "RMSE", "Champion on test_current, and the daily prediction run on what really came. Bikes an hour.",
            [newest("bike_model_rmse_production", "production {{instance}}"),
             newest("bike_prediction_rmse", "daily {{instance}}")],
            width=8, unit="none", steps=above(limits.rmse_critical), decimals=1,
        ),
        timeseries(
            8, "MAE (daily predictions)", "Mean absolute error of the newest daily prediction run, in bikes an hour.",
            [newest("bike_prediction_mae", "{{instance}}")], width=8, unit="none", decimals=1, empty=AIRFLOW_OFF,
        ),
        timeseries(
            9, "R² (daily predictions)", "R² of the newest daily prediction run.",
            [newest("bike_prediction_r2", "{{instance}}")], width=8, unit="none", decimals=3, empty=AIRFLOW_OFF,
        ),
    ]  # fmt: skip
    work = [
        timeseries(
            10, "Improvement delta", "R² of the newest challenger minus that of the champion. Above 0 it is better.",
            [newest("bike_model_improvement_delta", "{{instance}}")],
            width=8, unit="none", steps=((None, "red"), (0, "green")), decimals=3,
            empty="no challenger was trained yet",
        ),
        timeseries(
            11, "API latency", "Time to answer a request, from the API's histogram.",
            [quantile(0.5, "p50"), quantile(0.95, "p95"), quantile(0.99, "p99")],
            width=8, unit="s", steps=above(limits.latency_seconds), low=0,
            empty="no requests, or the API is not scraped",
        ),
        timeseries(
            12, "Processed in 24 hours", "Records ingested and predictions made in the 24 hours before.",
            [daily("bike_records_ingested_total", "records"), daily("bike_predictions_generated_total", "predictions")],
            width=8, unit="short", low=0, empty=AIRFLOW_OFF,
        ),
    ]  # fmt: skip
    return dashboard(
        UID, "Champion against challenger, errors, API latency, volumes.",
        [("Now", 5, now), ("Champion and challenger", 8, duel), ("Errors", 7, errors), ("Work", 7, work)],
        refresh="30s", since="now-30d",
    )  # fmt: skip
