"""An Airflow that answers by a script, behind a proxy that can misbehave."""

from collections.abc import Iterator

import pytest

from testbed.fake_airflow import FakeAirflow
from testbed.faults import FaultProxy


@pytest.fixture
def fake() -> FakeAirflow:
    return FakeAirflow()


@pytest.fixture
def proxy(fake: FakeAirflow) -> Iterator[FaultProxy]:
    with FaultProxy(script=fake) as proxy:
        yield proxy
