"""What the BigQuery source makes of tables and answers that an emulator does not have: the REST API by a script, whose
queries DuckDB answers."""

import json
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import duckdb
import pytest

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.settings import Settings
from exporter.sources.audit.bigquery import BigQueryAudit
from exporter.sources.audit.transpile import to_duckdb
from testbed.faults import Exchange, FaultProxy, Reply, Request, status
from tests.sources.audit.duckdb_log import DAY, NOW, gauge

TYPES = {"TIMESTAMPTZ": "TIMESTAMP", "DATE": "DATE", "DOUBLE": "FLOAT", "BIGINT": "INTEGER", "VARCHAR": "STRING"}
LEGACY = {"DOUBLE": "FLOAT", "BIGINT": "INTEGER", "HUGEINT": "INTEGER", "VARCHAR": "STRING"}
VALUES = {
    "TIMESTAMP": datetime.fromisoformat,
    "DATE": date.fromisoformat,
    "INT64": int,
    "FLOAT64": float,
    "STRING": str,
}


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


class FakeBigQuery:
    """One table, and the jobs that were run on it.

    Attributes:
        metadata: what tables.get says besides the schema.
        columns: DuckDB types by name; a name that begins with an underscore is a pseudo-column, in no schema.
    """

    def __init__(self, **columns: str) -> None:
        self.columns = {"recorded": "TIMESTAMPTZ", "r2": "DOUBLE", **columns}
        self.metadata: dict[str, Any] = {"type": "TABLE"}
        self.jobs: dict[str, dict[str, Any]] = {}
        self._engine = duckdb.connect()
        self._engine.execute("SET TimeZone = 'UTC'")
        self._engine.execute("CREATE SCHEMA shop")
        listed = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        self._engine.execute(f"CREATE TABLE shop.runs ({listed})")

    def add(self, days_ago: float, r2: float, **values: str | None) -> None:
        known = {"recorded": f"make_timestamptz({round((NOW - days_ago * DAY) * 1e6)})", "r2": str(r2)}
        known |= {name: "NULL" if value is None else f"'{value}'" for name, value in values.items()}
        self._engine.execute(f"INSERT INTO shop.runs ({', '.join(known)}) VALUES ({', '.join(known.values())})")

    def __call__(self, request: Request) -> Reply:
        *_, collection, name = request.path.split("/")
        if collection == "tables":
            return _json(self._table())
        if request.method == "POST":
            return self._insert(request.json())
        if collection == "queries":
            return _json({"jobComplete": True, "jobReference": _reference(name), **self._answer(self.jobs[name])})
        return _json(_job(self.jobs[name]))

    def _table(self) -> dict[str, Any]:
        fields = [{"name": n, "type": TYPES[kind]} for n, kind in self.columns.items() if not n.startswith("_")]
        return {
            "tableReference": {"projectId": "project-one", "datasetId": "shop", "tableId": "runs"},
            "lastModifiedTime": "1700000000000",
            "creationTime": "1700000000000",
            "numRows": "1",
            "location": "EU",
            "schema": {"fields": fields},
            **self.metadata,
        }

    def _insert(self, job: dict[str, Any]) -> Reply:
        job_id = job["jobReference"]["jobId"]
        if job_id in self.jobs:
            message = f"Already Exists: Job project-one:EU.{job_id}"
            return _json({"error": {"code": 409, "message": message, "errors": [{"reason": "duplicate"}]}}, 409)
        self.jobs[job_id] = job
        return _json(_job(job))

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        query = job["configuration"]["query"]
        sql = to_duckdb(query["query"].replace("`project-one.shop.runs`", "`shop.runs`"))
        given = {
            p["name"]: VALUES[p["parameterType"]["type"]](p["parameterValue"]["value"])
            for p in query["queryParameters"]
        }
        found = self._engine.execute(sql, {name: value for name, value in given.items() if f"${name}" in sql})
        fields = [{"name": column[0], "type": LEGACY[str(column[1])]} for column in found.description or ()]
        rows = [{"f": [{"v": None if v is None else str(v)} for v in row]} for row in found.fetchall()]
        return {"schema": {"fields": fields}, "rows": rows, "totalRows": str(len(rows))}


def _json(content: Any, code: int = 200) -> Reply:
    return Reply(code, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _reference(job_id: str) -> dict[str, str]:
    return {"projectId": "project-one", "jobId": job_id, "location": "EU"}


def _job(job: dict[str, Any]) -> dict[str, Any]:
    done = {"status": {"state": "DONE"}, "statistics": {"query": {"totalBytesBilled": "10485760", "cacheHit": False}}}
    return {**job, "jobReference": _reference(job["jobReference"]["jobId"]), **done}


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
