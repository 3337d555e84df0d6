"""Where metrics come from. A source is one module here plus one line in `build_sources`."""

from collections.abc import Callable, Mapping
from typing import Protocol

from exporter.catalog import Catalog
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Reading, Sample
from exporter.sources.audit.query import SOURCE_NAME, audit_identity


class Source(Protocol):
    """Something that can be read at every refresh.

    `read` runs on a thread that belongs to this source alone, never twice at a time; `telemetry` and `interrupt` are
    called from other threads while it runs. Building a source opens no connection.
    """

    name: str
    """Value of the `source` label."""
    identity: str
    """What is read; a Reading of another identity says nothing about this source."""
    timeout_seconds: float
    """Overall deadline of one `read`."""

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:
        """Ask the source once, within `timeout_seconds`.

        Args:
            previous: the last good reading of this source, if there is one: it says what need not be asked again.
            wanted: metrics that are needed from this source although another one is preferred for them. What is not
                wanted need not be fetched; metrics for which no other source is preferred are never named here.

        Raises:
            SourceError: nothing else, unless there is a bug.
        """
        ...

    def changed(self, previous: Reading) -> bool:
        """Whether a look that costs nothing shows that a `read` would say something else; False where none can.

        Called instead of a `read`, on the same thread and under the same deadline.

        Args:
            previous: the last good reading of this source.

        Raises:
            SourceError: nothing else, unless there is a bug.
        """
        ...

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """The source's own counters by metric name, for example its queries by outcome."""
        ...

    def interrupt(self) -> None:
        """Make a `read` that is under way end soon. Returns at once; harmless when there is none."""
        ...

    def close(self) -> None:
        """Give connections back. Called once, when no `read` will follow."""
        ...


class Deferred:
    """A source that is made at its first read, on its own thread: importing a driver takes up to a second, during
    which the exporter already answers.

    Args:
        make: imports and builds the source.
    """

    def __init__(self, name: str, identity: str, timeout_seconds: float, make: Callable[[], Source]) -> None:
        self.name = name
        self.identity = identity
        self.timeout_seconds = timeout_seconds
        self._make = make
        self._source: Source | None = None

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:
        """See `Source.read`."""
        if self._source is None:
            self._source = self._make()
        return self._source.read(previous, wanted)

    def changed(self, previous: Reading) -> bool:
        """Ask the source, once it was made."""
        return self._source is not None and self._source.changed(previous)

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """The source's counters; none before it was made."""
        return self._source.telemetry() if self._source is not None else {}

    def interrupt(self) -> None:
        """Interrupt the source, once it was made."""
        if self._source is not None:
            self._source.interrupt()

    def close(self) -> None:
        """Close the source, if it was made."""
        if self._source is not None:
            self._source.close()


def build_sources(settings: Settings, catalog: Catalog, ledger: Ledger) -> tuple[Source, ...]:
    """The sources that these settings ask for. Imports no driver."""

    def audit() -> Source:
        if settings.uses_bigquery:
            from exporter.sources.audit.bigquery import BigQueryAudit

            return BigQueryAudit(settings, catalog)
        from exporter.sources.audit.duckdb_child import DuckDBProcess

        return DuckDBProcess(settings, catalog)

    sources: list[Source] = [
        Deferred(SOURCE_NAME, audit_identity(settings, catalog), settings.audit_timeout_seconds, audit)
    ]
    if settings.airflow_url is not None:
        # requests is imported with it: 7 MiB that an exporter without an Airflow does not need.
        from exporter.sources.airflow.source import AirflowSource

        sources.append(AirflowSource(settings, catalog, ledger))
    return tuple(sources)
