"""Settings of the pipeline, from the environment of Airflow's processes; every problem is reported at once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bike_pipeline.records import PipelineError


class BadSettings(PipelineError):
    """The environment cannot be used; the message lists every problem, a line each."""


@dataclass(frozen=True)
class Settings:
    """Where the pipeline reads and writes.

    Attributes:
        regmodel_url: the RegModel API (REGMODEL_URL).
        google_project: keep counts, predictions and the audit log in this project's BigQuery (GOOGLE_CLOUD_PROJECT);
            None to keep them in DuckDB files. The same rule as the exporter's: AUDIT_URL wins.
        audit_file: the DuckDB file of the audit log (AUDIT_URL, `duckdb:///path` or `duckdb:path`; without it
            PIPELINE_AUDIT_FILE, a path, which does not win over BigQuery).
        audit_table: `dataset.table` or `project.dataset.table` (AUDIT_TABLE).
        warehouse_file: the DuckDB file of counts and predictions (PIPELINE_WAREHOUSE).
        warehouse_dataset: the BigQuery dataset of counts and predictions (PIPELINE_DATASET).
        env: what the audit log's column `env` says (AUDIT_ENV).
        refresh_url: the exporter's `/-/refresh`, asked when an audit row was written (PIPELINE_REFRESH_URL); optional.
        refresh_token: the token that it wants (EXPORTER_REFRESH_TOKEN).
    """

    regmodel_url: str = "http://regmodel-backend:8000"
    google_project: str | None = None
    audit_file: Path = Path("audit.duckdb")
    audit_table: str = "monitoring_audit.logs"
    warehouse_file: Path = Path("warehouse.duckdb")
    warehouse_dataset: str = "bike_traffic"
    env: str = "dev"
    refresh_url: str | None = None
    refresh_token: str | None = field(default=None, repr=False)

    @property
    def uses_bigquery(self) -> bool:
        """Whether BigQuery holds everything, rather than DuckDB files."""
        return self.google_project is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the variables; an empty one counts as not set.

        Raises:
            BadSettings: with every problem.
        """
        held = os.environ if environment is None else environment
        given = {name: value.strip() for name, value in held.items() if value.strip()}
        problems: list[str] = []
        for name in ("REGMODEL_URL", "PIPELINE_REFRESH_URL"):
            parts = urlsplit(given.get(name, "http://host"))
            if parts.scheme not in ("http", "https") or not parts.hostname:
                problems.append(f"{name}: must be http://host[:port] or https://host[:port]")
        audit_file, audit_url = Path(given.get("PIPELINE_AUDIT_FILE", cls.audit_file)), given.get("AUDIT_URL")
        if audit_url is not None:
            if not audit_url.startswith("duckdb:") or not audit_url.removeprefix("duckdb:").strip("/"):
                problems.append("AUDIT_URL: the pipeline writes to duckdb:///path/file, or without it to BigQuery")
            else:
                audit_file = Path(audit_url.removeprefix("duckdb:").removeprefix("//"))
        table = given.get("AUDIT_TABLE", cls.audit_table)
        if table.count(".") not in (1, 2) or not all(table.split(".")):
            problems.append("AUDIT_TABLE: must be dataset.table or project.dataset.table")
        if problems:
            raise BadSettings("\n".join(problems))
        return cls(
            regmodel_url=given.get("REGMODEL_URL", cls.regmodel_url).rstrip("/"),
            google_project=given.get("GOOGLE_CLOUD_PROJECT") if audit_url is None else None,
            audit_file=audit_file,
            audit_table=table,
            warehouse_file=Path(given.get("PIPELINE_WAREHOUSE", cls.warehouse_file)),
            warehouse_dataset=given.get("PIPELINE_DATASET", cls.warehouse_dataset),
            env=given.get("AUDIT_ENV", cls.env),
            refresh_url=given.get("PIPELINE_REFRESH_URL"),
            refresh_token=given.get("EXPORTER_REFRESH_TOKEN"),
        )


def retries() -> int:
    """How often a failed task is tried again (PIPELINE_RETRIES, 5 without it). Read while Airflow parses the DAGs.

    Raises:
        BadSettings: it is not a whole number from 0 to 100.
    """
    text = os.environ.get("PIPELINE_RETRIES", "").strip() or "5"
    if not text.isdecimal() or int(text) > 100:
        raise BadSettings(f"PIPELINE_RETRIES: must be a whole number from 0 to 100, not {text!r}")
    return int(text)


def sensor_arguments() -> dict[str, Any]:
    """What sensors have in common, as keyword arguments of Airflow's `task.sensor`. Read while Airflow parses the DAGs.

    A sensor waits for PIPELINE_WAIT_SECONDS (an hour without it) for the DAG that feeds it. Between two pokes it gives
    its slot back, so that the DAG it waits for can run on an Airflow of one slot too.

    Raises:
        BadSettings: it is not a whole number from 0 to a day's seconds.
    """
    text = os.environ.get("PIPELINE_WAIT_SECONDS", "").strip() or "3600"
    if not text.isdecimal() or int(text) > 86_400:
        raise BadSettings(f"PIPELINE_WAIT_SECONDS: must be a whole number from 0 to 86400, not {text!r}")
    return {"mode": "reschedule", "poke_interval": 10, "timeout": int(text)}


def schedule(cron: str) -> str | None:
    """A DAG's schedule; None (only runs that are triggered) when PIPELINE_SCHEDULED is `false`.

    Raises:
        BadSettings: it is neither true nor false.
    """
    text = os.environ.get("PIPELINE_SCHEDULED", "").strip().lower() or "true"
    if text not in ("true", "false"):
        raise BadSettings(f"PIPELINE_SCHEDULED: must be true or false, not {text!r}")
    return cron if text == "true" else None


def dag_arguments(cron: str) -> dict[str, Any]:
    """What all three DAGs have in common, as keyword arguments of Airflow's `dag`.

    Raises:
        BadSettings: as `retries` and `schedule`.
    """
    return {
        "schedule": schedule(cron),
        "start_date": datetime(2024, 1, 1),
        "catchup": False,
        "max_active_runs": 1,
        "default_args": {
            "retries": retries(),
            "retry_delay": timedelta(minutes=2),
            "execution_timeout": timedelta(minutes=30),
        },
        "tags": ["bike"],
    }
