"""Somebody who has a checkout and a shell: types commands, waits, and reads what services answer."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.stack.engine import Engine
from tests.stack.images import ROOT

UP: Final = "docker compose --profile monitoring up -d"
COMMAND_SECONDS: Final = 600
POLL_SECONDS: Final = 0.5


class User:
    """A user whose checkout is `folder`."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.folder = folder
        self._engine = engine

    def checks_out(self, *, umask: int = 0o022) -> None:
        """A fresh copy of this repository's files, as a clone under that umask has them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        before = os.umask(umask)
        try:
            for name in filter(None, listed.stdout.split("\0")):
                source, target = ROOT / name, self.folder / name
                if source.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read_bytes())
        finally:
            os.umask(before)

    def types(self, command: str, *, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Type a command in the checkout. Returns what it printed, stdout and stderr.

        Raises:
            AssertionError: its exit code is not 0, or it took too long.
        """
        words = [*self._engine.enter, "bash", "-o", "pipefail", "-c", command]
        environment = {**os.environ, **self._engine.environment}
        try:
            done = subprocess.run(
                words, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"$ {command}\nnot done within {seconds:.0f} s: {error.output or ''}") from error
        assert not check or done.returncode == 0, f"$ {command}\nexit code {done.returncode}: {done.stdout[-3000:]}"
        return done.stdout

    def reads(self, url: str, *options: str) -> str | None:
        """What a service answers; None when it does not answer with success."""
        words = [*self._engine.enter, "curl", "--silent", "--fail", "--max-time", "10", *options, url]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None

    def value(self, series: str) -> float | None:
        """The exporter's value of a series, written as on /metrics; None when it has none."""
        text = self.reads("http://localhost:9101/metrics") or ""
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else None

    def counters(self) -> dict[str, float]:
        """Every counter of the pipeline that the exporter shows, by its series."""
        text = self.reads("http://localhost:9101/metrics") or ""
        found = re.findall(r"^((?:bike|airflow)_\w+_total(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)
        return {series: float(value) for series, value in found}

    def airflow(self, path: str, user: str = "admin", password: str = "admin") -> Any:
        """An answer of Airflow's API; None when there is none."""
        body = json.dumps({"username": user, "password": password})
        token = self.reads(
            "http://localhost:8081/auth/token", "--header", "Content-Type: application/json", "--data", body
        )
        if token is None:
            return None
        bearer = f"Authorization: Bearer {json.loads(token)['access_token']}"
        answer = self.reads(f"http://localhost:8081/api/v2{path}", "--globoff", "--header", bearer)
        return None if answer is None else json.loads(answer)

    def states(self) -> dict[str, str]:
        """State of each container of the stack: its health, where it has a health check."""
        form = "{{.Name}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}} {{.State.ExitCode}}"
        ids = self.types("docker compose --profile monitoring ps --all --quiet").split()
        if not ids:
            return {}
        lines = self._engine.docker("inspect", "--format", form, *ids, check=False).stdout.splitlines()
        found = {}
        for line in lines:
            name, status, health, *_ = (*line.split(" "), "", "")
            found[name.lstrip("/")] = (health or status) if status == "running" else f"{status} {line.split(' ')[-1]}"
        return found

    def waits_until(self, met: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait until `met` gives something true, and return it.

        Raises:
            AssertionError: it did not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            result = met()
            if result:
                return result
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}; containers: {self.states()}"
            time.sleep(POLL_SECONDS)

    def waits_until_healthy(self, seconds: float) -> None:
        """Wait until every container is healthy; airflow-init has ended well."""
        expected = {"healthy", "exited 0"}
        self.waits_until(
            lambda: (states := self.states()) and set(states.values()) <= expected, seconds, "every container healthy"
        )
