"""BigQuery in full: every request of each question, and all that is made of the answers."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.cloud.bigquery import Client, SchemaField

from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData, SourceError, SourceTimeout
from exporter.settings import Settings
from exporter.snapshot import Sample, Totals
from exporter.sources.audit.bigquery import BigQueryAudit, Plan
from exporter.sources.audit.bigquery_client import LABELS, BigQueryTable, google_type
from exporter.sources.audit.bigquery_transport import BoundedAdapter
from exporter.sources.audit.columns import MAX_COLUMNS, Column
from exporter.sources.audit.query import BEGINNING_US
from exporter.sources.boundary import MAX_JSON_VALUES
from testbed.faults import Exchange, FaultProxy, Request, google_error, html, reset
from tests.sources.audit.duckdb_log import DAY, NOW, counts, gauge
from tests.sources.audit.fake_bigquery import FakeBigQuery

CATALOG = parse_catalog(
    """
version: 1
audit: {table: shop.runs, timestamp: recorded, env: stage}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}
  - {name: shop_mae, type: gauge, help: MAE., from: [{audit: mae}]}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: verdict, values: {go: GO, stop: STOP}}}]
""",
    "shop.yaml",
)
PROJECT = "/bigquery/v2/projects/project-one"
TABLE = f"{PROJECT}/datasets/shop/tables/runs"
ENV = {"AUDIT_TIMEOUT_SECONDS": "12.5", "AUDIT_MAX_BYTES_BILLED": "20000000", "AUDIT_MAX_QUERY_AGE_SECONDS": "600"}
Connect = Callable[..., BigQueryAudit]


@pytest.fixture
def at() -> list[float]:
    """The time."""
    return [NOW]


@pytest.fixture
def fake() -> FakeBigQuery:
    made = FakeBigQuery(verdict="VARCHAR")
    made.add(2, 0.5, verdict="GO")
    made.add(1, 0.6, verdict="STOP")
    return made


@pytest.fixture
def proxy(fake: FakeBigQuery) -> Iterator[FaultProxy]:
    with FaultProxy(script=fake) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy, at: list[float]) -> Iterator[Connect]:
    made: list[BigQueryAudit] = []

    def connect(**env: str) -> BigQueryAudit:
        found = {"GOOGLE_CLOUD_PROJECT": "project-one", "BIGQUERY_EMULATOR_HOST": proxy.url, **ENV, **env}
        made.append(BigQueryAudit(Settings.from_env(found), CATALOG, lambda: at[0]))
        return made[-1]

    yield connect
    for source in made:
        source.close()


def sent(proxy: FaultProxy) -> list[tuple[str, str]]:
    """Method and path of each request since the last call."""
    seen = [(request.method, request.path) for request in proxy.requests]
    proxy.forget()
    return seen


def schema(**kinds: str) -> dict[str, Any]:
    """A table's schema as metadata say it, of types by column."""
    return {"fields": [{"name": name, "type": kind} for name, kind in kinds.items()]}


def outcomes(source: BigQueryAudit) -> tuple[list[float], float]:
    """Queries that were executed, answered from the cache and skipped, and the bytes billed."""
    found = source.telemetry()
    queries = found["mlops_exporter_bigquery_queries_total"]
    assert [sample.labels for sample in queries] == [
        (("outcome", outcome),) for outcome in ("executed", "cached", "skipped")
    ]
    ((billed,),) = (found["mlops_exporter_bigquery_bytes_billed_total"],)
    assert billed.labels == ()
    return [sample.value for sample in queries if isinstance(sample, Sample)], getattr(billed, "value", -1)


# -- a refresh ---------------------------------------------------------------------------------------------------------


def test_a_refresh_is_three_requests_and_a_reading(connect: Connect, fake: FakeBigQuery, proxy: FaultProxy):
    source = connect()
    assert (source.name, source.table, source.timeout_seconds) == ("audit", "project-one.shop.runs", 12.5)
    assert outcomes(source) == ([0, 0, 0], 0)
    assert source.identity not in (None, connect(AUDIT_ENV="prod").identity)
    reading = source.read(None)
    ((job_id, job),) = fake.jobs.items()
    assert re.fullmatch(r"mlops-exporter-[0-9a-f-]{36}", job_id)
    rows = proxy.requests[-1].parameters
    assert (rows["maxResults"], rows["location"]) == (["1000"], ["EU"])
    assert sent(proxy) == [("GET", TABLE), ("POST", f"{PROJECT}/jobs"), ("GET", f"{PROJECT}/queries/{job_id}")]
    assert job["jobReference"] == {"jobId": job_id, "projectId": "project-one", "location": "EU"}
    configuration = job["configuration"]
    assert (configuration["labels"], configuration["jobTimeoutMs"]) == (LABELS, "12500")
    query = configuration["query"]
    assert "`project-one.shop.runs`" in query.pop("query")
    parameters = {
        p["name"]: (p["parameterType"]["type"], p["parameterValue"]["value"]) for p in query["queryParameters"]
    }
    del query["queryParameters"]
    assert query == {
        "maximumBytesBilled": "20000000",
        "useQueryCache": True,
        "useLegacySql": False,
        "parameterMode": "NAMED",
    }
    assert parameters["from0"] == ("TIMESTAMP", "1900-01-01 00:00:00+00:00")
    assert parameters["horizon"][0] == "INT64"
    assert (gauge(reading, "shop_r2"), counts(reading, "shop_releases_total")) == (0.6, {"go": 1, "stop": 1})
    assert (reading.source, reading.identity, reading.catalog) == ("audit", source.identity, CATALOG.fingerprint)
    assert (reading.read_at, reading.queried_at, reading.valid_until) == (NOW, NOW, None)
    assert [gap.metric for gap in reading.gaps] == ["shop_mae"]
    assert reading.notes == ()
    assert reading.facts == {
        "engine": "bigquery",
        "table": "project-one.shop.runs",
        "rows": 2,
        "last_record_at": NOW - DAY,
        "missing_columns": "stage, mae",
    }
    assert outcomes(source) == ([1, 0, 0], 10_485_760)


def test_what_the_rows_say_of_themselves_is_in_the_reading(connect: Connect, fake: FakeBigQuery):
    fake.add(-3, 0.9)
    reading = connect().read(None)
    assert reading.notes == ("1 row dated in the future: left out of values and counts until their time has come",)
    assert reading.valid_until is not None
    assert NOW < reading.valid_until < NOW + 3 * DAY


def test_what_is_newer_is_counted_from_the_newest_row_that_was_counted_on(connect: Connect, fake: FakeBigQuery):
    source = connect()
    first = source.read(None)
    source.read(dataclasses.replace(first, token="another", totals=Totals(NOW - 1.5 * DAY, (), {})))
    since = [
        parameter["parameterValue"]["value"]
        for job in fake.jobs.values()
        for parameter in job["configuration"]["query"]["queryParameters"]
        if parameter["name"] == "since"
    ]
    assert since == [f"{BEGINNING_US}", f"{(NOW - 1.5 * DAY) * 1e6:.0f}"]


def test_a_table_that_stands_still_is_not_queried_until_the_answer_is_too_old(
    connect: Connect, proxy: FaultProxy, at: list[float]
):
    source = connect()
    reading = source.read(None)
    assert not source.changed(reading)
    sent(proxy)
    at[0] += 599
    again = source.read(reading)
    assert again == dataclasses.replace(reading, read_at=NOW + 599)
    assert sent(proxy) == [("GET", TABLE)]
    assert outcomes(source) == ([1, 0, 1], 10_485_760)
    at[0] += 1
    assert source.read(again).queried_at == NOW + 600
    assert outcomes(source) == ([2, 0, 1], 2 * 10_485_760)
    for other in ({"identity": "another"}, {"catalog": "another"}, {"token": "another"}):
        assert source.read(dataclasses.replace(again, **other)).queried_at == NOW + 600
    assert outcomes(source)[0] == [5, 0, 1]


@pytest.mark.parametrize(
    ("statistics", "counted"),
    [({"cacheHit": True, "totalBytesBilled": "0"}, ([0, 1, 0], 0)), ({}, ([1, 0, 0], 0))],
)
def test_an_answer_from_the_cache_is_counted_as_one(
    statistics: dict[str, Any], counted: Any, connect: Connect, fake: FakeBigQuery
):
    fake.statistics = statistics
    source = connect()
    source.read(None)
    assert outcomes(source) == counted
    with source.history(NOW):
        pass
    assert outcomes(source) == tuple([2 * n for n in part] if isinstance(part, list) else part for part in counted)


R2 = {"name": "r2", "type": "FLOAT"}
BUFFER = {"estimatedRows": "1", "estimatedBytes": "1", "oldestEntryTime": "1700000000000"}


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ({"creationTime": "1700000000001"}, True),
        ({"creationTime": None}, True),
        ({"lastModifiedTime": "1700000000001"}, True),
        ({"lastModifiedTime": None}, True),
        ({"numRows": "2"}, True),
        ({"numBytes": "2"}, True),
        ({"streamingBuffer": None}, True),
        ({"streamingBuffer": {**BUFFER, "estimatedRows": "2"}}, True),
        ({"streamingBuffer": {**BUFFER, "estimatedBytes": "2"}}, True),
        ({"streamingBuffer": {**BUFFER, "oldestEntryTime": "1700000000001"}}, True),
        ({"schema": schema(recorded="TIMESTAMP")}, True),
        ({"schema": schema(recorded="DATE", r2="FLOAT")}, True),
        ({"schema": {"fields": [{"name": "recorded", "type": "TIMESTAMP"}, {**R2, "mode": "REQUIRED"}]}}, True),
        ({"description": "another", "etag": "another", "labels": {"a": "b"}}, False),
    ],
)
def test_a_probe_sees_whatever_moves_in_the_metadata(
    changed: dict[str, Any], moves: bool, connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    fake.metadata |= {"numBytes": "1", "streamingBuffer": BUFFER, "schema": schema(recorded="TIMESTAMP", r2="FLOAT")}
    source = connect()
    reading = source.read(None)
    sent(proxy)
    assert not source.changed(reading)
    fake.metadata |= changed
    assert source.changed(reading) == moves
    assert sent(proxy) == [("GET", TABLE)] * 2
    assert connect(EXPORTER_MAX_SERIES="7").changed(reading), "it asks for other rows"


def test_a_probe_says_nothing_of_what_does_not_say_when_it_changed(
    connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    source = connect()
    reading = source.read(None)
    sent(proxy)
    assert not source.changed(dataclasses.replace(reading, token=None))
    assert sent(proxy) == []
    fake.metadata["type"] = "VIEW"
    assert not source.changed(dataclasses.replace(reading, token="another"))


def refuse(proxy: FaultProxy, column: str) -> None:
    """Answer as BigQuery does where a policy tag keeps a column from the service account."""
    said = (
        "Access Denied: BigQuery BigQuery: User has neither fine-grained reader nor masked get permission to get data "
        f'protected by policy tag "a : b" on column project-one.shop.runs.{column}.'
    )

    def uses(request: Request) -> bool:
        return request.path.endswith("/jobs") and f"`{column}`" in request.json()["configuration"]["query"]["query"]

    proxy.add(google_error(403, said), method="POST", matches=uses)


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_a_column_that_was_refused_is_asked_for_again_by_a_forced_refresh(
    kind: str, connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    """A view's readings have no revision, and are no forced refreshes for that."""
    fake.metadata["type"] = kind
    refuse(proxy, "r2")
    source = connect()
    reading = source.read(None)
    assert [gap.metric for gap in reading.gaps] == ["shop_r2", "shop_mae"]
    assert (counts(reading, "shop_releases_total"), reading.facts["missing_columns"]) == (
        {"go": 1, "stop": 1},
        "stage, mae",
    )
    assert source.plan().query.gaps == reading.gaps
    for token, jobs in ((reading.token and "another", 1), (None, 2 if kind == "TABLE" else 1)):
        sent(proxy)
        source.read(dataclasses.replace(reading, token=token))
        assert sent(proxy).count(("POST", f"{PROJECT}/jobs")) == jobs
    proxy.clear()
    assert source.plan().query.gaps == reading.gaps
    again = source.read(dataclasses.replace(reading, token=None))
    assert ("shop_r2" in again.observations) == (kind == "TABLE")


def test_a_column_that_was_refused_is_asked_for_again_when_the_schema_moves(
    connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    refuse(proxy, "r2")
    source = connect()
    reading = dataclasses.replace(source.read(None), token="another")
    fields = schema(recorded="TIMESTAMP", r2="FLOAT", verdict="STRING")["fields"]
    for listed, jobs in ((fields, 1), ([dict(reversed(field.items())) for field in fields], 1), (fields[:2], 2)):
        fake.metadata["schema"] = {"fields": listed}
        sent(proxy)
        source.read(reading)
        assert sent(proxy).count(("POST", f"{PROJECT}/jobs")) == jobs


# -- history, plan, glance ---------------------------------------------------------------------------------------------


def test_a_history_is_the_same_log_as_a_list(connect: Connect, fake: FakeBigQuery, proxy: FaultProxy):
    source = connect()
    with source.history(NOW - 1.5 * DAY) as (query, rows):
        found = list(rows)
    until = int((NOW - 1.5 * DAY) * 1e6)
    assert found == [{"at": round((NOW - 2 * DAY) * 1e6), "n": 1, "x0": 0.5, "c0": 1, "c1": 0}]
    assert [parameter.value for parameter in query.parameters if parameter.name == "horizon"] == [until]
    (job,) = fake.jobs.values()
    assert job["configuration"]["query"]["query"] == query.sql
    assert job["jobReference"]["location"] == "EU"
    width = 20 + 4 * 1 + 3 * 2
    assert proxy.requests[-1].parameters["maxResults"] == [f"{MAX_JSON_VALUES // 2 // (2 * width + 3)}"]
    assert outcomes(source) == ([1, 0, 0], 10_485_760)
    assert fake.cancelled == []


def test_a_plan_is_the_query_and_what_it_would_process(connect: Connect, fake: FakeBigQuery, proxy: FaultProxy):
    fake.statistics = {"totalBytesProcessed": "4096"}
    fake.metadata["numRows"] = "7"
    source = connect()
    plan = source.plan()
    assert isinstance(plan, Plan)
    assert (plan.table_type, plan.rows, plan.location, plan.bytes_processed) == ("TABLE", 7, "EU", 4096)
    asked = proxy.requests[-1].json()
    assert (asked["configuration"]["dryRun"], asked["jobReference"]["location"]) == (True, "EU")
    assert asked["configuration"]["query"]["maximumBytesBilled"] == "20000000"
    assert asked["configuration"]["query"]["query"] == plan.query.sql
    assert sent(proxy) == [("GET", TABLE), ("POST", f"{PROJECT}/jobs")]
    assert (fake.jobs, outcomes(source)) == ({}, ([0, 0, 0], 0))
    source.read(None)
    (job,) = fake.jobs.values()
    assert job["configuration"]["query"] == asked["configuration"]["query"]
    fake.statistics = {}
    assert source.plan().bytes_processed == 0


def test_label_sets_are_asked_for_up_to_the_limit(proxy: FaultProxy, fake: FakeBigQuery):
    fake.metadata["schema"] = schema(recorded="TIMESTAMP", model="STRING", r2="FLOAT")
    catalog = parse_catalog(
        "version: 1\naudit: {table: shop.runs, timestamp: recorded, labels: {model: model}}\n"
        "metrics: [{name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}]",
        "shop.yaml",
    )
    env = {"GOOGLE_CLOUD_PROJECT": "project-one", "BIGQUERY_EMULATOR_HOST": proxy.url, "EXPORTER_MAX_SERIES": "7"}
    assert BigQueryAudit(Settings.from_env(env), catalog).plan().query.most_sets == 7


def test_only_rows_of_the_environment_are_asked_for(connect: Connect, fake: FakeBigQuery):
    fake.metadata["schema"] = {
        "fields": [{"name": "recorded", "type": "TIMESTAMP"}, {"name": "stage", "type": "STRING"}]
    }
    parameters = connect(AUDIT_ENV="prod").plan().query.parameters
    assert [parameter.value for parameter in parameters if parameter.type == "STRING"] == ["prod"]


@pytest.mark.parametrize(("rows", "asked"), [(0, "1"), (1, "1"), (2, "2"), (10**6, f"{MAX_JSON_VALUES // 2 // 7}")])
def test_a_glance_is_the_first_rows_of_plain_columns(
    rows: int, asked: str, connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    columns, found, why = connect().glance(rows)
    assert columns == [Column("recorded", "TIMESTAMP"), Column("r2", "FLOAT64"), Column("verdict", "STRING")]
    assert found == [{"r2": 0.5, "verdict": "GO"}, {"r2": 0.6, "verdict": "STOP"}][: int(asked)]
    assert why == ""
    parameters = proxy.requests[-1].parameters
    assert (parameters["maxResults"], parameters["selectedFields"]) == ([asked], ["r2,verdict"])
    assert sent(proxy) == [("GET", TABLE), ("GET", f"{TABLE}/data")]


def test_where_no_row_can_be_looked_at_for_nothing_it_says_so(connect: Connect, fake: FakeBigQuery, proxy: FaultProxy):
    fake.metadata["schema"] = schema(recorded="TIMESTAMP")
    assert connect().glance(3) == ([Column("recorded", "TIMESTAMP")], [], "")
    fake.metadata["type"] = "MATERIALIZED_VIEW"
    _, rows, why = connect().glance(3)
    assert (rows, why) == ([], "The rows of a BigQuery materialized view were not looked at: a query would be billed.")
    assert sent(proxy) == [("GET", TABLE)] * 2


# -- columns and filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (SchemaField("a", "FLOAT"), "FLOAT64"),
        (SchemaField("a", "INTEGER"), "INT64"),
        (SchemaField("a", "BOOLEAN"), "BOOL"),
        (SchemaField("a", "RECORD"), "STRUCT"),
        (SchemaField("a", "GEOGRAPHY"), "GEOGRAPHY"),
        (SchemaField("a", "FLOAT", mode="REPEATED"), "ARRAY<FLOAT64>"),
        (SchemaField("a", "FLOAT", mode="REQUIRED"), "FLOAT64"),
    ],
)
def test_a_type_has_the_name_that_its_queries_use(field: SchemaField, kind: str):
    assert google_type(field) == kind


def test_a_types_name_is_short():
    assert google_type(SchemaField("a", "X" * 60)) == "X" * 60
    assert len(google_type(SchemaField("a", "X" * 61))) == 60


def table(**env: str) -> BigQueryTable:
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "project-one", **env})
    return BigQueryTable(settings, CATALOG, "p.shop.runs", BoundedAdapter(1.0))


def test_a_table_has_no_more_columns_than_bigquery_allows():
    fields = [SchemaField(f"c{number}", "FLOAT") for number in range(MAX_COLUMNS)]
    columns = table().columns(SimpleNamespace(schema=fields), {"c1": "no"})  # type: ignore[arg-type]
    assert (len(columns), columns[1]) == (MAX_COLUMNS, Column("c1", "FLOAT64", protected="no"))
    more = SimpleNamespace(schema=[*fields, SchemaField("more", "FLOAT")])
    with pytest.raises(BadData, match=f"^Table p.shop.runs has {MAX_COLUMNS + 1} columns; BigQuery's own limit is"):
        table().columns(more)  # type: ignore[arg-type]


FIRST = {"TIMESTAMP": "1900-01-01 00:00:00+00:00", "DATETIME": "1900-01-01T00:00:00", "DATE": "1900-01-01"}


@pytest.mark.parametrize(
    ("columns", "metadata", "filters"),
    [
        *(({"recorded": kind}, {}, [("recorded", kind, first)]) for kind, first in FIRST.items()),
        ({"RECORDED": "DATE"}, {}, [("recorded", "DATE", "1900-01-01")]),
        ({"recorded": "STRING"}, {}, []),
        (
            {"recorded": "STRING"},
            {"timePartitioning": {"type": "DAY"}},
            [("_PARTITIONTIME", "TIMESTAMP", FIRST["TIMESTAMP"])],
        ),
        (
            {"recorded": "DATE"},
            {"timePartitioning": {"type": "DAY", "field": "RECORDED"}},
            [("recorded", "DATE", FIRST["DATE"])],
        ),
        (
            {"recorded": "DATE", "Day": "DATETIME"},
            {"timePartitioning": {"type": "DAY", "field": "DAY"}},
            [("recorded", "DATE", FIRST["DATE"]), ("DAY", "DATETIME", FIRST["DATETIME"])],
        ),
        ({"recorded": "STRING"}, {"timePartitioning": {"type": "DAY", "field": "gone"}}, []),
        (
            {"recorded": "DATE", "part": "INTEGER"},
            {"rangePartitioning": {"field": "part", "range": {}}},
            [("recorded", "DATE", FIRST["DATE"]), ("part", "INT64", -(2**63))],
        ),
    ],
)
def test_a_query_filters_on_the_time_and_on_what_the_table_is_partitioned_by(
    columns: dict[str, str],
    metadata: dict[str, Any],
    filters: list[tuple[str, str, Any]],
    connect: Connect,
    fake: FakeBigQuery,
):
    fake.metadata |= {"schema": schema(**columns), **metadata}
    query = connect().plan().query
    found = [parameter for parameter in query.parameters if parameter.name.startswith("from")]
    assert [(p.name, p.type, p.value) for p in found] == [
        (f"from{number}", kind, first) for number, (_, kind, first) in enumerate(filters)
    ]
    for number, (column, _, _) in enumerate(filters):
        assert f"(`{column}` >= @from{number} OR `{column}` IS NULL)" in query.sql


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def _deep(exchange: Exchange) -> None:
    """An answer that is refused for what it would unfold to."""
    whole = exchange.ask_upstream()
    exchange.send(dataclasses.replace(whole, body=b"[" * 100_000 + b"]" * 100_000))


@pytest.mark.parametrize(
    ("fault", "cancelled"),
    [(html(), True), (google_error(400), False), (google_error(404), False), (_deep, False)],
)
def test_a_job_that_has_not_ended_is_cancelled(
    fault: Any, cancelled: bool, connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    proxy.add(fault, path="/queries/")
    with pytest.raises(SourceError):
        connect().read(None)
    (job_id,) = fake.jobs
    asked = [request for request in proxy.requests if request.path.endswith("/cancel")]
    assert [(request.method, request.path, request.parameters["location"]) for request in asked] == (
        [("POST", f"{PROJECT}/jobs/{job_id}/cancel", ["EU"])] if cancelled else []
    )
    assert fake.cancelled == ([job_id] if cancelled else [])


def test_an_error_names_the_table(connect: Connect, proxy: FaultProxy):
    proxy.add(google_error(404, "Not found: Table"), path="/tables/")
    with pytest.raises(SourceError, match=r"project-one\.shop\.runs"):
        connect().read(None)


def test_a_history_that_nobody_reads_to_its_end_is_cancelled(connect: Connect, fake: FakeBigQuery):
    with pytest.raises(RuntimeError), connect().history(NOW):
        raise RuntimeError("the reader's own")
    assert fake.cancelled == list(fake.jobs)


def test_a_job_that_was_there_already_is_looked_for_where_it_runs(
    connect: Connect, fake: FakeBigQuery, proxy: FaultProxy
):
    proxy.add(lost, method="POST", path="/jobs", times=1)
    assert gauge(connect().read(None), "shop_r2") == 0.6
    (job_id,) = fake.jobs
    (found,) = (request for request in proxy.requests if request.path == f"{PROJECT}/jobs/{job_id}")
    assert (found.method, found.parameters["location"]) == ("GET", ["EU"])


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that Google's client waited between two requests, which pass at once."""
    waited: list[float] = []
    monotonic = time.monotonic
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(waited))
    return waited


def lost(exchange: Exchange) -> None:
    """The request is dealt with and not answered."""
    exchange.ask_upstream()
    exchange.reset()


ASKED = {
    "metadata": ("GET", r"/tables/runs$"),
    "rows of a glance": ("GET", r"/data$"),
    "cost": ("POST", r"/jobs$"),
    "query": ("POST", r"/jobs$"),
    "answer": ("GET", r"/queries/"),
    "lost job": ("GET", r"/jobs/"),
    "cancellation": ("POST", r"/cancel$"),
}


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("asked", ASKED)
def test_a_request_is_sent_again_where_that_may_help_as_long_as_there_is_time(
    asked: str, times: int | None, connect: Connect, fake: FakeBigQuery, proxy: FaultProxy, slept: list[float]
):
    source = connect()
    if asked == "lost job":
        proxy.add(lost, method="POST", path="/jobs", times=1)
    if asked == "cancellation":
        proxy.add(html(), path="/queries/")
    method, path = ASKED[asked]
    rule = proxy.add(google_error(503), method=method, path=re.compile(path), times=times)
    ask = {"rows of a glance": lambda: source.glance(1), "cost": source.plan}.get(asked, lambda: source.read(None))
    with contextlib.nullcontext() if times and asked != "cancellation" else pytest.raises(SourceError):
        ask()
    assert 0 < sum(slept) < 12.5, "Google would for ten minutes"
    assert (rule.hits > 1) == (times is None)
    if asked == "cancellation":
        assert fake.cancelled == list(fake.jobs)[: times or 0]


@pytest.mark.parametrize("refusal", [google_error(403), google_error(401), html(), reset(), _deep], ids=range(5))
@pytest.mark.usefixtures("slept")
def test_a_cancellation_that_fails_is_not_what_went_wrong(refusal: Any, connect: Connect, proxy: FaultProxy):
    proxy.add(google_error(503), path="/queries/")
    proxy.add(refusal, path="/cancel")
    with pytest.raises(SourceError, match=r"^BigQuery answered 503: made by a test$"):
        connect().read(None)


def test_a_read_ends_with_an_interrupt(connect: Connect, proxy: FaultProxy):
    source = connect()

    def interrupted(exchange: Exchange) -> None:
        source.interrupt()
        exchange.wait_for_end()

    proxy.add(interrupted, path="/tables/")
    with pytest.raises(SourceTimeout):
        source.read(None)


def test_connections_are_closed_at_the_end(connect: Connect, monkeypatch: pytest.MonkeyPatch):
    closed: list[Client] = []

    def close(client: Client) -> None:
        closed.append(client)

    monkeypatch.setattr(Client, "close", close)
    source = connect()
    source.close()
    table().close()
    assert closed == []
    source.read(None)
    source.close()
    assert len(closed) == 1


@pytest.mark.parametrize(("timeout", "seconds"), [("10", 5.0), ("16", 8.0), ("300", 8.0)])
def test_what_google_repeats_ends_within_half_of_the_deadline(timeout: str, seconds: float):
    retry = table(AUDIT_TIMEOUT_SECONDS=timeout).retry()
    assert retry.timeout == seconds
    assert "initial=0.2, maximum=2.0, multiplier=2.0" in str(retry)
