"""What must hold of the stack. A function for each act of a user; `run` has their order."""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.resources import KUBERNETES, docker_options, rendered
from tests.stack import seed
from tests.stack.engine import Engine
from tests.stack.images import ROOT
from tests.stack.programs import Unavailable
from tests.stack.report import Report
from tests.stack.user import UP, User

FIRST_VALUE: Final = "bike_model_r2_champion_current"
HEALTHY_SECONDS: Final = 240
PATIENCE_SECONDS: Final = 300
"""How long a check waits before it calls something lost, which is no promise."""
DAGS: Final = ("daily_fetch_bike_data", "daily_prediction", "monitor_and_fine_tune")
DOWN: Final = "docker compose --profile monitoring down"
COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yaml").read_text("utf-8"))
EXPORTER: Final = "airflow-exporter"
SERVICES: Final = tuple(name for name in COMPOSE["services"] if name not in ("airflow-init", "backfill"))
OUR_IMAGES: Final = (
    ("mlops-exporter:local", "/opt/exporter", "exporter.sources.audit.bigquery"),
    ("regmodel:local", "/opt/regmodel", "regmodel.app"),
)
"""Each with its environment, and a module that imports most of what is installed."""
LEFT_OUT: Final = (
    "fresh starts 2 and 3: a profile and a user in .env, a checkout under umask 077",
    "Docker stopped and started",
    "a project without a key, and a first start of Postgres that takes 25 s",
)
"""What a quick run leaves out: each takes a minute or more."""
GRAFANA_IS_A_STAND_IN: Final = "needs Grafana, which is a stand-in here"


class Checks:
    """The checks of one run.

    Args:
        stand_ins: what stands in for which image; empty when all are official.
        first_value_seconds: at most this long after the containers' start the exporter shows a model's value.
    """

    def __init__(
        self, engine: Engine, user: User, report: Report, stand_ins: dict[str, str], first_value_seconds: float
    ) -> None:
        self._engine = engine
        self._user = user
        self._report = report
        self._first_value_seconds = first_value_seconds
        self._grafana = not any(image.startswith("grafana/") for image in stand_ins)
        self._slow_postgres = any(image.startswith("postgres:") for image in stand_ins)

    def run(self, *, quick: bool) -> None:
        """All checks, in an order in which each finds the stack as it needs it.

        Args:
            quick: one fresh start, and no images built of another checkout.
        """
        self._user.checks_out()
        self.fresh_start("fresh start 1, with builds")
        self.limits_and_logs()
        self.the_deployments_settings()
        self.commands_of_the_description()
        self.test_script()
        # Not before: the exporter sees a DAG's run up to a minute after its end.
        self.what_airflow_knows_is_shown()
        self.history_is_imported()
        self.every_service_is_stopped_once()
        self.every_process_is_killed_once()
        self.down_and_up()
        self.changed_code_is_built()
        self.down(volumes=True)
        self.a_key_file_that_is_missing()
        self.down(volumes=True)
        if quick:
            for check in LEFT_OUT:
                self._report.skip(check, "--quick")
        else:
            self._other_beginnings()

    def _other_beginnings(self) -> None:
        self.checkout_under_umask_077()
        profile = "COMPOSE_PROFILES=monitoring\n"
        self.fresh_start("fresh start 2, profile in .env, umask 077", profile, up="docker compose up -d")
        self.down(volumes=True)
        self._user.checks_out()
        self.fresh_start("fresh start 3, a user in .env", "AIRFLOW_USERNAME=someone\nAIRFLOW_PASSWORD=else-5\n")
        self.what_airflow_knows_is_shown()
        self.docker_is_stopped()
        self.down(volumes=True)
        self.a_project_without_a_key_and_a_slow_postgres()

    # -- starts ----------------------------------------------------------------------------------------------------

    def fresh_start(self, name: str, dotenv: str = "", *, up: str = UP) -> None:
        """From nothing to model values: how long it takes, and that no task fails on the way."""
        user, report = self._user, self._report
        if dotenv:
            (user.folder / ".env").write_text(dotenv, "utf-8")
        env = dict(line.split("=", 1) for line in dotenv.splitlines())
        login = (env.get("AIRFLOW_USERNAME", "admin"), env.get("AIRFLOW_PASSWORD", "admin"))
        with report.check(f"{name}: up"):
            begun = time.monotonic()
            user.types(up)
            report.figure(f"{name}: `{up}` took {time.monotonic() - begun:.0f} s")
        started = self._containers_started()
        with report.check(f"{name}: a model's value within {self._first_value_seconds:g} s of the containers' start"):
            user.waits_until(lambda: user.value(FIRST_VALUE) is not None, PATIENCE_SECONDS, f"{FIRST_VALUE} is shown")
            seconds = time.time() - started
            report.figure(f"{name}: first model value {seconds:.0f} s after the containers' start")
            assert seconds <= self._first_value_seconds, f"{seconds:.0f} s"
        with report.check(f"{name}: every container healthy"):
            user.waits_until_healthy(HEALTHY_SECONDS)
            report.figure(f"{name}: all healthy {self._healthy_since() - started:.0f} s after the containers' start")
        with report.check(f"{name}: the first run of each DAG succeeds, and no task has failed"):
            user.waits_until(lambda: self._first_runs(login), PATIENCE_SECONDS, "each DAG has a run that ended")
            assert not (bad := self._bad_tasks(login)), f"failed or tried again: {bad}"

    def what_airflow_knows_is_shown(self) -> None:
        """The exporter has read Airflow with the user that the stack has, and counts the first run of each DAG."""
        user = self._user
        with self._report.check("the exporter shows what Airflow knows"):
            user.waits_until(
                lambda: all(user.value(f'airflow_dag_runs_total{{dag_id="{dag}",state="success"}}') for dag in DAGS),
                PATIENCE_SECONDS, "a successful run of each DAG on /metrics",
            )  # fmt: skip
            health = json.loads(user.reads("http://localhost:9101/health") or "{}")
            assert health.get("status") == "ok", health
            assert user.value("bike_model_r2_champion_baseline") is not None, "no bike_model_r2_champion_baseline"

    def _containers_started(self) -> float:
        """When the first container of the stack was started, in seconds since the epoch."""
        return min(self._moments("{{.State.StartedAt}}", "airflow-postgres", "regmodel-backend", "prometheus"))

    def _healthy_since(self) -> float:
        """When the last container's first successful health check of those that Docker remembers ended."""
        form = "{{if .State.Health}}{{json .State.Health.Log}}{{end}}"
        latest = 0.0
        for name in SERVICES:
            log = json.loads(self._engine.docker("inspect", "--format", form, name).stdout)
            good = [entry["End"] for entry in log if entry["ExitCode"] == 0]
            latest = max(latest, _seconds(good[0]))
        return latest

    def _moments(self, form: str, *names: str) -> list[float]:
        return [_seconds(line) for line in self._engine.docker("inspect", "--format", form, *names).stdout.split()]

    def _first_runs(self, login: tuple[str, str]) -> bool:
        answer = self._user.airflow("/dags/~/dagRuns", *login)
        states: dict[str, list[str]] = {}
        for run in (answer or {}).get("dag_runs", []):
            states.setdefault(run["dag_id"], []).append(run["state"])
        ended = all(set(states.get(dag, ["none"])) <= {"success", "failed"} for dag in DAGS)
        assert not ended or not (bad := {dag: s for dag, s in states.items() if "failed" in s}), f"failed runs: {bad}"
        return ended

    def _bad_tasks(self, login: tuple[str, str]) -> list[Any]:
        answer = self._user.airflow("/dags/~/dagRuns/~/taskInstances?limit=100", *login)
        tasks = (answer or {}).get("task_instances", [])
        assert len(tasks) >= 10, f"only {len(tasks)} task instances"
        allowed = {"success", "skipped"}
        return [
            (task["dag_id"], task["task_id"], task["state"], task["try_number"], self._first_log(task, login))
            for task in tasks
            if task["state"] not in allowed or task["try_number"] > 1
        ]

    def _first_log(self, task: dict[str, str], login: Sequence[str]) -> str:
        """The log of a task instance's first try."""
        run = task["dag_run_id"].replace("+", "%2B")
        path = f"/dags/{task['dag_id']}/dagRuns/{run}/taskInstances/{task['task_id']}/logs/1"
        return json.dumps(self._user.airflow(path, *login), ensure_ascii=False)

    def down(self, *, volumes: bool) -> None:
        """`down`, and remove what `.env` and volumes hold."""
        self._user.types(f"{DOWN}{' --volumes' if volumes else ''}")
        if volumes:
            (self._user.folder / ".env").unlink(missing_ok=True)
            (self._user.folder / "docker-compose.override.yaml").unlink(missing_ok=True)

    # -- a stack that runs -----------------------------------------------------------------------------------------

    def limits_and_logs(self) -> None:
        """Every container has a memory limit and a bounded log, and is far below its limit."""
        report = self._report
        with report.check("every container has a memory limit and a bounded log"):
            for name in (*SERVICES, "airflow-init"):
                form = '{{.HostConfig.Memory}} {{index .HostConfig.LogConfig.Config "max-size"}}'
                memory, size = self._engine.docker("inspect", "--format", form, name).stdout.split()
                assert int(memory) > 0, name
                assert size == "10m", name
        with report.check("memory is below half of each limit"):
            form = "{{.Name}} {{.MemUsage}} {{.MemPerc}}"
            lines = self._engine.docker("stats", "--no-stream", "--format", form, *SERVICES).stdout.splitlines()
            report.figure("memory after the first runs: " + ", ".join(sorted(lines)))
            over = [line for line in lines if float(line.rsplit(" ", 1)[-1].rstrip("%")) > 50]
            assert not over, over
        with report.check("our images hold no compiler, and what is installed fits together"):
            for image, home, module in OUR_IMAGES:
                command = (
                    f"! command -v cc gcc c++ && python3 -c 'import {module}' && "
                    f"PATH=/usr/local/bin:/usr/bin:/bin python3 -m pip --python {home}/bin/python3 check"
                )
                self._engine.docker("run", "--rm", "--entrypoint", "sh", image, "-c", command)
            listed = self._engine.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}").stdout.splitlines()
            report.figure("images: " + ", ".join(line for line in sorted(listed) if "<none>" not in line))

    def the_deployments_settings(self) -> None:
        """The exporter's image, with what deploy/kubernetes allows its pod and nothing more."""
        name, port = "deployment-settings", 9102
        check = "the image runs with the Kubernetes Deployment's user, privileges, volumes and memory"
        try:
            options = docker_options(rendered(KUBERNETES / "overlays" / "embedded"))
        except Unavailable as reason:
            self._report.skip(check, str(reason))
            return
        with self._report.check(check):
            publish = f"--publish=127.0.0.1:{port}:9101"
            self._engine.docker("run", "--detach", "--name", name, publish, *options, "mlops-exporter:local")
            try:
                for path in ("/-/healthy", "/-/ready", "/metrics"):
                    answers = partial(self._user.reads, f"http://localhost:{port}{path}")
                    self._user.waits_until(answers, 60, f"{path} of the container {name}")
            except AssertionError:
                self._report.say(self._engine.docker("logs", name, check=False).stderr)
                raise
            finally:
                self._engine.docker("rm", "--force", "--volumes", name, check=False)

    def commands_of_the_description(self) -> None:
        """Each command, word for word."""
        user, report = self._user, self._report
        query = "http://localhost:9090/api/v1/query?query=bike_model_r2_production"
        user.waits_until(lambda: '"value"' in (user.reads(query) or ""), 60, "Prometheus has scraped the model's value")
        for command in seed.COMMANDS:
            with report.check(f"$ {command.typed}"):
                if command is seed.COMMANDS[-1]:
                    user.waits_until_healthy(HEALTHY_SECONDS)
                    user.waits_until(self._all_targets_up, 60, "every target is up")
                command.check(user.types(command.typed))
        for command in seed.NEED_GRAFANA:
            if self._grafana:
                with report.check(f"$ {command.typed}"):
                    command.check(user.types(f"export GF_SECURITY_ADMIN_PASSWORD=admin; {command.typed}"))
            else:
                report.skip(f"$ {command.typed}", GRAFANA_IS_A_STAND_IN)
        report.skip(f"$ {seed.NEED_DISCORD}", "needs a Discord channel")

    def _all_targets_up(self) -> bool:
        answer = self._user.reads("http://localhost:9090/api/v1/targets") or "{}"
        targets = json.loads(answer).get("data", {}).get("activeTargets", [])
        return bool(targets) and all(target["health"] == "up" for target in targets)

    def test_script(self) -> None:
        """The part of the test script that asks Prometheus and the exporter."""
        command = "python scripts/test_grafana_alerts_and_dashboards.py --test-metrics"
        with self._report.check(f"$ {command}"):
            user = self._user
            user.waits_until(lambda: " 0 failed" in user.types(command, check=False), 90, command)

    def history_is_imported(self) -> None:
        """The recipe of docs/backfill.md, taken from the page."""
        recipe = _recipe("docs/backfill.md", "## In the compose stack")
        with self._report.check("docs/backfill.md: the recipe for this stack makes blocks that Prometheus finds"):
            before = int(self._user.types("docker exec prometheus sh -c 'ls -d /prometheus/01* 2>/dev/null | wc -l'"))
            begun = time.monotonic()
            said = self._user.types(f"set -e\n{recipe}")
            self._report.figure(f"a year's history by the recipe of docs/backfill.md: {time.monotonic() - begun:.0f} s")
            assert "warning: the exporter's state" not in said, said
            after = int(self._user.types("docker exec prometheus sh -c 'ls -d /prometheus/01* | wc -l'"))
            assert after > before, f"{before} blocks before, {after} after"

    def every_service_is_stopped_once(self) -> None:
        """One after the other until none is left but the exporter, which answers all the while; then all start."""
        user = self._user
        for name in SERVICES:
            if name == EXPORTER:
                continue
            with self._report.check(f"stop of {name}: the exporter goes on"):
                user.types(f"docker compose --profile monitoring stop {name}")
                assert user.value(FIRST_VALUE) is not None, f"{FIRST_VALUE} is gone with {name}"
                assert user.reads("http://localhost:9101/-/healthy"), "the exporter is not healthy"
        with self._report.check("stop of the exporter, and start of everything: all healthy"):
            user.types(f"docker compose --profile monitoring stop {EXPORTER}")
            user.types("docker compose --profile monitoring start")
            user.waits_until_healthy(HEALTHY_SECONDS)

    def every_process_is_killed_once(self) -> None:
        """Signal 9 for every service's main process, all at about the same time: Docker starts them again."""
        with self._report.check("kill -9 of every service: all healthy again, counters as before"):
            before = self._user.waits_until(self._user.counters, 60, "counters are shown")
            for name in SERVICES:
                self._engine.kill(name)
            self._all_is_back(before)

    def docker_is_stopped(self) -> None:
        """Docker is stopped and started again."""
        with self._report.check("Docker stopped and started: all healthy again, counters as before"):
            before = self._user.waits_until(self._user.counters, 60, "counters are shown")
            self._engine.stop()
            self._engine.start()
            self._all_is_back(before)

    def down_and_up(self) -> None:
        """`down`, then `up -d`: volumes keep everything."""
        with self._report.check("down and up: all healthy again, counters as before"):
            before = self._user.waits_until(self._user.counters, 60, "counters are shown")
            self.down(volumes=False)
            begun = time.monotonic()
            self._user.types(UP)
            self._report.figure(f"`{UP}` of a stack that was there before took {time.monotonic() - begun:.0f} s")
            self._all_is_back(before)

    def _all_is_back(self, before: dict[str, float]) -> None:
        user = self._user
        user.waits_until_healthy(HEALTHY_SECONDS)
        after = user.waits_until(
            lambda: (shown := user.counters()) and shown.keys() >= before.keys() and shown, 90, "all counters are back"
        )
        lost = {series: (value, after[series]) for series, value in before.items() if after[series] < value}
        assert not lost, f"counters stepped back: {lost}"
        grown = {series: (value, after[series]) for series, value in before.items() if after[series] > value}
        assert not {series for series in grown if series.startswith("bike_")}, f"counted twice: {grown}"

    def changed_code_is_built(self) -> None:
        """`up -d` after a change of the code runs the changed code."""
        user = self._user
        with self._report.check("up -d after a change of the code runs the changed code"):
            file = user.folder / "exporter" / "__init__.py"
            changed = file.read_text("utf-8").replace('__version__ = "', '__version__ = "99.')
            file.write_text(changed, "utf-8")
            printed = user.types(UP)
            assert "pull" not in printed.lower(), printed
            user.waits_until(
                lambda: '"version": "99.' in (user.reads("http://localhost:9101/health") or ""), 60, "the new version"
            )

    # -- other beginnings ------------------------------------------------------------------------------------------

    def checkout_under_umask_077(self) -> None:
        """Files that only their owner can read: images work all the same, and the mounts are said to be unreadable."""
        user = self._user
        user.checks_out(umask=0o077)
        with self._report.check("a checkout under umask 077: init names the files and the command that helps"):
            user.types(UP, check=False)
            said = user.types("docker logs airflow-init")
            command = "chmod -R go+rX prometheus.yml grafana/provisioning docker/airflow/dags"
            assert command in said, said
            assert "./prometheus.yml" in said, said
            user.types(command)
            self.down(volumes=True)

    def a_project_without_a_key_and_a_slow_postgres(self) -> None:
        """GOOGLE_CLOUD_PROJECT and no credentials: Airflow runs, and everybody says what is missing. And a database
        that takes long for its first start, which Airflow's init waits for."""
        user = self._user
        login = ("somebody", "else-7")
        names = "_AIRFLOW_WWW_USER_USERNAME={}\n_AIRFLOW_WWW_USER_PASSWORD={}\n".format(*login)
        (user.folder / ".env").write_text(f"GOOGLE_CLOUD_PROJECT=my-project\n{names}", "utf-8")
        slow, name = "a first start of Postgres that takes 25 s", "a project without a key: Airflow starts"
        if self._slow_postgres:
            name = f"{slow}, and {name}"
            override = {"services": {"airflow-postgres": {"environment": {"STAND_IN_INIT_SECONDS": 25}}}}
            (user.folder / "docker-compose.override.yaml").write_text(yaml.safe_dump(override), "utf-8")
        else:
            self._report.skip(slow, "only the stand-in can be slowed down")
        with self._report.check(
            f"a project without a key{f', and {slow}' if self._slow_postgres else ''}: Airflow starts"
        ):
            user.types(UP)
            user.waits_until_healthy(HEALTHY_SECONDS)
            user.waits_until(lambda: user.airflow("/dags", *login), 60, "Airflow's user is the one in .env")
        with self._report.check("a project without a key: init, the pipeline and the exporter name the variable"):
            assert "set GOOGLE_APPLICATION_CREDENTIALS" in user.types("docker logs airflow-init"), "init"
            said = user.waits_until(lambda: self._log_of_the_fetch(login), 120, "the fetch has failed once")
            assert "set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file" in said, said[-2000:]
            health = user.waits_until(
                lambda: (text := user.types("curl -s http://localhost:9101/health")) and "CREDENTIALS" in text and text,
                90, "/health names GOOGLE_APPLICATION_CREDENTIALS",
            )  # fmt: skip
            assert "Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file" in health, health

    def _log_of_the_fetch(self, login: Sequence[str]) -> str:
        """The log of the first try of the first fetch; empty while it has not failed."""
        path = "/dags/daily_fetch_bike_data/dagRuns"
        runs = (self._user.airflow(path, *login) or {}).get("dag_runs", [])
        if not runs:
            return ""
        run = runs[0]["dag_run_id"].replace("+", "%2B")
        task = self._user.airflow(f"{path}/{run}/taskInstances/fetch_to_bigquery", *login) or {}
        return self._first_log(task, login) if task.get("state") in ("up_for_retry", "failed") else ""

    def a_key_file_that_is_missing(self) -> None:
        """docker-compose.gcp.yaml without gcp.json: nothing starts, the message names the file, no folder is made."""
        env = "COMPOSE_FILE=docker-compose.yaml:docker-compose.gcp.yaml\nGOOGLE_CLOUD_PROJECT=my-project\n"
        (self._user.folder / ".env").write_text(env, "utf-8")
        key = self._user.folder / "gcp.json"
        with self._report.check("docker-compose.gcp.yaml without gcp.json: refused, and no folder is made"):
            said = self._user.types(f"{UP} airflow-exporter || echo refused", check=False)
            assert "refused" in said, said
            assert "gcp.json" in said, said
            assert not key.exists(), "a folder was made"


def _seconds(text: str) -> float:
    """Docker's time, with nanoseconds, as seconds since the epoch."""
    from datetime import UTC, datetime

    whole, _, rest = text.strip().partition(".")
    digits = "".join(character for character in rest[:9] if character.isdigit())
    offset = rest[len(digits) :].strip() or "Z"
    moment = datetime.fromisoformat(f"{whole}.{digits[:6]:0<6}" + ("+00:00" if offset.startswith("Z") else offset))
    return moment.astimezone(UTC).timestamp()


def _recipe(page: str, heading: str) -> str:
    """The commands of a page's section: its first block of bash."""
    text = (Path(ROOT) / page).read_text("utf-8")
    return text.split(heading, 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
