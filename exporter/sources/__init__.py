"""Where metrics come from. A source is one package here plus one line in `build_sources`."""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from exporter.catalog import Catalog
from exporter.errors import ConfigError
from exporter.settings import Settings
from exporter.snapshot import Reading, Sample

if TYPE_CHECKING:  # the ledger itself uses sources/boundary.py
    from exporter.ledger import Ledger

NOT_INSTALLED: Final = (
    "{what} needs the package {package}, which is not installed: pip install 'mlops-exporter[{extra}]'"
)


class Source(Protocol):
    """Something that can be read at every refresh.

    `read` runs on a thread that belongs to this source alone, never twice at a time; `telemetry` and `interrupt` are
    called from other threads while it runs. Building a source opens no connection and imports no driver that is slow.
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


def require_drivers(settings: Settings) -> None:
    """Find, without importing it, the driver of the audit log that these settings ask for.

    Raises:
        ConfigError: it is not installed; the sentence names the extra that brings it.
    """
    if settings.uses_bigquery:
        what, package, module, extra = "BigQuery", "google-cloud-bigquery", "google.cloud.bigquery", "bigquery"
    else:
        what, package, module, extra = "The embedded audit log", "duckdb", "duckdb", "duckdb"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        found = False
    if not found:
        raise ConfigError([NOT_INSTALLED.format(what=what, package=package, extra=extra)])


def refuse_without_source(settings: Settings, catalog: Catalog) -> None:
    """Raise ConfigError unless there is something to read."""
    if not catalog.has_audit_log and settings.airflow_url is None:
        raise ConfigError(
            ["the catalogue has no audit log and AIRFLOW_BASE_URL is not set, so there is nothing to read: set it"]
        )


def build_sources(settings: Settings, catalog: Catalog, ledger: "Ledger") -> tuple[Source, ...]:
    """The sources that these settings ask for.

    A source is imported only where it is asked for: requests takes memory that a DuckDB log without an Airflow does
    not need, and the child that reads DuckDB passes through this package.

    Raises:
        ConfigError: as `refuse_without_source`.
    """
    refuse_without_source(settings, catalog)
    sources: list[Source] = []
    if catalog.has_audit_log and settings.uses_bigquery:
        from exporter.sources.audit.bigquery import BigQueryAudit

        sources.append(BigQueryAudit(settings, catalog))
    elif catalog.has_audit_log:
        from exporter.sources.audit.duckdb import DuckDBAudit

        sources.append(DuckDBAudit(settings, catalog))
    if settings.airflow_url is not None:
        from exporter.sources.airflow.source import AirflowSource

        sources.append(AirflowSource(settings, catalog, ledger))
    return tuple(sources)
