"""An Airflow REST API in memory, for what a real one cannot be made to show in a test: faults, scale, odd times.

It answers as Airflow 2.11.2 (`v1`) and 3.3.2 (`v2`) were seen to; tests/integration/test_airflow.py holds the exporter
to the real ones. Serve it with `FaultProxy(script=FakeAirflow("v1"))`.
"""

import base64
import bisect
import datetime
import email.utils
import json
import re
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.sources.airflow.source import AirflowSource
from testbed.faults import Reply, Request

USERNAME = "monitor"
PASSWORD = "planted-Passw0rd"
NOW = 1_750_000_000.0
DAY = 86400.0
DAGS = ("daily_fetch_bike_data", "daily_prediction", "monitor_and_fine_tune")


def settings(url: str, **env: str) -> Settings:
    """Settings for an Airflow at `url`, with any other variables on top."""
    base = {"AIRFLOW_BASE_URL": url, "AIRFLOW_USERNAME": USERNAME, "AIRFLOW_PASSWORD": PASSWORD}
    return Settings.from_env({**base, **env})


def source(
    url: str, ledger: Ledger | None = None, *, catalog: Catalog | None = None, now: float = NOW, **env: str
) -> AirflowSource:
    """The source under test: its clock stands at `now`, and it does not wait before retries."""
    return AirflowSource(
        settings(url, **env),
        catalog or load_catalog(),
        ledger or Ledger.open(None),
        wall=lambda: now,
        jitter=lambda: -0.5,
    )


@dataclass
class FakeAirflow:
    """The API. Fill `runs`, `tasks` and `xcoms` with `run`, `task` and `xcom`.

    Attributes:
        now: the server's clock; stands in its Date headers.
        page_cap: rows that any list gives at most, whatever is asked for.
        count_cap: where it stops counting how many rows match.
        token_seconds: how long a token lives (v2).
        forbidden: paths (regular expression) that answer 403.
        sorted_by_end: all runs and tasks have ended, and are in that order: makes large lists fast.
    """

    api: str = "v2"
    prefix: str = ""
    now: float = NOW
    page_cap: int = 10**6
    count_cap: int = 10**6
    token_seconds: float = 86400.0
    forbidden: str | None = None
    sorted_by_end: bool = False
    dags: list[str] = field(default_factory=lambda: list(DAGS))
    paused: set[str] = field(default_factory=set)
    runs: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    xcoms: dict[tuple[str, str, str, str], tuple[Any, float]] = field(default_factory=dict)
    mapped_xcoms: set[tuple[str, str, str, str]] = field(default_factory=set)
    """XComs of mapped tasks (DAG, run, task, key): listed, and not given without a map_index."""
    tokens: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)

    # -- filling ---------------------------------------------------------------------------------------------------

    def run(
        self,
        dag_id: str,
        run_id: str,
        state: str = "success",
        *,
        start: float | None = None,
        end: float | None = None,
        **pushed: Any,
    ) -> dict[str, Any]:
        """A run; `task__key=value` pushes an XCom at its end."""
        row = {"dag_id": dag_id, "dag_run_id": run_id, "state": state, "start": start, "end": end}
        self.runs.append(row)
        for name, value in pushed.items():
            task_id, _, key = name.partition("__")
            self.xcom(dag_id, run_id, task_id, key, value, written=end or self.now)
        return row

    def task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        state: str = "success",
        *,
        start: float | None = None,
        end: float | None = None,
        map_index: int = -1,
    ) -> dict[str, Any]:
        """A task instance."""
        row = {
            "dag_id": dag_id,
            "dag_run_id": run_id,
            "task_id": task_id,
            "map_index": map_index,
            "state": state,
            "start": start,
            "end": end,
        }
        self.tasks.append(row)
        return row

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str, value: Any, *, written: float) -> None:
        """An XCom."""
        self.xcoms[dag_id, run_id, task_id, key] = (value, written)

    # -- answering -------------------------------------------------------------------------------------------------

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        path = request.path
        if not path.startswith(self.prefix):
            return self._html(404)
        path = path.removeprefix(self.prefix)
        if path == "/auth/token" and self.api == "v2":
            return self._token(request)
        base = f"/api/{self.api}"
        if not path.startswith(base + "/"):
            if self.api == "v1":
                return self._html(404)
            wrong_method = request.method == "POST" and path.startswith("/api/v1/")
            return self._json(405 if wrong_method else 404, {"error": "Not Found"})
        path = path.removeprefix(base)
        if path == "/version":
            return self._json(200, {"version": "2.11.2" if self.api == "v1" else "3.3.2", "git_version": None})
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if self.forbidden and re.search(self.forbidden, path):
            return self._json(403, {"title": "Forbidden", "detail": "Forbidden", "status": 403})
        if path == "/dags":
            return self._dag_list(request)
        if path == "/dags/~/dagRuns/list":
            return self._list("dag_runs", self.runs, request.json(), request.json().get("states"))
        if path == "/dags/~/dagRuns/~/taskInstances/list":
            return self._list("task_instances", self.tasks, request.json(), request.json().get("state"))
        # Both versions unquote the path before they take it apart: a run id with a slash fits none.
        pattern = r"/dags/([^/]+)/dagRuns/([^/]+)/taskInstances/([^/]+)/xcomEntries(?:/(.+))?"
        match = re.fullmatch(pattern, urllib.parse.unquote(path), re.DOTALL)
        if match:
            return self._xcom(*(part or "" for part in match.groups()))
        return self._json(404, {"title": "Not Found", "detail": path, "status": 404})

    def _token(self, request: Request) -> Reply:
        if request.json() != {"username": USERNAME, "password": PASSWORD}:
            return self._json(401, {"detail": "Invalid credentials"})
        claims = {"sub": USERNAME, "iat": self.now, "exp": self.now + self.token_seconds, "n": len(self.tokens)}
        part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        self.tokens.append(f"planted-token.{part}.signature")
        return self._json(201, {"access_token": self.tokens[-1]})

    def _refusal(self, request: Request) -> Reply | None:
        given = request.headers.get("authorization", "")
        if self.api == "v1":
            pair = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
            return None if given == f"Basic {pair}" else self._json(403, {"title": "Forbidden", "detail": None})
        token = given.removeprefix("Bearer ")
        if token in self.tokens and token not in self.revoked:
            return None
        return self._json(401, {"detail": "Token Expired" if token in self.revoked else "Not authenticated"})

    def _dag_list(self, request: Request) -> Reply:
        limit = min(int(request.parameters["limit"][0]), 100)
        offset = int(request.parameters.get("offset", ["0"])[0])
        names = sorted(self.dags)
        rows = [{"dag_id": name, "is_paused": name in self.paused} for name in names[offset : offset + limit]]
        return self._json(200, {"dags": rows, "total_entries": len(names)})

    def _list(self, name: str, rows: list[dict[str, Any]], body: dict[str, Any], states: list[str]) -> Reply:
        since, until = (_seconds(body.get(key)) for key in ("end_date_gte", "end_date_lte"))
        found = []
        if self.sorted_by_end:
            low = 0 if since is None else bisect.bisect_left(rows, since, key=lambda row: row["end"])
            high = len(rows) if until is None else bisect.bisect_right(rows, until, key=lambda row: row["end"])
            rows = rows[low:high]
        for row in rows:
            end = row["end"]
            if end is None and (since is not None or until is not None):
                continue  # as SQL compares with NULL
            if row["dag_id"] not in body["dag_ids"] or row["state"] not in states:
                continue
            if (since is not None and end < since) or (until is not None and end > until):
                continue
            found.append(row)
        offset = body.get("page_offset", 0)
        page = found[offset : offset + min(body["page_limit"], self.page_cap)]
        shown = [{**row, "start_date": self._time(row["start"]), "end_date": self._time(row["end"])} for row in page]
        return self._json(200, {name: shown, "total_entries": min(len(found), self.count_cap)})

    def _xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Reply:
        if not key:
            keys = [
                {"task_id": task, "key": name}
                for dag, run, task, name in [*self.mapped_xcoms, *self.xcoms]
                if (dag, run) == (dag_id, run_id) and task_id in ("~", task)
            ]
            return self._json(200, {"xcom_entries": keys, "total_entries": len(keys)})
        entry = self.xcoms.get((dag_id, run_id, task_id, key))
        if entry is None:
            return self._json(404, {"title": "XCom entry not found", "detail": None})
        value, written = entry
        if self.api == "v1" and value is not None:
            value = str(value)
        return self._json(200, {"key": key, "task_id": task_id, "timestamp": self._time(written), "value": value})

    def _time(self, at: float | None) -> str | None:
        if at is None:
            return None
        text = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds")
        return text if self.api == "v1" else text.replace("+00:00", "Z")

    def _json(self, status: int, content: Any) -> Reply:
        kind = "application/json" if status < 400 or self.api == "v2" else "application/problem+json"
        return Reply(status, json.dumps(content).encode(), {"Content-Type": kind, "Date": self.date()})

    def _html(self, status: int) -> Reply:
        return Reply(status, b"<!doctype html><h1>Lost</h1>", {"Content-Type": "text/html", "Date": self.date()})

    def date(self) -> str:
        """The server's clock as a Date header."""
        return email.utils.formatdate(self.now, usegmt=True)


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.datetime.fromisoformat(text).timestamp()


def wait_until(condition: Any, within: float = 60.0) -> None:
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
