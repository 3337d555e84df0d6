"""Stands in for Grafana: serves the provisioned files through its API, and evaluates the rules in a real Prometheus.

Only what scripts/test_grafana_alerts_and_dashboards.py asks for. Each rule's own queries go to Prometheus, its own
threshold is applied, and its `for` runs at a multiple of real time, so that a test sees pending and firing in seconds.
"""

import json
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.grafana.evaluation import crosses, seconds
from tests.grafana.provisioned import DASHBOARDS, dashboard, groups, queries, read_yaml, threshold

PROXY = "/api/datasources/proxy/uid/prometheus"


class GrafanaStandIn:
    """An HTTP server on a free port, for a `with` block.

    Args:
        prometheus: its address.
        speed: how many seconds of `for` pass in one.
    """

    def __init__(self, prometheus: str, *, speed: float = 100.0) -> None:
        self.prometheus = prometheus
        self.speed = speed
        self.pending_since: dict[tuple[str, str], float] = {}
        self.requests: list[str] = []
        self.password = "admin"
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.requests.append(self.path)
                status, body = stand_in.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        import base64

        expected = "Basic " + base64.b64encode(f"admin:{self.password}".encode()).decode()
        if path != "/api/health" and authorization != expected:
            return 401, b'{"message": "invalid username or password"}'
        if path.startswith(PROXY):
            return self._forward(path.removeprefix(PROXY))
        found = self.document(path)
        return (404, b'{"message": "Not found"}') if found is None else (200, json.dumps(found).encode())

    def document(self, path: str) -> Any:
        """What Grafana's API says at this path."""
        boards = {dashboard(name)["uid"]: dashboard(name) for name in DASHBOARDS}
        match path:
            case "/api/health":
                return {"database": "ok", "version": "stand-in"}
            case "/api/datasources/uid/prometheus":
                return read_yaml("datasources/prometheus.yml")["datasources"][0]
            case "/api/v1/provisioning/alert-rules":
                return [{**rule, "ruleGroup": group["name"]} for group in groups() for rule in group["rules"]]
            case "/api/v1/provisioning/contact-points":
                return [{"name": point["name"], **receiver}
                        for point in read_yaml("alerting/contactpoints.yml")["contactPoints"]
                        for receiver in point["receivers"]]  # fmt: skip
            case "/api/v1/provisioning/policies":
                return read_yaml("alerting/policies.yml")["policies"][0]
            case "/api/prometheus/grafana/api/v1/rules":
                return {"status": "success", "data": {"groups": [self.evaluated(group) for group in groups()]}}
        if path.startswith("/api/dashboards/uid/"):
            board = boards.get(path.rsplit("/", maxsplit=1)[1])
            return board and {"dashboard": board, "meta": {}}
        return None

    def evaluated(self, group: dict[str, Any]) -> dict[str, Any]:
        """A group's rules with their states now."""
        return {"name": group["name"], "rules": [self._rule(rule) for rule in group["rules"]]}

    def _rule(self, rule: dict[str, Any]) -> dict[str, Any]:
        ref, operator, limit = threshold(rule)
        alerts, now = [], time.monotonic()
        for series in self._query(queries(rule)[ref]):
            labels = {key: value for key, value in series["metric"].items() if key != "__name__"}
            key = (rule["uid"], json.dumps(labels, sort_keys=True))
            if not crosses(float(series["value"][1]), operator, limit):
                self.pending_since.pop(key, None)
                alerts.append({"labels": labels, "state": "Normal"})
                continue
            since = self.pending_since.setdefault(key, now)
            held = (now - since) * self.speed >= seconds(rule["for"])
            alerts.append({"labels": {**labels, **rule["labels"]}, "state": "Alerting" if held else "Pending"})
        worst = max((alert["state"] for alert in alerts), key=["Normal", "Pending", "Alerting"].index, default="Normal")
        state = {"Normal": "inactive", "Pending": "pending", "Alerting": "firing"}[worst]
        return {"name": rule["title"], "state": state, "health": "ok" if alerts else "nodata", "alerts": alerts}

    def _query(self, expr: str) -> list[dict[str, Any]]:
        _, body = self._forward("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        return json.loads(body)["data"]["result"]

    def _forward(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.prometheus + path, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
