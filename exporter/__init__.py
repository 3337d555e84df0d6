"""Prometheus exporter for a machine-learning pipeline's audit log and its Airflow."""

__version__ = "0.1.0"
