import os
import shutil

import pytest


def tool(*names: str) -> str:
    """The first of these programs that is installed; without one the test is skipped, and in CI it fails."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    message = f"{names[0]} is not installed (Debian: prometheus, prometheus-alertmanager, prometheus-pushgateway)"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def promtool():
    return tool("promtool")


@pytest.fixture(scope="session")
def amtool():
    return tool("amtool")
