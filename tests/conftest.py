"""Fixtures that every test can ask for, and which tests run in the same worker."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from testbed.airflow import airflow2, airflow3
from testbed.bigquery import bigquery_emulator
from testbed.scripted import INTERVAL, STALE, Clock, ScriptedSource

__all__ = ["airflow2", "airflow3", "bigquery_emulator"]

ENGINES = {
    "airflow": ("test_airflow", "test_airflow_exporter", "test_airflow_xcoms"),
    "bigquery": (
        *("test_backfill", "test_bigquery", "test_bigquery_tables", "test_freshness"),
        *("test_init_bigquery", "test_pipeline_bigquery", "test_prometheus"),
    ),
}
GROUPS = {f"tests/integration/{name}.py": engine for engine, names in ENGINES.items() for name in names}

# How many examples a property test tries: few on a laptop, more in CI. Tests of dear examples take a part of it.
settings.register_profile("laptop", max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("ci"), max_examples=50)  # Hypothesis' own: the same ones each time
settings.load_profile("ci" if os.environ.get("CI") == "true" else "laptop")


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The built-in one, which nothing changes."""
    return load_catalog()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with_file = Ledger.open(tmp_path / "state")
    yield with_file
    with_file.close()


@pytest.fixture
def build(catalog: Catalog, clock: Clock, ledger: Ledger) -> Iterator[Callable[..., Refresher]]:
    """Makes refreshers that are turned by hand, of the clock and, unless told otherwise, the ledger of this test."""
    made: list[Refresher] = []

    def make(*sources: ScriptedSource, jitter: float = 0.0, on: Ledger = ledger) -> Refresher:
        refresher = Refresher(
            catalog,
            sources,
            on,
            interval=INTERVAL,
            stale_after=STALE,
            wall=clock.wall,
            monotonic=clock.monotonic,
            jitter=lambda: jitter,
        )
        made.append(refresher)
        return refresher

    yield make
    for refresher in made:
        refresher.stop()


def _named_loggers() -> dict[str, logging.Logger]:
    return {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }


@pytest.fixture
def loggers_are_put_back() -> Iterator[None]:
    """For tests that configure logging, which is the process's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logger.level for name, logger in _named_loggers().items()}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, logger in _named_loggers().items():
        logger.setLevel(levels.get(name, logging.NOTSET))


class ByEngine(LoadScopeScheduling):
    """Shares tests out to the workers of `make test` by file, and the users of one engine together: it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByEngine:
    return ByEngine(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """What a test has logged goes to another process as UTF-8; tests of odd texts log what is none."""
    outcome: Any = yield
    report = outcome.get_result()
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
