"""Fixtures that every test can ask for."""

from tests.engines.airflow import airflow2, airflow3
from tests.engines.bigquery import bigquery_emulator

__all__ = ["airflow2", "airflow3", "bigquery_emulator"]
