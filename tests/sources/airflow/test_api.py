"""The questions, asked over HTTP: lists to their end, XComs of any name and length."""

import pytest

from exporter.errors import BadData
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.session import Session
from testbed.fake_airflow import NOW, FakeAirflow, settings
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
