"""The package as a stranger installs it: sdist, the wheel made from it, an empty environment far from the checkout.

It takes about a minute and needs a package index, so it runs in CI, and elsewhere where TEST_WHEEL is set.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
import requests

from exporter import __version__
from testbed.exposed import Exposed
from testbed.process import ServerProcess, free_port, http_ready

ROOT = Path(__file__).resolve().parents[2]
IN_CI = os.environ.get("CI") == "true"
pytestmark = pytest.mark.skipif(
    not (IN_CI or os.environ.get("TEST_WHEEL")), reason="takes a minute: set TEST_WHEEL=1 (CI runs it)"
)
NO_INDEX = ("NewConnectionError", "Failed to establish a new connection", "Could not find a version", "No matching")


class Environment:
    """A virtual environment with pip, and a folder in which its commands run, without the checkout on any path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        self.work = folder / "work"
        self.work.mkdir()

    def command(self, name: str) -> Path:
        return self.folder / "venv" / "bin" / name

    def run(self, name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command(name), *arguments],
            cwd=self.work,
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def pip(self, *arguments: str | Path) -> None:
        """Run pip with the configuration at hand; without an index the test is skipped, in CI it fails."""
        kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "HOME", "SSL_", "HTTPS_"))}
        ran = self.run("pip", *arguments, **kept)
        if ran.returncode and not IN_CI and any(sign in ran.stderr for sign in NO_INDEX):
            pytest.skip("no package index can be reached")
        assert ran.returncode == 0, ran.stderr

    def scraped(self, **environment: str) -> Exposed:
        """What `serve` exposes once its first refresh has ended."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        server = ServerProcess(
            [self.command("mlops-exporter"), "serve"],
            log=self.folder / "serve.log",
            ready=http_ready(f"{url}/-/ready"),
            environment={"PYTHONPATH": "", "EXPORTER_HOST": "127.0.0.1", "EXPORTER_PORT": str(port), **environment},
            cwd=self.work,
        )
        with server:
            return Exposed(requests.get(f"{url}/metrics", timeout=10).text)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that comes out of the sdist, as a distribution would build it; without build isolation's downloads
    only the sdist's content matters."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    names = ("exporter", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "requirements.txt")
    source.mkdir()
    for name in names:  # a copy: building writes into the folder
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    ran = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, source],  # sdist, then the wheel from it
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if ran.returncode and not IN_CI and any(sign in ran.stdout + ran.stderr for sign in NO_INDEX):
        pytest.skip("no package index can be reached")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "exporter/py.typed", "exporter/sample/audit_log.csv"} <= inside
    (built,) = folder.glob("*.whl")
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", sdist, built], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    return built


@pytest.mark.timeout(600)
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path):
    """The plain package, then with [bigquery], then without DuckDB: each serves, scrapes and checks."""
    empty = Environment(tmp_path)
    empty.pip("install", "--quiet", f"mlops-exporter[duckdb] @ {wheel.as_uri()}")
    empty.pip("check")
    assert empty.run("mlops-exporter", "--version").stdout == f"mlops-exporter {__version__}\n"
    assert empty.run("mlops-exporter", "--help").stdout.startswith("usage: mlops-exporter ")
    exposed = empty.scraped()
    assert exposed.value("mlops_exporter_source_up", source="audit") == 1
    assert exposed.value("bike_model_r2_champion_current") is not None
    checked = empty.run("mlops-exporter", "check")
    assert (checked.returncode, "26 rows" in checked.stdout) == (0, True), checked.stdout + checked.stderr

    bigquery = {"GOOGLE_CLOUD_PROJECT": "my-project", "BIGQUERY_EMULATOR_HOST": f"127.0.0.1:{free_port()}"}
    refused = empty.run("mlops-exporter", "check", **bigquery)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: BigQuery needs the package google-cloud-bigquery")
    assert refused.stderr.endswith("pip install 'mlops-exporter[bigquery]'\n")

    empty.pip("install", "--quiet", f"mlops-exporter[bigquery] @ {wheel.as_uri()}")
    empty.pip("check")
    empty.pip("uninstall", "--quiet", "--yes", "duckdb")
    # Nothing listens where the emulator should be: the driver is there, and says so.
    tried = empty.run("mlops-exporter", "check", **bigquery, AUDIT_TIMEOUT_SECONDS="5")
    assert tried.returncode == 1
    assert "unavailable: " in tried.stdout, tried.stdout + tried.stderr
    exposed = empty.scraped(**bigquery, AUDIT_TIMEOUT_SECONDS="5")
    assert exposed.value("mlops_exporter_source_up", source="audit") == 0
    refused = empty.run("mlops-exporter", "check")
    assert refused.returncode == 2
    assert refused.stderr.endswith("pip install 'mlops-exporter[duckdb]'\n")
