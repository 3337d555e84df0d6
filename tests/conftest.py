"""Fixtures that every test can ask for."""

from testbed.airflow import airflow2, airflow3
from testbed.bigquery import bigquery_emulator

__all__ = ["airflow2", "airflow3", "bigquery_emulator"]
