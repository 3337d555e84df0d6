"""What the BigQuery source makes of tables and answers that an emulator does not have: the REST API by a script, whose
queries DuckDB answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.settings import Settings
from exporter.sources.audit.bigquery import BigQueryAudit
from testbed.faults import Exchange, FaultProxy, status
from tests.sources.audit.duckdb_log import NOW, gauge
from tests.sources.audit.fake_bigquery import FakeBigQuery


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return parse_catalog(
        """
version: 1
audit: {table: shop.runs, timestamp: recorded}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}
""",
        "shop.yaml",
    )


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeBigQuery:
    return FakeBigQuery(**getattr(request, "param", {}))


@pytest.fixture
def proxy(fake: FakeBigQuery) -> Iterator[FaultProxy]:
    with FaultProxy(script=fake) as proxy:
        yield proxy


@pytest.fixture
def source(proxy: FaultProxy, catalog: Catalog) -> Iterator[BigQueryAudit]:
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "project-one", "BIGQUERY_EMULATOR_HOST": proxy.url})
    made = BigQueryAudit(settings, catalog, lambda: NOW)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "queries"), [("TABLE", 1), ("EXTERNAL", 3), ("VIEW", 3), ("MATERIALIZED_VIEW", 3), ("SNAPSHOT", 1)]
)
def test_what_does_not_say_when_it_changed_is_always_queried(
    kind: str, queries: int, fake: FakeBigQuery, source: BigQueryAudit
):
    """The metadata of an external table or a view stands still while the data behind it moves."""
    fake.metadata["type"] = kind
    fake.add(1, 0.5)
    first = reading = source.read(None)
    fake.add(0.5, 0.6)
    for _ in range(2):
        reading = source.read(reading)
    assert len(fake.jobs) == queries
    assert gauge(reading, "shop_r2") == (0.5 if queries == 1 else 0.6)
    assert not source.changed(first), "a free look says nothing of them"


def test_a_job_whose_insertion_was_answered_into_the_void_is_found_again(
    fake: FakeBigQuery, proxy: FaultProxy, source: BigQueryAudit
):
    """Google's client sends the job again, and BigQuery has it already."""
    fake.add(1, 0.5)

    def lost(exchange: Exchange) -> None:
        exchange.ask_upstream()
        exchange.reset()

    rule = proxy.add(lost, method="POST", path="/jobs", times=1)
    reading = source.read(None)
    assert rule.hits == 1
    assert (gauge(reading, "shop_r2"), len(fake.jobs)) == (0.5, 1)
    assert proxy.count("POST") == 2, "the job, and the job again: nothing is cancelled"


def test_a_conflict_of_which_the_job_is_not_there_is_an_error(proxy: FaultProxy, source: BigQueryAudit):
    from exporter.errors import SourceError

    proxy.add(status(409, {"error": {"code": 409, "message": "no"}}), method="POST", path="/jobs")
    proxy.add(status(404, {"error": {"code": 404, "message": "gone"}}), method="GET", path="/jobs/")
    with pytest.raises(SourceError):
        source.read(None)


@pytest.mark.parametrize(
    ("fake", "metadata", "in_none"),
    [
        ({}, {"timePartitioning": {"type": "DAY", "field": "recorded"}}, {}),
        ({"day": "DATE"}, {"timePartitioning": {"type": "DAY", "field": "day"}}, {"day": None}),
        ({"DAY_": "TIMESTAMPTZ"}, {"timePartitioning": {"type": "DAY", "field": "day_"}}, {"DAY_": None}),
        ({"_PARTITIONTIME": "TIMESTAMPTZ"}, {"timePartitioning": {"type": "DAY"}}, {"_PARTITIONTIME": None}),
        ({"part": "BIGINT"}, {"rangePartitioning": {"field": "part", "range": {}}}, {"part": None}),
    ],
    indirect=["fake"],
)
def test_rows_that_are_in_no_partition_yet_are_seen_though_a_filter_on_it_is_sent(
    fake: FakeBigQuery, metadata: dict[str, Any], in_none: dict[str, None], source: BigQueryAudit
):
    """A table may refuse queries without such a filter. Streamed rows, and rows that name no partition, have NULL."""
    fake.metadata |= metadata
    some = {
        name: {"DATE": "2026-01-01", "BIGINT": "-7"}.get(fake.columns[name], "2026-01-01 00:00:00+00")
        for name in in_none
    }
    fake.add(2, 0.5, **some)
    fake.add(1, 0.6, **in_none)
    reading = source.read(None)
    assert (gauge(reading, "shop_r2"), reading.facts["rows"]) == (0.6, 2)
    (job,) = fake.jobs.values()
    sent = job["configuration"]["query"]["query"]
    partition = next(iter(in_none), "recorded")
    assert f"`{partition}` >= @from".lower() in sent.lower()
