"""Fixtures that every test can ask for."""

from tests.engines.bigquery import bigquery_emulator

__all__ = ["bigquery_emulator"]
