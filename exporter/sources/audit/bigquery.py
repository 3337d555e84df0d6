"""The audit log in BigQuery.

Each refresh asks for the table's metadata, which is free, and runs the query, which is billed, only when the metadata
changed since the last answer, when the last query failed, or when AUDIT_MAX_QUERY_AGE_SECONDS have passed. Views and
external tables are always queried: their metadata does not move when the data does.

One refresh sends one `tables.get`, and for a query `jobs.insert`, `jobs.getQueryResults` and `jobs.get`. All of them
share one deadline; a job that does not finish in time is cancelled.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exporter.catalog import Catalog
from exporter.counters import newest_counted
from exporter.settings import Settings
from exporter.snapshot import Reading, Sample
from exporter.sources.audit.answer import confirmed, read_rows, recompute_at
from exporter.sources.audit.bigquery_transport import BoundedAdapter
from exporter.sources.audit.columns import Column
from exporter.sources.audit.query import SOURCE_NAME, AuditQuery, audit_identity, audit_table

if TYPE_CHECKING:
    from exporter.sources.audit.bigquery_client import BigQueryTable

OUTCOMES: Final = ("executed", "cached", "skipped")
PAGE_ROWS: Final = 10_000
"""Rows of one page of a history: bounds memory, and stays far below the longest answer that is accepted."""
PAGE_SETS: Final = 1_000
"""Label sets of one page of a refresh: taking a page apart lets no other thread run."""
ALWAYS_QUERIED: Final = frozenset({"VIEW", "MATERIALIZED_VIEW", "EXTERNAL"})


@dataclass(frozen=True)
class Plan:
    """What a refresh would run, for `check`: the query, and the bytes that BigQuery says it would process."""

    query: AuditQuery
    table_type: str
    rows: int | None
    location: str | None
    bytes_processed: int


class BigQueryAudit:
    """The audit log, read from BigQuery. See `exporter.sources.Source`.

    Args:
        clock: Unix seconds.
    """

    name = SOURCE_NAME

    def __init__(self, settings: Settings, catalog: Catalog, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._catalog = catalog
        self._clock = clock
        self._adapter = BoundedAdapter(settings.audit_connect_timeout_seconds)
        self._table: BigQueryTable | None = None
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self._bytes_billed = 0
        self._lock = threading.Lock()
        self.timeout_seconds = settings.audit_timeout_seconds
        self.table = audit_table(settings, catalog)
        self.identity = audit_identity(settings, catalog)

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:  # noqa: ARG002 -- one query answers for every metric
        """Look at the table, and query it if that is due. See `Source.read`."""
        with self._session() as source:
            table = source.metadata()
            now = self._clock()
            token = None if table.table_type in ALWAYS_QUERIED else source.revision(table)
            known = confirmed(
                previous,
                identity=self.identity,
                catalog=self._catalog.fingerprint,
                token=token,
                now=now,
                max_age=self._settings.audit_max_query_age_seconds,
            )
            if known is not None:
                self._count("skipped")
                return known
            with contextlib.ExitStack() as stack:
                query, (rows, job) = source.ask(
                    table,
                    now,
                    newest_counted(previous),
                    lambda query: stack.enter_context(source.running(query, table.location, PAGE_SETS)),
                    anew=previous is not None and previous.token is None and token is not None,  # a forced refresh
                )
                answer = read_rows(query, (dict(row.items()) for row in rows))
            self._count("cached" if job.cache_hit else "executed", int(job.total_bytes_billed or 0))
            return Reading(
                source=self.name,
                identity=self.identity,
                catalog=self._catalog.fingerprint,
                read_at=now,
                queried_at=now,
                token=token,
                observations=answer.observations,
                gaps=answer.gaps,
                notes=answer.notes,
                facts={
                    "engine": "bigquery",
                    "table": self.table,
                    **answer.facts(),
                    "missing_columns": ", ".join(query.missing_columns) or None,
                },
                valid_until=recompute_at(answer),
            )

    def changed(self, previous: Reading) -> bool:
        """Whether the table's free metadata moved; never for tables of which it does not. See `Source.changed`."""
        if previous.token is None:  # such a table, which need not even be asked
            return False
        with self._session() as source:
            table = source.metadata()
            return table.table_type not in ALWAYS_QUERIED and source.revision(table) != previous.token

    @contextlib.contextmanager
    def history(self, until: float) -> Iterator[tuple[AuditQuery, Iterator[Mapping[str, Any]]]]:
        """The query of `AuditQuery.history`, which is billed, and its rows, page by page, under one deadline.

        Raises:
            SourceError: as `read`.
        """
        with self._session() as source:
            table = source.metadata()
            with contextlib.ExitStack() as stack:
                query, (rows, job) = source.ask(
                    table,
                    until,
                    None,
                    lambda query: stack.enter_context(source.running(query.history(until), table.location, PAGE_ROWS)),
                )
                self._count("cached" if job.cache_hit else "executed", int(job.total_bytes_billed or 0))
                yield query.history(until), (dict(row.items()) for row in rows)

    def plan(self) -> Plan:
        """Validate everything a refresh needs and ask what the query would cost, without running it.

        Raises:
            SourceError: as `read`.
        """
        with self._session() as source:
            table = source.metadata()
            query, found = source.ask(
                table,
                self._clock(),
                None,
                lambda query: source.bytes_processed(query, table.location),
            )
            return Plan(query, table.table_type, table.num_rows, table.location, found)

    def glance(self, rows: int) -> tuple[list[Column], list[dict[str, Any]], str]:
        """The table's columns, and its first rows by column name, or why there are none. Bills nothing.

        Raises:
            SourceError: as `read`.
        """
        with self._session() as source:
            table = source.metadata()
            columns = source.columns(table)
            if table.table_type in ALWAYS_QUERIED:
                kind = table.table_type.lower().replace("_", " ")
                return columns, [], f"The rows of a BigQuery {kind} were not looked at: a query would be billed."
            return columns, source.first_rows(table, columns, rows), ""

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Queries by outcome, and bytes billed."""
        with self._lock:
            return {
                "mlops_exporter_bigquery_queries_total": tuple(
                    Sample((("outcome", outcome),), float(count)) for outcome, count in self._counts.items()
                ),
                "mlops_exporter_bigquery_bytes_billed_total": (Sample((), float(self._bytes_billed)),),
            }

    def interrupt(self) -> None:
        """Cut off calls that are under way."""
        self._adapter.interrupt()

    def close(self) -> None:
        """Close the connections."""
        if self._table is not None:
            self._table.close()

    @contextlib.contextmanager
    def _session(self) -> Iterator["BigQueryTable"]:
        """The table, for calls that share one deadline and whose errors are ours."""
        if self._table is None:
            # Here, on the source's own thread: Google's packages take a second, in which the exporter already answers.
            from exporter.sources.audit.bigquery_client import BigQueryTable

            self._table = BigQueryTable(self._settings, self._catalog, self.table, self._adapter)
        with self._table.session():
            yield self._table

    def _count(self, outcome: str, bytes_billed: int = 0) -> None:
        with self._lock:
            self._counts[outcome] += 1
            self._bytes_billed += bytes_billed
