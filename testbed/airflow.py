"""A real Airflow for tests: the `airflow2` and `airflow3` fixtures.

Each has a folder of its own with a SQLite database, the DAGs of `airflow_dags/`, and a running API server. Runs are
made by `airflow dags test`, which executes a run for real in one process, so no scheduler is needed. Commands run in
children of a process that has imported Airflow already (`airflow_commands.py`).
"""

import contextlib
import datetime
import json
import os
import shutil
import socket
import sqlite3
import tempfile
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
TOKEN_SECONDS: Final = 10
DAGS: Final = Path(__file__).resolve().parent / "airflow_dags"
_READY_WITHIN: Final = 240.0
_COMMAND_WITHIN: Final = 300.0
_COMMANDS: Final = Path(__file__).resolve().parent / "airflow_commands.py"
_SOCKET: Final = "socket"


class Command:
    """One of Airflow's commands, which has just been started.

    Args:
        ready: the socket of the process that runs commands.
        output: the file that receives what the command prints.
    """

    def __init__(self, ready: Path, output: Path, arguments: Sequence[str]) -> None:
        self._name = f"airflow {' '.join(arguments)}"
        self._output = output
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(ready))
        request = json.dumps({"arguments": list(arguments), "output": str(output)})
        self._connection.sendall(request.encode() + b"\n")

    def wait(self, *, check: bool = True) -> str:
        """Wait for the command's end, at most five minutes, and give what it printed.

        Args:
            check: raise AssertionError when it ends with another status than 0.
        """
        self._connection.settimeout(_COMMAND_WITHIN)
        with self._connection, self._connection.makefile("rb") as answer:
            status = answer.readline().strip().decode() or "no status: it died"
        printed = self._output.read_text("utf-8", errors="replace")
        if check and status != "0":
            raise AssertionError(f"{self._name} ended with {status}:\n{printed[-3000:]}")
        return printed


@dataclass(frozen=True)
class Airflow:
    """A running Airflow. `major` is 2 or 3; `url` has no slash at its end.

    Attributes:
        commands: a folder, with a short name because a socket's path is short, for the commands' socket and outputs.
    """

    major: int
    home: Path
    port: int
    commands: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def program(self) -> Path:
        """The folder of Airflow's programs."""
        return install.engine_home(f"airflow{self.major}") / "bin"

    def start(self, *arguments: str) -> Command:
        """Start one of Airflow's commands."""
        handle, output = tempfile.mkstemp(dir=self.commands, suffix=".txt")
        os.close(handle)
        return Command(self.commands / _SOCKET, Path(output), arguments)

    def run(self, *arguments: str) -> str:
        """Run one of Airflow's commands to its end and give what it printed."""
        return self.start(*arguments).wait()

    def start_run(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> Command:
        """Start one run of a DAG. No date is given: the run's start would become that date."""
        return self.start("dags", "test", dag_id, *(["-c", json.dumps(conf)] if conf else []))

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, check: bool = True) -> str:
        """Execute one run of a DAG, now and to its end, and give what it printed.

        Args:
            check: raise when the command fails, unless the run was told to.
        """
        return self.start_run(dag_id, conf).wait(check=check and not (conf or {}).get("fail"))

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


def _airflow(major: int, folder: Path, dags: Path, commands: Path, more: Mapping[str, str]) -> Airflow:
    home = folder / f"airflow{major}"
    shutil.copytree(dags, home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        # Each command would compare the database, made a moment ago, with the code.
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
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
    return Airflow(major, home, port, commands, environment)


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
    with contextlib.ExitStack() as stack:
        commands = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="airflow-")))
        airflow = _airflow(major, folder, dags, commands, environment or {})
        stack.enter_context(
            ServerProcess(
                # -P: the program's own folder, which holds an airflow.py, is no place to import from.
                [airflow.program / "python", "-P", _COMMANDS, commands / _SOCKET],
                log=airflow.home / "commands.log",
                ready=(commands / _SOCKET).exists,
                environment=airflow.environment,
                cwd=airflow.home,
                ready_within=_READY_WITHIN,
            )
        )
        _set_up(airflow)
        server = {2: ["webserver", "--hostname", "127.0.0.1", "--port", str(airflow.port)], 3: ["api-server"]}[major]
        stack.enter_context(
            ServerProcess(
                [airflow.program / "airflow", *server],
                log=airflow.home / "server.log",
                ready=http_ready(f"{airflow.url}/api/v{major - 1}/version"),
                environment=airflow.environment,
                cwd=airflow.home,
                ready_within=_READY_WITHIN,
            )
        )
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
