"""A service with a trained champion, made once; its clock stands still on 2 June 2025.

Its city has three months of counts and its baseline six weeks, as a training of that takes a fifth of one on a year.
How good models are is asked in test_model.py.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

# As `python -m regmodel` does: tests share the machine with other things.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from fastapi.testclient import TestClient
from sklearn.dummy import DummyRegressor

from regmodel.app import create_app
from regmodel.service import Service
from regmodel.settings import Settings

NOW = datetime(2025, 6, 2, 3, 0, tzinfo=UTC)


SMALL: dict[str, Any] = {"data_start": date(2025, 3, 3), "baseline_weeks": 6}
"""Settings of the small city. Its baseline ends on 28 April."""


def a_service(folder: Path, **settings: Any) -> Service:
    """A service of its own, without a champion."""
    return Service(Settings(models_dir=folder / "models", **{**SMALL, **settings}), now=lambda: NOW)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared service's."""
    return tmp_path_factory.mktemp("regmodel")


@pytest.fixture(scope="session")
def service(folder: Path) -> Service:
    """Shared: do not promote in it."""
    service = a_service(folder)
    service.ensure_champion()
    assert service.failure is None
    return service


@pytest.fixture
def own_service(service: Service, folder: Path, tmp_path: Path) -> Service:
    """A service of its own with a copy of the shared one's champion: free to promote in and to damage."""
    shutil.copytree(folder / "models", tmp_path / "models")
    return a_service(tmp_path)


@pytest.fixture
def learns_the_mean_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training costs nothing: for tests of the rows that it takes."""
    monkeypatch.setattr("regmodel.model.HistGradientBoostingRegressor", lambda **_: DummyRegressor())


@contextlib.contextmanager
def serving(service: Service) -> Iterator[TestClient]:
    """A service, served in this process; a server's exceptions are answers, as over a socket."""
    with TestClient(create_app(Settings(), service=service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def served() -> Iterator[Callable[[Service], TestClient]]:
    """Serves services until the test ends."""
    with contextlib.ExitStack() as clients:
        yield lambda service: clients.enter_context(serving(service))


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[TestClient]:
    """The shared service, served."""
    with serving(service) as client:
        yield client
