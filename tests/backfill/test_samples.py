"""Which moments have a sample: few while nothing changes, all near a change, and enough for every query."""

import io
import itertools
from bisect import bisect_right
from pathlib import Path

import pytest

from exporter.backfill.grid import BLOCK_SECONDS, HOLD_SECONDS, LOOKBACK_SECONDS, Grid
from exporter.backfill.openmetrics import Family, Size, Writer
from exporter.backfill.spool import Spool

HOUR = 3600
BORDER = 3069 * BLOCK_SECONDS
"""Where one file ends and the next begins."""
START, END = BORDER - 6 * HOUR, BORDER + 6 * HOUR
FAMILIES = (Family("g", "gauge", "A gauge.", "g"), Family("c_total", "counter", "A counter.", "c_total"))
TIMES = {
    "far from each other": [START - 5, START + 2 * HOUR, START + 9 * HOUR + 0.5],
    "closer than the look back": [START + HOUR, START + HOUR + 299, START + HOUR + 300.5, START + HOUR + 700],
    "on the files' border": [BORDER - HOUR, BORDER],
    "just before and just after it": [BORDER - 0.5, BORDER + 0.5],
    "near it on both sides": [BORDER - 200, BORDER + 150],
    "at the first and the last moment": [START, END - 60],
}


def samples_of(text: str) -> dict[str, dict[int, float]]:
    """Value by time, by the samples' name. Fails if a time is repeated, or earlier than the one before."""
    found: dict[str, dict[int, float]] = {"g": {}, "c_total": {}}
    for line in text.splitlines():
        if not line.startswith("#"):
            series, value, at = line.split(" ")
            times = found[series.partition("{")[0]]
            assert int(at) > max(times, default=0)
            times[int(at)] = float(value)
    return found


@pytest.mark.parametrize("step", [30, 60, 210, 300])
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_an_unchanged_value_has_few_samples_and_every_moment_sees_its_value(
    times: list[float], step: int, tmp_path: Path
):
    """At each time the gauge has a new value, and the counter, which is 0 before, counts one more."""
    first = -(-START // step) * step
    grid = Grid(first, step, (END - first) // step)
    spool = Spool(grid, tmp_path)
    spool.add(("c_total", ()), 0.0)
    for number, at in enumerate(times):
        spool.at(round(at * 1_000_000))
        spool.put(("g", ()), number / 10)
        spool.add(("c_total", ()), 1.0)
    writer = Writer(grid, FAMILIES, (spool,), {})
    files = []
    for windows in writer.windows():
        files.append(io.StringIO())
        assert writer.write(windows, files[-1])
    text = "".join(file.getvalue() for file in files)
    assert len(files) == 2
    found = samples_of(text)
    lines = [[line for line in file.getvalue().splitlines(True) if line[0] != "#"] for file in files]
    bytes_of = [sum(map(len, of_file)) for of_file in lines]
    assert writer.size() == Size(2, sum(map(len, lines)), sum(bytes_of), max(bytes_of))
    spool.close()

    moments = [grid.at(index) for index in range(grid.count)]
    changes = [-(-at // step) * step for at in times]
    for name, begin in (("g", max(moments[0], changes[0])), ("c_total", moments[0])):
        written = list(found[name])
        assert (written[0], written[-1]) == (begin, grid.last)
        for moment in moments[moments.index(begin) :]:
            rows = bisect_right(times, moment)
            seen = written[bisect_right(written, moment) - 1]
            assert moment - seen < LOOKBACK_SECONDS
            assert found[name][seen] == (rows if name == "c_total" else (rows - 1) / 10)
            if any(abs(moment - change) <= LOOKBACK_SECONDS - step for change in changes):
                assert seen == moment
        assert max(later - earlier for earlier, later in itertools.pairwise(written)) <= max(step, HOLD_SECONDS)
        if step == 30:
            # One of eight, and 20 more for each change, 20 for the border and the two ends together.
            assert len(written) < len(moments) / 8 + 20 * (len(times) + 2)
