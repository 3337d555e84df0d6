"""What the log's files begin with: their kind, and the header of a CSV file."""

import gzip
import os
from pathlib import Path

import pytest

from exporter.errors import BadData
from exporter.sources.audit.file_heads import MAX_HEADER, Header, csv_header, require_kind

PARQUET, DUCKDB = b"PAR1" + b"-" * 9, b"-" * 8 + b"DUCK\x43" + bytes(7) + b"-" * 99
TORN = "If a writer is at work, let it write under another name and rename the file when it is whole."


@pytest.mark.parametrize(
    ("kind", "name", "held"),
    [
        ("duckdb", "a.duckdb", DUCKDB),
        ("duckdb", "a.duckdb", b"\xff\xfe" + DUCKDB[2:]),
        ("duckdb", "a.duckdb", b"\x1f\x8b" + DUCKDB[2:]),
        ("duckdb", "a.duckdb", b"PK\x03\x04" + DUCKDB[4:]),
        ("csv", "a.csv", b"revenue,DUCK,r2,rmse\n"),
        ("parquet", "a.parquet", PARQUET[:-4] + b"PAR1"),
        ("parquet", "a.parquet", PARQUET[:-4] + b"PARE"),
        ("csv", "a.csv", b"at,r2\n"),
        ("csv", "a.csv", b""),
        ("csv", "a.csv", b"[at],{r2}\n"),
        ("csv", "a.csv.gz", gzip.compress(b"at,r2\n", mtime=0)),
        ("csv", "a.CSV.GZ", gzip.compress(b"at,r2\n", mtime=0)),
        ("jsonl", "a.jsonl", b'{"at": [{"a": 1}]}'),
    ],
)
def test_a_file_that_is_what_it_should_be(tmp_path: Path, kind: str, name: str, held: bytes):
    (tmp_path / name).write_bytes(held)
    require_kind(kind, tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "name", "held", "why"),
    [
        ("csv", "a.csv", b"SQLite format 3\0",
         "is a SQLite database, not CSV. Export its table as CSV, with a header."),
        ("csv", "a.csv", DUCKDB, "is a DuckDB database, not CSV. Let its name end in .duckdb."),
        ("parquet", "a.csv", DUCKDB, "is a DuckDB database, not a Parquet file. Let its name end in .duckdb."),
        ("jsonl", "a.csv", PARQUET, "is a Parquet file, not JSON lines. Let its name end in .parquet."),
        ("duckdb", "a.csv", PARQUET, "is a Parquet file, not a DuckDB database. Let its name end in .parquet."),
        ("csv", "a.csv", b"PK\x03\x04",
         "is a ZIP archive or an Excel workbook, not CSV. Unpack it, or save the sheet as CSV."),
        ("csv", "a.csv", gzip.compress(b"a", mtime=0),
         "is compressed with gzip, not CSV. Let its name end in .csv.gz or .jsonl.gz."),
        ("csv", "a.csv", "at".encode("utf-16"), "is text in UTF-16, not CSV. Save it in UTF-8."),
        ("csv", "a.csv", b"\xfe\xff\0a", "is text in UTF-16, not CSV. Save it in UTF-8."),
        ("jsonl", "a.csv", b'\xef\xbb\xbf [\n {"a": 1}]',
         "is a JSON array, not JSON lines. Write one object a line, as `jq -c '.[]'` does, and let "
         "its name end in .jsonl."),
        ("csv", "a.csv.gz", gzip.compress(DUCKDB, mtime=0),
         "is a DuckDB database, not CSV. Let its name end in .duckdb."),
        ("csv", "a.csv.gz", b"at,r2\n", "is not compressed with gzip, as its name says it is."),
        ("csv", "a.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 30,
         "is not compressed with gzip, as its name says it is."),
        ("csv", "a.csv.gz", gzip.compress(b"at,r2\n" * 9, mtime=0)[:-12],
         "is no whole gzip file: its end is missing. A writer may be at work."),
        ("parquet", "a.csv", b"", f"is no whole Parquet file: it is empty. {TORN}"),
        ("parquet", "a.csv", b"P", f"is no whole Parquet file: it is damaged. {TORN}"),
        ("parquet", "a.csv", b"PAR", f"is no whole Parquet file: its end is missing. {TORN}"),
        ("parquet", "a.csv", PARQUET, f"is no whole Parquet file: its end is missing. {TORN}"),
        ("parquet", "a.csv", b"PAR1----PAR1", f"is no whole Parquet file: its end is missing. {TORN}"),
        ("parquet", "a.csv", PARQUET + b"PAR1-", f"is no whole Parquet file: its end is missing. {TORN}"),
        ("parquet", "a.csv", b"-" * 20 + b"PAR1", f"is no whole Parquet file: it is damaged. {TORN}"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_says_what_it_is_and_what_to_do(
    tmp_path: Path, kind: str, name: str, held: bytes, why: str
):
    path = tmp_path / name
    path.write_bytes(held)
    with pytest.raises(BadData) as caught:
        require_kind(kind, path)
    assert str(caught.value) == f"{path} {why}"


def test_of_a_large_file_only_the_first_bytes_are_looked_at(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b" " * 63 + b"[{")
    require_kind("csv", path)
    path.write_bytes(b" " * 62 + b"[{")
    with pytest.raises(BadData, match="is a JSON array"):
        require_kind("csv", path)


@pytest.mark.parametrize(
    ("held", "header"),
    [
        ("at,r2\n1;2;3,4\n", Header(",", ("at", "r2"))),
        ("at;r2,x;y\r\n", Header(";", ("at", "r2,x", "y"))),
        (" at , r2 \n", Header(",", ("at", "r2"))),
        ("at\tr2", Header("\t", ("at", "r2"))),
        ("at|r2\n", Header("|", ("at", "r2"))),
        ("at,r2;x\n", Header(",", ("at", "r2;x"))),
        ("at\n1\n", Header(",", ("at",))),
        ('"at, first","r\n2"\n', Header(",", ("at, first", "r\n2"))),
        ('"at\r\nfirst",r2\r\n', Header(",", ("at\r\nfirst", "r2"))),
        ("at,r2\r1,2\r", Header(",", ("at", "r2"))),
        ('at,"r2\n1,2\n', Header(",", ("at", "r2\n1,2"))),
        ("a\0b,r2\n", Header(",", ("a\0b", "r2"))),
        ("\ufeffat,r2\n", Header(",", ("at", "r2"))),
        ("a,A,a,,,b\n", Header(",", ("a", "A_1", "a_2", "column3", "column4", "b"))),
        ("column1,,a_1,A,a\n", Header(",", ("column1", "_1", "a_1", "A", "a_2"))),
        ("größe,模\n", Header(",", ("größe", "模"))),
        ("", None),
        (" \n\n", None),
    ],
)
def test_the_header_of_a_csv_file(tmp_path: Path, held: str, header: Header | None):
    path = tmp_path / "a.csv"
    path.write_bytes(held.encode())
    assert csv_header(path) == header


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (b"gr\xf6sse,x\n", "{} is not in UTF-8, as its header shows: save it in UTF-8."),
        (b"x,gr\xf6sse\n", "{} is not in UTF-8, as its header shows: save it in UTF-8."),
        (b"\x80\n", "{} is not in UTF-8, as its header shows: save it in UTF-8."),
        (b"\xff\n", "{} is not in UTF-8, as its header shows: save it in UTF-8."),
        (b"\nat,r2\n", "The first line of {} is blank. It has to name the columns."),
        (b" " * MAX_HEADER,
         f"The first line of {{}}, which has to name the columns, is longer than {MAX_HEADER} bytes."),
        (b"a" * (MAX_HEADER - 5) + b"\nx\n",
         f"The first line of {{}}, which has to name the columns, is longer than {MAX_HEADER} bytes."),
    ],
)  # fmt: skip
def test_a_csv_file_without_a_header_that_can_be_read(tmp_path: Path, held: bytes, why: str):
    path = tmp_path / "a.csv"
    path.write_bytes(held)
    with pytest.raises(BadData) as caught:
        csv_header(path)
    assert str(caught.value) == why.format(path)


def test_a_header_may_be_nearly_as_long_as_what_is_looked_at(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a" * (MAX_HEADER - 6) + b"\nx\n")
    assert csv_header(path) == Header(",", ("a" * (MAX_HEADER - 6),))


def test_bytes_of_another_coding_below_the_header_are_no_matter_here(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"at,r2\ngr\xf6sse,1\n")
    assert csv_header(path) == Header(",", ("at", "r2"))


def test_a_file_of_a_terabyte_costs_no_more_than_a_small_one(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"at,r2\n")
    os.truncate(path, 1 << 40)
    require_kind("csv", path)
    assert csv_header(path) == Header(",", ("at", "r2"))
