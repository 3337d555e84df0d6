"""Start the whole stack in a Docker engine of its own, use it as its users would, and remove everything.

  python -m tests.stack                          needs root, dockerd and debootstrap
  python -m tests.stack --install --may-skip --quick     as CI does: installs what is missing; no engine is no failure

Exit codes: 0 all checks hold (or no engine can be started, with --may-skip); 1 a check failed, or no engine.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from testbed.install import engines_dir
from tests.stack import engine, images, programs
from tests.stack.checks import Checks
from tests.stack.report import Report
from tests.stack.user import User

LOCK: Final = Path("/run/mlops-stack.lock")
"""One run on a machine: the network namespace has one name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", action="store_true", help="install missing programs with apt-get")
    parser.add_argument("--may-skip", action="store_true", help="exit 0 where no Docker engine can be started")
    parser.add_argument(
        "--quick", action="store_true", help="one fresh start instead of three; stand-ins are not kept for the next run"
    )
    parser.add_argument(
        "--first-value-seconds", type=float, default=90, metavar="SECONDS",
        help="from the containers' start to a model's value, at most; a busy machine needs more (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=Path, default=engines_dir() / "stack",
        help="folder that keeps stand-ins and programs for the next run (%(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    report = Report()
    cache: Path = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    try:
        programs.need(install=options.install, say=report.say)
        with LOCK.open("w") as lock, tempfile.TemporaryDirectory(prefix="mlops-stack-") as folder:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise programs.Unavailable("another run has the engine") from None
            client_config = programs.client_config(cache / "client")
            with engine.running(Path(folder) / "engine", client_config) as running:
                report.say("a Docker engine of its own is running")
                stand_ins = images.provide(running, cache, report.say, keep=not options.quick)
                user = User(running, Path(folder) / "checkout")
                try:
                    Checks(running, user, report, stand_ins, options.first_value_seconds).run(quick=options.quick)
                finally:
                    report.say("removing everything")
    except programs.Unavailable as error:
        report.say(f"The stack was not tried: no Docker engine can be started here: {error}")
        report.say("Skipping was allowed (--may-skip)." if options.may_skip else "Skipping was not allowed.")
        return 0 if options.may_skip else 1
    except subprocess.CalledProcessError as error:
        report.say(f"failed with exit code {error.returncode}: {error.cmd}\n{error.stdout or ''}{error.stderr or ''}")
        return 1
    return report.close(stand_ins)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: everything is removed on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
