"""The command line: python -m benchmarks [NAME...] [--quick] [--output FILE].

All benchmarks together write results.md; chosen ones, and quick ones, are printed, and written where --output says.
"""

import argparse
import importlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import load, peers, report

NAMES: Final = (
    "scrape",
    "slow_clients",
    "tls",
    "refresh",
    "freshness",
    "billing",
    "airflow",
    "failure",
    "footprint",
    "soak",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks; exit code 1 when one could not be run. A target that is missed is a result, not an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the exporter.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes: does the harness work?")
    parser.add_argument("--output", type=Path, help="file to write (default for a full run: benchmarks/results.md)")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"unknown benchmark: {', '.join(unknown)} (there are: {', '.join(NAMES)})")
    chosen = options.names or list(NAMES)
    if problem := what_is_missing(chosen):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    output = options.output or (report.RESULTS if not options.names and not options.quick else None)
    sections: list[report.Section] = []
    failed = False
    for name in chosen:
        section, ok = run(name, quick=options.quick)
        sections.append(section)
        failed |= not ok
    text = report.document(sections, quick=options.quick)
    print(text)
    if output is not None:
        report.write(sections, output, quick=options.quick)
        print(f"written: {output.name}", file=sys.stderr)
    return int(failed)


def what_is_missing(chosen: Sequence[str]) -> str | None:
    """The first thing that the chosen benchmarks need and that is not installed, with how to install it."""
    try:
        if {"scrape", "failure", "tls"} & set(chosen):
            load.require()
        if {"scrape", "failure", "footprint"} & set(chosen):
            peers.version()
    except (load.LoadError, peers.PeerMissing) as error:
        return str(error)
    return None


def _end(_number: int, _frame: object) -> None:
    """On SIGTERM, end as on Ctrl-C: through every `with` block, so that no process is left behind."""
    for child in multiprocessing.active_children():
        child.terminate()
    raise SystemExit(143)


def run(name: str, *, quick: bool) -> tuple[report.Section, bool]:
    """Run one benchmark. One that breaks is a section that says so: the others are still worth having."""
    module = importlib.import_module(f"benchmarks.{name}")
    print(f"{name}: running", file=sys.stderr, flush=True)
    began = time.monotonic()
    ok = True
    try:
        section: report.Section = module.run(quick=quick)
    except Exception as error:  # noqa: BLE001 -- whatever it was, it is printed, and the others go on
        traceback.print_exc()
        ok = False
        section = report.Section(name, module.TITLE, report.paragraphs(module.__doc__))
        section.notes.append(
            f"**Not measured**: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        section.targets.append(report.Target(module.TITLE, "", type(error).__name__, None))
    section.seconds = time.monotonic() - began
    print(f"{name}: {section.seconds:.0f} s", file=sys.stderr, flush=True)
    return section, ok


if __name__ == "__main__":
    sys.exit(main())
