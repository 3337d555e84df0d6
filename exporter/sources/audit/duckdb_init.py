"""Making the embedded audit log: `init-audit` creates the file and the table, or adds columns, and never drops
anything; a first start without configuration gets a file with the sample history."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import duckdb

from exporter.catalog import Catalog
from exporter.errors import ConfigError
from exporter.settings import Settings
from exporter.sources.audit.duckdb_access import CONFIG, identifier
from exporter.sources.audit.duckdb_errors import errors
from exporter.sources.audit.duckdb_types import DUCKDB_TYPES, google_type
from exporter.sources.audit.query import audit_table
from exporter.sources.audit.sample import SAMPLE_COMMENT, sample_rows
from exporter.sources.audit.schema import STANDARD, InitReport, TableColumn, compare, table_columns

log = logging.getLogger(__name__)

STORAGE_VERSION: Final = "v1.0.0"
"""The storage format of DuckDB 1.0, so that every later client can open and write the file."""


def init_duckdb(settings: Settings, catalog: Catalog) -> InitReport:
    """Create the audit table in the file that the settings name, or add the columns that it lacks.

    Raises:
        ConfigError: AUDIT_URL names files, which have no table to create.
        SourceError: the file cannot be opened or written.
    """
    location = settings.embedded
    if location.kind != "duckdb":
        raise ConfigError([f"AUDIT_URL: init-audit creates a table in a .duckdb file, not {location}"])
    schema, table = audit_table(settings, catalog).split(".")
    wanted = table_columns(catalog)
    with errors(location):
        path = Path(location.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with in_file(path) as connection:
            found = connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() "
                "WHERE database_name = 'audit' AND schema_name = ? AND table_name = ?",
                [schema, table],
            ).fetchall()
            present = {name.lower(): google_type(kind) for name, kind in found}
            if not present:
                create_table(connection, schema, table, wanted)
                return InitReport(f"{schema}.{table} in {path}", True, tuple(c.name for c in wanted), ())
            lacking, mismatched = compare(wanted, present)
            for column in lacking:
                connection.execute(f"ALTER TABLE {_name(schema, table)} ADD COLUMN {_declared(column)}")
            return InitReport(f"{schema}.{table} in {path}", False, tuple(c.name for c in lacking), mismatched)


def create_sample(path: Path, schema: str, table: str, now: float) -> bool:
    """Make a file with the sample history, unless there is a file already. Says whether it made one.

    The file appears whole or not at all, and never in place of one that somebody else made meanwhile.

    Args:
        now: Unix seconds; the newest row is dated less than a week before.

    Raises:
        duckdb.Error, OSError: the file cannot be made.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name: containers that share a volume often share the process id 1 as well.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        _write_sample(unfinished, schema, table, now)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())  # so that the name never stands for half a file, also after a power cut
        try:
            os.link(unfinished, path)  # unlike a rename, refuses to replace
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
    log.warning(
        "SAMPLE DATA: there was no audit log, so %s was made with sample history. To read your own, set "
        "GOOGLE_CLOUD_PROJECT, or AUDIT_URL.",
        path,
    )
    return True


def _write_sample(path: Path, schema: str, table: str, now: float) -> None:
    columns = [column.name for column in STANDARD]
    with in_file(path) as connection:
        name = create_table(connection, schema, table, STANDARD)
        marks = ", ".join("?" for _ in columns)
        connection.executemany(
            f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 -- names are constants
            [[row[column] for column in columns] for row in sample_rows(now)],
        )
        connection.execute(f"COMMENT ON TABLE {name} IS '{SAMPLE_COMMENT}'")


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that has the file attached as `audit`, made if it does not exist."""
    connection = duckdb.connect(config=dict(CONFIG))
    try:
        connection.execute("SET TimeZone = 'UTC'")
        new = f" (STORAGE_VERSION '{STORAGE_VERSION}')" if not path.exists() else ""
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS audit{new}")
        yield connection
    finally:
        connection.close()


def create_table(connection: duckdb.DuckDBPyConnection, schema: str, table: str, columns: Sequence[TableColumn]) -> str:
    """Create schema and table in the attached file; gives the table's quoted name."""
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS audit.{identifier(schema)}")
    name = _name(schema, table)
    connection.execute(f"CREATE TABLE {name} ({', '.join(_declared(column) for column in columns)})")
    return name


def _name(schema: str, table: str) -> str:
    return f"audit.{identifier(schema)}.{identifier(table)}"


def _declared(column: TableColumn) -> str:
    return f"{identifier(column.name)} {DUCKDB_TYPES[column.type]}"
