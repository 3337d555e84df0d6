"""Google's client for the audit table: its metadata, the query job, and what both are made of.

Importing Google's packages takes about a second, so only what uses them at once imports this module.
"""

import contextlib
import hashlib
import json
import logging
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import google.auth
import google.auth.credentials
import google.auth.transport.requests
import requests
from google.api_core import exceptions as api
from google.api_core.client_options import ClientOptions
from google.auth import exceptions as auth
from google.cloud import bigquery

from exporter.catalog import Catalog
from exporter.errors import BadData, SourceError
from exporter.regular_file import read_regular_file
from exporter.settings import MAX_KEY_FILE_BYTES, Settings
from exporter.sources.audit.bigquery_errors import BigQueryErrors
from exporter.sources.audit.bigquery_protected import ProtectedColumns
from exporter.sources.audit.columns import MAX_COLUMNS, NUMBER_TYPES, Column, quote
from exporter.sources.audit.query import AuditQuery, Parameter, build_query
from exporter.sources.boundary import MAX_JSON_VALUES, parse_json, text
from exporter.sources.deadlines import DeadlineAdapter

log = logging.getLogger(__name__)
T = TypeVar("T")

SCOPES: Final = ("https://www.googleapis.com/auth/bigquery",)
RETRY_SECONDS: Final = 8.0
"""How long Google's client may repeat one call (its default is 600 s); the overall deadline holds above it."""
CANCEL_SECONDS: Final = 2.0
LABELS: Final = {"app": "mlops-exporter", "purpose": "audit-log"}
"""Labels of every query job, by which its cost can be found in the billing export and INFORMATION_SCHEMA.JOBS."""
FIRST_DAY: Final = "1900-01-01"
"""Lower bound in the filter on the partitioning column, there for tables that refuse queries without one."""

_LEGACY_TYPES: Final = {"FLOAT": "FLOAT64", "INTEGER": "INT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}


class BigQueryTable:
    """The audit table in BigQuery. Everything runs inside `session`, whose adapter gives each request its timeouts.

    Args:
        name: full name of the table.
        adapter: the transport of all that is sent.
    """

    def __init__(self, settings: Settings, catalog: Catalog, name: str, adapter: DeadlineAdapter) -> None:
        self._settings = settings
        self._catalog = catalog
        self.name = name
        self._adapter = adapter
        self._errors = BigQueryErrors(settings, name)
        self._protected = ProtectedColumns(self._errors, name, settings.audit_max_query_age_seconds)
        self._client: bigquery.Client | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[bigquery.Client]:
        """Google's client for one piece of work under the source's deadline.

        Raises:
            SourceError: what Google's libraries raised inside, in words.
        """
        with self._errors.translated(), self._adapter.deadline(self._settings.audit_timeout_seconds):
            yield self._connected()

    def metadata(self) -> bigquery.Table:
        """The table's metadata, which is free."""
        return self._connected().get_table(self.name, retry=self.retry())

    def revision(self, table: bigquery.Table) -> str:
        """A digest of all that moves in the free metadata when rows, columns or the table itself change. Another
        EXPORTER_MAX_SERIES asks for other rows of the same table."""
        buffer = table.streaming_buffer
        state = [
            self._settings.max_series,
            table.created and table.created.isoformat(),
            table.modified and table.modified.isoformat(),
            table.num_rows,
            table.num_bytes,
            [(field.name, field.field_type, field.mode) for field in table.schema],
            buffer and [buffer.estimated_rows, buffer.estimated_bytes, str(buffer.oldest_entry_time)],
        ]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]

    def columns(self, table: bigquery.Table, protected: Mapping[str, str] = MappingProxyType({})) -> list[Column]:
        """The table's columns.

        Args:
            protected: by lower-case name, those that may not be read, and why.
        """
        if len(table.schema) > MAX_COLUMNS:
            raise BadData(f"Table {self.name} has {len(table.schema)} columns; BigQuery's own limit is {MAX_COLUMNS}.")
        return [
            Column(field.name, google_type(field), protected=protected.get(field.name.lower(), ""))
            for field in table.schema
        ]

    def first_rows(self, table: bigquery.Table, columns: Iterable[Column], rows: int) -> list[dict[str, Any]]:
        """Some rows of a table, which is free: their numbers and texts, by column name.

        Args:
            rows: at most this many; fewer of a wide table.
        """
        plain = {column.name for column in columns if column.type in NUMBER_TYPES | {"STRING"}}
        if not plain:
            return []
        rows = max(1, min(rows, MAX_JSON_VALUES // 2 // (2 * len(plain) + 3)))
        found = self._connected().list_rows(
            table,
            selected_fields=[field for field in table.schema if field.name in plain],
            max_results=rows,
            retry=self.retry(),
        )
        return [dict(row.items()) for row in found]

    def ask(
        self,
        table: bigquery.Table,
        now: float,
        since: float | None,
        question: Callable[[AuditQuery], T],
        *,
        anew: bool = False,
    ) -> tuple[AuditQuery, T]:
        """Ask with the audit query for the columns that the table has and that may be read; give both.

        Args:
            now: Unix seconds.
            since: see `build_query`.
            question: what is asked; it is asked again, with another query, when BigQuery refuses columns.
            anew: ask for columns that were refused before, too.

        Raises:
            SourceError: as `session`; the log cannot be read without a column that is refused.
        """
        return self._protected.ask(
            question,
            lambda protected: self._query_for(table, now, since, protected),
            columns=[field.name for field in table.schema],
            schema=json.dumps([field.to_api_repr() for field in table.schema], sort_keys=True),
            now=now,
            anew=anew,
        )

    def _query_for(
        self, table: bigquery.Table, now: float, since: float | None, protected: Mapping[str, str]
    ) -> AuditQuery:
        columns = self.columns(table, protected)
        filters, parameters = _filters(table, columns, self._catalog.audit.timestamp)
        reference = table.reference
        return build_query(
            self._catalog,
            columns,
            table=quote(f"{reference.project}.{reference.dataset_id}.{reference.table_id}"),
            env=self._settings.audit_env,
            now=now,
            since=since,
            filters=filters,
            filter_parameters=parameters,
            max_series=self._settings.max_series,
        )

    @contextlib.contextmanager
    def running(
        self, query: AuditQuery, location: str | None, page: int
    ) -> Iterator[tuple[Iterable[Any], bigquery.QueryJob]]:
        """A query job's rows, to be read inside; a job that was not read to its end is cancelled."""
        # The id is ours, so that a job whose insertion was never answered can still be found and cancelled.
        job_id = f"mlops-exporter-{uuid.uuid4()}"
        client = self._connected()
        finished = False
        try:
            try:
                job = client.query(
                    query.sql,
                    job_config=self._job_config(query),
                    job_id=job_id,
                    location=location,
                    retry=self.retry(),
                    job_retry=None,
                )
            except api.Conflict:  # the first attempt got through after all, only its answer did not
                found = client.get_job(job_id, location=location, retry=self.retry())
                job = typing.cast(bigquery.QueryJob, found)
            # A row of `width` cells is 2 * width + 3 values of JSON; more than half of the bound is never asked for.
            width = 20 + 4 * len(query.gauges) + 3 * sum(len(count.indexes) for count in query.counts)
            page = max(1, min(page, MAX_JSON_VALUES // 2 // (2 * width + 3)))
            left = self._adapter.remaining()
            yield job.result(page_size=page, retry=self.retry(), job_retry=None, timeout=left), job
            finished = True
        except (api.ClientError, BadData):
            finished = True  # BigQuery refused it or it ended: there is nothing to cancel
            raise
        finally:
            if not finished:
                self._cancel(client, job_id, location)

    def bytes_processed(self, query: AuditQuery, location: str | None) -> int:
        """What BigQuery says the query would process; it is not run."""
        config = self._job_config(query)
        config.dry_run = True
        job = self._connected().query(
            query.sql,
            job_config=config,
            location=location,
            retry=self.retry(),
            job_retry=None,
        )
        return int(job.total_bytes_processed or 0)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()  # type: ignore[no-untyped-call]  # Google's clients are typed in part

    def retry(self) -> Any:
        """Google's own choice of what is worth repeating, bounded."""
        seconds = min(RETRY_SECONDS, self._settings.audit_timeout_seconds / 2)
        return bigquery.DEFAULT_RETRY.with_timeout(seconds).with_delay(initial=0.25, maximum=2.0)

    def _connected(self) -> bigquery.Client:
        """Google's client, made at the first use: finding credentials may read files and ask a metadata server."""
        if self._client is None:
            credentials = self._credentials()
            tokens = self._adapter.carry(requests.Session())
            session = google.auth.transport.requests.AuthorizedSession(  # type: ignore[no-untyped-call]
                credentials, auth_request=google.auth.transport.requests.Request(tokens)
            )
            self._adapter.carry(session)
            endpoint = self._settings.bigquery_emulator
            self._client = bigquery.Client(
                project=self._settings.google_project,
                credentials=credentials,
                _http=session,
                client_options=ClientOptions(api_endpoint=endpoint) if endpoint else None,
            )
        return self._client

    def _credentials(self) -> google.auth.credentials.Credentials:
        if self._settings.bigquery_emulator:
            return google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        found: google.auth.credentials.Credentials
        try:
            if self._settings.google_credentials:
                # Read here: Google's library waits for ever for the writer of a named pipe.
                content = parse_json(read_regular_file(self._settings.google_credentials, MAX_KEY_FILE_BYTES))
                found, _ = google.auth.load_credentials_from_dict(content, scopes=SCOPES)  # type: ignore[no-untyped-call]
            else:
                found, _ = google.auth.default(scopes=SCOPES)
        except OSError as error:
            raise self._errors.bad_credentials(error) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # How Google's library takes a file that is JSON, but not an object with the right members.
            raise self._errors.bad_credentials() from error
        return found

    def _job_config(self, query: AuditQuery) -> bigquery.QueryJobConfig:
        config = bigquery.QueryJobConfig(
            query_parameters=[bigquery.ScalarQueryParameter(p.name, p.type, p.value) for p in query.parameters],
            maximum_bytes_billed=self._settings.audit_max_bytes_billed,
            use_query_cache=True,
            labels=LABELS,
        )
        config.job_timeout_ms = int(self._settings.audit_timeout_seconds * 1000)
        return config

    def _cancel(self, client: bigquery.Client, job_id: str, location: str | None) -> None:
        """Ask BigQuery to stop a job that nobody waits for any more. Best effort: jobTimeoutMs ends it too."""
        with contextlib.suppress(SourceError, api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException):
            with self._adapter.deadline(CANCEL_SECONDS):
                client.cancel_job(job_id, location=location, retry=self.retry())
            log.info("cancelled query job %s, which did not finish in time", job_id)


def google_type(field: bigquery.SchemaField) -> str:
    """The field's GoogleSQL type; the API still says FLOAT, INTEGER, BOOLEAN and RECORD."""
    name = text(str(_LEGACY_TYPES.get(field.field_type, field.field_type)), 60)
    return f"ARRAY<{name}>" if field.mode == "REPEATED" else str(name)


def _filters(
    table: bigquery.Table, columns: list[Column], timestamp: str
) -> tuple[tuple[str, ...], tuple[Parameter, ...]]:
    """A filter on the partitioning column, which a table may insist on, and on the timestamp, since a view may hide
    such a table. Rows without a value there are kept: those of the streaming buffer are in no partition yet, and those
    without a time have to be noted."""
    types = {column.name.lower(): column.type for column in columns}
    filters: list[str] = []
    parameters: list[Parameter] = []

    def at_least(column: str, kind: str, low: str | int) -> None:
        name = f"from{len(parameters)}"
        filters.append(f"({quote(column)} >= @{name} OR {quote(column)} IS NULL)")
        parameters.append(Parameter(name, kind, low))

    def since(column: str, kind: str) -> None:
        midnight = {"TIMESTAMP": " 00:00:00+00:00", "DATETIME": "T00:00:00", "DATE": ""}
        if kind in midnight:
            at_least(column, kind, FIRST_DAY + midnight[kind])

    since(timestamp, types.get(timestamp.lower(), ""))
    partitioning = table.time_partitioning
    if partitioning is not None and partitioning.field is None:
        since("_PARTITIONTIME", "TIMESTAMP")
    elif partitioning is not None and partitioning.field.lower() != timestamp.lower():
        since(partitioning.field, types.get(partitioning.field.lower(), ""))
    if table.range_partitioning is not None:
        at_least(table.range_partitioning.field, "INT64", -(2**63))
    return tuple(filters), tuple(parameters)
