"""The whole loop for the end-to-end test: scripted origins, the exporter, Prometheus, Alertmanager, Discord's double.

Everything between the origins and the webhook is real, and is configured with what the generator writes, in fast
motion: a speed divides `for`, intervals and windows.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import requests
import yaml
from prometheus_client import CollectorRegistry, Counter, generate_latest

from grafana.generator.limits import load_limits
from testbed import alerting
from testbed.debian import program
from testbed.exporter import RunningExporter
from testbed.fake_airflow import PASSWORD, USERNAME, FakeAirflow
from testbed.faults import FaultProxy, Reply, Request
from testbed.process import ServerProcess, free_port
from tests.alerts.discord import Discord

REPEATS: Final = 6.0
"""Repeats are faster still by this: an hour would be three minutes."""
STALE_SECONDS: Final = 30
"""The stale limit, of the rule and of the exporter, instead of an hour."""
CHANNELS: Final = ("rest", "nodata", "infrastructure", "model", "warning", "info")
"""One channel for each route of prometheus/alertmanager.yml, in its order: where a message arrives is how it went."""
HOUR: Final = 3600.0


class ScriptedApi:
    """An API that answers as it is told, and counts as the RegModel API does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ["method", "endpoint", "status_code"]
        self._requests = Counter("fastapi_requests_total", "Requests.", names, registry=self._registry)
        self.failing = 0.0
        """The share of requests that end in a 500."""
        self._asked = 0
        self.proxy = FaultProxy(script=self._answer)

    def _answer(self, request: Request) -> Reply:
        if request.path == "/metrics":
            return Reply(200, generate_latest(self._registry), {"Content-Type": "text/plain; version=0.0.4"})
        self._asked += 1
        code = 500 if self.failing and self._asked % round(1 / self.failing) == 0 else 200
        self._requests.labels(request.method, request.path, str(code)).inc()
        return Reply(code)


class Stack:
    """Everything that runs. Made by `running`.

    Prometheus first scrapes 5 s after its start, whatever the speed is: in fast motion `service_down` fires until then,
    and beyond a speed of 10, a value that outlives a failed scrape by 2 minutes outlives no restart.
    """

    def __init__(self, folder: Path, speed: float, stack: contextlib.ExitStack, *, airflow_answers: bool) -> None:
        self.folder = folder
        self.speed = speed
        self.discord = stack.enter_context(Discord())
        self.audit = folder / "audit.duckdb"
        self._rows = 0
        self.row(r2=0.80, rmse=50.0, drift_share=0.1)
        self.airflow = FakeAirflow("v2")
        self.airflow_proxy = stack.enter_context(FaultProxy(script=self._airflow))
        if not airflow_answers:
            self.airflow_proxy.refuse()
        self.api = ScriptedApi()
        stack.enter_context(self.api.proxy)
        self.pushgateway = stack.enter_context(FaultProxy(script=lambda _: Reply(200)))
        (folder / "exporter").mkdir()
        self.exporter = RunningExporter(
            folder / "exporter",
            {
                "AUDIT_URL": f"duckdb://{self.audit}",
                "AIRFLOW_BASE_URL": self.airflow_proxy.url,
                "AIRFLOW_USERNAME": USERNAME,
                "AIRFLOW_PASSWORD": PASSWORD,
                "EXPORTER_REFRESH_SECONDS": "1",
                "EXPORTER_STALE_AFTER_SECONDS": str(STALE_SECONDS),
            },
        )
        self.session = stack.enter_context(requests.Session())
        self.session.trust_env = False
        ports = {name: free_port() for name in ("prometheus", "alertmanager")}
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self._configure()
        self.alertmanager = alerting.alertmanager_server(
            program("alertmanager"), folder, ports["alertmanager"], log=folder / "alertmanager.log"
        )
        self.prometheus = alerting.prometheus_server(
            program("prometheus"), folder, ports["prometheus"], speed=speed, log=folder / "prometheus.log"
        )
        stack.enter_context(self.exporter)
        stack.enter_context(self.prometheus)
        wait_until("all is well", lambda: self.value("sum(up)") == len(self.jobs) and not self.query("ALERTS"))
        # Not before: until it scrapes, Prometheus reports every job as down.
        stack.enter_context(self.alertmanager)

    # -- origins -------------------------------------------------------------------------------------------------------

    def row(self, **values: float) -> None:
        """Append a row to the audit log, as the newest."""
        self._rows += 1
        columns = "timestamp TIMESTAMPTZ, r2 DOUBLE, rmse DOUBLE, drift_share DOUBLE"

        def written() -> bool:
            # The exporter holds the file while it reads it.
            with contextlib.suppress(duckdb.IOException), duckdb.connect(str(self.audit)) as log:
                log.execute("CREATE SCHEMA IF NOT EXISTS monitoring_audit")
                log.execute(f"CREATE TABLE IF NOT EXISTS monitoring_audit.logs ({columns})")
                at = time.time() - HOUR + self._rows
                row = [values["r2"], values["rmse"], values["drift_share"]]
                log.execute("INSERT INTO monitoring_audit.logs VALUES (to_timestamp(?), ?, ?, ?)", [at, *row])
                return True
            return False

        wait_until("the audit log can be written", written)

    def lose_audit_log(self) -> None:
        """Take the file away."""
        self.audit.rename(self.audit.with_suffix(".away"))

    def restore_audit_log(self) -> None:
        """Put the file back."""
        self.audit.with_suffix(".away").rename(self.audit)

    def _airflow(self, request: Request) -> Reply:
        self.airflow.now = time.time()
        return self.airflow(request)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """Ten requests a second to the API, as long as the block lasts."""
        over = threading.Event()

        def ask() -> None:
            with requests.Session() as session:
                session.trust_env = False
                while not over.wait(0.1):
                    session.post(f"{self.api.proxy.url}/predict", timeout=10)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- engines -------------------------------------------------------------------------------------------------------

    def restart(self, part: "ServerProcess | RunningExporter") -> float:
        """Stop a process and start it again at the same address; gives the seconds that it was away."""
        began = time.monotonic()
        part.__exit__(None, None, None)
        part.__enter__()
        return time.monotonic() - began

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query."""
        url = f"{self.urls['prometheus']}/api/v1/query"
        answer = self.session.get(url, params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of a query's only series; None without one."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def evaluations(self) -> float:
        """How often the group that was evaluated least was evaluated."""
        return self.value("min(prometheus_rule_group_iterations_total)") or 0.0

    def expires(self, title: str) -> float:
        """When Alertmanager will forget an alert that is not sent again, in Unix seconds; 0 without it."""
        found = self.session.get(f"{self.urls['alertmanager']}/api/v2/alerts", timeout=10).json()
        ends = [alert["endsAt"] for alert in found if alert["labels"]["alertname"] == title]
        return max((datetime.fromisoformat(end).timestamp() for end in ends), default=0.0)

    def _configure(self) -> None:
        """What the generator writes, with this test's addresses and stale limit."""
        limits = dataclasses.replace(load_limits(), stale_seconds=STALE_SECONDS)
        self.jobs = {
            "regmodel-api": self.api.proxy.url,
            "airflow-metrics": self.exporter.url,
            "pushgateway": self.pushgateway.url,
            "prometheus": self.urls["prometheus"],
        }
        targets = {job: url.removeprefix("http://") for job, url in self.jobs.items()}
        manager = self.urls["alertmanager"].removeprefix("http://")
        alerting.write_configuration(self.folder, targets, limits, speed=self.speed, alertmanager=manager)
        path = self.folder / "alertmanager.yml"
        config = yaml.safe_load(path.read_text("utf-8"))
        [receiver] = config["receivers"]
        config["receivers"] = []
        routes = [config["route"], *config["route"]["routes"]]
        for channel, route in zip(CHANNELS, routes, strict=True):
            [discord] = receiver["discord_configs"]
            own = {**discord, "webhook_url": self.discord.webhook(channel)}
            config["receivers"].append({"name": channel, "discord_configs": [own]})
            route["receiver"] = channel
            route["repeat_interval"] = f"{round(int(route['repeat_interval'].removesuffix('ms')) / REPEATS)}ms"
        path.write_text(yaml.safe_dump(config), "utf-8")


@contextlib.contextmanager
def running(folder: Path, speed: float, *, airflow_answers: bool = True) -> Iterator[Stack]:
    """Everything, started, and all well. An Airflow that does not answer yet can be filled with what is long ago."""
    with contextlib.ExitStack() as stack:
        folder.mkdir()
        yield Stack(folder, speed, stack, airflow_answers=airflow_answers)


def wait_until(what: str, done: Callable[[], Any], within: float = 60.0) -> None:
    """Ask again and again until it is true."""
    end = time.monotonic() + within
    while not done():
        assert time.monotonic() < end, f"waited {within:g} s in vain until {what}"
        time.sleep(0.1)
