"""A table at a glance: its columns and some of its rows, for `catalogue`. Bills nothing."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from exporter.catalog import Catalog
from exporter.errors import ConfigError
from exporter.setting_values import is_table_name
from exporter.settings import Settings
from exporter.showable import escaped
from exporter.sources import require_drivers
from exporter.sources.audit.columns import Column

ROWS: Final = 1000
"""Rows that are looked at."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen.

    Attributes:
        name: the table's or the file's name, after which metrics are called.
        table: what `audit.table` in the catalogue says.
        environment: what makes the exporter read it, as a shell takes it.
        note: why there are no rows, where a look at them was not to be had.
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    name: str
    table: str
    environment: str
    note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a catalogue that is made of it has to know."""
        tried = f"Try it: {self.environment} EXPORTER_CATALOG=this-file.yaml python -m exporter check"
        return (tried, self.note) if self.note else (tried,)


def glance(url: str, env: Mapping[str, str], catalog: Catalog) -> Glance:
    """Look at a file, as AUDIT_URL names it, or at a BigQuery table.

    Args:
        url: the file or pattern, or `project.dataset.table`; `dataset.table` where GOOGLE_CLOUD_PROJECT is set.
        env: the environment, of which AUDIT_URL does not count.
        catalog: names the table in a DuckDB file, where AUDIT_TABLE does not.

    Raises:
        ConfigError: it is neither, or its driver is not installed.
        SourceError: it could not be read.
    """
    try:
        settings = Settings.from_env({**env, "AUDIT_URL": url})
    except ConfigError:
        project, _, rest = url.rpartition(".")[0].rpartition(".")
        known = env.get("GOOGLE_CLOUD_PROJECT") or project
        if not (known and rest and is_table_name(url)) or Path(url).exists():
            raise
        settings = Settings.from_env({**env, "AUDIT_URL": "", "GOOGLE_CLOUD_PROJECT": known, "AUDIT_TABLE": url})
        require_drivers(settings)
        return _bigquery(settings, catalog)
    require_drivers(settings)
    return _embedded(settings, url, catalog)


def _bigquery(settings: Settings, catalog: Catalog) -> Glance:
    from exporter.sources.audit.bigquery import BigQueryAudit

    source = BigQueryAudit(settings, catalog)
    try:
        columns, rows, note = source.glance(ROWS)
    finally:
        source.close()
    environment = f"GOOGLE_CLOUD_PROJECT={settings.google_project}"
    return Glance(columns, rows, source.table.rpartition(".")[2], source.table, environment, note)


def _embedded(settings: Settings, url: str, catalog: Catalog) -> Glance:
    from exporter.catalog_draft import prefix_of
    from exporter.sources.audit.duckdb_reader import DuckDBReader
    from exporter.sources.audit.files import EmbeddedLog

    log = EmbeddedLog.of(settings, catalog)
    reader = DuckDBReader(log)
    try:
        columns, rows = reader.glance(ROWS)
    finally:
        reader.close()
    environment = f"AUDIT_URL={escaped(shlex.quote(url))}"
    if settings.embedded.kind == "duckdb":
        return Glance(columns, rows, log.table, f"{log.schema}.{log.table}", environment)
    table = f"{log.schema}.{log.table}" if settings.audit_table else f"logs.{prefix_of(url)}"
    return Glance(columns, rows, url, table, environment)
