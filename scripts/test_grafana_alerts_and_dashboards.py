#!/usr/bin/env python3
"""Check a live monitoring stack: dashboards, alert rules, metrics; make alerts fire on purpose.

With no option all checks run. They only read. --inject pushes test series through the Pushgateway that make a rule
fire, shows that it does, and always removes them again, also on Ctrl-C. Messages about them say [TEST].

  python scripts/test_grafana_alerts_and_dashboards.py                        all checks
  python scripts/test_grafana_alerts_and_dashboards.py --inject drift         is the limit crossed? (a minute)
  python scripts/test_grafana_alerts_and_dashboards.py --inject r2 --wait     until the alert fires (some minutes)
  python scripts/test_grafana_alerts_and_dashboards.py --restore              remove what a killed run has left

Exit codes: 0 all is well; 1 a check or a scenario failed; 2 wrong arguments; 130 interrupted, and cleaned up.
Needs nothing but Python 3.11.
"""

import argparse
import base64
import http.client
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

ROOT: Final = Path(__file__).resolve().parents[1]
TEST_JOB: Final = "test-metrics"
TEST_INSTANCE: Final = "pushgateway-test:9091"
DASHBOARDS: Final = ("mlops-overview", "mlops-model-performance", "mlops-drift-monitoring", "mlops-training-deployment")
RULES: Final = (
    "model_performance_critical",
    "model_performance_warning",
    "model_rmse_high",
    "high_drift_detected",
    "critical_drift_with_performance",
    "service_down",
    "api_error_rate_high",
    "airflow_dag_too_slow",
    "no_data_ingested",
)
RECEIVER: Final = "discord-mlops"
JOBS: Final = ("airflow-metrics", "prometheus", "pushgateway")
OPTIONAL_JOBS: Final = ("regmodel-api",)
VARIABLES: Final = {"$__rate_interval": "2m", "$__range": "7d", "$__interval": "1m", "$job": ".+", "$instance": ".+"}
REQUEST_SECONDS: Final = 15


class Unreachable(Exception):
    """A service did not answer as it should."""


@dataclass(frozen=True)
class Scenario:
    """Series that make rules fire. `samples` gives the exposition text at so many seconds since the start."""

    rules: tuple[str, ...]
    samples: Callable[[float], str]
    repeat: bool = False
    """Push again and again: counters must grow."""


@dataclass
class Check:
    """One line of the report. `status` is pass, fail or skip."""

    name: str
    status: str
    detail: str = ""


@dataclass
class Outcome:
    """What became of one scenario: the state of each of its rules, and how long each took to get there."""

    scenario: str
    status: str = "fail"
    detail: str = ""
    rules: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


# -- services ----------------------------------------------------------------------------------------------------------


class Service:
    """A service's HTTP API."""

    def __init__(self, name: str, url: str, user: str | None = None, password: str = "") -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._headers: dict[str, str] = {}
        if user is not None:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body.

        Raises:
            Unreachable: no answer, or not a good one.
        """
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            text = error.read(300).decode("utf-8", "replace").strip()
            place = path.split("?", maxsplit=1)[0]
            hint = " (set GF_SECURITY_ADMIN_PASSWORD or --grafana-password)" if error.code == 401 else ""
            raise Unreachable(f"{self.name} answered {error.code} to {place}{hint}: {text}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"{self.name} at {self.url} does not answer: {reason}") from error

    def json(self, path: str) -> Any:
        """The answer as JSON.

        Raises:
            Unreachable: no answer, or not JSON.
        """
        body = self.request("GET", path)
        try:
            return json.loads(body)
        except ValueError as error:
            raise Unreachable(f"{self.name} answered something that is not JSON to {path}") from error


class Stack:
    """The four services."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.grafana = Service("Grafana", options.grafana_url, options.grafana_user, options.grafana_password)
        self.prometheus = Service("Prometheus", options.prometheus_url)
        self.pushgateway = Service("Pushgateway", options.pushgateway_url)
        self.exporter = Service("the exporter", options.exporter_url)

    def query(self, expr: str, through: Service | None = None, prefix: str = "") -> list[dict[str, Any]]:
        """An instant query's result, asked directly or through Grafana.

        Raises:
            Unreachable: no answer, or an error.
        """
        service = through or self.prometheus
        answer = service.json(f"{prefix}/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        if answer.get("status") != "success":
            raise Unreachable(f"Prometheus says {answer.get('error', answer)}")
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": result}]

    def rules(self) -> dict[str, dict[str, Any]]:
        """Alert rules by uid."""
        return {rule["uid"]: rule for rule in self.grafana.json("/api/v1/provisioning/alert-rules")}

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """State, health and alerts of each rule by its title."""
        groups = self.grafana.json("/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def push(self, text: str) -> None:
        """Replace the test series."""
        self.pushgateway.request("PUT", _group_path(), text.encode())

    def remove(self) -> bool:
        """Remove the test series; whether there were any. Waits until the Pushgateway shows none."""
        there = self.has_test_series()
        self.pushgateway.request("DELETE", _group_path())
        for _ in range(20):
            if not self.has_test_series():
                return there
            time.sleep(0.1)
        raise Unreachable("the Pushgateway still shows the test series after they were deleted")

    def has_test_series(self) -> bool:
        """Whether the Pushgateway holds test series."""
        return f'job="{TEST_JOB}"' in self.pushgateway.request("GET", "/metrics").decode("utf-8", "replace")


def _group_path() -> str:
    return f"/metrics/job/{TEST_JOB}/instance/{urllib.parse.quote(TEST_INSTANCE, safe='')}"


# -- scenarios ---------------------------------------------------------------------------------------------------------


def _gauge(name: str, value: float, labels: str = "") -> str:
    return f"{name}{{{labels}}} {value:g}\n" if labels else f"{name} {value:g}\n"


def _drift(_: float) -> str:
    return (
        _gauge("bike_drift_detected", 1)
        + _gauge("bike_drift_share", 0.8)
        + _gauge("bike_drifted_features_count", 8)
        + _gauge("bike_model_r2_champion_current", 0.85)
    )


def _combined(_: float) -> str:
    return _gauge("bike_drift_share", 0.8) + _gauge("bike_model_r2_champion_current", 0.68)


def _api(seconds: float) -> str:
    # Four requests a second, every second one an error.
    count = round(2 * seconds) + 1
    labels = 'method="POST",endpoint="/predict",status_code='
    return (
        "# TYPE fastapi_requests_total counter\n"
        + f'fastapi_requests_total{{{labels}"200"}} {count}\n'
        + f'fastapi_requests_total{{{labels}"500"}} {count}\n'
    )


def _ingestion(seconds: float) -> str:
    name = "airflow_dag_last_success_timestamp_seconds"
    return f'{name}{{dag_id="daily_fetch_bike_data"}} {time.time() - 40 * 3600 - seconds:.0f}\n'


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "drift": Scenario(("high_drift_detected",), _drift),
    "r2": Scenario(("model_performance_critical",), lambda _: _gauge("bike_model_r2_champion_current", 0.6)),
    "rmse": Scenario(("model_rmse_high",), lambda _: _gauge("bike_model_rmse_production", 95)),
    "combined": Scenario(("critical_drift_with_performance", "model_performance_warning"), _combined),
    "api": Scenario(("api_error_rate_high",), _api, repeat=True),
    "ingestion": Scenario(("no_data_ingested",), _ingestion),
    "service": Scenario(("service_down",), lambda _: _gauge("up", 0)),
    "dag": Scenario(
        ("airflow_dag_too_slow",),
        lambda _: _gauge("airflow_dag_run_active_seconds", 4000, 'dag_id="monitor_and_fine_tune"'),
    ),
}


def everything() -> Scenario:
    """All scenarios at once. R² is critical, so the rule for the band above it stays quiet: `combined` has that one."""

    def samples(seconds: float) -> str:
        return (
            _gauge("bike_drift_share", 0.8)
            + _gauge("bike_model_r2_champion_current", 0.6)
            + SCENARIOS["rmse"].samples(seconds)
            + _api(seconds)
            + _ingestion(seconds)
            + SCENARIOS["service"].samples(seconds)
            + SCENARIOS["dag"].samples(seconds)
        )

    return Scenario(tuple(uid for uid in RULES if uid != "model_performance_warning"), samples, repeat=True)


class Progress:
    """What is going on, on stderr: one line that changes on a terminal, a line for every change elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._last = ""

    def show(self, text: str, clock: str = "") -> None:
        """Show a state; `clock` alone is no reason for a new line."""
        if self._live:
            self._stream.write(f"\r\x1b[K{text} {clock}")
        elif text != self._last:
            self._stream.write(f"{text}\n")
        self._last = text
        self._stream.flush()

    def end(self) -> None:
        """Leave the line as it is and begin a new one."""
        if self._live and self._last:
            self._stream.write("\n")
        self._last = ""


class Interrupts:
    """Ctrl-C and SIGTERM: the first one interrupts, later ones are ignored, so that nothing cuts cleaning up short."""

    def __init__(self) -> None:
        self.seen = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if not self.seen:
            self.seen = True
            raise KeyboardInterrupt


@contextmanager
def injected(stack: Stack, progress: Progress) -> Iterator[None]:
    """Removes the test series at the end, whatever happens."""
    try:
        yield
    finally:
        try:
            try:
                stack.remove()
            except KeyboardInterrupt:
                # It came in the middle of removing; another one cannot.
                stack.remove()
                raise
        except Unreachable as error:
            raise Unreachable(f"test series may be left behind, remove them with --restore: {error}") from error
        progress.end()
        progress.show("test series removed")
        progress.end()


def condition(rule: Mapping[str, Any]) -> tuple[str, str, float]:
    """The PromQL that a rule's threshold tests, the operator and the limit."""
    nodes = {node["refId"]: node["model"] for node in rule["data"]}
    threshold = nodes[rule["condition"]]
    evaluator = threshold["conditions"][0]["evaluator"]
    return nodes[threshold["expression"]]["expr"], evaluator["type"], float(evaluator["params"][0])


def crossed(stack: Stack, rule: Mapping[str, Any]) -> bool:
    """Whether the test series are beyond the rule's limit now, as Prometheus evaluates the live rule's own query."""
    expr, operator, limit = condition(rule)
    for series in stack.query(expr):
        if series["metric"].get("job") == TEST_JOB:
            value = float(series["value"][1])
            return value > limit if operator == "gt" else value < limit
    return False


def injected_state(evaluations: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The state of the rule's alert for the test series: inactive, pending or firing."""
    for alert in evaluations.get(title, {}).get("alerts") or []:
        if alert.get("labels", {}).get("job") == TEST_JOB:
            state = str(alert.get("state", "")).lower()
            return "firing" if state.startswith(("alerting", "firing")) else state.split(" ")[0]
    return "inactive"


def run_scenario(
    stack: Stack, name: str, *, wait: bool, timeout: float | None, poll: float, progress: Progress
) -> Outcome:
    """Push the series and follow the rules: to the limit, or with `wait` until they fire."""
    scenario = everything() if name == "all" else SCENARIOS[name]
    outcome = Outcome(name)
    live = stack.rules()
    missing = [uid for uid in scenario.rules if uid not in live]
    if missing:
        outcome.detail = f"Grafana has no rule {', '.join(missing)}"
        return outcome
    goal = "firing" if wait else "crossed"
    longest = max(_seconds(live[uid].get("for", "0s")) for uid in scenario.rules)
    limit = timeout if timeout is not None else (longest + 300 if wait else 180)
    outcome.rules = dict.fromkeys(scenario.rules, "not crossed")
    start = time.monotonic()
    with injected(stack, progress):
        stack.push(scenario.samples(0))
        while True:
            seconds = time.monotonic() - start
            if scenario.repeat:
                stack.push(scenario.samples(seconds))
            evaluations = stack.evaluations() if wait else {}
            for uid in scenario.rules:
                if outcome.rules[uid] == goal:
                    continue
                state = injected_state(evaluations, live[uid]["title"]) if wait else "inactive"
                if state in ("inactive", "normal"):
                    state = "crossed" if crossed(stack, live[uid]) else "not crossed"
                outcome.rules[uid] = state
                if state == goal:
                    outcome.seconds[uid] = round(seconds, 1)
            states = ", ".join(f"{uid} {state}" for uid, state in outcome.rules.items())
            progress.show(f"{name}: {states}", f"({seconds:.0f} s of at most {limit:.0f} s)")
            if all(state == goal for state in outcome.rules.values()):
                outcome.status = "pass"
                return outcome
            if seconds > limit:
                outcome.detail = f"not {goal} within {limit:.0f} s: {states}"
                return outcome
            time.sleep(poll)


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text))


# -- checks ------------------------------------------------------------------------------------------------------------


def attempt(name: str, action: Callable[[], str]) -> Check:
    """Run one check: its text is the detail, an exception the failure."""
    try:
        return Check(name, "pass", action())
    except Unreachable as error:
        return Check(name, "fail", str(error))
    except (AssertionError, KeyError, TypeError, IndexError) as error:
        return Check(name, "fail", str(error) or type(error).__name__)


def expect(condition_: bool, message: str) -> None:
    """Fail the check with a message."""
    if not condition_:
        raise AssertionError(message)


def check_dashboards(stack: Stack) -> Iterator[Check]:
    """Grafana, its datasource, the four dashboards, and every query on them."""

    def healthy() -> str:
        health = stack.grafana.json("/api/health")
        expect(health.get("database") == "ok", f"database: {health.get('database')}")
        return f"version {health.get('version', 'unknown')}"

    def datasource() -> str:
        found = stack.grafana.json("/api/datasources/uid/prometheus")
        expect(found["type"] == "prometheus", f"is a {found['type']}")
        return str(found["url"])

    yield attempt("Grafana is up", healthy)
    yield attempt("datasource prometheus", datasource)
    for uid in DASHBOARDS:
        board: dict[str, Any] = {}

        def load(uid: str = uid, board: dict[str, Any] = board) -> str:
            board.update(stack.grafana.json(f"/api/dashboards/uid/{uid}")["dashboard"])
            return f"{len(_panels(board))} panels"

        yield attempt(f"dashboard {uid}", load)
        if board:
            yield attempt(f"queries of {uid}", partial(_queries, stack, board))


def _panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board.get("panels", []) if panel["type"] != "row"]


def _queries(stack: Stack, board: Mapping[str, Any]) -> str:
    empty, count = [], 0
    for panel in _panels(board):
        results = []
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, text in VARIABLES.items():
                expr = expr.replace(variable, text)
            try:
                results += stack.query(expr, stack.grafana, "/api/datasources/proxy/uid/prometheus")
            except Unreachable as error:
                raise Unreachable(f"panel {panel['title']!r}: {error}") from error
            count += 1
        if not results:
            why = panel["fieldConfig"]["defaults"].get("noValue", "no reason given")
            empty.append(f"{panel['title']} ({why})")
    return f"{count} answer" + (f"; empty: {', '.join(empty)}" if empty else "; none is empty")


def check_alerts(stack: Stack) -> Iterator[Check]:
    """The nine rules and their health, the contact point, the policies."""

    def rules() -> str:
        found = stack.rules()
        missing = [uid for uid in RULES if uid not in found]
        expect(not missing, f"missing: {', '.join(missing)}")
        return f"{len(found)} rules"

    def health() -> str:
        evaluations = stack.evaluations()
        titles = {uid: rule["title"] for uid, rule in stack.rules().items() if uid in RULES}
        unseen = [uid for uid, title in titles.items() if title not in evaluations]
        expect(not unseen, f"not evaluated: {', '.join(unseen)}")
        broken = [
            f"{uid} ({evaluations[title].get('lastError', '')})"
            for uid, title in titles.items()
            if evaluations[title].get("health") == "error"
        ]
        expect(not broken, f"cannot be evaluated: {', '.join(broken)}")
        states = [
            f"{uid} {evaluations[t]['state']}" for uid, t in titles.items() if evaluations[t]["state"] != "inactive"
        ]
        return ", ".join(states) or "none is pending or firing"

    def contact_point() -> str:
        found = [p for p in stack.grafana.json("/api/v1/provisioning/contact-points") if p["name"] == RECEIVER]
        expect(bool(found), f"no contact point {RECEIVER}")
        expect(found[0]["type"] == "discord", f"is a {found[0]['type']}")
        return "discord"

    def policies() -> str:
        tree = stack.grafana.json("/api/v1/provisioning/policies")
        routes = tree.get("routes") or []
        expect(tree["receiver"] == RECEIVER, f"the root goes to {tree['receiver']}")
        expect({route["receiver"] for route in routes} == {RECEIVER}, "a route goes elsewhere")
        expect(len(routes) >= 4, f"{len(routes)} routes")
        return f"{len(routes)} routes"

    yield attempt("nine rules", rules)
    yield attempt("rules are evaluated", health)
    yield attempt(f"contact point {RECEIVER}", contact_point)
    yield attempt("notification policies", policies)


def check_metrics(stack: Stack) -> Iterator[Check]:
    """The scrape targets, and every metric of the exporter's catalogue."""
    for job in (*JOBS, *OPTIONAL_JOBS):

        def target(job: str = job) -> str:
            found = stack.query(f'up{{job="{job}"}}')
            expect(bool(found), "is not scraped")
            expect(all(float(series["value"][1]) == 1 for series in found), "is down")
            return "up"

        check = attempt(f"job {job}", target)
        if check.status == "fail" and job in OPTIONAL_JOBS:
            check = Check(check.name, "skip", f"{check.detail}; it is not part of this stack")
        yield check
    try:
        reasons = stack.exporter.json("/health").get("metrics_without_value", {})
    except Unreachable:
        # 503 while the exporter starts or has nothing to show: the metrics then fail by themselves.
        reasons = {}
    for name, kind in catalogue():
        series = f"{name}_bucket" if kind == "histogram" else name

        def present(series: str = series) -> str:
            found = stack.query(f'count({series}{{job!="{TEST_JOB}"}})')
            expect(bool(found), "no series")
            return f"{found[0]['value'][1]} series"

        check = attempt(f"metric {name}", present)
        if check.detail == "no series" and name in reasons:
            # Absent for a reason that the exporter states: a source that is off, or nothing measured yet.
            check = Check(check.name, "skip", reasons[name])
        yield check


def catalogue() -> list[tuple[str, str]]:
    """Name and type of every metric of exporter/catalog.yaml, read without a YAML parser: there may be none here."""
    text = (ROOT / "exporter" / "catalog.yaml").read_text("utf-8")
    return re.findall(r"^ +- name: (\w+)\n +type: (\w+)", text, re.MULTILINE)


# -- the command line --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    description, _, epilog = (__doc__ or "").partition("\n\n")
    result = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--test-dashboards", action="store_true", help="Grafana, datasource, dashboards, their queries")
    result.add_argument("--test-alerts", action="store_true", help="rules, contact point, policies")
    result.add_argument("--test-metrics", action="store_true", help="scrape targets, every metric of the catalogue")
    result.add_argument(
        "--inject", action="append", choices=[*SCENARIOS, "all"], metavar="SCENARIO", default=[],
        help=f"push test series: {', '.join(SCENARIOS)} or all; may be given more than once",
    )  # fmt: skip
    result.add_argument("--wait", action="store_true", help="with --inject: until the alert fires, not just crosses")
    result.add_argument("--timeout", type=float, metavar="SECONDS", help="with --inject: give up after this time")
    result.add_argument(
        "--poll", type=float, default=5, metavar="SECONDS", help="with --inject: time between looks (5)"
    )
    result.add_argument("--restore", action="store_true", help="remove test series (--inject always does, at its end)")
    result.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def env(name: str, default: str) -> str:
        # What compose reads, so that both know the same password and port.
        return os.environ.get(name) or env_file().get(name) or default

    result.add_argument("--grafana-url", default=env("GRAFANA_URL", "http://localhost:3000"))
    result.add_argument("--grafana-user", default=env("GF_SECURITY_ADMIN_USER", "admin"))
    result.add_argument(
        "--grafana-password",
        default=env("GF_SECURITY_ADMIN_PASSWORD", "admin"),
        help="default: $GF_SECURITY_ADMIN_PASSWORD, else admin",
    )
    result.add_argument("--prometheus-url", default=env("PROMETHEUS_URL", "http://localhost:9090"))
    result.add_argument("--pushgateway-url", default=env("PUSHGATEWAY_URL", "http://localhost:9091"))
    result.add_argument(
        "--exporter-url", default=env("EXPORTER_URL", f"http://localhost:{env('EXPORTER_PORT', '9101')}")
    )
    return result


def env_file() -> dict[str, str]:
    """The variables of the stack's .env, if there is one: `NAME=value` lines, quotes around the value removed."""
    try:
        text = (ROOT / ".env").read_text("utf-8")
    except OSError:
        return {}
    return {name: value.strip().strip("\"'") for name, value in re.findall(r"^\s*(\w+)=(.*)$", text, re.MULTILINE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and give the exit code."""
    options = parser().parse_args(arguments)
    stack = Stack(options)
    progress = Progress(sys.stderr)
    checks: list[Check] = []
    outcomes: list[Outcome] = []
    interrupts = Interrupts()
    asked = options.test_dashboards or options.test_alerts or options.test_metrics
    all_checks = not (asked or options.inject or options.restore)
    suites = [
        (options.test_dashboards, check_dashboards),
        (options.test_alerts, check_alerts),
        (options.test_metrics, check_metrics),
    ]
    try:
        for wanted, suite in suites:
            if wanted or all_checks:
                for check in suite(stack):
                    checks.append(check)
                    if not options.json:
                        _print(check.status, check.name, check.detail)
        for name in options.inject:
            outcome = Outcome(name)
            try:
                outcome = run_scenario(
                    stack, name, wait=options.wait, timeout=options.timeout, poll=options.poll, progress=progress
                )
            except Unreachable as error:
                outcome.detail = str(error)
            outcomes.append(outcome)
            if interrupts.seen:
                progress.end()
                print(outcome.detail, file=sys.stderr)
                break
            if not options.json:
                took = ", ".join(f"{uid} after {seconds:g} s" for uid, seconds in outcome.seconds.items())
                word = "fires" if options.wait else "crossed"
                _print(outcome.status, f"scenario {name}", outcome.detail or f"{word}: {took}")
        if options.restore and not options.inject:
            check = attempt("restore", lambda: "test series removed" if stack.remove() else "there were none")
            checks.append(check)
            if not options.json:
                _print(check.status, check.name, check.detail)
    except KeyboardInterrupt:
        progress.end()
        print("interrupted; no test series are left", file=sys.stderr)
    interrupted = interrupts.seen
    statuses = [check.status for check in checks] + [outcome.status for outcome in outcomes]
    ok = not interrupted and "fail" not in statuses
    if options.json:
        report = {
            "ok": ok,
            "interrupted": interrupted,
            "checks": [asdict(check) for check in checks],
            "scenarios": [asdict(outcome) for outcome in outcomes],
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif checks:
        counts = {status: sum(check.status == status for check in checks) for status in ("pass", "fail", "skip")}
        print(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    return 130 if interrupted else int(not ok)


def _print(status: str, name: str, detail: str) -> None:
    mark = {"pass": "ok  ", "fail": "FAIL", "skip": "skip"}[status]
    print(f"{mark}  {name}{': ' if detail else ''}{detail}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
