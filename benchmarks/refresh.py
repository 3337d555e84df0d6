"""What a refresh costs.

Each case is a fresh process that builds the exporter's source, ledger and loop as `serve` does and refreshes twice: the
first time everything is new, the second time after one more audit row. A refresh is everything from asking the source
to the swap of the rendered exposition; for an embedded log that includes the process that lives for one read, whose CPU
time and peak RSS are added. Wall time and CPU time are of the second refresh (the first one's wall time is given beside
it), peak RSS is the highest of both. Models times metrics is a table with one row a model and ten older ones each; the
audit-row case is the built-in catalogue over a million rows.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.report import ROOT, Section, Spread, Table, Target, number, paragraphs
from exporter.catalog_parser import load_catalog
from exporter.errors import ConfigError
from testbed import install
from testbed.many_models import METRICS, MODEL_COLUMN, TABLE, fill_models, models_catalogue

TITLE: Final = "Refreshes"
MIB: Final = 2**20
_OURS: Final = ("EXPORTER_", "AUDIT_", "GOOGLE_", "BIGQUERY_", "AIRFLOW_")
_WITHIN: Final = 300.0


def run(*, quick: bool) -> Section:
    """All cases, some rounds each."""
    section = Section("refresh", TITLE, paragraphs(__doc__))
    rounds = 1 if quick else 3
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog = models_catalogue(folder / "models.yaml")
        problem = why_no_models(catalog)
        for models in (1, 100) if quick else (1, 1_000, 10_000):
            case = f"DuckDB, {models:,} models × {METRICS} metrics"
            if problem is not None:
                rows.append((case, "not measured", "", "", "", ""))
                continue
            log = folder / f"models-{models}.duckdb"
            fill_models(log, models)
            env = {"AUDIT_URL": str(log), "EXPORTER_CATALOG": str(catalog), "EXPORTER_MAX_SERIES": "1000000"}
            found = [measure(env, add=("model", log)) for _ in range(rounds)]
            rows.append(_row(case, found))
            if models > 1:
                peak, wall = (
                    Spread.of(values)
                    for values in zip(*((one["peak"] / MIB, one["again"]["wall"]) for one in found), strict=True)
                )
                what = f"Refresh of {models:,} models × {METRICS} metrics"
                section.headlines.append((what, f"{wall.show('s')}, {peak.show('MiB')} at most", ""))
            if models == 10_000:
                section.targets += list(_targets(found))
        count = 10_000 if quick else 1_000_000
        log = folder / "rows.duckdb"
        fill_rows(log, count)
        rows.append(
            _row(
                f"DuckDB, {count:,} audit rows",
                [measure({"AUDIT_URL": str(log)}, add=("row", log)) for _ in range(rounds)],
            )
        )
        rows.append(_emulated(folder, count, rounds))
    columns = ("case", "series", "wall", "CPU", "first refresh, wall", "peak RSS")
    section.tables.append(Table(columns, rows))
    if problem is not None:
        section.notes.append(f"Many models could not be measured: {problem}")
        if not quick:
            goal = "under 2 s, under 250 MB"
            section.targets.append(Target("Refresh: 10,000 models × 16 metrics", goal, problem, None))
    section.notes.append(
        "The emulator runs the query on DuckDB behind BigQuery's REST API, in a process that is not counted: its wall "
        "time says nothing of BigQuery's."
    )
    return section


def measure(env: dict[str, str], *, add: tuple[str, Path] | None) -> dict[str, Any]:
    """One process, two refreshes; before the second one a row, or one of a model, is added to the log."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "errors.log").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.refresh_case"],
            cwd=folder,
            env={**inherited, **env, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        too_long = threading.Timer(_WITHIN, process.kill)
        too_long.start()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(too_long.cancel)
            at_the_end.enter_context(process)
            assert process.stdin is not None
            assert process.stdout is not None
            for which in ("first", "again"):
                if which == "again" and add:
                    with duckdb.connect(str(add[1])) as connection:
                        connection.execute(_INSERT[add[0]])
                process.stdin.write("refresh\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    process.wait()
                    raise RuntimeError(f"a refresh failed: {Path(errors.name).read_text().strip()[-500:]}")
                found[which] = json.loads(line)
    return found | {name: found["again"][name] for name in ("peak", "series")}


_INSERT: Final = {
    "row": f"INSERT INTO {TABLE} (timestamp, r2, rmse) VALUES (now(), 0.5, 50)",
    "model": f"INSERT INTO {TABLE} (timestamp, {MODEL_COLUMN}, value_0) VALUES (now(), 'model_00000', 0.5)",
}


def why_no_models(catalog: Path) -> str | None:
    """Why this version cannot label metrics with a model; None when it can."""
    try:
        load_catalog(catalog)
    except ConfigError as error:
        return error.problems[0].replace(str(catalog), catalog.name)
    return None


_ROWS: Final = """
SELECT
  {time} AS timestamp, 'prod' AS env, (i % 1000) / 1000.0 AS r2, 40 + (i % 40) AS rmse,
  0.8 AS champion_r2_baseline, (i % 900) / 1000.0 AS r2_current, 0.79 AS r2_baseline, 0.01 AS model_improvement,
  i % 3 = 0 AS drift_detected, (i % 10) / 10.0 AS drift_share, i % 10 AS drifted_features_count,
  CASE i % 4 WHEN 0 THEN 'deploy' WHEN 1 THEN 'skip' WHEN 2 THEN 'reject' ELSE 'not_triggered' END
    AS deployment_decision,
  i % 2 = 0 AS fine_tune_triggered, i % 5 = 0 AS fine_tune_success
FROM {numbers}
"""


def fill_rows(log: Path, count: int) -> None:
    """An audit log of the built-in catalogue's columns."""
    select = _ROWS.format(time="now() - to_minutes(CAST(i AS BIGINT))", numbers=f"range({count}) t(i)")
    with duckdb.connect(str(log)) as connection:
        connection.execute("CREATE SCHEMA monitoring_audit")
        connection.execute(f"CREATE TABLE {TABLE} AS {select}")


def _emulated(folder: Path, count: int, rounds: int) -> tuple[str, ...]:
    case = f"BigQuery emulator, {count:,} audit rows"
    if not install.is_installed("bigquery"):
        return (case, f"not measured: {install.install_command('bigquery')}", "", "", "", "")
    with emulated_log(folder, count) as env:
        # Every refresh queries: nothing moves the emulator's metadata between the two.
        return _row(case, [measure({**env, "AUDIT_MAX_QUERY_AGE_SECONDS": "0"}, add=None) for _ in range(rounds)])


@contextlib.contextmanager
def emulated_log(folder: Path, count: int) -> Iterator[dict[str, str]]:
    """The emulator with an audit log of so many rows, as the settings that lead to it."""
    from testbed.bigquery import PROJECT, BigQueryEmulator  # noqa: PLC0415 -- needs pytest, as its engines do

    with _emulator(folder) as (url, table):
        time_of = "TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL i MINUTE)"
        numbers = f"UNNEST(GENERATE_ARRAY(0, {count - 1})) AS i"
        emulator = BigQueryEmulator(url)
        emulator.execute(table, f"INSERT INTO `{table}` {_ROWS.format(time=time_of, numbers=numbers)}")
        yield {"GOOGLE_CLOUD_PROJECT": PROJECT, "BIGQUERY_EMULATOR_HOST": url, "AUDIT_TABLE": table}


@contextlib.contextmanager
def _emulator(folder: Path) -> Iterator[tuple[str, str]]:
    from testbed.bigquery import BigQueryEmulator, running  # noqa: PLC0415 -- as above

    with running(folder / "emulator.log") as url:
        kinds = {"timestamp": "TIMESTAMP", "env": "STRING", "r2": "FLOAT64", "rmse": "FLOAT64"}
        kinds |= dict.fromkeys(("champion_r2_baseline", "r2_current", "r2_baseline", "model_improvement"), "FLOAT64")
        kinds |= {"drift_detected": "BOOL", "drift_share": "FLOAT64", "drifted_features_count": "INT64"}
        kinds |= {"deployment_decision": "STRING", "fine_tune_triggered": "BOOL", "fine_tune_success": "BOOL"}
        yield url, BigQueryEmulator(url).create_table(kinds)


def _row(case: str, found: list[dict[str, Any]]) -> tuple[str, ...]:
    def spread(which: str, what: str) -> str:
        return Spread.of(one[which][what] for one in found).show("s")

    return (
        case,
        f"{found[0]['series']:,}",
        spread("again", "wall"),
        spread("again", "cpu"),
        spread("first", "wall"),
        Spread.of(one["peak"] / MIB for one in found).show("MiB"),
    )


def _targets(found: list[dict[str, Any]]) -> Iterator[Target]:
    worst = Spread.of(max(one["first"]["wall"], one["again"]["wall"]) for one in found)
    peak = Spread.of(one["peak"] / 1e6 for one in found)
    yield Target("Refresh: 10,000 models × 16 metrics, the slower of the two", "under 2 s", worst.show("s"),
                 worst.median < 2)  # fmt: skip
    yield Target("Refresh: peak RSS of that", "under 250 MB", f"{number(peak.median)} MB", peak.median < 250)
