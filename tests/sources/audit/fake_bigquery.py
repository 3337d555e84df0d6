"""BigQuery's REST API by a script, whose queries DuckDB answers: one table and the jobs that were run on it."""

import json
from datetime import date, datetime
from typing import Any

import duckdb

from exporter.sources.audit.transpile import to_duckdb
from testbed.faults import Reply, Request
from tests.sources.audit.duckdb_log import DAY, NOW

TYPES = {"TIMESTAMPTZ": "TIMESTAMP", "DATE": "DATE", "DOUBLE": "FLOAT", "BIGINT": "INTEGER", "VARCHAR": "STRING"}
LEGACY = {"DOUBLE": "FLOAT", "BIGINT": "INTEGER", "HUGEINT": "INTEGER", "VARCHAR": "STRING"}
VALUES = {
    "TIMESTAMP": datetime.fromisoformat,
    "DATE": date.fromisoformat,
    "INT64": int,
    "FLOAT64": float,
    "STRING": str,
}


class FakeBigQuery:
    """One table, and the jobs that were run on it.

    Attributes:
        metadata: what tables.get says besides the schema.
        statistics: what is said of a query job that has ended.
        cancelled: ids of the jobs that were cancelled.
        columns: DuckDB types by name; a name that begins with an underscore is a pseudo-column, in no schema.
    """

    def __init__(self, **columns: str) -> None:
        self.columns = {"recorded": "TIMESTAMPTZ", "r2": "DOUBLE", **columns}
        self.metadata: dict[str, Any] = {"type": "TABLE"}
        self.statistics: dict[str, Any] = {"totalBytesBilled": "10485760", "cacheHit": False}
        self.cancelled: list[str] = []
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
        if name == "data":
            return _json(self._first_rows(request.parameters))
        if name == "cancel":
            if collection not in self.jobs:
                return _json({"error": {"code": 404, "message": f"Not found: Job project-one:EU.{collection}"}}, 404)
            self.cancelled.append(collection)
            return _json({"job": self._job(self.jobs[collection])})
        if request.method == "POST":
            return self._insert(request.json())
        if collection == "queries":
            return _json({"jobComplete": True, "jobReference": _reference(name), **self._answer(self.jobs[name])})
        return _json(self._job(self.jobs[name]))

    def _first_rows(self, parameters: dict[str, list[str]]) -> dict[str, Any]:
        (names,), (most,) = parameters["selectedFields"], parameters["maxResults"]
        return _rows(self._engine.execute(f"SELECT {names} FROM shop.runs LIMIT {most}"))

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
        if job["configuration"].get("dryRun"):
            return _json({**job, "status": {"state": "DONE"}, "statistics": {"query": self.statistics}})
        self.jobs[job_id] = job
        return _json(self._job(job))

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        query = job["configuration"]["query"]
        sql = to_duckdb(query["query"].replace("`project-one.shop.runs`", "`shop.runs`"))
        given = {
            p["name"]: VALUES[p["parameterType"]["type"]](p["parameterValue"]["value"])
            for p in query["queryParameters"]
        }
        found = self._engine.execute(sql, {name: value for name, value in given.items() if f"${name}" in sql})
        return _rows(found)

    def _job(self, job: dict[str, Any]) -> dict[str, Any]:
        done = {"status": {"state": "DONE"}, "statistics": {"query": self.statistics}}
        return {**job, "jobReference": _reference(job["jobReference"]["jobId"]), **done}


def _rows(found: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    fields = [{"name": column[0], "type": LEGACY[str(column[1])]} for column in found.description or ()]
    rows = [{"f": [{"v": None if v is None else str(v)} for v in row]} for row in found.fetchall()]
    return {"schema": {"fields": fields}, "rows": rows, "totalRows": str(len(rows))}


def _json(content: Any, code: int = 200) -> Reply:
    return Reply(code, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _reference(job_id: str) -> dict[str, str]:
    return {"projectId": "project-one", "jobId": job_id, "location": "EU"}
