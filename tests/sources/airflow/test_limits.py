"""What bounds a refresh of Airflow: how often, how long and how much is asked, and what is given up or left out."""

from typing import Any

import pytest

from exporter.catalog_parser import load_catalog
from exporter.errors import SourceError
from exporter.ledger import Ledger
from exporter.sources.airflow.session import MAX_RETRY_AFTER
from exporter.sources.airflow.source import RESERVE, XCOM_SHARE, AirflowSource
from testbed.fake_airflow import DAGS, NOW, FakeAirflow, settings, source
from testbed.faults import FaultProxy, Reply, Request, status
from tests.sources.airflow.readings import runs_total, value

FETCH, PREDICT, MONITOR = DAGS
RECORDS = "bike_records_ingested_total"


class Clock:
    """Monotonic time that stands still unless told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def timed(url: str, clock: Clock, **env: str) -> AirflowSource:
    """A source whose ages and deadlines follow the clock."""
    return AirflowSource(
        settings(url, **env),
        load_catalog(),
        Ledger.open(None),
        wall=lambda: NOW,
        monotonic=clock,
        jitter=lambda: -0.5,
    )


def asked(proxy: FaultProxy, part: str) -> int:
    return sum(part in seen.path for seen in proxy.requests)


# -- what is an error, and what costs one metric -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["taskInstances/list", "records_count", "rmse"])
@pytest.mark.parametrize(("code", "reason"), [(401, "auth"), (418, "bad_data"), (429, "quota")])
def test_only_a_missing_permission_costs_nothing_but_its_metrics(
    path: str, code: int, reason: str, fake: FakeAirflow, proxy: FaultProxy
):
    """Whatever else goes wrong with tasks and XComs is a failed refresh, or nobody would hear of it."""
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(PREDICT, "r", start=NOW - 90, end=NOW - 80, predict_daily_data__rmse=4)
    proxy.add(status(code), path=path)
    with pytest.raises(SourceError) as caught:
        source(proxy.url).read(None)
    assert caught.value.reason == reason


# -- XComs -------------------------------------------------------------------------------------------------------------


def test_one_that_is_too_long_is_given_up_at_once(fake: FakeAirflow, proxy: FaultProxy):
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count="4" * 2_000_000)
    airflow = source(proxy.url)
    for _ in range(3):
        assert value(airflow.read(None), RECORDS) == 0
    assert asked(proxy, "xcomEntries/records_count") == 1


def test_xcoms_of_a_long_look_back_take_their_share_of_the_deadline_and_go_on_next_time(
    fake: FakeAirflow, proxy: FaultProxy
):
    """Each takes a second here. Runs and tasks, which are ready, must not wait for hundreds of them."""
    clock = Clock()
    proxy.script = slow(fake, clock, "xcomEntries")
    for number in range(10):
        fake.run(FETCH, f"r{number}", start=NOW - 90, end=NOW - 80 + number, fetch_to_bigquery__records_count=1)
    airflow = timed(proxy.url, clock, AIRFLOW_TIMEOUT_SECONDS="20")
    seen: list[int] = []
    for _ in range(4):
        proxy.forget()
        reading = airflow.read(None)
        assert runs_total(reading, FETCH, "success") == 10
        seen.append(asked(proxy, "xcomEntries"))
        if sum(seen) < 10:
            assert RECORDS not in reading.observations
            assert reading.facts["pending_xcoms"] == 10 - sum(seen)
    assert seen == [XCOM_SHARE * 20 + 1, 10 - (XCOM_SHARE * 20 + 1), 0, 0]
    assert value(reading, RECORDS) == 10


def test_a_refresh_that_is_short_of_time_asks_for_no_xcom_of_a_counter(fake: FakeAirflow, proxy: FaultProxy):
    clock = Clock()
    proxy.script = slow(fake, clock, "dagRuns/list", 7.5)
    fake.run(FETCH, "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=1)
    airflow = timed(proxy.url, clock, AIRFLOW_TIMEOUT_SECONDS="20")
    reading = airflow.read(None)
    assert (asked(proxy, "xcomEntries"), reading.facts["pending_xcoms"]) == (0, 1)
    assert runs_total(reading, FETCH, "success") == 1
    proxy.script = fake
    assert value(airflow.read(None), RECORDS) == 1


def test_a_look_back_leaves_part_of_the_deadline_for_the_rest(fake: FakeAirflow, proxy: FaultProxy):
    """Each list of runs takes two seconds of twenty. None is begun once less than RESERVE of them is left."""
    clock = Clock()
    proxy.script = slow(fake, clock, "dagRuns/list", 2.0)
    for number in range(80):
        fake.run(FETCH, f"r{number}", "failed", end=NOW - 30_000 * number - 80)
    fake.page_cap = 4
    airflow = timed(proxy.url, clock, AIRFLOW_TIMEOUT_SECONDS="20", AIRFLOW_DAG_IDS=FETCH)
    reading = airflow.read(None)
    assert any("Still counting finished runs" in note for note in reading.notes)
    assert clock.at - 1000 == 16
    assert 20 - (clock.at - 1000) < RESERVE * 20 <= 20 - (clock.at - 1000) + 2
    for _ in range(100):
        if runs_total(reading, FETCH, "failed") is not None:
            break
        reading = airflow.read(None)
    assert runs_total(reading, FETCH, "failed") == 80


def slow(fake: FakeAirflow, clock: Clock, part: str, seconds: float = 1.0) -> Any:
    """The fake, on which some requests take time by the clock."""

    def answer(request: Request) -> Reply:
        if part in request.path:
            clock.at += seconds
        return fake(request)

    return answer


def test_a_retry_after_beyond_a_few_seconds_is_handed_on_though_the_deadline_would_allow_it(proxy: FaultProxy):
    """Waiting in a refresh holds its thread; the refresh loop waits for nothing."""
    airflow = source(proxy.url, AIRFLOW_TIMEOUT_SECONDS="300")
    airflow.read(None)
    proxy.forget()
    proxy.add(status(429, headers={"Retry-After": f"{MAX_RETRY_AFTER + 1:.0f}"}), path="dagRuns/list")
    with pytest.raises(SourceError) as caught:
        airflow.read(None)
    assert (caught.value.reason, caught.value.retry_after) == ("quota", MAX_RETRY_AFTER + 1)
    assert len(proxy.requests) == 1
