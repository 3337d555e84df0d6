"""The audit log, one row a monitoring run: one query for both engines, BigQuery and embedded DuckDB."""
