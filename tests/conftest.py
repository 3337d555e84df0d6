"""Fixtures that every test can ask for, and which tests run in the same worker."""

import pytest

from testbed.airflow import airflow2, airflow3
from testbed.bigquery import bigquery_emulator

__all__ = ["airflow2", "airflow3", "bigquery_emulator"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two workers (`make test`) share the groups out: a file is one, and the users of an engine are one, so that it
    starts once. Tests that ask for an engine by another way than its fixture's name say so by a marker."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            fixtures: list[str] = getattr(item, "fixturenames", [])
            group = "bigquery" if "bigquery_emulator" in fixtures else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
