"""The process in which refreshes are measured: python -m benchmarks.refresh_case, for benchmarks/refresh.py.

It builds the exporter's source, ledger and loop as `serve` does, and imports little else. For every line on standard
input it refreshes once, and prints what that took, as JSON.
"""

import json
import os
import re
import resource
import sys
import time

from exporter.catalog_parser import load_catalog
from exporter.server import build_refresher
from exporter.settings import Settings
from testbed.usage import peak_rss_bytes

_SAMPLE = re.compile(rb"^[^#\n]", re.MULTILINE)


def main() -> None:
    """Refresh as often as told, with the settings of the environment."""
    settings = Settings.from_env(os.environ)
    refresher = build_refresher(settings, load_catalog(settings.catalog_path))
    try:
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), _cpu()
            state = refresher.run_once()
            found = {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu, "peak": _peak()}
            if not all(status.up for status in state.snapshot.statuses):
                raise SystemExit(f"a source is down: {state.snapshot.statuses}")
            # A chunk at a time: a copy of the whole would be in the next peak. Chunks end with their lines.
            found["series"] = sum(len(_SAMPLE.findall(chunk)) for chunk in state.exposition.text.chunks)
            print(json.dumps(found), flush=True)
    finally:
        refresher.stop()


def _cpu() -> float:
    """CPU time of this process, and of those that read for it and have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak() -> int:
    """Highest RSS so far, with that of the largest process that read for this one: both at once is the worst case."""
    return peak_rss_bytes() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


if __name__ == "__main__":
    main()
