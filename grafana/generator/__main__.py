"""python -m grafana.generator: write grafana/provisioning and prometheus/, or say which files differ (--check).

With --speed and --output, only what belongs in prometheus/ is written, to another folder and in fast motion.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana.generator.files import files, prometheus
from grafana.generator.limits import ROOT, load_limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare the files and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m grafana.generator", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    parser.add_argument("--output", type=Path, help="write prometheus/ to this folder instead, and nothing else")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="with --output: divide `for`, intervals and windows by this (for trials)",
    )
    options = parser.parse_args(arguments)
    if options.speed != 1 and not options.output:
        parser.error("--speed needs --output: the committed files run at real speed")
    if not 0 < options.speed <= 1000:
        parser.error("--speed must be above 0 and at most 1000")
    target: Path = options.output or ROOT
    limits = load_limits()
    stale = []
    for name, text in (prometheus(limits, options.speed) if options.output else files(limits)).items():
        path = target / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for name in stale:
        print(f"{'differs' if options.check else 'written'}: {name}")  # noqa: T201 -- the command's output
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
