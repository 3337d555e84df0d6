"""The whole loop on a laptop, without Docker or Google Cloud: `make demo`.

Starts the RegModel API, a real Airflow, the exporter, and Prometheus and Alertmanager where they are installed; then
plays some months of the pipeline in fast-forward, week by week of the data's clock, with an episode of drift in the
middle. The nine alerts are evaluated in fast motion too, and the messages that Discord would have got are printed
beside the weeks. Everything is kept in `.demo/` and removed at the next start. Ctrl-C stops all of it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

import requests
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from grafana.generator.alertmanager import DISABLED  # noqa: E402 -- the alerts, in fast motion
from grafana.generator.limits import load_limits  # noqa: E402
from testbed import alerting, install  # noqa: E402 -- the recipes and the process handling that the tests use as well
from testbed.faults import FaultProxy, Reply, Request  # noqa: E402
from testbed.process import NotReady, ServerProcess, http_ready  # noqa: E402

FOLDER: Final = ROOT / ".demo"
FIRST_WEEK: Final = date(2025, 4, 28)
WEEKS: Final = 17
EPISODE: Final = {"start": "2025-05-05", "end": "2025-07-28", "demand": 0.6, "rush_hour_delay": 2, "temperature": 5}
PORTS: Final = {"regmodel": 8000, "airflow": 8081, "exporter": 9101, "prometheus": 9090, "alertmanager": 9093}
ALERT_SPEED: Final = 20.0
"""Weeks pass in a minute or less here: an alert that waits for 15 minutes waits for 45 s."""
DAGS: Final = ("daily_fetch_bike_data", "daily_prediction", "monitor_and_fine_tune")
RUN_SECONDS: Final = 600.0
SHOWN_SECONDS: Final = 60.0
REFRESH_SECONDS: Final = 5


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Demo:
    """Where everything is.

    Attributes:
        ports: by service.
        python: the interpreter that has the RegModel API's packages.
        password: of Airflow's user `admin`.
        token: with which the pipeline asks the exporter to look at once.
    """

    ports: dict[str, int]
    python: Path
    password: str
    token: str

    def url(self, service: str) -> str:
        """A service's address."""
        return f"http://127.0.0.1:{self.ports[service]}"


def main() -> int:
    """The command line. Exit status 0 after Ctrl-C or --exit, 1 when something failed."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--weeks", type=int, default=WEEKS, help="how many weeks to play (default: %(default)s)")
    parser.add_argument("--port-offset", type=int, default=0, help="added to every port, if the usual ones are taken")
    parser.add_argument("--exit", action="store_true", help="stop when the last week was played")
    parser.add_argument(
        "--regmodel-python",
        type=Path,
        default=ROOT / ".venv-regmodel" / "bin" / "python",
        help="interpreter with the packages of docker/regmodel/requirements.txt",
    )
    options = parser.parse_args()
    if not 1 <= options.weeks <= 52:
        parser.error("--weeks must be from 1 to 52")
    demo = Demo(
        {name: port + options.port_offset for name, port in PORTS.items()},
        options.regmodel_python,
        secrets.token_urlsafe(12),
        secrets.token_urlsafe(24),
    )
    # `kill` is to end it as cleanly as Ctrl-C, also where a shell has started it in the background with Ctrl-C ignored.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            _start(demo, stack)
            _play(demo, options.weeks)
            if not options.exit:
                _say("\nEverything goes on running. Ctrl-C stops it.")
                while True:
                    time.sleep(3600)
    except KeyboardInterrupt:
        _say("\nStopped. Nothing is left running; the logs are in .demo/logs.")
    except (DemoError, NotReady) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start(demo: Demo, stack: contextlib.ExitStack) -> None:
    prometheus = shutil.which("prometheus")
    alertmanager = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
    missing = {"prometheus"} if not prometheus else set()
    missing |= {"alertmanager"} if not (prometheus and alertmanager) else set()
    needed = [name for name in PORTS if name not in missing]
    taken = [f"{demo.ports[name]} ({name})" for name in needed if _taken(demo.ports[name])]
    if taken:
        raise DemoError(f"these ports are in use: {', '.join(taken)}. Try: make demo DEMO='--port-offset 1000'")
    if not install.is_installed("airflow3"):
        raise DemoError("Airflow is not installed; run: make demo")
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "logs").mkdir(parents=True)
    _say("Starting (about two minutes):")
    with _step("RegModel API: simulating a city, training the first champion"):
        stack.enter_context(_regmodel(demo))
    with _step("Airflow 3"):
        stack.enter_context(_airflow(demo))
        _until("Airflow has read the DAGs", 180, lambda: _dags_ready(demo))
    with _step("exporter"):
        stack.enter_context(_exporter(demo))
    if prometheus:
        with _step("Prometheus" if "alertmanager" in missing else "Prometheus and Alertmanager"):
            webhook = stack.enter_context(FaultProxy(script=_told)).url if alertmanager else None
            _write_alerting(demo, webhook)
            if alertmanager:
                port, log = demo.ports["alertmanager"], FOLDER / "logs" / "alertmanager.log"
                stack.enter_context(alerting.alertmanager_server(alertmanager, FOLDER, port, log=log))
            port, log = demo.ports["prometheus"], FOLDER / "logs" / "prometheus.log"
            stack.enter_context(alerting.prometheus_server(prometheus, FOLDER, port, speed=ALERT_SPEED, log=log))
    _say(
        f"""
Where to look
  {demo.url("exporter")}/metrics    what Prometheus scrapes      {demo.url("exporter")}/health   its state
  {demo.url("airflow")}            Airflow; user admin, password {demo.password}
  {demo.url("regmodel")}/docs       the RegModel API             {demo.url("regmodel")}/metrics  its HTTP metrics"""
        + (
            f"\n  {demo.url('prometheus')}/alerts     the nine alerts, {ALERT_SPEED:g} times as fast"
            f"\n  {demo.url('prometheus')}/graph?g0.expr=bike_model_r2_champion_current&g0.range_input=15m"
            if prometheus
            else "\n  (Prometheus is not installed: apt install prometheus shows graphs and alerts as well)"
        )
        + (
            "\n  (Alertmanager is not installed: apt install prometheus-alertmanager shows the messages as well)"
            if "alertmanager" in missing
            else ""
        )
    )


def _play(demo: Demo, weeks: int) -> None:
    limits = yaml.safe_load((ROOT / "grafana" / "thresholds.yml").read_text("utf-8"))
    _say(
        f"""
What to expect
  From {EPISODE["start"]} to {EPISODE["end"]} the city changes: {1 - EPISODE["demand"]:.0%} less traffic, rush hours \
{EPISODE["rush_hour_delay"]} h later, {EPISODE["temperature"]} degrees warmer.
  R2 falls below {limits["r2"]["critical"]} and drift rises above {limits["drift_share"]["high"]}: alerts ring. \
Challengers that have seen
  enough of the new world win, are deployed, and bring R2 back above {limits["r2"]["warning"]}. When the old world \
returns, the error rises
  once more for two weeks, while test_current holds both worlds.

{weeks} weeks of the data's clock; what is shown comes from the exporter's /metrics:

  week to      drift share    R2   RMSE  decision      seconds"""
    )
    for week in range(weeks):
        began = time.monotonic()
        as_of = FIRST_WEEK + timedelta(weeks=week)
        conf = {"as_of": as_of.isoformat(), "days": 7}
        for dag in DAGS:
            _run(demo, dag, conf)
        shown, decision = _shown(demo, as_of)
        _say(
            f"  {as_of}   {_number(shown, 'bike_drift_share', 11, 2)} "
            f"{_number(shown, 'bike_model_r2_champion_current', 6, 2)} "
            f"{_number(shown, 'bike_model_rmse_production', 5, 0)}   {decision:<13} "
            f"{time.monotonic() - began:6.0f}"
        )


# -- services --------------------------------------------------------------------------------------------------------


def _regmodel(demo: Demo) -> ServerProcess:
    return ServerProcess(
        [demo.python, "-m", "regmodel", "--port", str(demo.ports["regmodel"])],
        log=FOLDER / "logs" / "regmodel.log",
        ready=http_ready(f"{demo.url('regmodel')}/health"),
        environment={
            **_without("REGMODEL_"),
            "REGMODEL_MODELS_DIR": str(FOLDER / "models"),
            "REGMODEL_SHIFTS": json.dumps([EPISODE]),
        },
        cwd=ROOT / "docker" / "regmodel",
    )


def _airflow(demo: Demo) -> ServerProcess:
    home = FOLDER / "airflow"
    home.mkdir()
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({"admin": demo.password}))
    binaries = install.engine_home("airflow3") / "bin"
    settings = {
        "CORE__DAGS_FOLDER": ROOT / "docker" / "airflow" / "dags",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 2,
        "CORE__EXECUTION_API_SERVER_URL": f"{demo.url('airflow')}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
        "API__HOST": "127.0.0.1",
        "API__PORT": demo.ports["airflow"],
        "API__WORKERS": 1,
        "API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    return ServerProcess(
        [binaries / "airflow", "standalone"],
        log=FOLDER / "logs" / "airflow.log",
        ready=http_ready(f"{demo.url('airflow')}/api/v2/version"),
        environment={
            **_without("AIRFLOW", "AUDIT_", "REGMODEL_", "PIPELINE_", "GOOGLE_", "EXPORTER_"),
            "AIRFLOW_HOME": str(home),
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "NO_PROXY": "127.0.0.1,localhost",
            "REGMODEL_URL": demo.url("regmodel"),
            "AUDIT_URL": f"duckdb://{FOLDER}/audit.duckdb",
            "AUDIT_ENV": "demo",
            "EXPORTER_REFRESH_URL": f"{demo.url('exporter')}/-/refresh",
            "EXPORTER_REFRESH_TOKEN": demo.token,
            "PIPELINE_WAREHOUSE": str(FOLDER / "warehouse.duckdb"),
            # Only what this program triggers: a run of today's date would come after all weeks that are played.
            "PIPELINE_SCHEDULED": "false",
            "PIPELINE_RETRIES": "0",
        },
        cwd=home,
        ready_within=240,
        stop_within=20,
    )


def _exporter(demo: Demo) -> ServerProcess:
    return ServerProcess(
        [sys.executable, "-m", "exporter", "serve"],
        log=FOLDER / "logs" / "exporter.log",
        ready=http_ready(f"{demo.url('exporter')}/-/healthy"),
        environment={
            **_without("EXPORTER_", "AUDIT_", "AIRFLOW_", "GOOGLE_", "BIGQUERY_"),
            "EXPORTER_HOST": "127.0.0.1",
            "EXPORTER_PORT": str(demo.ports["exporter"]),
            "EXPORTER_STATE_DIR": str(FOLDER / "exporter-state"),
            "EXPORTER_REFRESH_SECONDS": str(REFRESH_SECONDS),
            "EXPORTER_REFRESH_TOKEN": demo.token,
            "AUDIT_URL": f"duckdb://{FOLDER}/audit.duckdb",
            "AIRFLOW_BASE_URL": demo.url("airflow"),
            "AIRFLOW_USERNAME": "admin",
            "AIRFLOW_PASSWORD": demo.password,
        },
        cwd=ROOT,
    )


def _write_alerting(demo: Demo, webhook: str | None) -> None:
    targets = {
        job: f"127.0.0.1:{demo.ports[service]}"
        for job, service in (
            ("regmodel-api", "regmodel"), ("airflow-metrics", "exporter"), ("prometheus", "prometheus"),
        )
    }  # fmt: skip
    alerting.write_configuration(
        FOLDER,
        targets,
        dataclasses.replace(load_limits(), jobs=tuple(targets)),
        speed=ALERT_SPEED,
        alertmanager=f"127.0.0.1:{demo.ports['alertmanager']}" if webhook else None,
        webhook=webhook or DISABLED,
    )


def _told(request: Request) -> Reply:
    """Stands in for Discord's webhook: prints what Discord would have shown, without the links."""
    for embed in request.json().get("embeds", []):
        shown = [
            line for line in embed.get("description", "").splitlines() if not line.startswith(("Panel:", "What to"))
        ]
        _say("\n".join([f"      Discord  {embed.get('title')}", *(f"               {line}" for line in shown)]))
    return Reply(204)


def _without(*prefixes: str) -> dict[str, str]:
    """The shell's own settings of these kinds, emptied: the demo is the same whatever is set."""
    return {name: "" for name in os.environ if name.startswith(prefixes)}


# -- Airflow's runs ----------------------------------------------------------------------------------------------------


def _api(demo: Demo, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    session = requests.Session()
    session.trust_env = False
    login = {"username": "admin", "password": demo.password}
    token = session.post(f"{demo.url('airflow')}/auth/token", json=login, timeout=(5, 30)).json()["access_token"]
    answer = session.request(
        method,
        f"{demo.url('airflow')}/api/v2{path}",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=(5, 30),
    )
    answer.raise_for_status()
    return answer.json()


def _dags_ready(demo: Demo) -> bool:
    with contextlib.suppress(requests.RequestException, KeyError, ValueError):
        known = {dag["dag_id"] for dag in _api(demo, "GET", "/dags")["dags"]}
        return set(DAGS) <= known
    return False


def _run(demo: Demo, dag: str, conf: dict[str, Any]) -> None:
    """Trigger one run and wait for its end.

    Raises:
        DemoError: it failed, or took longer than RUN_SECONDS.
    """
    run_id = _api(demo, "POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    end = time.monotonic() + RUN_SECONDS
    state = "queued"
    while state in ("queued", "running"):
        if time.monotonic() > end:
            raise DemoError(f"{dag} is still {state} after {RUN_SECONDS:.0f} s; see .demo/logs/airflow.log")
        time.sleep(0.5)
        # A request that fails once is no reason to stop; the next one will tell.
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            state = _api(demo, "GET", f"/dags/{dag}/dagRuns/{requests.utils.quote(run_id, safe='')}")["state"]
    if state != "success":
        raise DemoError(f"{dag} for {conf['as_of']} has ended as {state}; see .demo/airflow/logs/dag_id={dag}")


# -- what the exporter shows -------------------------------------------------------------------------------------------


def _shown(demo: Demo, as_of: date) -> tuple[dict[str, float], str]:
    """The exporter's samples once it shows the row of this week, and the decision in words."""
    recorded = (as_of - date(1970, 1, 1)).days * 86400.0
    held: dict[str, float] = {}

    def arrived() -> bool:
        held.clear()
        held.update(_samples(requests.get(f"{demo.url('exporter')}/metrics", timeout=(2, 10)).text))
        return held.get("mlops_exporter_audit_last_record_timestamp_seconds") == recorded

    _until("the exporter shows the new row", SHOWN_SECONDS, arrived)
    decisions = {
        name: held.get(f'bike_model_deployments_total{{decision="{name}"}}', 0.0)
        for name in ("deploy", "skip", "reject")
    }
    made = [name for name, count in decisions.items() if count > _decided.get(name, 0.0)]
    _decided.update(decisions)
    return held, made[0] if made else "not triggered"


_decided: dict[str, float] = {}


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


def _number(samples: dict[str, float], name: str, width: int, digits: int) -> str:
    return f"{samples[name]:{width}.{digits}f}" if name in samples else f"{'-':>{width}}"


# -- telling -----------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    print(f"  {name} ...", end="", flush=True)
    began = time.monotonic()
    yield
    print(f" {time.monotonic() - began:.0f} s", flush=True)


def _until(what: str, seconds: float, done: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise DemoError(f"waited {seconds:.0f} s in vain until {what}; see .demo/logs")
        time.sleep(0.5)


def _taken(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
