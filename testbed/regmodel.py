"""The RegModel API as a process, with models in a folder of its own."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import requests

from testbed.process import ServerProcess, free_port, http_ready

HOME = Path(__file__).resolve().parents[1] / "docker" / "regmodel"


class RunningRegModel:
    """`python -m regmodel` on a free port, ready when its first champion is.

    Args:
        folder: models are kept in it.
        shifts: changes of the simulated world; see `regmodel.generator.Shift`.
        environment: other settings.
    """

    def __init__(
        self, folder: Path, shifts: Iterable[Mapping[str, Any]] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "regmodel.log"
        self.server = ServerProcess(
            [sys.executable, "-m", "regmodel", "--port", str(self.port)],
            log=self.log,
            ready=http_ready(f"{self.url}/health"),
            environment={
                "REGMODEL_MODELS_DIR": str(folder / "models"),
                "REGMODEL_SHIFTS": json.dumps(list(shifts)),
                # Two cores that are also busy with other things lose more by waiting for each other.
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
            },
            cwd=HOME,
            ready_within=90,
        )
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> "RunningRegModel":
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self.server.stop()

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        """GET a path, within a minute."""
        return self.session.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, body: object) -> requests.Response:
        """POST a JSON body, within a minute."""
        return self.session.post(self.url + path, json=body, timeout=60)
