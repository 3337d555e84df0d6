"""Every day: predictions for the day before, as the champion could have made them at its beginning, against its counts.

Conf (all optional): `{"as_of": "2025-05-12", "days": 7}` predicts the seven days before 12 May 2025.
"""

from typing import Any

try:
    from airflow.sdk import PokeReturnValue, dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.sensors.base import PokeReturnValue

from bike_pipeline import ingestion, prediction, runs
from bike_pipeline.regmodel import RegModel
from bike_pipeline.settings import Settings, dag_arguments, sensor_arguments
from bike_pipeline.warehouse import open_warehouse


@dag(dag_id="daily_prediction", doc_md=__doc__, **dag_arguments("30 0 * * *"))
def daily_prediction() -> None:
    """The tasks and their order."""

    @task.sensor(**sensor_arguments())
    def check_raw_data(**context: Any) -> PokeReturnValue:
        """Wait until there are counts for every day."""
        warehouse, window = open_warehouse(Settings.from_environment()), runs.window(context)
        return PokeReturnValue(*ingestion.arrived(lambda: prediction.check_raw_data(warehouse, *window)))

    @task
    def predict_daily_data(**context: Any) -> None:
        """Predict and store. XComs: predictions_count, and rmse, mae and r2 where there are counts to compare with."""
        settings = Settings.from_environment()
        predicted, quality = prediction.predict(
            RegModel(settings.regmodel_url), open_warehouse(settings), *runs.window(context)
        )
        context["ti"].xcom_push(key="predictions_count", value=len(predicted))
        if quality is not None:
            for key in ("rmse", "mae", "r2"):
                context["ti"].xcom_push(key=key, value=getattr(quality, key))

    @task
    def validate_predictions(**context: Any) -> None:
        """Look at what was stored: complete, finite, and within reason."""
        warehouse, window = open_warehouse(Settings.from_environment()), runs.window(context)
        rows = warehouse.counts(*window)
        prediction.validate(warehouse.predictions(*window), len(rows), prediction.mean_counts(rows))

    check_raw_data() >> predict_daily_data() >> validate_predictions()


daily_prediction()
