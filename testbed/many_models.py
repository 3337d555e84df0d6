"""An audit log that tells of many models: the largest exposition that the exporter makes from a table."""

from pathlib import Path
from typing import Final

import duckdb
import yaml

METRICS: Final = 16
ROWS_PER_MODEL: Final = 11
MODEL_COLUMN: Final = "model_name"
TABLE: Final = "monitoring_audit.logs"


def models_catalogue(path: Path) -> Path:
    """Write a catalogue of METRICS gauges with one label, the model; gives its path."""
    metrics = [
        {
            "name": f"bench_value_{place}",
            "type": "gauge",
            "help": f"Value {place} of a model.",
            "from": [{"audit": f"value_{place}"}],
        }
        for place in range(METRICS)
    ]
    audit = {"table": TABLE, "timestamp": "timestamp", "labels": {"model": MODEL_COLUMN}}
    content = {"version": 1, "audit": audit, "metrics": metrics}
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


def fill_models(log: Path, models: int, *, name_characters: int = 11) -> None:
    """Make a DuckDB file with ROWS_PER_MODEL rows for each model, an hour apart.

    Args:
        name_characters: length of a model's name. Long ones make a large exposition of few series.
    """
    columns = ", ".join(f"value_{place} DOUBLE" for place in range(METRICS))
    values = ", ".join(f"((m * 31 + r * 7 + {place}) % 1000) / 1000.0" for place in range(METRICS))
    with duckdb.connect(str(log)) as connection:
        connection.execute("CREATE SCHEMA monitoring_audit")
        connection.execute(f"CREATE TABLE {TABLE} (timestamp TIMESTAMPTZ, {MODEL_COLUMN} VARCHAR, {columns})")
        connection.execute(
            f"INSERT INTO {TABLE} SELECT now() - to_hours(CAST({ROWS_PER_MODEL} - r AS INTEGER)), "
            f"rpad(printf('model_%05d', m), {name_characters}, 'x'), {values} "
            f"FROM range({models}) a(m), range({ROWS_PER_MODEL}) b(r)"
        )
