"""A real Prometheus."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from testbed.debian import program
from testbed.process import ServerProcess, free_port, http_ready


class RunningPrometheus:
    """A Prometheus that scrapes these targets, by default every second; targets by job name, each `host:port`. A scrape
    may take as long as there is between two. `options` are more settings of a job, by its name."""

    def __init__(
        self,
        folder: Path,
        targets: dict[str, str],
        timeout: str = "1s",
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [target]}], **(options or {}).get(name, {})}
            for name, target in targets.items()
        ]
        configuration = {"global": {"scrape_interval": timeout, "scrape_timeout": timeout}, "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        self.server = ServerProcess(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log=folder / "prometheus.log",
            ready=http_ready(f"{self.url}/-/ready"),
            ready_within=60,
        )

    def query(self, expression: str) -> dict[str, float]:
        """Values of an instant query by the series' `job`."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        return {one["metric"].get("job", ""): float(one["value"][1]) for one in answer["data"]["result"]}

    def wait_for(self, expression: str, expected: dict[str, float], within: float = 60.0) -> None:
        """Query until the answer is as expected."""
        end = time.monotonic() + within
        while (found := self.query(expression)) != expected:
            assert time.monotonic() < end, f"{expression} gives {found}, not {expected}"
            time.sleep(0.2)

    def targets(self) -> dict[str, str]:
        """Last scrape error by job; empty where there was none."""
        answer = requests.get(f"{self.url}/api/v1/targets", timeout=10).json()
        return {target["labels"]["job"]: target["lastError"] for target in answer["data"]["activeTargets"]}
