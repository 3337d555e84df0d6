"""Columns that BigQuery keeps from the service account: each costs its own metrics, and the rest of the log is read.

A policy tag protects a column from readers who lack the role Fine-Grained Reader. The table's metadata names the tags
and not who may read them, so the query is asked with every column, and again without those that BigQuery refuses;
refused queries are not billed. What was refused is remembered while the schema stays the same, and for
AUDIT_MAX_QUERY_AGE_SECONDS at most: Google's audit logs keep every refusal.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from exporter.sources.audit.bigquery_errors import FINE_GRAINED_READER, BigQueryErrors, ColumnsProtected
from exporter.sources.audit.query import AuditQuery

MOST_REFUSALS: Final = 20
"""Refusals of one refresh: each names the columns of one policy tag."""
T = TypeVar("T")


class ProtectedColumns:
    """What was refused, by lower-case column name with the reason.

    Args:
        table: full name of the audit table.
        max_age: seconds after which all columns are asked for again though the schema stayed the same.
    """

    def __init__(self, errors: BigQueryErrors, table: str, max_age: float) -> None:
        self._errors = errors
        self._table = table
        self._max_age = max_age
        self._refused: Mapping[str, str] = {}
        self._schema = ""
        self._since = 0.0

    def ask(
        self,
        question: Callable[[AuditQuery], T],
        build: Callable[[Mapping[str, str]], AuditQuery],
        *,
        columns: Iterable[str],
        schema: str,
        now: float,
        anew: bool,
    ) -> tuple[AuditQuery, T]:
        """Ask a question with the query for every column that may be read; give that query and the answer.

        Args:
            build: makes the query; it is given the columns that may not be read, by lower-case name with the reason.
            columns: names of the table's columns.
            schema: what the table's columns are; for others, all columns are asked for again.
            now: Unix seconds.
            anew: forget what was refused.

        Raises:
            SourceError: as `BigQueryTable.session`.
        """
        if anew or schema != self._schema or not 0 <= now - self._since < self._max_age:
            self._refused, self._schema, self._since = {}, schema, now
        query = build(self._refused)
        for _ in range(MOST_REFUSALS):
            try:
                with self._errors.translated():
                    return query, question(query)
            except ColumnsProtected as error:
                refused = {**self._refused, **self._named(error, {name.lower(): name for name in columns})}
                without = build(refused)
                if without.sql == query.sql:  # the log cannot be read without it, or it is none of the table's
                    raise
                self._refused, query = refused, without
        return query, question(query)

    def _named(self, error: ColumnsProtected, columns: Mapping[str, str]) -> Mapping[str, str]:
        """The table's columns that a refusal names, with the reason."""
        found = {}
        for name in error.names:
            for part in parts_of_column(name, self._table):
                if part in columns and part not in self._refused:
                    found[part] = (
                        f"column {columns[part]} has a policy tag: the service account lacks the role "
                        f"{FINE_GRAINED_READER}. BigQuery said: {error.said}"
                    )
                    break
        return found


def parts_of_column(protected: str, table: str) -> list[str]:
    """The lower-case parts of a refusal's `project.dataset.table.column.field`, the likeliest column first.

    A view's refusal names the table that is behind the view, and some refusals leave out the project.
    """
    lowered, name = protected.lower(), table.lower()
    for prefix in (f"{name}.", f"{name.partition('.')[2]}."):
        if lowered.startswith(prefix):
            return lowered.removeprefix(prefix).split(".")[:1]
    parts = lowered.split(".")
    return parts[2:] if len(parts) > 2 else parts
