"""From metric families to the bytes that `/metrics` answers: both formats, plain and gzip.

A family that cannot be written out is left out and named; the others are not touched by it. Everything is put together
and compressed a few hundred lines at a time, so that scrapes get in between and no text is held beside its bytes.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter.families import Family, FamilyError
from exporter.snapshot import Grid, Labels

TEXT: Final = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

LINES_AT_ONCE: Final = 500
"""Lines that are put together at a time."""
CHUNK_BYTES: Final = 128 * 1024
"""About the size of a chunk: what is sent to a client before it has to take some."""
_EOF: Final = b"# EOF\n"


@dataclass(frozen=True, slots=True)
class Body:
    """A body in chunks, ready to send: a scrape copies nothing, and a client that does not read holds one chunk."""

    chunks: tuple[bytes, ...]
    size: int

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks)

    def __len__(self) -> int:
        return self.size

    def decode(self) -> str:
        """The body as text, which it is unless it is compressed."""
        return bytes(self).decode()


@dataclass(frozen=True)
class Exposition:
    """What `/metrics` answers.

    Attributes:
        left_out: what was raised where a family is missing that should be there, by name.
    """

    text: Body
    text_gzip: Body
    openmetrics: Body
    openmetrics_gzip: Body
    left_out: dict[str, Exception] = field(default_factory=dict)


class _Static(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Chunks:
    """A body as it grows. A part of a chunk's size is one as it stands: both formats hold the same bytes."""

    def __init__(self) -> None:
        self._full: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = self._in_parts = 0

    def add(self, part: bytes) -> None:
        if len(part) >= CHUNK_BYTES and self._parts:
            self._close()
        self._parts.append(part)
        self._in_parts += len(part)
        if self._in_parts >= CHUNK_BYTES:
            self._close()

    def body(self) -> Body:
        if self._parts:
            self._close()
        return Body(tuple(self._full), self._size)

    def _close(self) -> None:
        self._full.append(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._size += self._in_parts
        self._parts, self._in_parts = [], 0


class _Format:
    """One format's two bodies as they grow."""

    def __init__(self) -> None:
        self._plain = _Chunks()
        self._gzip = _Chunks()
        # Level 1 is nearly as small on exposition text as level 9, and fast. zlib's gzip header holds no time: same
        # in, same out.
        self._compress = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)

    def add(self, part: bytes) -> None:
        self._plain.add(part)
        if compressed := self._compress.compress(part):
            self._gzip.add(compressed)

    def bodies(self) -> tuple[Body, Body]:
        self._gzip.add(self._compress.flush())
        return self._plain.body(), self._gzip.body()


def render(families: Iterable[Metric | Family | FamilyError]) -> Exposition:
    """All four bodies of one set of families."""
    text, om = _Format(), _Format()
    escaped = _EscapedLabels()
    left_out: dict[str, Exception] = {}
    for family in families:
        if isinstance(family, FamilyError):
            left_out[family.name] = family.error
            continue
        try:
            parts = list(_parts(family, escaped))
        except Exception as error:  # noqa: BLE001 -- one family must not cost the others
            left_out[family.name] = error
            continue
        for in_text, in_openmetrics in parts:
            text.add(in_text)
            om.add(in_openmetrics)
    om.add(_EOF)
    return Exposition(*text.bodies(), *om.bodies(), left_out)


def _parts(family: Metric | Family, escaped: "_EscapedLabels") -> Iterator[tuple[bytes, bytes]]:
    """The family's pieces in both formats."""
    head = _Static([family.library() if isinstance(family, Family) else family])
    in_openmetrics = openmetrics.generate_latest(head)  # type: ignore[no-untyped-call]
    yield generate_latest(head), in_openmetrics.removesuffix(_EOF)
    if isinstance(family, Family):
        lines = _lines(family, escaped)
        text = ""
        while some := "".join(islice(lines, LINES_AT_ONCE)):
            text += some
            if len(text) >= CHUNK_BYTES:
                yield _in_both(text)
                text = ""
        yield _in_both(text)


def _in_both(text: str) -> tuple[bytes, bytes]:
    """Samples of the types that are written here are the same in both formats."""
    part = text.encode()
    return part, part


class _EscapedLabels:
    """The label sets' values as they are written, made once for all families that share them."""

    def __init__(self) -> None:
        self._sets: tuple[Labels, ...] = ()
        self._values: list[tuple[str, ...]] = []

    def __call__(self, sets: tuple[Labels, ...]) -> list[tuple[str, ...]]:
        if sets is not self._sets:
            order = sorted(range(len(sets[0])), key=lambda place: sets[0][place][0]) if sets else []
            self._values = [tuple(_escape(labels[place][1]) for place in order) for labels in sets]
            self._sets = sets
        return self._values


def _lines(family: Family, escaped: _EscapedLabels) -> Iterator[str]:
    """The family's samples as both formats write them: labels by name, values as Go writes them."""
    if not isinstance(family.samples, Grid):
        for sample in family.samples:
            pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(sample.labels))
            value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
            yield f"{family.name}{{{pairs}}} {value}\n" if pairs else f"{family.name} {value}\n"
        return
    sets = family.samples.sets
    templates = []
    for own, values in family.samples.columns:
        known = {name: _escape(value).replace("%", "%%") for name, value in own}
        names = sorted([*known, *(name for name, _ in sets[0])]) if sets else []
        pairs = ",".join(f'{name}="{known.get(name, "%s")}"' for name in names)
        templates.append((f"{family.name}{{{pairs}}} ", values))
    for row, written in enumerate(escaped(sets)):
        for template, values in templates:
            number = values[row]
            if number == number:  # noqa: PLR0124 -- not NaN
                yield f"{template % written}{floatToGoString(number)}\n"  # type: ignore[no-untyped-call]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
