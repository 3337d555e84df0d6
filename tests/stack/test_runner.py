"""What the runner says where it can start no engine. Everything else of it needs one: `make test-stack`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack.images import ROOT, STAND_INS, names


@pytest.mark.parametrize(("options", "code"), [([], 1), (["--may-skip"], 0)])
def test_without_an_engine_it_says_so_and_fails_unless_it_may_skip(options: list[str], code: int, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack", "--cache", str(tmp_path), *options],
        cwd=ROOT, env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    said, allowed = done.stdout.splitlines()[-2:]
    assert "The stack was not tried: no Docker engine can be started here: " in said
    assert ("Skipping was allowed" in allowed) == (code == 0)


def test_there_is_a_stand_in_for_every_image_that_is_pulled():
    assert set(names()) == {folder.name for folder in STAND_INS.iterdir()}
