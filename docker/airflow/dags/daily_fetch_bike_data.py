"""Every day: the counts of the day before, and of every day that was missed, from the city's feed into the warehouse.

Conf (all optional): `{"as_of": "2025-05-12", "days": 7}` fetches the seven days before 12 May 2025.
"""

from datetime import datetime
from typing import Any

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

from bike_pipeline import ingestion, runs
from bike_pipeline.regmodel import RegModel
from bike_pipeline.settings import Settings, dag_arguments
from bike_pipeline.warehouse import open_warehouse


@dag(dag_id="daily_fetch_bike_data", doc_md=__doc__, **dag_arguments("@daily"))
def daily_fetch_bike_data() -> None:
    """The tasks and their order."""

    @task(multiple_outputs=False)
    def fetch_to_bigquery(**context: Any) -> dict[str, str]:
        """Fetch into the warehouse, which is BigQuery or a DuckDB file. XCom: records_count."""
        settings = Settings.from_environment()
        start, as_of = runs.window(context)
        days = (as_of - start).days
        begun, rows = ingestion.fetch(RegModel(settings.regmodel_url), open_warehouse(settings), as_of, days=days)
        context["ti"].xcom_push(key="records_count", value=rows)
        return {"start": begun.isoformat(), "end": as_of.isoformat()}

    @task
    def validate_ingestion(fetched: dict[str, str]) -> None:
        """Look at what was stored: coverage, doubles, impossible counts, silent sensors."""
        start, end = (datetime.fromisoformat(fetched[key]) for key in ("start", "end"))
        ingestion.validate(open_warehouse(Settings.from_environment()).counts(start, end), start, end)

    validate_ingestion(fetch_to_bigquery())


daily_fetch_bike_data()
