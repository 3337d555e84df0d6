"""python -m grafana.generator [--check]: write grafana/provisioning, or say which files differ."""

import argparse
import sys
from collections.abc import Sequence

from grafana.generator.files import files
from grafana.generator.limits import ROOT, load_limits

TARGET = ROOT / "grafana" / "provisioning"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare the files and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m grafana.generator", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in files(load_limits()).items():
        path = TARGET / name
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
