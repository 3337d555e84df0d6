"""What DuckDB may do while it reads a log: nothing is fetched, and the engine's own tables are no log."""

from pathlib import Path

import duckdb
import pytest

from exporter.errors import SourceUnavailable
from exporter.sources.audit.duckdb_access import open_database, open_files
from tests.sources.audit.duckdb_log import Log, source_for


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})


@pytest.mark.parametrize("kind", ["database", "files"])
def test_no_extension_is_fetched_or_loaded_and_nothing_turns_that_on_again(log: Log, kind: str):
    connection = open_database(str(log.path), None) if kind == "database" else open_files([log.path], None)
    with connection:
        for name in ("autoinstall_known_extensions", "autoload_known_extensions", "enable_external_access"):
            assert connection.execute(f"SELECT current_setting('{name}')").fetchone() == (False,)
            with pytest.raises(duckdb.Error):
                connection.execute(f"SET {name} = true")
        for statement in ("INSTALL httpfs", "LOAD httpfs", "SELECT * FROM 'https://example.org/log.parquet'"):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)


@pytest.mark.parametrize("table", ["main.duckdb_tables", "information_schema.tables", "main.sqlite_master"])
def test_the_engines_own_tables_are_no_audit_log(log: Log, table: str):
    with pytest.raises(SourceUnavailable, match=f"has no table {table}") as caught:
        source_for(log.path, AUDIT_TABLE=table).read(None)
    assert caught.value.reason == "not_found"
