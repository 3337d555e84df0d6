"""The questions: lists to their end, XComs of any name, and times as Airflow writes them."""

import pytest

from exporter.errors import BadData
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.failures import XComUnreadable
from exporter.sources.airflow.records import format_time, parse_time
from exporter.sources.airflow.session import Session
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, settings
from testbed.faults import FaultProxy

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


def make(url: str, **env: str) -> AirflowApi:
    return AirflowApi(Session(settings(url, **env), clock=lambda: NOW, jitter=lambda: -0.5))


@BOTH
def test_lists_are_read_to_their_end(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.dags = [f"dag_{number:03}" for number in range(230)]
    for number in range(25):
        fake.run("dag_000", f"run {number}", "running", start=NOW - number)
    fake.page_cap = 10
    asked = make(proxy.url)
    assert len(asked.dags()) == 230
    assert len(asked.running(["dag_000"])) == 25


def test_a_list_without_end_is_given_up(fake: FakeAirflow, proxy: FaultProxy):
    for number in range(60):
        fake.run(DAGS[0], f"run {number}", "running", start=NOW)
    fake.page_cap = 1
    with pytest.raises(BadData, match="more than 50 pages"):
        make(proxy.url).running(DAGS)


@BOTH
def test_ids_with_any_characters(api: str, fake: FakeAirflow, proxy: FaultProxy):
    run_id = "manual__2026-11-22T23:53:16+00:00 ö ?#%"
    fake.xcom("dag.a", run_id, "group.task", "a/b", 1.5, written=NOW)
    asked = make(proxy.url)
    found = asked.xcom("dag.a", run_id, "group.task", "a/b")
    assert found is not None
    assert found.value == (1.5 if api == "v2" else "1.5")
    assert asked.xcom("dag.a", run_id, "group.task", "c") is None


@BOTH
def test_a_run_id_with_a_slash_cannot_be_asked_about(api: str, proxy: FaultProxy):
    with pytest.raises(XComUnreadable, match="'2026/11/22': its id holds a /") as caught:
        make(proxy.url).xcom("d", "2026/11/22", "t", "k")
    assert caught.value.final
    assert proxy.requests == ()


@BOTH
def test_xcoms_of_mapped_tasks_are_listed(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.xcom("d", "r", "t", "plain", 1, written=NOW)
    fake.xcom("d", "r", "other", "else", 1, written=NOW)
    fake.mapped_xcoms.add(("d", "r", "t", "a/b"))
    asked = make(proxy.url)
    assert asked.xcom("d", "r", "t", "a/b") is None
    assert asked.xcom_keys("d", "r", "t") == {"plain", "a/b"}


def test_an_xcom_of_ten_megabytes_is_cut_off(fake: FakeAirflow, proxy: FaultProxy):
    fake.xcom("d", "r", "t", "k", "x" * 10_000_000, written=NOW)
    with pytest.raises(BadData, match="longer than 1 MiB"):
        make(proxy.url).xcom("d", "r", "t", "k")


def test_times_to_the_microsecond():
    for text in ("2026-11-22T23:53:16.435452+00:00", "2026-11-22T23:53:16.435452Z", "2026-11-23T00:53:16.435452+01:00"):
        at = parse_time(text)
        assert at is not None
        assert format_time(at) == "2026-11-22T23:53:16.435452Z"
    assert parse_time("soon") is parse_time(None) is parse_time(5) is None
