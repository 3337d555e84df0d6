"""Where counts and predictions are kept: a DuckDB file, or BigQuery. A window is always replaced as a whole, so that
doing a day again never doubles it."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import duckdb
import numpy as np

from bike_pipeline import duckdb_file
from bike_pipeline.records import Count, Predicted
from bike_pipeline.settings import Settings

_TYPES: Final = {
    "timestamp": "TIMESTAMP",
    "counter": "STRING",
    "count": "FLOAT64",
    "temperature": "FLOAT64",
    "rain": "FLOAT64",
    "wind": "FLOAT64",
    "holiday": "BOOL",
    "prediction": "FLOAT64",
    "model_version": "STRING",
}
_TABLES: Final = {Count: "counts", Predicted: "predictions"}


class Warehouse(Protocol):
    """Counts and predictions, hour by hour. Windows include their start and exclude their end."""

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        """The counts of a window, by time and counter.

        Raises:
            PipelineError: the store cannot be read; so for every method.
        """
        ...

    def predictions(self, start: datetime, end: datetime) -> list[Predicted]:
        """The predictions of a window, by time and counter."""
        ...

    def last_hour(self) -> datetime | None:
        """Beginning of the newest hour of which there are counts; None for an empty store."""
        ...

    def replace_counts(self, start: datetime, end: datetime, rows: Sequence[Count]) -> None:
        """Put these counts in the place of the window's."""
        ...

    def replace_predictions(self, start: datetime, end: datetime, rows: Sequence[Predicted]) -> None:
        """Put these predictions in the place of the window's."""
        ...


def open_warehouse(settings: Settings) -> Warehouse:
    """The warehouse that the settings name. Opens nothing yet."""
    return BigQueryWarehouse(settings) if settings.uses_bigquery else DuckDBWarehouse(settings)


def _columns(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _tables() -> dict[str, dict[str, str]]:
    """Each table's columns and their GoogleSQL types."""
    return {table: {name: _TYPES[name] for name in _columns(kind)} for kind, table in _TABLES.items()}


class DuckDBWarehouse:
    """The warehouse in a DuckDB file."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.warehouse_file

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        """See Warehouse."""
        return self._read(Count, start, end)

    def predictions(self, start: datetime, end: datetime) -> list[Predicted]:
        """See Warehouse."""
        return self._read(Predicted, start, end)

    def last_hour(self) -> datetime | None:
        """See Warehouse."""
        with self._opened() as connection:
            ((newest,),) = connection.execute("SELECT max(epoch_us(timestamp)) FROM counts").fetchall()
        return None if newest is None else _moment(newest)

    def replace_counts(self, start: datetime, end: datetime, rows: Sequence[Count]) -> None:
        """See Warehouse."""
        self._replace(Count, start, end, rows)

    def replace_predictions(self, start: datetime, end: datetime, rows: Sequence[Predicted]) -> None:
        """See Warehouse."""
        self._replace(Predicted, start, end, rows)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The opened file, with both tables in it."""
        with duckdb_file.opened(self._path) as connection:
            for table, columns in _tables().items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({duckdb_file.declared(columns)})")
            yield connection

    def _read(self, kind: type, start: datetime, end: datetime) -> list[Any]:
        names = _columns(kind)
        # As numbers: the client would need another package for times with a zone.
        selected = ", ".join("epoch_us(timestamp)" if name == "timestamp" else f'"{name}"' for name in names)
        with self._opened() as connection:
            found = connection.execute(
                f"SELECT {selected} FROM {_TABLES[kind]} WHERE timestamp >= ? AND timestamp < ? "
                "ORDER BY timestamp, counter",
                [start.astimezone(UTC), end.astimezone(UTC)],
            ).fetchall()
        return [kind(_moment(at), *others) for at, *others in found]

    def _replace(self, kind: type, start: datetime, end: datetime, rows: Sequence[Any]) -> None:
        table, names = _TABLES[kind], _columns(kind)
        with self._opened() as connection:
            connection.execute(
                f"DELETE FROM {table} WHERE timestamp >= ? AND timestamp < ?",
                [start.astimezone(UTC), end.astimezone(UTC)],
            )
            if not rows:
                return
            # Whole columns at once: a row at a time takes DuckDB about a millisecond each.
            columns = {name: _array(name, [getattr(row, name) for row in rows]) for name in names}
            selected = ", ".join(_restored(name) for name in names)
            connection.register("new_rows", columns)
            connection.execute(f"INSERT INTO {table} SELECT {selected} FROM new_rows")
            connection.unregister("new_rows")


def _array(name: str, values: list[Any]) -> Any:
    if name == "timestamp":
        return np.array([round(value.timestamp() * 1e6) for value in values], dtype=np.int64)
    if _TYPES[name] == "FLOAT64":
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array(values)


def _restored(name: str) -> str:
    if name == "timestamp":
        return "make_timestamptz(timestamp)"
    return f'CASE WHEN isnan("{name}") THEN NULL ELSE "{name}" END' if _TYPES[name] == "FLOAT64" else f'"{name}"'


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


class BigQueryWarehouse:
    """The warehouse in BigQuery: one dataset, tables partitioned by day."""

    def __init__(self, settings: Settings) -> None:
        assert settings.google_project is not None  # noqa: S101 -- uses_bigquery says so
        self._project = settings.google_project
        self._dataset = f"{self._project}.{settings.warehouse_dataset}"
        self._client: Any = None

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        """See Warehouse."""
        return self._read(Count, start, end)

    def predictions(self, start: datetime, end: datetime) -> list[Predicted]:
        """See Warehouse."""
        return self._read(Predicted, start, end)

    def last_hour(self) -> datetime | None:
        """See Warehouse."""
        ((newest,),) = self._run(f"SELECT MAX(timestamp) FROM `{self._dataset}.counts`", [])
        return None if newest is None else newest.astimezone(UTC)

    def replace_counts(self, start: datetime, end: datetime, rows: Sequence[Count]) -> None:
        """See Warehouse."""
        self._replace(Count, start, end, rows)

    def replace_predictions(self, start: datetime, end: datetime, rows: Sequence[Predicted]) -> None:
        """See Warehouse."""
        self._replace(Predicted, start, end, rows)

    def _prepared(self) -> Any:
        if self._client is None:
            from bike_pipeline.bigquery_client import make_client, make_tables

            client = make_client(self._project)
            make_tables(client, self._dataset, _tables(), what="the tables")
            self._client = client
        return self._client

    def _run(self, sql: str, parameters: list[Any]) -> list[Any]:
        from bike_pipeline.bigquery_client import run

        return run(self._prepared(), sql, parameters)

    def _window(self, start: datetime, end: datetime) -> list[Any]:
        from google.cloud import bigquery

        return [
            bigquery.ScalarQueryParameter("start", "TIMESTAMP", start),
            bigquery.ScalarQueryParameter("end", "TIMESTAMP", end),
        ]

    def _read(self, kind: type, start: datetime, end: datetime) -> list[Any]:
        names = _columns(kind)
        found = self._run(
            f"SELECT {', '.join(f'`{name}`' for name in names)} FROM `{self._dataset}.{_TABLES[kind]}` "
            "WHERE timestamp >= @start AND timestamp < @end ORDER BY timestamp, counter",
            self._window(start, end),
        )
        return [kind(row[0].astimezone(UTC), *row.values()[1:]) for row in found]

    def _replace(self, kind: type, start: datetime, end: datetime, rows: Sequence[Any]) -> None:
        from google.cloud import bigquery

        from bike_pipeline.bigquery_client import CALL_SECONDS, JOB_SECONDS, RETRY, failures

        client, table = self._prepared(), f"{self._dataset}.{_TABLES[kind]}"
        self._run(f"DELETE FROM `{table}` WHERE timestamp >= @start AND timestamp < @end", self._window(start, end))
        if rows:
            config = bigquery.LoadJobConfig(
                schema=[bigquery.SchemaField(name, _TYPES[name]) for name in _columns(kind)],
                write_disposition="WRITE_APPEND",
                source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
            )
            lines = (json.dumps({**dataclasses.asdict(row), "timestamp": row.timestamp.isoformat()}) for row in rows)
            content = io.BytesIO("\n".join(lines).encode())
            with failures(f"loading {len(rows)} rows"):
                # Without a size the client uploads in parts that it can resume.
                job = client.load_table_from_file(content, table, job_config=config, timeout=CALL_SECONDS)
                job.result(retry=RETRY, timeout=JOB_SECONDS)
