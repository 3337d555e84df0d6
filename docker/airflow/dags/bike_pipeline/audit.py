"""The audit log's writer: one row a monitoring run, validated, and written once however often it is asked to.

The row is keyed by `run_id`: writing a run again (a cleared task, a retry after a lost answer) replaces its row.
"""

import dataclasses
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, get_args

from bike_pipeline import duckdb_file
from bike_pipeline.decision import Verdict
from bike_pipeline.records import PipelineError
from bike_pipeline.settings import Settings

DECISIONS: Final = (*get_args(Verdict), "not_triggered")
LONGEST_TEXT: Final = 2000
COLUMNS: Final = {
    "timestamp": "TIMESTAMP",
    "drift_detected": "BOOL",
    "drift_share": "FLOAT64",
    "drifted_features_count": "INT64",
    "r2": "FLOAT64",
    "rmse": "FLOAT64",
    "champion_r2_baseline": "FLOAT64",
    "r2_current": "FLOAT64",
    "r2_baseline": "FLOAT64",
    "r2_train": "FLOAT64",
    "model_improvement": "FLOAT64",
    "fine_tune_triggered": "BOOL",
    "fine_tune_success": "BOOL",
    "double_evaluation_enabled": "BOOL",
    "baseline_regression": "BOOL",
    "deployment_decision": "STRING",
    "env": "STRING",
    "error_message": "STRING",
    "model_uri": "STRING",
    "run_id": "STRING",
}
"""Column names and GoogleSQL types, in the table's order."""


class BadRow(PipelineError):
    """The row must not be written; the message lists every problem."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One monitoring run. The fields are the table's columns; None is unknown. See COLUMNS."""

    timestamp: datetime
    run_id: str
    env: str
    drift_detected: bool | None = None
    drift_share: float | None = None
    drifted_features_count: int | None = None
    r2: float | None = None
    rmse: float | None = None
    champion_r2_baseline: float | None = None
    r2_current: float | None = None
    r2_baseline: float | None = None
    r2_train: float | None = None
    model_improvement: float | None = None
    fine_tune_triggered: bool | None = None
    fine_tune_success: bool | None = None
    double_evaluation_enabled: bool | None = None
    baseline_regression: bool | None = None
    deployment_decision: str | None = None
    error_message: str | None = None
    model_uri: str | None = None

    def values(self) -> dict[str, Any]:
        """The row by column, in the table's order, texts cut to LONGEST_TEXT.

        Raises:
            BadRow: something in it cannot be true.
        """
        row = {name: getattr(self, name) for name in COLUMNS}
        problems = _problems(row)
        if problems:
            raise BadRow("audit row not written: " + "; ".join(problems))
        row["timestamp"] = self.timestamp.astimezone(UTC)
        return {name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in row.items()}


def _problems(row: dict[str, Any]) -> list[str]:
    found = []
    expected = {"FLOAT64": (int, float), "INT64": (int,), "BOOL": (bool,), "STRING": (str,), "TIMESTAMP": (datetime,)}
    for name, value in row.items():
        kinds = expected[COLUMNS[name]]
        if value is None:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            found.append(f"{name} is {type(value).__name__} {value!r}, not {COLUMNS[name]}")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{name} is {value}")
    if found:
        return found
    at, run_id = row["timestamp"], row["run_id"]
    if at is None or at.tzinfo is None:
        found.append("timestamp needs a time zone")
    if not run_id or len(run_id) > LONGEST_TEXT:
        found.append(f"run_id must be 1 to {LONGEST_TEXT} characters")
    if not row["env"]:
        found.append("env is empty")
    for name in ("r2", "champion_r2_baseline", "r2_current", "r2_baseline", "r2_train"):
        if row[name] is not None and row[name] > 1:
            found.append(f"{name} is {row[name]}, above 1")
    for name in ("rmse", "drifted_features_count"):
        if row[name] is not None and row[name] < 0:
            found.append(f"{name} is {row[name]}, below 0")
    if row["drift_share"] is not None and not 0 <= row["drift_share"] <= 1:
        found.append(f"drift_share is {row['drift_share']}, not between 0 and 1")
    decision, triggered = row["deployment_decision"], row["fine_tune_triggered"]
    if decision is not None and decision not in DECISIONS:
        found.append(f"deployment_decision is {decision!r}, not one of {', '.join(DECISIONS)}")
    elif decision == "not_triggered" and triggered:
        found.append("deployment_decision is not_triggered, but fine_tune_triggered is true")
    elif decision in get_args(Verdict) and not triggered:
        found.append(f"deployment_decision is {decision}, but fine_tune_triggered is not true")
    if row["fine_tune_success"] and not triggered:
        found.append("fine_tune_success is true, but fine_tune_triggered is not")
    return found


class AuditLog(Protocol):
    """Where audit rows go."""

    def prepare(self) -> None:
        """Make the table, if there is none."""
        ...

    def write(self, row: AuditRow) -> None:
        """Write a row, or replace the one that its run wrote before.

        Raises:
            BadRow: nothing was written.
            PipelineError: the log cannot be written.
        """
        ...


def open_audit_log(settings: Settings) -> AuditLog:
    """The audit log that the settings name. Opens nothing yet."""
    if settings.uses_bigquery:
        return BigQueryAuditLog(settings)
    return DuckDBAuditLog(settings)


class DuckDBAuditLog:
    """The audit log in a DuckDB file."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.audit_file
        self._schema, self._table = (
            '"' + part.replace('"', '""') + '"' for part in settings.audit_table.split(".")[-2:]
        )

    def prepare(self) -> None:
        """See AuditLog."""
        with duckdb_file.opened(self._path) as connection:
            self._prepare(connection)

    def write(self, row: AuditRow) -> None:
        """See AuditLog."""
        values = row.values()
        with duckdb_file.opened(self._path) as connection:
            self._prepare(connection)
            connection.execute(f"DELETE FROM {self._schema}.{self._table} WHERE run_id = ?", [values["run_id"]])
            names, marks = ", ".join(f'"{name}"' for name in values), ", ".join("?" for _ in values)
            connection.execute(
                f"INSERT INTO {self._schema}.{self._table} ({names}) VALUES ({marks})", list(values.values())
            )

    def _prepare(self, connection: Any) -> None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
        columns = duckdb_file.declared(COLUMNS)
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._schema}.{self._table} ({columns})")


class BigQueryAuditLog:
    """The audit log in BigQuery, written by one MERGE, so that it appears whole and once.

    A row streamed into the table could not be replaced for up to 90 minutes; DML's can.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.google_project is not None  # noqa: S101 -- uses_bigquery says so
        self._project = settings.google_project
        table = settings.audit_table
        self._table = table if table.count(".") == 2 else f"{self._project}.{table}"

    def prepare(self) -> None:
        """See AuditLog. The table is partitioned by day, as `python -m exporter init-audit` makes it."""
        self._prepared()

    def write(self, row: AuditRow) -> None:
        """See AuditLog."""
        from google.cloud import bigquery

        from bike_pipeline.bigquery_client import run

        values = row.values()
        client = self._prepared()
        parameters = [bigquery.ScalarQueryParameter(name, COLUMNS[name], value) for name, value in values.items()]
        new = ", ".join(f"@{name} AS `{name}`" for name in values)
        update = ", ".join(f"`{name}` = new.`{name}`" for name in values if name != "run_id")
        names, taken = ", ".join(f"`{name}`" for name in values), ", ".join(f"new.`{name}`" for name in values)
        sql = (
            f"MERGE `{self._table}` AS log USING (SELECT {new}) AS new "
            # The second condition is always true; a table may refuse statements without one on its partitions.
            "ON log.run_id = new.run_id AND log.timestamp > TIMESTAMP '1970-01-01 00:00:00 UTC' "
            f"WHEN MATCHED THEN UPDATE SET {update} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({taken})"
        )
        run(client, sql, parameters)

    def _prepared(self) -> Any:
        from bike_pipeline.bigquery_client import make_client, make_tables

        client = make_client(self._project)
        dataset, _, table = self._table.rpartition(".")
        make_tables(client, dataset, {table: COLUMNS}, what="the audit table")
        return client


def main() -> None:
    """`python -m bike_pipeline.audit`: make the audit log's table, so that its readers find one on day one.

    Raises:
        SystemExit: it was not made; the message says why, in one line for each problem.
    """
    try:
        open_audit_log(Settings.from_environment()).prepare()
    except PipelineError as error:
        raise SystemExit(str(error)) from None


assert {field.name for field in dataclasses.fields(AuditRow)} == set(COLUMNS)  # noqa: S101 -- the two lists are one

if __name__ == "__main__":
    main()
