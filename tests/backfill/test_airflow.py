"""The history of Airflow's runs ends where the live totals are, and went the way that they went."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.utils import floatToGoString

from exporter.backfill.airflow import BEFORE_SECONDS, WINDOW_SECONDS
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.snapshot import HistogramSample, Reading, Sample
from testbed.fake_airflow import DAGS, PASSWORD, USERNAME, FakeAirflow, source
from testbed.faults import FaultProxy
from tests.backfill.history import History, read, run
from tests.sources.audit.duckdb_log import CATALOG, Log
from tests.sources.audit.test_properties import COLUMNS

END = 1_750_000_200.0
"""When history is written: a moment of every grid."""
UNIT = 1800.0
"""Time between two runs of a DAG, in seconds: a multiple of 5 minutes."""
LOOKBACK = {"AIRFLOW_LOOKBACK_DAYS": str(30 * UNIT / 86400)}
BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
METRICS = (
    "airflow_dag_runs_total",
    "airflow_dag_run_duration_seconds",
    "airflow_dag_last_success_timestamp_seconds",
)
FETCH, PREDICT, MONITOR = DAGS
Shown = dict[tuple[str, Any], float]


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api, now=END)


@pytest.fixture
def proxy(fake: FakeAirflow) -> Iterator[FaultProxy]:
    with FaultProxy(script=fake) as proxy:
        yield proxy


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path / "audit.duckdb", COLUMNS)
    made.add([{"at": END - 400 * UNIT, "r2": 0.5}])
    return made


def fill(fake: FakeAirflow) -> list[dict[str, Any]]:
    """Fifty units of runs: one DAG at each, one that fails every third time, one that was never run."""
    for number in range(50):
        end = END - number * UNIT - 1000.5
        fake.run(FETCH, f"f{number}", start=end - 40 - number, end=end)
        fake.run(PREDICT, f"p{number}", "success" if number % 3 else "failed", start=end - 700, end=end + 100)
    fake.run(PREDICT, "marked", "failed", end=END - 5 * UNIT)
    return list(fake.runs)


def live(url: str, ledger: Ledger, at: float, **env: str) -> Shown:
    """What the live exporter shows at a moment: what it has counted up to then."""
    airflow = source(url, ledger, now=at, **{**LOOKBACK, **env})
    reading = airflow.read(None)
    airflow.close()
    return shown(reading)


def shown(reading: Reading) -> Shown:
    found: Shown = {}
    for metric in CATALOG.metrics:
        for sample in reading.observations[metric.name].samples if metric.name in METRICS else ():
            if isinstance(sample, Sample):
                found[metric.name, sample.labels] = sample.value
                continue
            assert isinstance(sample, HistogramSample)
            total = 0
            for bound, count in zip((*metric.buckets, float("inf")), sample.counts, strict=True):
                total += count
                found[f"{metric.name}_bucket", (*sample.labels, ("le", floatToGoString(bound)))] = total
            found[f"{metric.name}_count", sample.labels] = total
            found[f"{metric.name}_sum", sample.labels] = pytest.approx(sample.sum)
    return found


def at(history: History, moment: float) -> Shown:
    return {
        series: times[moment] for series, times in history.items() if moment in times and series[0].startswith(METRICS)
    }


def backfilled(
    log: Log, proxy: FaultProxy, out: Path, state: str = "none", env: dict[str, str] | None = None, **request: Any
) -> tuple[History, list[str]]:
    env = {
        "AIRFLOW_BASE_URL": proxy.url,
        "AIRFLOW_USERNAME": USERNAME,
        "AIRFLOW_PASSWORD": PASSWORD,
        "EXPORTER_STATE_DIR": state,
        **LOOKBACK,
        **(env or {}),
    }
    said = run(log.path, out, now=END, env=env, **{"step": "5m", **request})
    return read(out), said


@BOTH
def test_every_sample_is_what_the_live_exporter_showed(
    api: str, fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path
):
    """It was started ten units ago, and looked back thirty from there."""
    runs = fill(fake)
    ledger = Ledger.open(tmp_path / "state")
    seen: dict[float, Shown] = {}
    for units in range(10, -1, -2):
        fake.now = END - units * UNIT
        fake.runs = [one for one in runs if one["end"] <= fake.now]
        seen[fake.now] = live(proxy.url, ledger, fake.now)
    ledger.close()
    before = (tmp_path / "state" / "ledger.sqlite3").read_bytes()
    history, said = backfilled(log, proxy, tmp_path / "out", str(tmp_path / "state"), since="36000s")
    assert (tmp_path / "state" / "ledger.sqlite3").read_bytes() == before
    assert len(seen[END]) > 60
    for moment, expected in seen.items():
        assert at(history, moment) == expected, moment
    assert "Read 41 finished runs from Airflow, which may have deleted older ones." in said


def test_history_begins_where_live_counting_began_and_rises_by_one_run_at_a_time(
    fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path
):
    """Airflow remembers 50 units, live counting began 40 ago: before that there is no sample to be had."""
    runs = fill(fake)
    ledger = Ledger.open(tmp_path / "state")
    for units in (10, 0):
        fake.now = END - units * UNIT
        fake.runs = [one for one in runs if one["end"] <= fake.now]
        expected = live(proxy.url, ledger, fake.now)
    ledger.close()
    history, _ = backfilled(log, proxy, tmp_path / "out", str(tmp_path / "state"), since="88200s")
    assert at(history, END) == expected
    series = "airflow_dag_runs_total", (("dag_id", FETCH), ("state", "success"))
    times = history[series]
    assert END - 41.1 * UNIT < min(times) < END - 40 * UNIT
    values = [times[moment] for moment in sorted(times)]
    assert values[0] == 0
    assert {later - earlier for earlier, later in itertools.pairwise(values)} == {0, 1}


def test_an_airflow_that_was_never_seen_begins_with_the_look_back(
    fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path
):
    fill(fake)
    history, _ = backfilled(log, proxy, tmp_path / "out", since="88200s")
    assert at(history, END) == live(proxy.url, Ledger.open(None), END)
    times = history["airflow_dag_runs_total", (("dag_id", FETCH), ("state", "success"))]
    assert END - 30 * UNIT <= min(times) <= END - 30 * UNIT + 300
    assert times[min(times)] == 0


def test_a_run_on_the_border_of_two_questions_is_counted_once(
    fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path
):
    """What ends is asked for week by week from 31 days before: of 97 hours, one question ends an hour before now."""
    border = END - 3600
    for number, end in enumerate([border - 900, border - 0.5, border, border, border + 0.5, END]):
        fake.run(FETCH, f"f{number}", start=end - 40, end=end)
    history, _ = backfilled(log, proxy, tmp_path / "out", since="97h")
    times = history["airflow_dag_runs_total", (("dag_id", FETCH), ("state", "success"))]
    assert [times[moment] for moment in (border - 300, border, border + 300, END)] == [1, 4, 5, 6]
    assert at(history, END) == live(proxy.url, Ledger.open(None), END)


def test_an_end_that_airflow_forgot_stays_counted(fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path):
    """A run is cleared and ends again: Airflow has its last end, the live counter both."""
    fill(fake)
    ledger = Ledger.open(tmp_path / "state")
    live(proxy.url, ledger, END)
    again = next(one for one in fake.runs if one["dag_run_id"] == "f0")
    again["end"] = END - 500
    fake.runs.sort(key=lambda one: one["end"])
    expected = live(proxy.url, ledger, END)
    ledger.close()
    series = "airflow_dag_runs_total", (("dag_id", FETCH), ("state", "success"))
    assert expected[series] == 31
    history, _ = backfilled(log, proxy, tmp_path / "out", str(tmp_path / "state"), since="9000s")
    assert at(history, END) == expected
    assert history[series][END - 600] == 30


def test_a_run_that_ended_on_the_border_of_two_questions_is_one_run(
    fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path
):
    """Airflow's answers hold both ends of the time that is asked for."""
    borders = [END - 3600 - BEFORE_SECONDS + number * WINDOW_SECONDS for number in range(5)]
    for number, end in enumerate([*borders, END]):
        fake.run(FETCH, f"r{number}", "failed", start=end - 40, end=end)
    expected = live(proxy.url, Ledger.open(None), END, AIRFLOW_LOOKBACK_DAYS="60")
    series = "airflow_dag_runs_total", (("dag_id", FETCH), ("state", "failed"))
    assert expected[series] == 6
    history, said = backfilled(log, proxy, tmp_path / "out", since="1h", env={"AIRFLOW_LOOKBACK_DAYS": "60"})
    assert at(history, END) == expected
    assert history[series][END - 300] == 5
    assert "Read 1 finished runs from Airflow, which may have deleted older ones." in said


def test_what_is_left_out_is_said(fake: FakeAirflow, proxy: FaultProxy, log: Log, tmp_path: Path):
    fill(fake)
    _, said = backfilled(log, proxy, tmp_path / "out", since="1800s")
    text = "\n".join(said)
    assert "not backfilled: bike_records_ingested_total, because it comes from XComs, which take one" in text
    assert "not backfilled: airflow_task_duration_seconds, because Airflow lists tasks" in text
    assert "not backfilled: airflow_dag_run_active_seconds, because" in text
    assert "not backfilled: airflow_dag_runs_total" not in text


def test_an_airflow_that_is_down_is_an_error_and_nothing_is_left(proxy: FaultProxy, log: Log, tmp_path: Path):
    proxy.refuse()
    with pytest.raises(SourceUnavailable):
        backfilled(log, proxy, tmp_path / "out", since="1800s")
    assert not (tmp_path / "out").exists()
