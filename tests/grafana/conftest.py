import pytest

from testbed.debian import program


@pytest.fixture(scope="session")
def promtool():
    return program("promtool")


@pytest.fixture(scope="session")
def amtool():
    return program("amtool")


@pytest.fixture(scope="session")
def vmalert():
    return program("vmalert")
