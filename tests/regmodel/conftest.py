"""A service with a trained champion, made once; its clock stands still on 2 June 2025."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

# As `python -m regmodel` does: tests share the machine with other things.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from fastapi.testclient import TestClient

from regmodel.app import create_app
from regmodel.service import Service
from regmodel.settings import Settings

NOW = datetime(2025, 6, 2, 3, 0, tzinfo=UTC)


def a_service(folder: Path, **settings: object) -> Service:
    """A service of its own, without a champion."""
    return Service(Settings(models_dir=folder / "models", **settings), now=lambda: NOW)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Shared: do not promote in it."""
    service = a_service(tmp_path_factory.mktemp("regmodel"))
    service.ensure_champion()
    assert service.failure is None
    return service


@pytest.fixture
def served() -> Iterator[Callable[[Service], TestClient]]:
    """Serves a service in this process; a server's exceptions are answers, as over a socket."""
    clients: list[TestClient] = []

    def serve(service: Service) -> TestClient:
        client = TestClient(create_app(Settings(), service=service), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(service: Service, served: Callable[[Service], TestClient]) -> TestClient:
    """The shared service, served."""
    return served(service)
