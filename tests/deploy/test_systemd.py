"""deploy/systemd: a unit that systemd accepts without a word, locked down, and settings that the exporter accepts."""

import re
import subprocess
from pathlib import Path

import pytest

from exporter.settings import VARIABLES, Settings
from testbed.debian import program
from tests.deploy.resources import ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = SYSTEMD / "mlops-exporter.service"
PAGE = ROOT / "docs" / "deploy.md"
INSTALLED = "/opt/mlops-exporter/bin/mlops-exporter"
LIMIT = 1.5
"""Of `systemd-analyze security`, from 0 (locked down) to 10; releases of systemd differ by some tenths."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a command that exists, which systemd looks for."""
    text = UNIT.read_text("utf-8")
    assert text.count(INSTALLED) == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(INSTALLED, "/bin/true"), "utf-8")
    return copy


def test_systemd_accepts_the_unit_without_a_word(unit: Path):
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", unit], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("drop_in", re.findall(r"```ini\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
def test_systemd_accepts_the_drop_ins_of_the_page(drop_in: str, unit: Path):
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    (folder / "override.conf").write_text(drop_in, "utf-8")
    command = [program("systemd-analyze"), "verify", "--man=no", str(unit)]
    environment = {"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{unit.parent}:"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (folder / "override.conf").write_text(drop_in + "NoSuchKey=1\n", "utf-8")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "NoSuchKey" in done.stderr, "the drop-in is read"


def test_the_unit_is_locked_down_as_the_page_says(unit: Path):
    command = [program("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    said = re.search(r"exposure level of ([\d.]+)", PAGE.read_text("utf-8"))
    assert said
    assert float(found[1]) <= LIMIT
    assert abs(float(said[1]) - float(found[1])) <= 0.3


def test_the_environment_file_has_settings_of_the_exporter():
    """Those that are set, and those that are there to be uncommented; taken one alternative at a time."""
    text = (SYSTEMD / "environment").read_text("utf-8")
    found = re.findall(r"^(#?)([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert {name for _, name, _ in found} <= {variable.name for variable in VARIABLES}
    assert Settings.from_env({name: value for off, name, value in found if not off}).host == "127.0.0.1"
    for without in ("GOOGLE_CLOUD_PROJECT", "AUDIT_URL"):
        chosen = {name: value or "x" for _, name, value in found if name != without}
        assert Settings.from_env(chosen).warnings == ()
