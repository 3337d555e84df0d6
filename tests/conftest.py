"""Fixtures that every test can ask for, and which tests run in the same worker."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from testbed.airflow import airflow2, airflow3
from testbed.bigquery import bigquery_emulator

__all__ = ["airflow2", "airflow3", "bigquery_emulator"]

ENGINES = {
    "airflow": ("test_airflow", "test_airflow_exporter"),
    "bigquery": ("test_backfill", "test_bigquery", "test_init_bigquery", "test_pipeline_bigquery", "test_prometheus"),
}
GROUPS = {f"tests/integration/{name}.py": engine for engine, names in ENGINES.items() for name in names}


class ByEngine(LoadScopeScheduling):
    """Shares tests out to the workers of `make test` by file, and the users of one engine together: it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByEngine:
    return ByEngine(config, log)
