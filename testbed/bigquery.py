"""A local BigQuery for tests: the `bigquery_emulator` fixture.

bqemulator 1.4.0 answers Google's own client over REST and runs the SQL on DuckDB. Where its table metadata differs
from BigQuery's, the methods here make up for it, so that a test sees what BigQuery would say:

- It moves `lastModifiedTime` and `etag` only on tables.patch, so every change made here ends with a patch.
- `ALTER TABLE` does not reach the schema in tables.get and a patched schema does not reach the data: both are done.
- It echoes type names as given, BigQuery answers with the legacy ones (FLOAT, INTEGER, BOOLEAN): they are stored so.
- It answers a failed jobs.query with 200, no rows and a list of errors that Google's client does not look at, takes
  `requirePartitionFilter` only inside `timePartitioning`, and reports no `location`: `as_bigquery` stands before it
  and puts the three right.

What stays different: `requirePartitionFilter`, `maximumBytesBilled` and `jobTimeoutMs` are not enforced, bytes
processed and billed are 0 or absent, nothing is ever a cache hit, a query cannot be cancelled, DML leaves `numRows`
as it was, and there is no streaming buffer.
"""

import contextlib
import io
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from testbed import install
from testbed.faults import Exchange, FaultProxy, Reply
from testbed.process import ServerProcess, free_port, http_ready

PROJECT: Final = "test-project"
_READY_WITHIN: Final = 180.0
_LEGACY_TYPES: Final = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
_JOB_TIMEOUT: Final = 60.0
_LOCATION: Final = "US"
_TABLE_PATH: Final = re.compile(r"/tables/[^/]+$")
_REASONS: Final = {"notFound": (404, "NOT_FOUND"), "accessDenied": (403, "PERMISSION_DENIED")}


@dataclass(frozen=True, slots=True)
class BigQueryEmulator:
    """A running emulator, and what tests do to its tables.

    A schema is a mapping of column name to type, in BigQuery's names: `{"timestamp": "TIMESTAMP", "r2": "FLOAT64"}`.
    A table is named by its id in full, `project.dataset.table`, as `create_table` returns it.

    Attributes:
        url: the REST base URL, `http://127.0.0.1:PORT`, without a slash at its end.
        project: the project that datasets are made in.
    """

    url: str
    project: str = PROJECT
    _serial: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def client(self, url: str | None = None) -> bigquery.Client:
        """Google's client for the emulator, or for whatever stands before it at `url`."""
        return bigquery.Client(
            project=self.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": url or self.url},
        )

    def create_dataset(self, prefix: str = "audit") -> str:
        """Make a dataset with a name that no other test uses, and return its id in full, `project.dataset`."""
        dataset = f"{self.project}.{prefix}_{next(self._serial)}_{uuid.uuid4().hex[:8]}"
        with self.client() as client:
            client.create_dataset(dataset, retry=None)
        return dataset

    def create_table(
        self,
        schema: Mapping[str, str],
        *,
        dataset: str | None = None,
        name: str = "logs",
        partition_by: str | None = None,
        require_partition_filter: bool = False,
    ) -> str:
        """Make an empty table and return its id in full.

        Args:
            schema: column names and types.
            dataset: `project.dataset`; a new one when None.
            name: the table's name in the dataset.
            partition_by: a column the table is partitioned on by day.
            require_partition_filter: what tables.get says; it is not enforced. Needs `partition_by`.
        """
        full = f"{dataset or self.create_dataset()}.{name}"
        table = bigquery.Table(full, schema=_fields(schema))
        if partition_by is not None:
            partitioning = bigquery.TimePartitioning(field=partition_by)
            if require_partition_filter:
                partitioning._properties["requirePartitionFilter"] = True
            table.time_partitioning = partitioning
        elif require_partition_filter:
            raise ValueError("require_partition_filter needs partition_by")
        with self.client() as client:
            client.create_table(table, retry=None)
        return full

    def create_view(self, query: str, *, dataset: str | None = None, name: str = "logs") -> str:
        """Make a view of a query in standard SQL and return its id in full."""
        full = f"{dataset or self.create_dataset()}.{name}"
        # By DDL, because a view made by tables.insert has no schema in tables.get.
        self.query(f"CREATE VIEW `{full}` AS {query}")
        return full

    def load(self, table: str, rows: Iterable[Mapping[str, Any]], *, moves_metadata: bool = True) -> None:
        """Append rows by a load job.

        Datetimes, dates, Decimals, NaN and infinities are taken as Python's values; a column left out is NULL.

        Args:
            table: the table's id in full.
            rows: mappings of column name to value.
            moves_metadata: False leaves `lastModifiedTime` and `etag` as they were. `numRows` moves either way.
        """
        content = "\n".join(json.dumps({name: _plain(value) for name, value in row.items()}) for row in rows)
        if not content:
            return
        with self.client() as client:
            config = bigquery.LoadJobConfig(
                schema=client.get_table(table).schema,
                source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
                write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
            )
            # A file of unknown size is uploaded resumably, the only kind of upload that the emulator takes.
            client.load_table_from_file(io.BytesIO(content.encode()), table, job_config=config).result(
                timeout=_JOB_TIMEOUT
            )
        if moves_metadata:
            self.touch(table)

    def load_files(self, schema: Path, rows: Path) -> str:
        """Make a table of a schema and rows as `bq load` takes them, and return its id in full.

        Args:
            schema: a JSON list of fields.
            rows: JSON lines.
        """
        full = f"{self.create_dataset()}.logs"
        with self.client() as client:
            fields = client.schema_from_json(str(schema))  # type: ignore[no-untyped-call]
            client.create_table(bigquery.Table(full, schema=fields), retry=None)
        self.load(full, (json.loads(line) for line in rows.read_text("utf-8").splitlines()))
        return full

    def stream(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows by tabledata.insertAll. As in BigQuery, `lastModifiedTime` does not move at once."""
        plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
        with self.client() as client:
            # The emulator answers 500 to a value that it cannot convert, which the client would retry for minutes.
            problems: Sequence[Any] = client.insert_rows_json(table, plain, retry=None)
        if problems:
            raise ValueError(f"insertAll refused rows: {problems}")

    def add_column(self, table: str, name: str, kind: str) -> None:
        """Add a nullable column at the end of a table."""
        self.query(f"ALTER TABLE `{table}` ADD COLUMN `{name}` {kind}")
        with self.client() as client:
            present = client.get_table(table)
            present.schema = [*present.schema, *_fields({name: kind})]
            client.update_table(present, ["schema"], retry=None)

    def drop_column(self, table: str, name: str) -> None:
        """Remove a column from a table."""
        self.query(f"ALTER TABLE `{table}` DROP COLUMN `{name}`")
        with self.client() as client:
            present = client.get_table(table)
            present.schema = [column for column in present.schema if column.name != name]
            client.update_table(present, ["schema"], retry=None)

    def drop_table(self, table: str) -> None:
        """Remove a table or view. It must exist."""
        with self.client() as client:
            # The emulator answers 500 to tables.delete of a view, which the client would retry for minutes.
            if client.get_table(table).table_type == "VIEW":
                self.query(f"DROP VIEW `{table}`")
            else:
                client.delete_table(table, retry=None)

    def execute(self, table: str, statement: str) -> None:
        """Run a DML statement that changes `table`, and move the table's metadata as BigQuery does."""
        self.query(statement)
        self.touch(table)

    def touch(self, table: str) -> None:
        """Move the table's `lastModifiedTime` and `etag`."""
        with self.client() as client:
            client.update_table(client.get_table(table, retry=None), ["description"], retry=None)

    def query(self, statement: str) -> list[dict[str, Any]]:
        """The rows of a query, in full."""
        with self.client() as client:
            return [dict(row.items()) for row in client.query_and_wait(statement, retry=None, job_retry=None)]


@pytest.fixture(scope="session")
def bigquery_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryEmulator]:
    """A BigQuery emulator of this test session; it takes up to a minute to start, once.

    Where it is not installed, tests that ask for it are skipped, and fail if the environment says `CI=true`.
    """
    if not install.is_installed("bigquery"):
        reason = f"the BigQuery emulator is not installed; run: {install.install_command('bigquery')}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("bigquery") / "emulator.log") as url:
        yield BigQueryEmulator(url)


@contextlib.contextmanager
def running(log: Path) -> Iterator[str]:
    """Run an emulator for the length of a `with` block, which receives its REST base URL."""
    port, grpc_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    server = ServerProcess(
        [
            install.engine_home("bigquery") / "bin" / "bqemulator",
            *("start", "--ephemeral", "--project", PROJECT, "--log-level", "warning"),
            *("--rest-port", str(port), "--grpc-port", str(grpc_port)),
        ],
        log=log,
        ready=http_ready(f"{url}/readyz"),
        ready_within=_READY_WITHIN,
    )
    with server, FaultProxy(url) as proxy:
        proxy.add(as_bigquery)
        yield proxy.url


def as_bigquery(exchange: Exchange) -> None:
    """Answer what the emulator answers, with its departures from BigQuery's REST interface put right."""
    reply = exchange.ask_upstream()
    method, path = exchange.request.method, exchange.request.path
    if reply.status == HTTPStatus.OK and method == "POST" and path.endswith("/queries"):
        reply = _failed_query(json.loads(reply.body)) or reply
    elif reply.status == HTTPStatus.OK and method == "GET" and _TABLE_PATH.search(path):
        table = json.loads(reply.body) | {"location": _LOCATION}
        if table.get("timePartitioning", {}).get("requirePartitionFilter"):
            table["requirePartitionFilter"] = True
        reply = Reply(reply.status, json.dumps(table).encode(), reply.headers)
    exchange.send(reply)


def _failed_query(answer: Mapping[str, Any]) -> Reply | None:
    """The error that BigQuery gives in place of an answer that has errors."""
    if not (errors := answer.get("errors")):
        return None
    code, status = _REASONS.get(errors[0].get("reason"), (400, "INVALID_ARGUMENT"))
    error = {"code": code, "message": errors[0].get("message", ""), "errors": errors, "status": status}
    return Reply(code, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"})


def _fields(schema: Mapping[str, str]) -> list[bigquery.SchemaField]:
    return [bigquery.SchemaField(name, _LEGACY_TYPES.get(kind.upper(), kind.upper())) for name, kind in schema.items()]


def _plain(value: Any) -> Any:
    """A value as BigQuery's JSON formats take it."""
    if isinstance(value, float):
        # Not JSON's business: BigQuery takes these as strings.
        return value if value - value == 0 else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
