"""A real Airflow for tests: the `airflow2` and `airflow3` fixtures.

Each has a folder of its own with a SQLite database, the DAGs of `airflow_dags/`, and a running API server. Runs are
made by `airflow dags test`, which executes a run for real in one process, so no scheduler is needed.
"""

import contextlib
import datetime
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from testbed import install
from testbed.process import ServerProcess, free_port, http_ready

USERNAME: Final = "admin"
PASSWORD: Final = "a-planted-password"
VIEWER: Final = "viewer"
NOBODY: Final = "nobody"
"""A user without any permission (Airflow 2 only)."""
TOKEN_SECONDS: Final = 20
DAGS: Final = Path(__file__).resolve().parent / "airflow_dags"
_READY_WITHIN: Final = 240.0
_COMMAND_WITHIN: Final = 300.0


@dataclass(frozen=True)
class Airflow:
    """A running Airflow. `major` is 2 or 3; `url` has no slash at its end."""

    major: int
    home: Path
    port: int
    environment: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> list[str]:
        """Airflow's command line."""
        return [str(install.engine_home(f"airflow{self.major}") / "bin" / "airflow"), *arguments]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run one of Airflow's commands to its end and give what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env={**os.environ, **self.environment},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_WITHIN,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"airflow {' '.join(arguments)} failed:\n{done.stdout[-3000:]}")
        return done.stdout

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, check: bool = True) -> None:
        """Execute one run of a DAG, now and to its end. No date is given: the run's start would become that date.

        Args:
            check: raise when the command fails, unless the run was told to.
        """
        arguments = ["dags", "test", dag_id]
        if conf:
            arguments += ["-c", json.dumps(conf)]
        self.run(*arguments, check=check and not (conf or {}).get("fail"))

    def start_run(self, dag_id: str, conf: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        """The same, without waiting for the end."""
        return subprocess.Popen(
            self.command("dags", "test", dag_id, "-c", json.dumps(conf)),
            env={**os.environ, **self.environment},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask its REST API, as the administrator."""
        if self.major == 2:
            url, auth, headers = f"{self.url}/api/v1{path}", (USERNAME, PASSWORD), {}
        else:
            login = {"username": USERNAME, "password": PASSWORD}
            token = requests.post(f"{self.url}/auth/token", json=login, timeout=30).json()["access_token"]
            url, auth, headers = f"{self.url}/api/v2{path}", None, {"Authorization": f"Bearer {token}"}
        answer = requests.request(method, url, json=body, auth=auth, headers=headers, timeout=60)
        if not answer.ok:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def copy_runs(self, dag_id: str, name: str, ends: Iterable[float], *, seconds: float) -> None:
        """Finished runs in its database, made of the DAG's newest one: history that nobody waits for.

        Args:
            ends: when they ended, in Unix seconds; each had begun `seconds` before.
        """
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db", timeout=60)) as connection, connection:
            connection.row_factory = sqlite3.Row
            pattern = dict(
                connection.execute("SELECT * FROM dag_run WHERE dag_id = ? ORDER BY id DESC", (dag_id,)).fetchone()
            )
            del pattern["id"]
            for number, end in enumerate(ends):
                row = {**pattern, "run_id": f"{name}_{number}", "state": "success", "conf": pattern["conf"]}
                for column in ("logical_date", "execution_date", "run_after"):
                    if column in row:
                        row[column] = _stored(end - seconds)
                row |= {"start_date": _stored(end - seconds), "end_date": _stored(end)}
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO dag_run ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows from Airflow's own database."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as connection:
            return connection.execute(statement, parameters).fetchall()

    def write(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Change Airflow's own database: what a user would do by hand, or what a test cannot wait for."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as connection, connection:
            connection.execute(statement, parameters)


def _stored(at: float) -> str:
    """A time as Airflow stores it in SQLite."""
    text = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(sep=" ", timespec="microseconds")
    return text.removesuffix("+00:00")


def _airflow(major: int, folder: Path, dags: Path, more: Mapping[str, str]) -> Airflow:
    home = folder / f"airflow{major}"
    shutil.copytree(dags, home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "127.0.0.1,localhost",
        **more,
    }
    if major == 2:
        environment |= {
            "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor",
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
            "AIRFLOW__WEBSERVER__WORKERS": "1",
        }
    else:
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({USERNAME: PASSWORD, VIEWER: PASSWORD}))
        environment |= {
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin,{VIEWER}:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            # Short, so that tests see a token that has really expired.
            "AIRFLOW__API_AUTH__JWT_EXPIRATION_TIME": str(TOKEN_SECONDS),
            "AIRFLOW__API_AUTH__JWT_LEEWAY": "0",
            "AIRFLOW__API_AUTH__JWT_SECRET": "not a secret, only long enough for a test of signatures " * 2,
        }
    return Airflow(major, home, port, environment)


def _set_up(airflow: Airflow) -> None:
    airflow.run("db", "migrate")
    if airflow.major == 2:
        airflow.run("sync-perm")
        for user, role in ((USERNAME, "Admin"), (VIEWER, "Viewer"), (NOBODY, "Public")):
            airflow.run(
                *("users", "create", "--username", user, "--password", PASSWORD, "--role", role),
                *("--firstname", user, "--lastname", user, "--email", f"{user}@example.org"),
            )
        airflow.run("dags", "reserialize")


@contextlib.contextmanager
def running(
    major: int, folder: Path, *, dags: Path = DAGS, environment: Mapping[str, str] | None = None
) -> Iterator[Airflow]:
    """Set an Airflow up in `folder` and run its API server for the length of a `with` block.

    Args:
        dags: the folder of DAGs to give it a copy of.
        environment: variables for its tasks.
    """
    airflow = _airflow(major, folder, dags, environment or {})
    _set_up(airflow)
    if major == 2:
        command = airflow.command("webserver", "--hostname", "127.0.0.1", "--port", str(airflow.port))
        probe = f"{airflow.url}/api/v1/version"
    else:
        command = airflow.command("api-server")
        probe = f"{airflow.url}/api/v2/version"
    server = ServerProcess(
        command,
        log=airflow.home / "server.log",
        ready=http_ready(probe),
        environment=airflow.environment,
        cwd=airflow.home,
        ready_within=_READY_WITHIN,
    )
    with server:
        yield airflow


def need(major: int) -> None:
    """Skip the test where this Airflow is not installed; fail it in CI.

    Args:
        major: 2 or 3.
    """
    name = f"airflow{major}"
    if not install.is_installed(name):
        reason = f"Airflow {major} is not installed; run: {install.install_command(name)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _fixture(major: int, factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    need(major)
    with running(major, factory.mktemp(f"airflow{major}")) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def airflow2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Airflow 2 (REST v1) of this test session; it takes up to a minute to start, once."""
    yield from _fixture(2, tmp_path_factory)


@pytest.fixture(scope="session")
def airflow3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Airflow 3 (REST v2) of this test session; it takes up to a minute to start, once."""
    yield from _fixture(3, tmp_path_factory)
