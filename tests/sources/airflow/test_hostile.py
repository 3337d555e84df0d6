"""Whatever an Airflow answers costs at most itself: one row, one metric, or one refresh with a plain error."""

import gzip
import json
import logging
import random
import resource
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.errors import BadData, SourceError
from exporter.ledger import FILE_NAME, Ledger, reading_from_json, reading_to_json
from exporter.snapshot import Reading, Sample
from exporter.sources.airflow.source import AirflowSource
from exporter.sources.boundary import LABEL_CHARACTERS
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, source
from testbed.faults import FaultProxy, Reply, Request, status
from tests.sources.airflow.readings import run_durations, runs_total, value

FETCH, PREDICT, MONITOR = DAGS
DEEP = b"[" * 100_000 + b"]" * 100_000
LARGEST = 1.7e308


@pytest.fixture
def fake() -> FakeAirflow:
    fake = FakeAirflow()
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(PREDICT, "r", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse=8.5)
    fake.task(FETCH, "r", "fetch_to_bigquery", start=NOW - 89, end=NOW - 81)
    return fake


def json_reply(content: bytes, code: int = 200, **headers: str) -> Callable[[Any], None]:
    """A fault that answers this."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = Reply(code, content, {"Content-Type": "application/json", **named})
    return lambda exchange: exchange.send(reply)


def outcome(airflow: AirflowSource) -> SourceError | None:
    """The error that a refresh ends in; None for a reading that can be shown."""
    try:
        reading = airflow.read(None)
    except SourceError as error:
        return error
    assert_can_be_shown(reading)
    return None


def assert_is_plain(error: SourceError | None) -> None:
    """The error, if there is one, can be shown on one short line."""
    text = str(error or "")
    text.encode("utf-8")
    assert len(text) < 600
    assert "\n" not in text


def assert_can_be_shown(reading: Reading) -> None:
    """Everything in it can be stored, encoded and shown on one line."""
    content = json.dumps(reading_to_json(reading), allow_nan=False)
    assert reading_from_json(json.loads(content)) == reading
    for text in (*reading.notes, *(gap.reason for gap in reading.gaps), *map(str, reading.facts.values())):
        text.encode("utf-8")
        assert "\n" not in text
    for observation in reading.observations.values():
        labels = [sample.labels for sample in observation.samples]
        assert len(set(labels)) == len(labels)
        for _, label in (pair for one in labels for pair in one):
            label.encode("utf-8")
            assert len(label) <= LABEL_CHARACTERS


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "content", "why"),
    [
        ("map_index", 10**30, "map_index is not a whole number from -1 to 2147483647: a number of more than 20 digits"),
        ("map_index", 1.5, "map_index is not a whole number from -1 to 2147483647: 1.5"),
        ("map_index", "x" * 100_000, "map_index is not a whole number"),
        ("end_date", 1e300, "end_date is no time: 1e+300"),
        ("end_date", "x" * 100_000, "end_date is no time: 'xxx"),
        ("start_date", [10**400], "start_date is no time: a list"),
        ("task_id", None, "task_id is no text: None"),
        ("dag_run_id", 10**300, "dag_run_id is no text: a number of more than 20 digits"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_named(
    field: str, content: object, why: str, fake: FakeAirflow, proxy: FaultProxy
):
    for number in range(3):
        fake.task(FETCH, "r", "mapped", start=NOW - 89, end=NOW - 81, map_index=number)

    def answer(request: Request) -> Reply:
        reply = fake(request)
        if request.path.endswith("taskInstances/list"):
            rows = json.loads(reply.body)
            rows["task_instances"][1][field] = content
            return Reply(200, json.dumps(rows).encode(), reply.headers)
        return reply

    with FaultProxy(script=answer) as hostile:
        airflow = source(hostile.url)
        for _ in range(2):
            reading = airflow.read(None)
            assert_can_be_shown(reading)
            assert runs_total(reading, FETCH, "success") == 1
            (note,) = (note for note in reading.notes if "of Airflow's" in note)
            assert note.startswith(f"1 of Airflow's finished tasks are left out; of one, {why}")
            assert len(note) < 300


@pytest.mark.parametrize("total", [10**400, -1, 1e300, "7", True, [1]])
def test_a_total_that_is_no_number_of_rows_is_a_plain_error(total: object, fake: FakeAirflow, proxy: FaultProxy):
    proxy.add(json_reply(json.dumps({"dag_runs": [], "total_entries": total}).encode()), path="/dagRuns/list")
    with pytest.raises(BadData, match="total_entries is not a whole number") as caught:
        source(proxy.url).read(None)
    assert len(str(caught.value)) < 200


def test_a_sum_that_would_be_infinite_costs_its_metric(fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path):
    for number in range(2):
        end = NOW - 70 + number
        fake.run(FETCH, f"large {number}", start=end - 9, end=end, fetch_to_bigquery__records_count=LARGEST)
    ledger = Ledger.open(tmp_path)
    airflow = source(proxy.url, ledger)
    for reading in (airflow.read(None), airflow.read(None), source(proxy.url, ledger).read(None)):
        assert_can_be_shown(reading)
        assert "bike_records_ingested_total" not in reading.observations
        gaps = {gap.metric: gap.reason for gap in reading.gaps}
        assert "larger than a number can be" in gaps["bike_records_ingested_total"]
        assert runs_total(reading, FETCH, "success") == 3
        assert value(reading, "bike_prediction_rmse") == 8.5
    with ledger.transaction() as connection:
        kept = connection.execute("SELECT total FROM airflow_sum WHERE key = 'records_count'").fetchall()
    assert kept == [(LARGEST,)]
    fake.run(FETCH, "after", start=NOW - 9, end=NOW - 8, fetch_to_bigquery__records_count=1)
    assert value(airflow.read(None), "bike_records_ingested_total") == LARGEST
    ledger.close()


# -- the ledger --------------------------------------------------------------------------------------------------------

NONSENSE = [
    "UPDATE airflow_sum SET total = 9e999",
    "UPDATE airflow_sum SET total = -5",
    "UPDATE airflow_sum SET last_end = 1e300",
    "UPDATE airflow_total SET sum = -9e999",
    "UPDATE airflow_total SET counts = '[1, 2]'",
    "UPDATE airflow_total SET counts = '{\"a\": 1}'",
    "UPDATE airflow_total SET counts = 'nonsense'",
    "UPDATE airflow_total SET counts = replace(counts, '1', '1e400')",
    "UPDATE airflow_total SET counts = replace(counts, '1', '-1')",
    "UPDATE airflow_total SET events = -1",
    "UPDATE airflow_total SET kind = 'other'",
    "UPDATE airflow_total SET last_end = 1e300",
    "UPDATE airflow_dag SET run_until = 9e999",
    "UPDATE airflow_dag SET task_until = -9e999",
    "UPDATE airflow_dag SET success_end = 1e300",
    "UPDATE airflow_dag SET success_end = NULL",
    "UPDATE airflow_dag SET success_run = NULL",
    "UPDATE airflow_xcom SET content = 'nonsense'",
    "UPDATE airflow_xcom SET content = replace(hex(zeroblob(50000)), '0', '[')",
    "UPDATE airflow_xcom SET content = '1e999'",
    "UPDATE airflow_xcom SET run_end = 9e999",
    "INSERT INTO airflow_xcom_pending SELECT instance, dag_id, 'x', NULL, 't', 'k', 0 FROM airflow_dag",
    "INSERT INTO airflow_xcom_pending SELECT instance, dag_id, 'x', 9e999, 't', 'k', 0 FROM airflow_dag",
    "UPDATE airflow_instance SET buckets = 'nonsense'",
]


@pytest.mark.parametrize("statement", NONSENSE)
def test_a_row_of_the_ledger_that_makes_no_sense_is_set_aside(
    statement: str, fake: FakeAirflow, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    ledger = Ledger.open(tmp_path)
    source(proxy.url, ledger).read(None)
    ledger.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(statement)
    connection.close()
    ledger = Ledger.open(tmp_path)
    airflow = source(proxy.url, ledger)
    for _ in range(2):
        reading = airflow.read(None)
        assert_can_be_shown(reading)
        assert not any("stand still" in note for note in reading.notes)
    fake.run(FETCH, "new", start=NOW - 9, end=NOW - 4, fetch_to_bigquery__records_count=10)
    fake.run(PREDICT, "new", start=NOW - 9, end=NOW - 4, predict_daily_data__rmse=7.5)
    before = runs_total(reading, FETCH, "success") or 0
    reading = airflow.read(None)
    assert runs_total(reading, FETCH, "success") == before + 1
    assert before in {0, 1}
    assert value(reading, "bike_prediction_rmse") == 7.5
    assert value(reading, "bike_records_ingested_total") in {10, 14}
    ledger.close()


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\nERROR forged", "a\ud800b", "x" * 100_000, "\x1b[2J\x00", "ü" * 240, "  "])
def test_ids_of_any_kind_are_valid_and_short(text: str, fake: FakeAirflow, proxy: FaultProxy):
    for end in ("", "1", "2"):
        fake.dags.append(text + end)
        fake.run(text + end, "r", start=NOW - 50, end=NOW - 40)
        fake.task(FETCH, text, text + end, start=NOW - 89, end=NOW - 81)
    fake.paused.update(fake.dags)
    reading = source(proxy.url, AIRFLOW_DAG_IDS="*").read(None)
    assert_can_be_shown(reading)
    assert runs_total(reading, FETCH, "success") == 1
    assert len(reading.observations["airflow_dag_runs_total"].samples) == 2 * 6
    assert len({dict(s.labels)["task_id"] for s in reading.observations["airflow_task_duration_seconds"].samples}) == 4


def test_a_version_and_a_refusal_of_any_text(fake: FakeAirflow, proxy: FaultProxy):
    odd = "a\nforged \ud800" + "x" * 100_000
    proxy.add(json_reply(json.dumps({"version": odd}).encode()), path="/version", times=1)
    proxy.add(status(418, {"detail": odd}), path="/dagRuns/list", times=1)
    airflow = source(proxy.url)
    with pytest.raises(BadData) as caught:
        airflow.read(None)
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert_can_be_shown(airflow.read(None))


@pytest.mark.parametrize(
    "headers",
    [
        {"Location": "http://[::1", "status": "302"},
        {"Location": "http://x:99999/", "status": "302"},
        {"Location": "/\u00ff\u00fe" + "x" * 60_000, "status": "302"},
        {"Date": "Fri, 31 Dec 9999 23:59:59 GMT"},
        {"Date": "x" * 60_000},
        {"Content-Type": "text/plain; " + "x" * 60_000},
        {"Retry-After": "9" * 5000, "status": "429"},
        {"Content-Encoding": "gzip"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_headers_of_any_kind(headers: dict[str, str], fake: FakeAirflow, proxy: FaultProxy):
    airflow = source(proxy.url)
    rest = {"Content-Type": "application/json", **headers}
    code = int(rest.pop("status", "200"))
    proxy.add(lambda exchange: exchange.send(Reply(code, b'{"dag_runs": []}', rest)), path="/dagRuns/list", times=3)
    for _ in range(3):
        assert_is_plain(outcome(airflow))
    proxy.clear()
    assert runs_total(airflow.read(None), FETCH, "success") == 1


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/version", "/auth/token", "/dags", "/dagRuns/list", "taskInstances/list", "xcomEntries"]
)
@pytest.mark.parametrize("code", [200, 400])
def test_json_that_is_nested_without_end(path: str, code: int, fake: FakeAirflow, proxy: FaultProxy):
    proxy.add(json_reply(DEEP, code), path=path, times=20)
    airflow = source(proxy.url)
    error = outcome(airflow)
    assert_is_plain(error)
    assert error is not None
    assert code == 400 or "nested more than 50 deep" in str(error)
    proxy.clear()
    airflow.read(None)
    assert runs_total(airflow.read(None), FETCH, "success") == 1


ROWS = b'{"total_entries": 1, "dag_runs": [' + b"{}," * (10 * 2**20) + b"{}]}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (ROWS, "longer than 16 MiB"),
        (ROWS[: 15 * 2**20], "more than 250,000 values"),
        (b'{"dag_runs": [' + b"{}," * 5000 + b"{}]}", "5,001 rows where at most 1,000"),
        (b'{"dag_runs": "' + b"\xf0\x9f\x9a\xb2" * (4 * 2**20 - 100) + b'"}', "no list 'dag_runs'"),
    ],
    ids=["30 MiB of rows", "15 MiB of rows", "5,001 rows", "four bytes a character"],
)
def test_an_answer_that_unfolds_is_refused_in_time(content: bytes, why: str, fake: FakeAirflow, proxy: FaultProxy):
    compressed = gzip.compress(content)
    assert len(compressed) < 60_000
    airflow = source(proxy.url)
    airflow.read(None)
    proxy.add(json_reply(compressed, Content_Encoding="gzip"), path="/dagRuns/list")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()  # whatever else this machine does
    with pytest.raises(BadData, match=why):
        airflow.read(None)
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024
    proxy.clear()
    assert runs_total(airflow.read(None), FETCH, "success") == 1


# -- anything ----------------------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    *(None, True, -1, 0, 10**30, 10**400, 1e300, float("nan"), float("-inf"), "", "x" * 5000, "a\nb\ud800", "[" * 500),
    *([], {}, [[]], {"a": {}}, [None] * 1500, {"__classname__": "numpy.float64", "__data__": float("inf")}),
]


def spoiled(content: Any, chance: random.Random, share: float) -> Any:
    """The answer with some of its values replaced by junk, and some of its lists by longer ones."""
    if chance.random() < share:
        return chance.choice(JUNK)
    if isinstance(content, dict):
        return {key: spoiled(value, chance, share) for key, value in content.items() if chance.random() > share / 2}
    if isinstance(content, list):
        return [spoiled(value, chance, share) for value in content for _ in range(chance.choice([1, 1, 1, 2]))]
    return content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), api=st.sampled_from(["v1", "v2"]), share=st.sampled_from([0.02, 0.1, 0.3]))
def test_any_answer_gives_a_reading_or_a_plain_error(seed: int, api: str, share: float, fake: FakeAirflow):
    chance = random.Random(seed)
    fake.api = api
    faulty = True

    def answer(request: Request) -> Reply:
        reply = fake(request)
        if not faulty or chance.random() < 0.5 or "json" not in reply.headers["Content-Type"]:
            return reply
        body = json.dumps(spoiled(json.loads(reply.body), chance, share)).encode()
        return Reply(chance.choice([reply.status, reply.status, 400, 404, 405]), body, reply.headers)

    with FaultProxy(script=answer) as hostile:
        airflow = source(hostile.url, Ledger.open(None))
        for _ in range(4):
            assert_is_plain(outcome(airflow))
        faulty = False
        error = outcome(airflow)
        assert error is None or error.reason == "not_found"
        reading = airflow.read(None)
    assert (runs_total(reading, FETCH, "success") or 0) >= 1
    found = run_durations(reading, FETCH, "success")
    assert found is not None
    samples = reading.observations["airflow_dag_run_active_seconds"].samples
    assert all(isinstance(sample, Sample) and sample.value >= 0 for sample in samples)
