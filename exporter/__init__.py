"""Prometheus exporter for a machine-learning pipeline's audit log and its Airflow."""

__version__ = "0.2.0"
