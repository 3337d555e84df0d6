"""History as OpenMetrics text with timestamps, as `promtool tsdb create-blocks-from openmetrics` takes it.

One file for each block. In a file a family's samples stand together, and in a family a series' samples in the order of
time, as https://prometheus.io/docs/specs/om/open_metrics_spec/ demands.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

from prometheus_client.utils import floatToGoString

from exporter.backfill.grid import Grid
from exporter.backfill.spool import Spool, Window
from exporter.catalog import Catalog
from exporter.metrics import OWN_FAMILIES
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


class Writer:
    """Writes windows of a spool.

    Args:
        target: the labels that Prometheus gives to the scraped target, job and instance.
    """

    def __init__(self, grid: Grid, families: Iterable[Family], spool: Spool, target: Mapping[str, str]) -> None:
        self._grid = grid
        self._families = tuple(families)
        self._spool = spool
        self._target: Labels = tuple(target.items())

    def size(self) -> tuple[int, int, int]:
        """How much there will be: series, samples, and about how many bytes of text."""
        series = samples = size = 0
        for family in self._families:
            for labels, _, count in self._spool.series(family.source):
                series += 1
                samples += count
                size += count * len(f"{self._name(family, labels)} 0.123 1700000000\n".encode())
        return series, samples, size

    def write(self, window: Window, file: TextIO) -> int:
        """Write one window and give the number of samples."""
        stamps = [f"{self._grid.at(index)}\n" for index in range(window.first, window.after)]
        written = 0
        for family in self._families:
            header = _header(family)
            for labels, column, _ in self._spool.series(family.source):
                name = self._name(family, labels)
                for segment in window.segments(column):
                    file.write(header)
                    header = ""
                    before = f"{name} {floatToGoString(segment.value)} "  # type: ignore[no-untyped-call]
                    lines = stamps[segment.first - window.first : segment.after - window.first]
                    file.write(before + before.join(lines))
                    written += len(lines)
        file.write("# EOF\n")
        return written

    def _name(self, family: Family, labels: Labels) -> str:
        pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in (*labels, *self._target))
        return f"{family.name}{{{pairs}}}"


def _header(family: Family) -> str:
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    kind = "unknown" if family.type == "untyped" else family.type
    return f"# HELP {name} {_escaped(family.help)}\n# TYPE {name} {kind}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def written_names(families: Iterable[Family], spool: Spool) -> Iterator[str]:
    """The families that have at least one sample."""
    for family in families:
        if any(True for _ in spool.series(family.source)):
            yield family.name
