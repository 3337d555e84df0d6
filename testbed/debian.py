"""Programs from Debian's packages: found on the PATH, or the test is skipped (in CI: fails) with what to install."""

import os
import shutil

import pytest

PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "vmalert": "victoria-metrics",
    "pushgateway": "prometheus-pushgateway",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "systemd-analyze": "systemd",
}


def program(name: str) -> str:
    """Path of a program; skips the test where it is missing, and fails it where the environment says `CI=true`."""
    path = shutil.which(name) or shutil.which(f"prometheus-{name}")
    if path is None:
        reason = f"{name} is not installed: apt install {PACKAGES[name]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path
