"""`python -m exporter catalogue`: what it prints for a table, `check` accepts as it is."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalog import CountRows, NewestColumn
from exporter.catalog_draft import draft, prefix_of
from exporter.catalog_parser import load_catalog, parse_catalog
from exporter.errors import BadData, ConfigError
from exporter.glance import glance
from exporter.sources.audit.columns import Column
from tests.command_line import run

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
LOGS = [EXAMPLES / name for name in ("churn/runs.csv", "mlflow/metrics.csv")]


def drafted(folder: Path, log: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """What `check` says of the catalogue that is printed for a log, which stays in the folder."""
    made = run(folder, "catalogue", "--from", str(log), **env)
    assert (made.returncode, made.stderr) == (0, "")
    path = folder / "mine.yaml"
    path.write_text(made.stdout, "utf-8")
    return run(folder, "check", AUDIT_URL=str(log), EXPORTER_CATALOG=str(path), **env)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.parent.name)
def test_check_accepts_what_is_printed_for_a_file(log: Path, tmp_path: Path):
    ran = drafted(tmp_path, log)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PROBLEM" not in ran.stdout


def test_the_pages_commands_lead_from_a_csv_to_its_metrics(tmp_path: Path):
    page = (EXAMPLES.parent / "catalogue.md").read_text("utf-8")
    block = re.findall(r"```bash\n(.*?)```", page.partition("## From your table to a graph")[2], re.DOTALL)[0]
    assert ". .venv/bin/activate\n" in block
    assert "python -m exporter serve" in block
    log = tmp_path / "runs.csv"
    log.write_text("day,model name,mape\n2026-03-01,a,0.5\n2026-03-02,b,0.25\n2026-03-03,b,\n", "utf-8")
    commands = [line for line in block.splitlines() if "activate" not in line and " serve" not in line]
    ran = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands).replace("/data/runs.csv", str(log))],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(EXAMPLES.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert "PROBLEM" not in ran.stdout
    assert {"runs_mape 0.25", 'runs_model_name_total{value="b"} 2.0'} <= set(ran.stdout.splitlines())


def test_check_accepts_what_is_printed_for_a_table(tmp_path: Path):
    path = tmp_path / "log.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA shop")
        connection.execute(
            'CREATE TABLE shop.runs AS SELECT DATE \'2026-01-01\' AS "recorded at", 0.5 AS "R² (v1)", '
            "true AS drift, 'deploy' AS verdict, {'a': 1} AS report, 7 AS run_id, 3 AS rows_count FROM range(3)"
        )
    ran = drafted(tmp_path, path, AUDIT_TABLE="shop.runs")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    catalog = parse_catalog((tmp_path / "mine.yaml").read_text("utf-8"), "mine.yaml")
    assert (catalog.audit.table, catalog.audit.timestamp) == ("shop.runs", "recorded at")
    assert {metric.name: metric.origins for metric in catalog.metrics} == {
        "runs_r_v1": (NewestColumn("R² (v1)"),),
        "runs_drift": (NewestColumn("drift"),),
        "runs_verdict_total": (CountRows("verdict", (("deploy", "deploy"),)),),
        "runs_rows_count_value": (NewestColumn("rows_count"),),
    }


def test_names_and_values_that_yaml_or_prometheus_would_take_otherwise_are_quoted_or_changed():
    columns = [Column("ts", "INT64"), *(Column(name, "STRING") for name in ("yes", 'q"\\: #', "a b", "a-b", "x_total"))]
    rows = [{"ts": 1_782_000_000_000, "yes": text, 'q"\\: #': "1.5", "a b": "1", "a-b": "2", "x_total": "3"}
            for text in ("true", "no", "true")]  # fmt: skip
    catalog = parse_catalog(draft(columns, rows, "a.b", "log"), "draft.yaml")
    assert catalog.audit.time.unit == "ms"
    assert {metric.name: metric.origins[0].column for metric in catalog.metrics} == {  # type: ignore[union-attr]
        "log_yes_total": "yes", "log_q": 'q"\\: #', "log_a_b": "a b", "log_a_b_2": "a-b",
        "log_x_total_value": "x_total",
    }  # fmt: skip


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4, unique_by=str.lower),
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_whatever_columns_and_texts_there_are_a_catalogue_is_made_of_the_rest(names: list[str], texts: list[str]):
    columns = [Column("at", "TIMESTAMP"), Column("my r2", "FLOAT64"), *(Column(name, "STRING") for name in names)]
    text = draft(columns, [dict.fromkeys(names, text) for text in texts * 2], "shop.runs", "shop")
    parsed = parse_catalog(text, "mine.yaml")
    assert any(origin == NewestColumn("my r2") for metric in parsed.metrics for origin in metric.origins)


@pytest.mark.parametrize(
    ("name", "nameable"), [("\x9b31m", True), ("a\ufeff", True), ("a\x7f", False), (" r2 ", False), ("x" * 301, False)]
)
def test_a_column_that_no_catalogue_can_name_is_left_out(name: str, nameable: bool):
    text = draft([Column("at", "TIMESTAMP"), Column("r2", "FLOAT64"), Column(name, "FLOAT64")], [], "shop.runs", "shop")
    assert ("# Columns that no metric was made of" in text) == (not nameable)
    assert len(parse_catalog(text, "mine.yaml").metrics) == 1 + nameable
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("runs.csv", b"at,r2\n2026-01-01,1\n2026-01-01,1\r\n", "its lines end in different ways"),
        ("runs.duckdb", b"\0" * 9000, "is not a DuckDB database"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path, name: str, content: bytes, why: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=why):
        glance(str(tmp_path / name), {}, load_catalog())


def test_texts_that_are_all_flags_as_csv_has_them_are_a_gauge():
    columns = [Column("at", "STRING"), Column("drift", "STRING"), Column("verdict", "STRING")]
    rows = [{"at": "2026-01-01", "drift": "True", "verdict": "true"}, {"at": "2026-01-02", "verdict": "no"},
            {"at": "2026-01-03", "drift": "false", "verdict": "no"}]  # fmt: skip
    catalog = parse_catalog(draft(columns, rows, "a.b", "log"), "draft.yaml")
    assert {metric.name: metric.type for metric in catalog.metrics} == {
        "log_drift": "gauge", "log_verdict_total": "counter",
    }  # fmt: skip


def test_a_table_that_no_catalogue_can_be_made_for_says_why():
    with pytest.raises(BadData, match="No column looks like the time of a row"):
        draft([Column("day", "STRING"), Column("r2", "FLOAT64")], [{"day": "03/04/2026", "r2": 0.5}], "a.b", "log")
    with pytest.raises(BadData, match="None of the 2 columns holds numbers"):
        draft([Column("at", "TIMESTAMP"), Column("run_id", "INT64")], [], "a.b", "log")


@pytest.mark.parametrize("name", ["runs.xlsx", "dataset.table", "a.b.c.d.e/f", "https://example.com/a.b.c"])
def test_what_is_neither_a_file_nor_a_table_is_refused(name: str):
    with pytest.raises(ConfigError, match="AUDIT_URL"):
        glance(name, {}, load_catalog())


def test_a_file_that_exists_is_no_table_of_bigquery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("my.runs.xlsx").touch()
    with pytest.raises(ConfigError, match=r"\.parquet"):
        glance("my.runs.xlsx", {"GOOGLE_CLOUD_PROJECT": "test-project"}, load_catalog())


def test_the_way_to_read_the_file_stands_in_the_catalogue(tmp_path: Path):
    path = tmp_path / "two words.csv"
    path.write_text("at,r2\n2026-03-01,0.5\n", "utf-8")
    seen = glance(str(path), {}, load_catalog())
    assert seen.notes == (f"Try it: AUDIT_URL='{path}' EXPORTER_CATALOG=this-file.yaml python -m exporter check",)
    assert (seen.table, list(seen.rows)) == ("logs.two_words", [{"at": "2026-03-01", "r2": "0.5"}])


def test_what_there_is_to_know_stands_at_the_top():
    columns = [Column("at", "TIMESTAMP"), Column("r2", "FLOAT64")]
    text = draft(columns, [], "p-1.a.b", "log", ["Try it: so.", "Not all."])
    assert "# Try it: so.\n# Not all.\n" in text
    assert parse_catalog(text, "draft.yaml").audit.table == "p-1.a.b"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("a/churn-runs.csv.gz", "churn_runs"), ("2026.csv", "log_2026"), ("logs/*.jsonl", "log"), ("Größe.csv", "gr_e")],
)
def test_metrics_are_called_after_the_file(name: str, prefix: str):
    assert prefix_of(name) == prefix
