"""The worked examples in docs/examples: each exposes what it says, and `check` finds all well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/catalogue.yaml"))


def run(folder: Path, command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    (log,) = (path for path in folder.iterdir() if path.name not in ("catalogue.yaml", "metrics.txt"))
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLES.parent.parent),
        "AUDIT_URL": str(log),
        "EXPORTER_CATALOG": str(folder / "catalogue.yaml"),
    }
    return subprocess.run(
        [sys.executable, "-m", "exporter", command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_exposes_what_it_says_and_check_finds_all_well(folder: Path, tmp_path: Path):
    checked = run(folder, "check", tmp_path)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "PROBLEM" not in checked.stdout
    assert "warning" not in checked.stdout
    once = run(folder, "once", tmp_path)
    assert once.returncode == 0, once.stderr
    expected = (folder / "metrics.txt").read_text("utf-8").splitlines()
    assert expected
    assert set(expected) - set(once.stdout.splitlines()) == set()


def test_every_example_is_listed():
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert [folder.name for folder in FOLDERS if f"({folder.name}/catalogue.yaml)" not in page] == []
    assert len(FOLDERS) >= 5
