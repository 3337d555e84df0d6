"""What a month of BigQuery costs.

The exporter's own BigQuery source and Google's own client run against a BigQuery REST API that answers in the process,
with a clock that is moved on by a minute for each refresh: 43,200 refreshes are 30 days. Requests and billed queries
are counted where they leave the client, at the HTTP transport; BigQuery bills at least 10 MiB for each query that is
not a dry run. The table gets one row an hour, or one a week. The two other designs, one query per refresh and one per
metric, are really sent for an hour through the same client, and that hour is multiplied by 720.

Probes every 10 s, as by default, are sent for one day, in which rows come 3,625 s apart, beside the same day without
them. In the months they would be 216,000 more free requests.
"""

import contextlib
import json
import math
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import requests
import sqlglot
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery

from benchmarks.report import Section, Table, Target, number, paragraphs
from exporter.catalog_parser import load_catalog
from exporter.schedule import Schedule
from exporter.settings import MIN_BYTES_BILLED, Settings
from exporter.snapshot import Reading
from exporter.sources.audit.bigquery import BigQueryAudit
from exporter.sources.deadlines import DeadlineAdapter

TITLE: Final = "BigQuery: queries and billed bytes in 30 days"
START: Final = 1_790_000_000.0
HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
REFRESH_SECONDS: Final = 60.0
DAYS: Final = 30
ODD_PACE: Final = HOUR + 25
"""Seconds between rows that no turn coincides with: a probe finds them."""
PROJECT: Final = "bench-project"
TABLE: Final = "monitoring_audit.logs"
COLUMNS: Final = {
    "timestamp": "TIMESTAMP", "env": "STRING", "r2": "FLOAT", "rmse": "FLOAT", "champion_r2_baseline": "FLOAT",
    "r2_current": "FLOAT", "r2_baseline": "FLOAT", "model_improvement": "FLOAT", "drift_detected": "BOOLEAN",
    "drift_share": "FLOAT", "drifted_features_count": "INTEGER", "deployment_decision": "STRING",
    "fine_tune_triggered": "BOOLEAN", "fine_tune_success": "BOOLEAN",
}  # fmt: skip
_JOB: Final = re.compile(r"/(?:jobs|queries)/([^/?]+)")


class ScriptedBigQuery(DeadlineAdapter):
    """BigQuery's REST API behind the exporter's own transport adapter: what would be sent is answered, and counted.

    The table has `rows` rows; `append` adds one and moves the metadata, as a load job does.
    """

    def __init__(self, clock: "Clock") -> None:
        super().__init__(5.0)
        self._clock = clock
        self.rows = 100
        self.modified = clock.now
        self.requests = 0
        self.billed_queries = 0
        self._sql: dict[str, str] = {}

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:  # noqa: ARG002 -- the signature is the adapter's
        """None: an answer from the same process cannot be late, and a watchdog thread each takes most of the run."""
        yield

    def append(self) -> None:
        """One more audit row."""
        self.rows += 1
        self.modified = self._clock.now

    def send(self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any) -> requests.Response:
        """Answer one request."""
        self.remaining()
        self.requests += 1
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        response.headers["Content-Type"] = "application/json"
        response._content = json.dumps(self._answer(request.method or "", request.url or "", request.body)).encode()
        response._content_consumed = True  # type: ignore[attr-defined]
        return response

    def _answer(self, method: str, url: str, body: Any) -> dict[str, Any]:
        if "/tables/" in url:
            return self._table()
        if method == "POST" and url.partition("?")[0].endswith("/jobs"):
            sent = json.loads(body)
            configuration = sent["configuration"]
            if not configuration.get("dryRun"):
                self.billed_queries += 1
            job = sent["jobReference"]["jobId"]
            self._sql[job] = configuration["query"]["query"]
            return self._job(job, configuration)
        found = _JOB.search(url)
        if found is None:
            raise AssertionError(f"the script knows no answer to {method} {url}")
        if "/queries/" in url:
            return self._rows(found[1])
        return self._job(found[1], {"query": {"query": self._sql[found[1]]}})

    def _table(self) -> dict[str, Any]:
        dataset, table = TABLE.split(".")
        return {
            "kind": "bigquery#table",
            "id": f"{PROJECT}:{TABLE}",
            "tableReference": {"projectId": PROJECT, "datasetId": dataset, "tableId": table},
            "schema": {"fields": [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in COLUMNS.items()]},
            "numRows": str(self.rows),
            "numBytes": str(self.rows * 120),
            "creationTime": str(int(START * 1000)),
            "lastModifiedTime": str(int(self.modified * 1000)),
            "type": "TABLE",
            "location": "EU",
        }

    def _job(self, job: str, configuration: dict[str, Any]) -> dict[str, Any]:
        moment = str(int(self._clock.now * 1000))
        billed = str(MIN_BYTES_BILLED)
        return {
            "kind": "bigquery#job",
            "id": f"{PROJECT}:EU.{job}",
            "jobReference": {"projectId": PROJECT, "jobId": job, "location": "EU"},
            "configuration": {"jobType": "QUERY", **configuration},
            "status": {"state": "DONE"},
            "statistics": {
                "creationTime": moment, "startTime": moment, "endTime": moment, "totalBytesProcessed": "12000",
                "query": {"statementType": "SELECT", "totalBytesBilled": billed, "cacheHit": False},
            },
        }  # fmt: skip

    def _rows(self, job: str) -> dict[str, Any]:
        """One row: how many rows the table has, when the newest is from, and NULL for everything else."""
        names = sqlglot.parse_one(self._sql[job], read="bigquery").named_selects
        known = {"rows": str(self.rows), "newest": str(int(self.modified * 1_000_000))}
        return {
            "kind": "bigquery#getQueryResultsResponse",
            "jobReference": {"projectId": PROJECT, "jobId": job, "location": "EU"},
            "jobComplete": True,
            "totalRows": "1",
            "schema": {"fields": [{"name": name, "type": "FLOAT", "mode": "NULLABLE"} for name in names]},
            "rows": [{"f": [{"v": known.get(name)} for name in names]}],
        }


@dataclass
class Clock:
    """Unix seconds that move only when told."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Month:
    """What some days of refreshes and probes sent."""

    refreshes: int = 0
    """At their turn, or because a probe found something new."""
    probes: int = 0
    requests: int = 0
    billed_queries: int = 0
    changes: int = 0
    forced: int = 0
    """Refreshes at which the last query was AUDIT_MAX_QUERY_AGE_SECONDS old although nothing had changed."""
    telemetry: dict[str, float] = field(default_factory=dict)

    @property
    def billed_bytes(self) -> int:
        return self.billed_queries * MIN_BYTES_BILLED

    @property
    def expected(self) -> int:
        """The first query, and one for each change and each forced refresh: nothing else may be billed."""
        return 1 + self.changes + self.forced


def simulate(days: float, row_every: float, **env: str) -> Month:
    """Refresh once a minute for some days and probe in between, with a new row every `row_every` seconds."""
    clock = Clock()
    server = ScriptedBigQuery(clock)
    month = Month()
    with _source(clock, server, **env) as (source, settings):
        schedule = Schedule(REFRESH_SECONDS, settings.audit_probe_seconds or math.inf, due=clock.now)
        reading: Reading | None = None
        next_row = START + row_every
        changed, last_due, end = False, clock.now, START + days * DAY
        while clock.now < end:
            if clock.now >= next_row:
                server.append()
                next_row += row_every
                changed = True
            turn = schedule.refresh_is_due(clock.now)
            if not turn:
                month.probes += 1
            if turn or (reading is not None and source.changed(reading)):
                # What has to be billed is found from the clock and the rows alone, not from what the source did.
                forced = clock.now - last_due >= settings.audit_max_query_age_seconds
                if reading is not None:
                    month.changes += changed
                    month.forced += forced and not changed
                if reading is None or changed or forced:
                    last_due, changed = clock.now, False
                known, reading = reading, source.read(reading)
                month.refreshes += 1
                schedule.succeeded(clock.now, new=known is None or known.queried_at != reading.queried_at)
            schedule.probed(clock.now, clock.now)
            clock.now = schedule.next_due()
        samples = source.telemetry()["mlops_exporter_bigquery_queries_total"]
        month.telemetry = {sample.labels[0][1]: sample.value for sample in samples}
    month.requests, month.billed_queries = server.requests, server.billed_queries
    return month


@contextlib.contextmanager
def _source(clock: Clock, server: ScriptedBigQuery, **env: str) -> Iterator[tuple[BigQueryAudit, Settings]]:
    # The emulator setting keeps Google's credentials out; nothing is ever sent to that address.
    address = {"GOOGLE_CLOUD_PROJECT": PROJECT, "BIGQUERY_EMULATOR_HOST": "127.0.0.1:9", "AUDIT_TABLE": TABLE}
    settings = Settings.from_env({**address, **env})
    source = BigQueryAudit(settings, load_catalog(), clock)
    source._adapter = server
    try:
        yield source, settings
    finally:
        source.close()


def metrics_of_the_log() -> int:
    """How many metrics the audit log gives: what a design with one query per metric asks for."""
    return len(list(load_catalog().audit_metrics()))


def obvious(refreshes: int, queries_each: int) -> int:
    """Billed queries of a loop that asks anew at every refresh, through the same client and transport."""
    clock = Clock()
    server = ScriptedBigQuery(clock)
    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    session.mount("http://", server)
    client = bigquery.Client(
        project=PROJECT,
        credentials=credentials,
        _http=session,
        client_options={"api_endpoint": "http://127.0.0.1:9"},
    )
    columns = [name for name in COLUMNS if name != "timestamp"]
    with contextlib.closing(client):
        for _ in range(refreshes):
            for number_ in range(queries_each):
                asked = "*" if queries_each == 1 else columns[number_ % len(columns)]
                sql = f"SELECT {asked} FROM `{TABLE}` ORDER BY timestamp DESC LIMIT 1"
                list(client.query(sql, job_retry=None).result())
            clock.now += REFRESH_SECONDS
    return server.billed_queries


def run(*, quick: bool) -> Section:
    """Simulate the months and compare."""
    section = Section("billing", TITLE, paragraphs(__doc__))
    days = 2 if quick else DAYS
    metrics = metrics_of_the_log()
    refreshes = int(days * DAY / REFRESH_SECONDS)
    hour = int(HOUR / REFRESH_SECONDS)
    paces = {"one row a week": WEEK, "one row an hour": HOUR}
    off = {"AUDIT_PROBE_SECONDS": "0"}
    # Counts do not depend on how busy the machine is, so both months pass at the same time.
    with ProcessPoolExecutor(len(paces), multiprocessing.get_context("spawn")) as pool:
        simulated = {name: pool.submit(simulate, days, row_every, **off) for name, row_every in paces.items()}
        probed, same_day = pool.submit(simulate, 1, ODD_PACE), pool.submit(simulate, 1, ODD_PACE, **off)
        per_refresh = obvious(hour, 1) * days * 24
        per_metric = obvious(hour, metrics) * days * 24
        months = {name: future.result() for name, future in simulated.items()}
    rows: list[tuple[str, ...]] = []
    for name, month in months.items():
        exact = month.billed_queries == month.expected == month.telemetry["executed"]
        explained = f"1 first + {month.changes} changes + {month.forced} forced"
        rows.append(_row(f"exporter, {name}", month.refreshes, month.requests, month.billed_queries, explained))
        section.headlines.append(
            (
                f"BigQuery, {days} days, {name}: billed queries",
                f"{month.billed_queries:,}",
                f"{per_refresh:,} (one per refresh), {per_metric:,} (one per metric)",
            )
        )
        section.targets.append(
            Target(
                f"BigQuery, {name}: billed queries in {days} days",
                "first + changes + forced, nothing more",
                f"{number(month.billed_queries)} = {explained}",
                exact,
            )
        )
    for name, month in (("with probes", probed.result()), ("without", same_day.result())):
        explained = f"1 first + {month.changes} changes + {month.forced} forced"
        rows.append(_row(f"exporter, one day {name}", month.refreshes, month.requests, month.billed_queries, explained))
    section.targets.append(
        Target(
            "BigQuery: billed queries in a day with probes",
            f"no more than without: {same_day.result().billed_queries}",
            str(probed.result().billed_queries),
            probed.result().billed_queries == probed.result().expected <= same_day.result().billed_queries,
        )
    )
    rows.append(_row("one query per refresh", refreshes, None, per_refresh, f"{hour} in one hour, sent; × {days * 24}"))
    each = f"{metrics} metrics; {hour * metrics} in one hour, sent; × {days * 24}"
    rows.append(_row("one query per metric and refresh", refreshes, None, per_metric, each))
    columns = ("design", "refreshes", "HTTP requests", "billed queries", "billed", "because")
    section.tables.append(Table(columns, rows))
    section.notes += [
        "Forced: the query runs again six hours after the last one although nothing changed "
        "(`AUDIT_MAX_QUERY_AGE_SECONDS`), in case metadata ever fails to move. Rows dated in the future would add one "
        "query each when their time comes; there are none here.",
        "Rows that are streamed, rather than loaded, also move the metadata when the streaming buffer is flushed; that "
        "costs a query more per flush and is not simulated.",
    ]
    return section


def _row(design: str, refreshes: int, sent: int | None, queries: int, because: str) -> tuple[str, ...]:
    billed = f"{number(queries * MIN_BYTES_BILLED / 2**30)} GiB"
    return (design, f"{refreshes:,}", "" if sent is None else f"{sent:,}", f"{queries:,}", billed, because)
