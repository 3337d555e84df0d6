"""Install an engine: `python -m testbed.install NAME...`, or `--list` to see which there are.

Engines pin packages that clash with each other's and with the exporter's, so each has its own virtual environment
under ENGINES_DIR (default: `.engines/` in the repository). A stamp file holding the recipe makes a second run instant
and a changed recipe a new installation. A new engine is one more row of ENGINES.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REPOSITORY: Final = Path(__file__).resolve().parents[1]
_HERE: Final = Path(__file__).resolve().parent
_STAMP: Final = "installed.json"

DAG_PINS: Final = tuple(
    line
    for line in (_REPOSITORY / "docker" / "airflow" / "requirements.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
)
"""What the pipeline's DAGs import, as their image installs it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What makes up one engine.

    Attributes:
        name: what the command line and the folder call it.
        pins: requirements given to pip.
        constraints: a file beside this module given to pip as `--constraint`, or None.
        post_install: Python programs, each run once with the engine's own interpreter.
    """

    name: str
    pins: tuple[str, ...]
    constraints: str | None = None
    post_install: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """What the stamp holds: a change to any of it means installing anew."""
        constraints = (_HERE / self.constraints).read_text("utf-8").split() if self.constraints else None
        parts = {"pins": self.pins, "constraints": constraints, "post_install": self.post_install}
        return json.dumps({**parts, "python": list(sys.version_info[:2])}, indent=1)


ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine
    for engine in (
        Engine(
            name="bigquery",
            pins=(
                "bqemulator==1.4.0",
                "duckdb==1.5.5",
                "duckdb-extensions==1.5.5",
                "duckdb-extension-spatial==1.5.5",
                "numpy",
            ),
            # The emulator loads `spatial` at start-up and would otherwise fetch it from the internet.
            post_install=('from duckdb_extensions import import_extension; import_extension("spatial")',),
        ),
        # With what the DAGs of docker/airflow need. The constraint files hold every version that was seen to work
        # together; Airflow's own pins are loose.
        Engine(name="airflow2", pins=("apache-airflow==2.11.2", *DAG_PINS), constraints="airflow-2.11.2.txt"),
        Engine(name="airflow3", pins=("apache-airflow==3.3.2", *DAG_PINS), constraints="airflow-3.3.2.txt"),
        # What benchmarks compare with. Its metrics library is pinned to the exporter's own, so that both render alike.
        Engine(name="query-exporter", pins=("query-exporter==5.0.2", "prometheus-client==0.26.0")),
    )
}


def engines_dir() -> Path:
    """The folder that holds all engines."""
    return Path(os.environ.get("ENGINES_DIR") or _REPOSITORY / ".engines").absolute()


def engine_home(name: str) -> Path:
    """The virtual environment of an engine, installed or not."""
    return engines_dir() / name


def is_installed(name: str) -> bool:
    """Whether an engine is there and was installed from its present recipe."""
    stamp = engine_home(name) / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == ENGINES[name].recipe


def install_command(name: str) -> str:
    """What a developer types to install an engine."""
    return f"python -m testbed.install {name}"


def install(name: str, say: Callable[[str], None] = print) -> Path:
    """Install one engine unless it is there already, and return its virtual environment."""
    engine, home = ENGINES[name], engine_home(name)
    if is_installed(name):
        say(f"{name}: already installed in {home}")
        return home
    started = time.monotonic()
    say(f"{name}: making a virtual environment in {home}")
    # A half-made or outdated one is not repaired: without a stamp nothing is known about it.
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    say(f"{name}: installing {' '.join(engine.pins)}")
    constraint = ["--constraint", _HERE / engine.constraints] if engine.constraints else []
    subprocess.run([python, "-m", "pip", "install", "-qq", *constraint, *engine.pins], check=True)
    for program in engine.post_install:
        say(f"{name}: running {program}")
        subprocess.run([python, "-c", program], check=True)
    (home / _STAMP).write_text(engine.recipe, encoding="utf-8")
    say(f"{name}: installed in {time.monotonic() - started:.0f} s")
    return home


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m testbed.install", description="Install engines for tests.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(ENGINES)}")
    parser.add_argument("--list", action="store_true", help="show every engine and whether it is installed")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in ENGINES]:
        parser.error(f"unknown engine: {', '.join(unknown)} (there are: {', '.join(ENGINES)})")
    if not options.names and not options.list:
        parser.error("name an engine, or pass --list")
    for name in options.names:
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            print(f"{name}: not installed, this failed: {error}", file=sys.stderr)  # noqa: T201  (a command line's own output)
            return 1
    if options.list:
        for name, engine in ENGINES.items():
            state = f"installed in {engine_home(name)}" if is_installed(name) else "not installed"
            print(f"{name}: {state}; {' '.join(engine.pins)}")  # noqa: T201  (likewise)
    return 0


if __name__ == "__main__":
    sys.exit(main())
