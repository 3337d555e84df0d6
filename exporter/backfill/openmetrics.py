"""History as OpenMetrics text with timestamps, as `promtool tsdb create-blocks-from openmetrics` takes it.

One file for each block. In a file a family's samples stand together, and in a family a series' samples in the order of
time, as https://prometheus.io/docs/specs/om/open_metrics_spec/ demands.

A value that stays as it is has a sample every HOLD_SECONDS. Near a change every moment of the grid is written, so that
`rate` and `increase` over a few minutes give what they give of live samples.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from prometheus_client.utils import floatToGoString

from exporter.backfill.grid import HOLD_SECONDS, NEAR_SECONDS, Grid
from exporter.backfill.spool import Spool, Window
from exporter.catalog import Catalog
from exporter.families import OWN_FAMILIES
from exporter.snapshot import Labels

LAST_RECORD = "mlops_exporter_audit_last_record_timestamp_seconds"
"""The one metric of the exporter's own that is a fact about the log."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as it is written; `source` names the metric whose values it shows: itself, unless it is an alias."""

    name: str
    type: str
    help: str
    source: str


def families(catalog: Catalog) -> tuple[Family, ...]:
    """Every metric that may have a history, in the catalogue's order."""
    found = [Family(m.name, m.type, m.help, m.alias_of or m.name) for m in catalog.metrics]
    found += [Family(own.name, own.type, own.help, own.name) for own in OWN_FAMILIES if own.name == LAST_RECORD]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Series:
    """One series of a family: its text up to the value, and its column in the spool."""

    text: str
    column: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much a history is: series, samples, bytes of text in all (without headers), and of the largest file."""

    series: int
    samples: int
    text: int
    largest: int


class Writer:
    """Writes windows of spools.

    Args:
        target: the labels that Prometheus gives to the scraped target, job and instance.
    """

    def __init__(
        self, grid: Grid, families: Iterable[Family], spools: Sequence[Spool], target: Mapping[str, str]
    ) -> None:
        self._grid = grid
        self._families = tuple(families)
        self._spools = tuple(spools)
        self._target: Labels = tuple(target.items())

    def size(self) -> Size:
        """How much `write` will write."""
        samples = text = largest = 0
        for windows in self.windows():
            before = text
            for _, shown, moments in self._segments(windows):
                times = sum(map(len, moments))
                samples += times * len(shown)
                text += times * sum(len(f"{one}1700000000\n".encode()) for one in shown)
            largest = max(largest, text - before)
        return Size(sum(len(points) for _, _, points in self._points()), samples, text, largest)

    def windows(self) -> Iterator[Sequence[Window]]:
        """The whole history, file by file: the window of every spool."""
        return zip(*(spool.windows() for spool in self._spools), strict=True)

    def written(self) -> frozenset[str]:
        """The families that have at least one sample."""
        return frozenset(family.name for family, _, _ in self._points())

    def write(self, windows: Sequence[Window], file: TextIO) -> bool:
        """Write one of `windows`, and say whether it has any sample."""
        begin = windows[0].first
        stamps = [f"{self._grid.at(index)}\n" for index in range(begin, windows[0].after)]
        headed = None
        for family, shown, moments in self._segments(windows):
            if headed != family.name:
                file.write(_header(family))
                headed = family.name
            for some in moments:
                lines = stamps[some.start - begin : some.stop - begin : some.step]
                if len(shown) == 1:
                    file.writelines(shown[0] + stamp for stamp in lines)
                else:
                    # The parts of one histogram at one moment stand together.
                    file.writelines("".join(before + stamp for before in shown) for stamp in lines)
        file.write("# EOF\n")
        return headed is not None

    def _segments(self, windows: Sequence[Window]) -> Iterator[tuple[Family, list[str], Sequence[range]]]:
        """While nothing changes: lines up to their time, one for each series of a point, and the moments to write."""
        for family, spool, points in self._points():
            for first, after, values in windows[spool].segments([one.column for one in points]):
                shown = [
                    f"{one.text} {floatToGoString(value)} "  # type: ignore[no-untyped-call]
                    for one, value in zip(points, values, strict=True)
                ]
                yield family, shown, self._moments(first, after)

    def _moments(self, first: int, after: int) -> Sequence[range]:
        """Those of an unchanged value that are written: all near both ends, some in between."""
        near = math.ceil(NEAR_SECONDS / self._grid.step)
        head = min(first + near, after)
        tail = max(head, after - near)
        every = max(1, HOLD_SECONDS // self._grid.step)
        return range(first, head), range(head, tail, every), range(tail, after)

    def _points(self) -> Iterator[tuple[Family, int, list[_Series]]]:
        """By family, what is written together for one moment: a series, or all those of one histogram."""
        for family in self._families:
            suffixes = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
            for index, spool in enumerate(self._spools):
                points: dict[Labels, list[_Series]] = {}
                for suffix in suffixes:
                    for labels, column in spool.series(family.source + suffix):
                        text = self._name(family.name + suffix, labels)
                        group = tuple(pair for pair in labels if pair[0] != "le")
                        points.setdefault(group, []).append(_Series(text, column))
                for listed in points.values():
                    yield family, index, listed

    def _name(self, name: str, labels: Labels) -> str:
        pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in (*labels, *self._target))
        return f"{name}{{{pairs}}}"


def _header(family: Family) -> str:
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    kind = "unknown" if family.type == "untyped" else family.type
    return f"# HELP {name} {_escaped(family.help)}\n# TYPE {name} {kind}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
