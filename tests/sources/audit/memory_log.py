"""Audit logs of a few rows in DuckDB's memory, without the source around the query."""

import contextlib
from collections.abc import Iterator
from typing import Any

import duckdb

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.sources.audit.answer import AuditAnswer, read_rows
from exporter.sources.audit.columns import Column
from exporter.sources.audit.duckdb_types import google_type
from exporter.sources.audit.query import AuditQuery, build_query
from exporter.sources.audit.transpile import to_duckdb

NOW = 1_790_000_000.0 - 1_790_000_000.0 % 3600
HORIZON = round(NOW) + 2 * 3600
"""Rows that are later are dated in the future."""


def catalogue(*metrics: str, audit: str = "") -> Catalog:
    listed = "".join(f"- {metric}\n" for metric in metrics)
    return parse_catalog(f"version: 1\naudit: {{table: a.b, timestamp: at{audit}}}\nmetrics:\n{listed}", "rules.yaml")


def gauge(origin: str, name: str = "gauge") -> str:
    return f"{{name: {name}, type: gauge, help: G., from: [{{audit: {origin}}}]}}"


def counter(origin: str, name: str = "rows_total", label: str = "kind") -> str:
    return f"{{name: {name}, type: counter, help: C., labels: [{label}], from: [{{audit: {origin}}}]}}"


@contextlib.contextmanager
def _filled(table: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[Column]]]:
    with contextlib.closing(duckdb.connect(config={"threads": 1})) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE TABLE log AS {table}")
        described = connection.execute("DESCRIBE log").fetchall()
        yield connection, [Column(name, google_type(kind)) for name, kind, *_ in described]


def _rows(connection: duckdb.DuckDBPyConnection, query: AuditQuery) -> list[dict[str, Any]]:
    sql = to_duckdb(query.sql)
    cursor = connection.execute(sql, {p.name: p.value for p in query.parameters if f"${p.name}" in sql})
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def asked(
    catalog: Catalog, table: str, *, now: float = NOW, env: str | None = None, **options: Any
) -> tuple[AuditQuery, list[dict[str, Any]]]:
    """The query for a table of the rows of a SELECT, and what it answers."""
    with _filled(table) as (connection, columns):
        query = build_query(catalog, columns, table="`log`", env=env, now=now, **options)
        return query, _rows(connection, query)


def history(catalog: Catalog, table: str, until: float) -> list[dict[str, Any]]:
    """The rows of the query's history."""
    with _filled(table) as (connection, columns):
        query = build_query(catalog, columns, table="`log`", env=None, now=until)
        return _rows(connection, query.history(until))


def answered(catalog: Catalog, table: str, **options: Any) -> AuditAnswer:
    query, found = asked(catalog, table, **options)
    return read_rows(query, found)


def rows(columns: str, *values: str) -> str:
    """A table of rows whose first column, `at`, is in seconds from NOW."""
    listed = ", ".join(f"({value})" for value in values)
    at = f"make_timestamptz({round(NOW)}000000 + (ago * 1000000)::BIGINT) AS at"
    return f"SELECT {at}, * EXCLUDE ago FROM (VALUES {listed}) t(ago, {columns})"


def shown(answer: AuditAnswer, metric: str = "gauge") -> dict[tuple[str, ...], float]:
    """Values by the labels' values."""
    if metric not in answer.observations:
        return {}
    samples = answer.observations[metric].samples
    return {tuple(value for _, value in sample.labels): sample.value for sample in samples}  # type: ignore[union-attr]


def newer(answer: AuditAnswer, metric: str = "rows_total") -> list[list[float]]:
    found = answer.observations[metric].newer
    assert found is not None
    return [list(column) for column in found]


PLAIN = catalogue(gauge("x"), counter("{count: k, values: {yes: Y, no: N}}"))
