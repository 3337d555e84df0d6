"""What the log's files begin with: the header of a CSV file, and the signs of a file that is something else.

A reader that is told the delimiter and the columns guesses neither of them from the rows, so no row can spoil them.
"""

import csv
import gzip
import io
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.errors import BadData
from exporter.sources.audit.columns import MAX_COLUMNS

MAX_HEADER: Final = 65_536
"""Bytes in which a CSV file's header has to end."""
DELIMITERS: Final = ",;\t|"
"""What may stand between the fields of a CSV file. With the right one the header has the most fields."""

_SIGNS: Final = (
    (re.compile(rb"SQLite format 3\0"), "a SQLite database", "Export its table as CSV, with a header."),
    (re.compile(rb".{8}DUCK.{4}\0{4}", re.DOTALL), "a DuckDB database", "Let its name end in .duckdb."),
    (re.compile(rb"PAR1"), "a Parquet file", "Let its name end in .parquet."),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV."),
    (re.compile(rb"\x1f\x8b"), "compressed with gzip", "Let its name end in .csv.gz or .jsonl.gz."),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "text in UTF-16", "Save it in UTF-8."),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{"),
        "a JSON array",
        "Write one object a line, as `jq -c '.[]'` does, and let its name end in .jsonl.",
    ),
)
"""How files begin, what they are, and what to do."""
_OWN_SIGN: Final = {"duckdb": "a DuckDB database", "parquet": "a Parquet file"}
_NAMES: Final = {**_OWN_SIGN, "csv": "CSV", "jsonl": "JSON lines"}


@dataclass(frozen=True, slots=True)
class Header:
    """A CSV file's delimiter and its columns' names, none of which stands twice, whatever its case."""

    delimiter: str
    names: tuple[str, ...]


def require_kind(kind: str, path: Path) -> None:
    """Refuse a file whose first bytes say that it is something else than AUDIT_URL says, and half a Parquet file.

    Args:
        kind: duckdb, parquet, csv or jsonl.

    Raises:
        BadData: what it is, and what to do.
        OSError: it cannot be read.
    """
    head = _head(path, 64)
    # Its own sign is enough: DuckDB's files begin with a checksum, which may look like any other short one.
    found = {what: advice for sign, what, advice in _SIGNS if sign.match(head)}
    if found and _OWN_SIGN.get(kind) not in found:
        what, advice = next(iter(found.items()))
        raise BadData(f"{path} is {what}, not {_NAMES[kind]}. {advice}")
    if kind == "parquet":
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4))
            whole = size > 12 and head.startswith(b"PAR1") and file.read(4) in (b"PAR1", b"PARE")
        if not whole:
            why = "it is empty" if not size else "its end is missing" if head.startswith(b"PAR") else "it is damaged"
            raise BadData(
                f"{path} is no whole Parquet file: {why}. If a writer is at work, let it write under another name "
                "and rename the file when it is whole."
            )


def csv_header(path: Path) -> Header | None:
    """The header of a CSV file; None for a file that is empty or blank.

    Raises:
        BadData: there is none that can be read.
        OSError: the file cannot be read.
    """
    text = _head(path, MAX_HEADER).decode("utf-8-sig", "surrogateescape")
    if len(text) < MAX_HEADER and not text.strip():
        return None
    delimiter, fields = max(((one, _fields(path, text, one)) for one in DELIMITERS), key=lambda found: len(found[1]))
    if any("\udc80" <= character <= "\udcff" for field in fields for character in field):
        raise BadData(f"{path} is not in UTF-8, as its header shows: save it in UTF-8.")
    if len(fields) > MAX_COLUMNS:
        raise BadData(f"The header of {path} names {len(fields)} columns; at most {MAX_COLUMNS} are read.")
    names: list[str] = []
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for position, field in enumerate(field.strip() for field in fields):
        name = field or f"column{position}"
        while name.lower() in taken:
            numbers[field] += 1
            name = f"{field}_{numbers[field]}"
        taken.add(name.lower())
        names.append(name)
    return Header(delimiter, tuple(names))


def _head(path: Path, length: int) -> bytes:
    """The file's first bytes, of what it holds where it is compressed."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read(length)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadData(f"{path} is not compressed with gzip, as its name says it is.") from error
    except EOFError as error:
        raise BadData(f"{path} is no whole gzip file: its end is missing. A writer may be at work.") from error


def _fields(path: Path, text: str, delimiter: str) -> list[str]:
    """The header's fields, if they are separated by this.

    Raises:
        BadData: the file does not begin with a header.
    """
    lines = io.StringIO(text, newline="")
    # What is no header is read as one: without `strict` a quote that never ends, and any line end, is no error.
    fields = next(csv.reader(lines, delimiter=delimiter))
    if not fields:
        raise BadData(f"The first line of {path} is blank. It has to name the columns.")
    if lines.tell() >= MAX_HEADER - 4:
        raise BadData(f"The first line of {path}, which has to name the columns, is longer than {MAX_HEADER} bytes.")
    return fields
