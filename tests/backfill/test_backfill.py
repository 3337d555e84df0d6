"""The history that a backfill writes is what the live exporter would have shown."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.backfill import request
from exporter.backfill.blocks import make_block
from exporter.backfill.command import HEAD_SECONDS
from exporter.catalog_parser import parse_catalog
from exporter.choice import choose
from exporter.errors import ConfigError, OutputError, SourceUnavailable
from exporter.ledger import Ledger
from exporter.snapshot import Sample, Snapshot, SourceStatus, Totals
from exporter.state_file import FILE_NAME, SCHEMA_VERSION
from tests import command_line
from tests.backfill.history import NOW, History, read, run
from tests.sources.audit.duckdb_log import CATALOG, DAY, Log, source_for
from tests.sources.audit.test_properties import COLUMNS, ROWS, comparable

ROOT = Path(__file__).resolve().parent.parent.parent
R2 = ("bike_model_r2_champion_current", ())
ALIAS = ("bike_model_r2_production", ())
RMSE = ("bike_model_rmse_production", ())
LAST = ("mlops_exporter_audit_last_record_timestamp_seconds", ())


def deployments(decision: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "bike_model_deployments_total", (("decision", decision),)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "audit.duckdb", {**COLUMNS, "env": "VARCHAR"})


def values(history: History, series: tuple[str, Any], *ages: float) -> list[float | None]:
    """What a series shows so many seconds before NOW."""
    return [history.get(series, {}).get(NOW - age) for age in ages]


def live(path: Path, at: float, **env: str) -> dict[tuple[str, Any], float]:
    """What the live exporter shows at a moment, of a log that ends there."""
    reading = source_for(path, CATALOG, lambda: at, **env).read(None)
    snapshot = Snapshot(at, (SourceStatus("audit", up=True),), {"audit": reading})
    found: dict[tuple[str, Any], float] = {
        (name, sample.labels): sample.value
        for name, choice in choose(CATALOG, snapshot).items()
        for sample in choice.observation.samples
        if isinstance(sample, Sample)
    }
    if reading.facts["last_record_at"] is not None:
        found[LAST] = float(reading.facts["last_record_at"])  # type: ignore[arg-type]
    return found


# Times on, just before and just after moments of the grid (every 60 s), so that the edges count.
NEAR = st.builds(
    lambda moment, offset: NOW - 60 * moment + offset,
    st.integers(0, 5),
    st.sampled_from([0.0, 0.000001, -0.000001, 29.5]),
)
HISTORIES = st.lists(
    st.builds(
        lambda row, at, env: {**row, "at": at, "env": env}, ROWS, st.none() | NEAR, st.sampled_from(["prod", "dev"])
    ),
    max_size=8,
).filter(lambda rows: all(comparable(row) for row in rows))


@settings(max_examples=settings.default.max_examples // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=HISTORIES, env=st.sampled_from(["", "prod"]))
def test_every_sample_is_what_the_live_exporter_would_have_shown(rows: list[dict[str, Any]], env: str):
    """At each moment the rows up to it alone are put into a log of their own, and the live source reads that."""
    moments = [NOW - 60 * moment for moment in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = Log(folder / "audit.duckdb", {**COLUMNS, "env": "VARCHAR"})
        log.add(rows)
        try:
            run(log.path, folder / "out", since="3m", step="1m", env={"AUDIT_ENV": env})
        except SourceUnavailable:
            kept = [r for r in rows if r["at"] is not None and r["at"] <= NOW and (not env or r["env"] == env)]
            assert kept == []
            return
        history = read(folder / "out")
        for moment in moments:
            then = Log(folder / f"{moment}.duckdb", {**COLUMNS, "env": "VARCHAR"})
            then.add([row for row in rows if row["at"] is not None and row["at"] <= moment])
            shown = {series: times[moment] for series, times in history.items() if moment in times}
            assert shown == live(then.path, moment, AUDIT_ENV=env)
        assert all(set(times) <= set(moments) for times in history.values())


def test_gauges_are_held_and_counters_accumulate_from_the_first_row_of_the_log(log: Log, tmp_path: Path):
    log.add(
        [
            {"at": NOW - 9 * DAY, "r2": 0.5, "deployment_decision": "deploy"},
            {"at": NOW - DAY, "r2": 0.7, "deployment_decision": "deploy"},
            {"at": NOW - DAY / 2, "r2": 0.0, "rmse": 999.0, "deployment_decision": "skip"},
        ]
    )
    run(log.path, tmp_path / "out", since="2d", step="5m")
    history = read(tmp_path / "out")
    assert values(history, R2, 2 * DAY, DAY + 300, DAY, DAY / 2, 0) == [0.5, 0.5, 0.7, 0.7, 0.7]
    assert history[ALIAS] == history[R2]
    assert values(history, deployments("deploy"), 2 * DAY, DAY + 300, DAY, 0) == [1, 1, 2, 2]
    assert values(history, deployments("skip"), 2 * DAY, DAY / 2 + 300, DAY / 2, 0) == [0, 0, 1, 1]
    assert set(history[deployments("reject")].values()) == {0}
    assert RMSE not in history
    assert len(history[R2]) == 2 * 24 * 12 + 1


def test_nothing_is_written_before_a_gauges_first_value_and_known_counters_are_0(log: Log, tmp_path: Path):
    log.add([{"at": NOW - 600, "r2": 0.7, "deployment_decision": "deploy"}])
    run(log.path, tmp_path / "out", since="1h", step="5m")
    history = read(tmp_path / "out")
    assert values(history, R2, 900, 600, 0) == [None, 0.7, 0.7]
    assert values(history, LAST, 900, 600) == [None, NOW - 600]
    assert values(history, deployments("deploy"), 3600, 900, 600) == [0, 0, 1]


def test_the_counters_of_a_log_that_lost_rows_join_the_live_ones(log: Log, tmp_path: Path):
    log.add([{"at": NOW - DAY, "deployment_decision": "deploy"}])
    state = tmp_path / "state"
    labels = (("decision", "deploy"),)
    for identity, expected in (("another table", 1), (source_for(log.path).identity, 8)):
        reading = source_for(log.path).read(None)
        shown = {("bike_model_deployments_total", labels): array("d", [8.0])}
        totals = Totals(NOW - DAY, ((),), shown)
        ledger = Ledger.open(state)
        ledger.save_reading(type(reading)(**{**fields(reading), "identity": identity, "totals": totals}))
        ledger.close()
        out = tmp_path / f"out-{expected}"
        said = run(log.path, out, env={"EXPORTER_STATE_DIR": str(state)}, since="25h", step="5m")
        assert values(read(out), deployments("deploy"), 25 * 3600, 0) == [expected - 1, expected]
        assert any("rows that have left the log" in line for line in said) == (expected == 8)


def fields(reading: Any) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in reading.__dataclass_fields__}


def older_schema(file: Path) -> None:
    Ledger.open(file.parent).close()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 1")


def damaged(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("nonsense, long enough to be looked at by SQLite")


@pytest.mark.parametrize(
    ("spoil", "why"), [(damaged, "file is not a database"), (older_schema, "written with schema 1, this version reads")]
)
def test_a_state_file_that_cannot_be_read_is_a_warning(spoil: Any, why: str, log: Log, tmp_path: Path):
    log.add([{"at": NOW - DAY, "deployment_decision": "deploy"}])
    spoil(tmp_path / "state" / "ledger.sqlite3")
    said = run(log.path, tmp_path / "out", env={"EXPORTER_STATE_DIR": str(tmp_path / "state")}, since="1h", step="5m")
    assert said[0].startswith("warning: the exporter's state cannot be read")
    assert why in said[0]
    assert values(read(tmp_path / "out"), deployments("deploy"), 0) == [1]


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_a_state_file_of_another_version_is_a_warning_and_left_as_it_is(log: Log, tmp_path: Path, version: int):
    log.add([{"at": NOW - DAY, "deployment_decision": "deploy"}])
    Ledger.open(tmp_path / "state").close()
    path = tmp_path / "state" / FILE_NAME
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    said = run(log.path, tmp_path / "out", env={"EXPORTER_STATE_DIR": str(tmp_path / "state")}, since="1h", step="5m")
    assert said[0] == (
        f"warning: the exporter's state cannot be read (written with schema {version}, this version reads "
        f"{SCHEMA_VERSION}): counters may not join the live ones."
    )
    assert values(read(tmp_path / "out"), deployments("deploy"), 0) == [1]
    assert path.read_bytes() == before


def test_what_is_not_backfilled_is_said_with_the_reason(tmp_path: Path):
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "rmse": "DOUBLE"})
    log.add([{"at": NOW - DAY}])
    said = "\n".join(run(log.path, tmp_path / "out", step="5m"))
    assert "not backfilled: bike_model_r2_champion_current, because the table has no column r2" in said
    assert "not backfilled: bike_model_r2_production, because bike_model_r2_champion_current is not" in said
    assert "not backfilled: bike_model_rmse_production, because column rmse holds no value yet" in said
    assert "not backfilled: airflow_dag_runs_total, because it comes from Airflow" in said
    written = {name for name, _ in read(tmp_path / "out")}
    assert {metric.name for metric in CATALOG.metrics} == written - {LAST[0]} | set(
        re.findall(r"^not backfilled: (\w+), because", said, re.MULTILINE)
    )


def test_labels_are_escaped_and_those_of_the_target_can_be_given(log: Log, tmp_path: Path):
    text = """
version: 1
audit: {table: monitoring_audit.logs, timestamp: timestamp}
metrics:
  - {name: x_total, type: counter, help: 'A "b" \\\\ c.', labels: [d], from: [{audit: {count: deployment_decision, values: {'a"\\\\b': deploy}}}]}
"""  # noqa: E501
    log.add([{"at": NOW - 60, "deployment_decision": "Deploy "}])
    run(log.path, tmp_path / "out", catalog=parse_catalog(text, "c"), since="5m", step="1m", job="j", instance='i"1')
    (file,) = (tmp_path / "out").glob("*.om")
    assert 'x_total{d="a\\"\\\\\\\\b",job="j",instance="i\\"1"} 1.0 1790000040' in file.read_text()
    assert values(read(tmp_path / "out"), ("x_total", (("d", 'a"\\\\b'),)), 60) == [1]


def test_the_sum_is_said_before_it_is_written_and_is_right(log: Log, tmp_path: Path):
    log.add([{"at": NOW - DAY - 7, "r2": 0.5, "drift_share": "0.5"}, {"at": NOW - 5, "rmse": 3.0}])
    said = run(log.path, tmp_path / "out", step="5m", since="9d")
    history = read(tmp_path / "out")
    (plan,) = [line for line in said if "in steps of" in line]
    found = re.search(r"(\d+) series, (\d+) samples, (\d+) files, about ([\d.]+) MiB", plan)
    assert found
    assert int(found[1]) == len(history)
    assert int(found[2]) == sum(len(times) for times in history.values())
    files = list((tmp_path / "out").iterdir())
    assert int(found[3]) == len(files) > 1
    assert float(found[4]) == pytest.approx(sum(file.stat().st_size for file in files) / 2**20, rel=0.05, abs=0.1)


def test_sample_data_is_made_and_read_as_by_the_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run("", tmp_path / "out", since="1d", step="5m")
    assert R2 in read(tmp_path / "out")


def test_no_file_is_written_for_a_time_without_any_sample(tmp_path: Path):
    """No counter, and a first row in the newest days only."""
    log = Log(tmp_path / "audit.duckdb", {"timestamp": "TIMESTAMPTZ", "r2": "DOUBLE"})
    log.add([{"at": NOW - 600, "r2": 0.5}])
    run(log.path, tmp_path / "out", since="30d", step="5m")
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert len(read(tmp_path / "out")[R2]) == 3


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_a_log_without_rows_is_an_error_and_leaves_nothing(log: Log, tmp_path: Path):
    with pytest.raises(SourceUnavailable, match=r"has no row up to 2026-09-21 14:1.:.. UTC"):
        run(log.path, tmp_path / "out")
    log.add([{"at": NOW + 60, "r2": 0.5}, {"at": None, "r2": 0.5}])
    with pytest.raises(SourceUnavailable, match="has no row"):
        run(log.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_are_all_older_are_held_with_a_warning(log: Log, tmp_path: Path):
    log.add([{"at": NOW - 9 * DAY, "r2": 0.5}])
    said = run(log.path, tmp_path / "out", since="1d", step="5m")
    assert "warning: no row since then: what older rows say is held all the way." in said
    assert set(read(tmp_path / "out")[R2].values()) == {0.5}


def test_an_output_that_is_not_empty_is_left_alone(log: Log, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        run(log.path, tmp_path / "out")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        run(log.path, tmp_path / "out" / "mine")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_an_output_that_cannot_be_written_is_an_error(log: Log):
    with pytest.raises(ConfigError, match="--output: /proc/nowhere cannot be written"):
        run(log.path, Path("/proc/nowhere"))


def test_promtool_that_is_not_there_is_an_error_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no promtool on the PATH"):
        run("nowhere.duckdb", tmp_path / "out", promtool=True)


def test_a_promtool_that_fails_is_quoted_and_nothing_is_left(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log.add([{"at": NOW - DAY, "r2": 0.5}])
    tool = tmp_path / "bin" / "promtool"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\nfor folder; do :; done\nmkdir -p \"$folder/x\"; echo first >&2; echo 'out of luck' >&2; exit 1\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match=r"promtool made no block of .*\.om: out of luck"):
        run(log.path, tmp_path / "out", promtool=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("free", "promtool"), [(2, False), (500, True)])
def test_a_disk_that_is_too_small_is_an_error_before_anything_is_written(
    free: int, promtool: bool, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Text needs its size; promtool reserves half a gigabyte for each block it writes."""
    log.add([{"at": NOW - DAY, "r2": 0.5}])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": free * 2**20}))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/promtool")
    with pytest.raises(OutputError, match=rf"has {free}\.0 MiB free, and about"):
        run(log.path, tmp_path / "out", since="30d", promtool=promtool)
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_read_is_the_sources_own_error(tmp_path: Path):
    with pytest.raises(SourceUnavailable, match="init-audit"):
        run("duckdb:nowhere.duckdb", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the command -------------------------------------------------------------------------------------------------------

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EXPORTER_STATE_DIR": "none"}


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command_line.run(folder, "backfill", *arguments, EXPORTER_STATE_DIR="none", **environment)


def test_exit_codes(tmp_path: Path):
    ran = command(tmp_path, "--since", "7d", "--output", "out", "--step", "5m")
    assert ran.returncode == 0
    assert "promtool tsdb create-blocks-from openmetrics FILE" in ran.stdout
    assert "\r" not in ran.stderr
    assert "less than 3 hours ago" not in ran.stdout
    ran = command(tmp_path, "--since", "30d", "--output", "out")
    assert (ran.returncode, ran.stderr.startswith("error: --output: out is not empty")) == (2, True)
    ran = command(tmp_path, "--since", "30d", "--output", "new", AUDIT_URL="duckdb:nowhere.duckdb")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert command(tmp_path, "--output", "new").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals):
    """promtool hangs, so that the signal comes in the middle."""
    tool = tmp_path / "bin" / "promtool"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid; exec sleep 60\n")
    tool.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", "backfill", "--since", "30d", "--output", "out", "--promtool"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": f"{tool.parent}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            assert process.poll() is None
            assert time.monotonic() < end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        assert list((tmp_path / "out").glob("*.om"))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("stopped: nothing was left behind\n")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_interrupt_while_promtool_starts_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "promtool"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of a parallel run may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            make_block(str(tool), tmp_path / "a.om", tmp_path / "blocks")
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].poll() == -signal.SIGKILL


def test_the_defaults_are_those_of_prometheus_yml():
    jobs = {job["job_name"]: job for job in yaml.safe_load((ROOT / "prometheus.yml").read_text())["scrape_configs"]}
    job = jobs[request.DEFAULT_JOB]
    assert job["scrape_interval"] == request.DEFAULT_STEP
    assert job["static_configs"] == [{"targets": [request.DEFAULT_INSTANCE]}]
    assert f"{HEAD_SECONDS // 3600}h" == request.DEFAULT_UNTIL


def test_the_progress_bar_is_drawn_on_a_terminal_only():
    from exporter.backfill.progress import Progress

    for tty in (True, False):
        with tempfile.TemporaryFile("w+") as stream:
            stream.isatty = lambda tty=tty: tty  # type: ignore[method-assign]
            progress = Progress(stream, 4)
            progress.show(1, "2026-03-01")
            progress.clear()
            stream.seek(0)
            assert ("25 %  2026-03-01" in stream.read()) == tty


MANY = parse_catalog(
    """
version: 1
audit: {table: monitoring_audit.logs, timestamp: timestamp, labels: {env: env}}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}
  - {name: shop_old_r2, type: gauge, help: Old., alias_of: shop_r2}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: deployment_decision, values: {deploy: deploy, skip: skip}}}]
""",
    "many.yaml",
)


def test_each_label_set_has_its_own_history_from_its_first_row_on(log: Log, tmp_path: Path):
    log.add(
        [
            {"at": NOW - 3 * DAY, "env": "a", "r2": 0.5, "deployment_decision": "deploy"},
            {"at": NOW - DAY, "env": "b", "r2": 0.6, "deployment_decision": "skip"},
            {"at": NOW - DAY, "env": "a", "r2": 0.7, "deployment_decision": "deploy"},
            {"at": NOW - DAY, "env": None, "r2": 0.9, "deployment_decision": "deploy"},
        ]
    )
    run(log.path, tmp_path / "out", catalog=MANY, step="5m")
    history = read(tmp_path / "out")
    ages = (2 * DAY, DAY, 0)
    for name in ("shop_r2", "shop_old_r2"):
        assert values(history, (name, (("env", "a"),)), *ages) == [0.5, 0.7, 0.7]
        assert values(history, (name, (("env", "b"),)), *ages) == [None, 0.6, 0.6]

    def releases(env: str, decision: str) -> list[float | None]:
        found = [
            k for k in history if k[0] == "shop_releases_total" and set(k[1]) == {("env", env), ("decision", decision)}
        ]
        return values(history, found[0], *ages)

    assert releases("a", "deploy") == [1, 2, 2]
    assert releases("a", "skip") == [0, 0, 0]
    assert releases("b", "skip") == [None, 1, 1]
    assert releases("b", "deploy") == [None, 0, 0]
    assert {dict(labels).get("env") for _, labels in history} == {None, "a", "b"}
    assert {name for name, labels in history if "env" not in dict(labels)} == {LAST[0]}
