"""CSV and JSON-lines files as writers leave them: texts stay as written, a broken line costs itself, and a file that
cannot be read says why and what to do."""

import contextlib
import gzip
import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData
from exporter.snapshot import Reading
from exporter.sources.audit.duckdb_access import open_files
from exporter.sources.audit.duckdb_files import make_view
from tests.sources.audit.duckdb_log import engine, source_for


def catalogue(audit: str = "labels: {model: model}") -> Catalog:
    return parse_catalog(
        f"version: 1\naudit: {{table: shop.runs, timestamp: at, {audit}}}\nmetrics:\n"
        "- {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}\n"
        "- {name: shop_runs_total, type: counter, help: Runs., labels: [what], "
        "from: [{audit: {count: what, values: {go: go, stop: stop}}}]}\n",
        "mine.yaml",
    )


MODELS = catalogue()
ENV = catalogue("env: env")


def read(path: Path, content: str | bytes, catalog: Catalog = MODELS, **env: str) -> Reading:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return source_for(path, catalog, **env).read(None)


def runs(reading: Reading) -> dict[str, float]:
    """Rows that say `go`, by model."""
    samples = reading.observations["shop_runs_total"].samples
    return {dict(s.labels)["model"]: s.value for s in samples if dict(s.labels)["what"] == "go"}  # type: ignore[union-attr]


def r2(reading: Reading) -> dict[str, float]:
    """The newest values of r2, by model."""
    samples = reading.observations["shop_r2"].samples
    return {dict(s.labels)["model"]: s.value for s in samples}  # type: ignore[union-attr]


def zipped(text: str) -> bytes:
    """The text in gzip; the same bytes each time, for they stand in the names of tests."""
    return gzip.compress(text.encode(), mtime=0)


def json_lines(rows: list[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# -- types are declared, not guessed ---------------------------------------------------------------------------------

TEXTS = [
    ["1.0", "2.0"],
    ["1", "2", "2.1"],
    ["01", "1"],
    ["2026-06-21", "2026-06-21T00:00:00Z", "21/06/2026"],
    ["0b0f8c9e-1111-4111-8111-000000000000", "0B0F8C9E-1111-4111-8111-000000000000"],
    ["true", "True", "1"],
    ["12:00:00", "1e3", "1000"],
    ["nan", "NULL", "None", "inf"],
    ["123456789012345678901234567890", "0x10"],
]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_text_stays_as_it_is_written_whatever_other_rows_hold(tmp_path: Path, kind: str):
    """One label for each list, since a column was of the type that all of its texts have in common."""
    labels = [f"label{number}" for number in range(len(TEXTS))]
    rows = [
        {"at": "2026-06-21", "what": "go"}
        | {label: texts[row % len(texts)] for label, texts in zip(labels, TEXTS, strict=True)}
        for row in range(3)
    ]
    text = ",".join(rows[0]) + "\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    catalog = catalogue(f"labels: {{{', '.join(f'{label}: {label}' for label in labels)}}}")
    reading = read(tmp_path / f"log.{kind}", text if kind == "csv" else json_lines(rows), catalog)
    found = {s.labels[: len(labels)] for s in reading.observations["shop_runs_total"].samples}  # type: ignore[union-attr]
    assert found == {tuple((label, row[label]) for label in labels) for row in rows}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("envs", [["1", "2"], ["1", "2.0"]])
def test_an_env_that_looks_like_a_number_is_the_text_that_audit_env_says(tmp_path: Path, kind: str, envs: list[str]):
    text = "at,r2,what,env\n" + "".join(f"2026-06-21,0.5,go,{env}\n" for env in envs)
    lines = "".join(f'{{"at": "2026-06-21", "r2": 0.5, "what": "go", "env": {env}}}\n' for env in envs)
    reading = read(tmp_path / f"log.{kind}", text if kind == "csv" else lines, ENV, AUDIT_ENV=envs[-1])
    assert reading.facts["rows"] == 1


def test_json_numbers_flags_and_nothing_beside_texts(tmp_path: Path):
    values: list[object] = [0.25, "0.5", True, None, "", "n/a", {"a": 1}, [1], float("nan"), 12345678901234567890]
    rows = [{"at": f"2026-06-{day:02}", "r2": value, "what": "go", "model": day} for day, value in enumerate(values, 1)]
    reading = read(tmp_path / "log.jsonl", json_lines(rows))
    assert r2(reading) == {"1": 0.25, "2": 0.5, "3": 1.0, "10": 12345678901234567890.0}
    assert runs(reading) == {str(day): 1.0 for day in range(1, 11)}
    assert reading.notes == ("column r2: 3 rows with text that is not a number, left out",)


# -- dates -----------------------------------------------------------------------------------------------------------

ISO_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S+00:00")
OTHER_FORMS = ("%d/%m/%Y", "%m/%d/%Y %H:%M:%S", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%Y%m%dT%H%M%SZ", "%b %d %Y", "%s")
moments = st.datetimes(datetime(1971, 1, 1), datetime(2026, 9, 1)).map(lambda at: at.replace(microsecond=0))


@given(
    at=st.lists(moments, min_size=1, max_size=5),
    form=st.sampled_from(ISO_FORMS),
    kind=st.sampled_from(["csv", "jsonl"]),
)
@settings(max_examples=3, deadline=None)
def test_times_in_iso_8601_are_read_in_any_company(
    tmp_path_factory: pytest.TempPathFactory, at: list[datetime], form: str, kind: str
):
    path = tmp_path_factory.mktemp("log") / f"log.{kind}"
    texts = [one.strftime(form) for one in at]
    others = ["03/04/2026", "13.01.2026", "1782000000", ""]
    if kind == "csv":
        content = "at,model\n" + "".join(f"{text},a\n" for text in [*texts, *others])
    else:
        content = json_lines([{"at": text, "model": "a"} for text in [*texts, *others]])
    reading = read(path, content)
    assert reading.facts["rows"] == len(texts)
    assert reading.facts["last_record_at"] == max(at).replace(tzinfo=UTC).timestamp()
    assert reading.notes == ("4 rows without a usable timestamp, left out",)


@given(
    at=st.lists(moments, min_size=1, max_size=5),
    form=st.sampled_from(OTHER_FORMS),
    kind=st.sampled_from(["csv", "jsonl"]),
)
@settings(max_examples=3, deadline=None)
def test_no_order_of_day_and_month_is_guessed_and_a_log_without_times_is_down(
    tmp_path_factory: pytest.TempPathFactory, at: list[datetime], form: str, kind: str
):
    path = tmp_path_factory.mktemp("log") / f"log.{kind}"
    rows = [{"at": one.strftime(form), "model": "a"} for one in at]
    content = "at,model\n" + "".join(f"{row['at']},a\n" for row in rows) if kind == "csv" else json_lines(rows)
    with pytest.raises(BadData, match=r"has a usable time in column at\. A text must be ISO 8601"):
        read(path, content)


# -- one line costs itself -------------------------------------------------------------------------------------------

HEADER = "at,r2,what,model\n"
GOOD = "2026-06-20T01:00:00Z,0.5,go,a\n"
FEWER, MORE = "fewer fields than the header", "more fields than the header"
QUOTE = "a quotation mark in the wrong place, or none at the end (which takes lines after it along)"
UTF8 = "bytes that are not UTF-8 (save the file in UTF-8)"


ENDS = ("", "\n", "\n" + GOOD)


@pytest.mark.parametrize(
    ("line", "why", "end"),
    [
        *(("2026-06-21 01:0", FEWER, end) for end in ENDS),
        ("2026-06-21T01:00:00Z,go,a", FEWER, "\n" + GOOD),
        *(("2026-06-21T01:00:00Z,0,9,go,a", MORE, end) for end in ENDS),
        ('2026-06-21T01:00:00Z,0.9,go,"a', QUOTE, ""),
        ('2026-06-21T01:00:00Z,0.9,go,"a"b', QUOTE, "\n" + GOOD),
        ("2026-06-21T01:00:00Z,0.9,go,Z\udcfcrich", UTF8, "\n" + GOOD),
        ("2026-06-21T01:00:00Z,0.9,go,Z\udcc3", UTF8, ""),
        ("2026-06-21T01:00:00Z,0.9,go," + "x" * 2_000_001, "more than 2,000,000 bytes", "\n" + GOOD),
    ],
)
def test_a_line_that_cannot_be_read_costs_itself_and_is_noted(tmp_path: Path, line: str, why: str, end: str):
    content = HEADER + GOOD + GOOD + line + end
    reading = read(tmp_path / "log.csv", content.encode("utf-8", "surrogateescape"))
    assert runs(reading) == {"a": 3.0 if end.endswith(GOOD) else 2.0}
    assert r2(reading) == {"a": 0.5}
    assert reading.notes == (f"1 line with {why}, left out (line 4 of {tmp_path}/log.csv)",)


def test_a_header_that_gained_a_column_costs_the_rows_before_and_rows_that_gained_one_cost_themselves(tmp_path: Path):
    reading = read(tmp_path / "log.csv", "at,r2,what,model,new\n" + GOOD + GOOD + "2026-06-21,0.6,go,a,1\n")
    assert (r2(reading), runs(reading)) == ({"a": 0.6}, {"a": 1.0})
    assert reading.notes == (f"2 lines with {FEWER}, left out (the first is line 2 of {tmp_path}/log.csv)",)
    reading = read(tmp_path / "log.csv", HEADER + GOOD + GOOD + "2026-06-21,0.6,go,a,1\n")
    assert (r2(reading), runs(reading)) == ({"a": 0.5}, {"a": 2.0})
    assert reading.notes == (f"1 line with {MORE}, left out (line 4 of {tmp_path}/log.csv)",)


def test_a_log_of_which_no_line_can_be_read_is_down_with_the_reason(tmp_path: Path):
    with pytest.raises(BadData, match=f"has no line that can be read: 2 lines with {FEWER}, left out"):
        read(tmp_path / "log.csv", "at,r2,what,model,new\n" + GOOD + GOOD)
    # With a filter that no row passes, the log is up, and empty.
    env = HEADER.replace("model", "env")
    assert read(tmp_path / "log.csv", env + GOOD + "2026-0", ENV, AUDIT_ENV="b").facts["rows"] == 0


def test_lines_are_counted_by_reason_over_all_files_up_to_a_bound(tmp_path: Path):
    (tmp_path / "a.csv").write_text(HEADER + GOOD + "x\n" * 3 + "1,2,3,4,5\n")
    (tmp_path / "b.csv").write_text("at;model\n2026-06-21;b\n" + "1;2;3\n" * 1500)
    reading = source_for(tmp_path / "*.csv", MODELS).read(None)
    assert reading.facts["rows"] == 2
    assert reading.notes == (
        f"3 lines with {FEWER}, left out (the first is line 3 of {tmp_path}/a.csv)",
        f"at least 1001 lines with {MORE}, left out (the first is line 6 of {tmp_path}/a.csv)",
    )


def rows_of(folder: Path, kind: str, contents: list[bytes]) -> Iterator[list[tuple[object, ...]]]:
    """The rows of files with these contents, one file after the other."""
    files = [folder / f"{number}.{kind}" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    with contextlib.closing(open_files(files, None)) as connection:
        for number, file in enumerate(files):
            make_view(connection, kind, [file], f"log{number}")
            yield connection.execute(f"SELECT * FROM log{number}").fetchall()


fields = st.text(st.sampled_from('ab1.ü," \n'), max_size=6)
cuts = st.lists(st.floats(0, 1), min_size=8, max_size=8)


@given(
    rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=6),
    line_end=st.sampled_from(["\n", "\r\n"]),
    cuts=cuts,
)
@settings(max_examples=6, deadline=None)
def test_of_a_torn_csv_file_whole_rows_are_read_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], line_end: str, cuts: list[float]
):
    """What is there of a last field is that field, since half a text is one, too, where no line break follows."""

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = ["a,b,c", *(f'{quoted(a)},{quoted(b)},"1"' for a, b in rows)]
    whole = line_end.join([*lines, ""]).encode()
    start = len(lines[0] + line_end)
    torn = [whole[: start + round(cut * (len(whole) - start))] for cut in cuts]
    # A row counts from its last quotation mark on.
    ends = [len(line_end.join(lines[: number + 2]).encode()) for number in range(len(rows))]
    for content, read in zip(torn, rows_of(tmp_path_factory.mktemp("log"), "csv", torn), strict=True):
        written = [(a or None, b or None, "1") for (a, b), end in zip(rows, ends, strict=True) if end <= len(content)]
        begun = [(a or None, b or None, None) for a, b in rows[len(written) : len(written) + 1]]
        assert read[: len(written)] == written
        assert read[len(written) :] in ([], begun)


@given(rows=st.lists(st.text(max_size=4), min_size=1, max_size=6), cuts=cuts)
@settings(max_examples=6, deadline=None)
def test_of_torn_json_lines_whole_objects_are_read_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], cuts: list[float]
):
    lines = [json.dumps({"a": row}) for row in ["b", *rows]]
    whole = "\n".join([*lines, ""])
    torn = [whole[: len(lines[0]) + round(cut * (len(whole) - len(lines[0])))].encode() for cut in cuts]
    ends = [len("\n".join(lines[: number + 1])) for number in range(len(lines))]
    for content, read in zip(torn, rows_of(tmp_path_factory.mktemp("log"), "jsonl", torn), strict=True):
        written = [row for row, end in zip(["b", *rows], ends, strict=True) if end <= len(content)]
        assert [row[0] for row in read if row[0] is not None] == written
        assert len(read) - len(written) in (0, 1)


# -- dialects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delimiter", "end"), [(",", "\n"), (";", "\r\n"), ("\t", "\r"), ("|", "\n")])
def test_the_header_says_what_stands_between_fields(tmp_path: Path, delimiter: str, end: str):
    header = ["at", '"r2"', '"what, or; why"', "model", "", "R2", "what"]
    row = ["2026-06-21", "0.5", '"a,b;c|d"', '" m, ""1"" "', "x", "7", "go"]
    content = b"\xef\xbb\xbf" + (delimiter.join(header) + end + delimiter.join(row) + end).encode()
    reading = read(tmp_path / "log.csv", content)
    assert (r2(reading), runs(reading)) == ({'m, "1"': 0.5}, {'m, "1"': 1.0})


def test_blanks_around_a_columns_name_are_none_of_it(tmp_path: Path):
    assert r2(read(tmp_path / "log.csv", "at , model, r2\n2026-06-20, a, 0.5\n")) == {"a": 0.5}


def test_columns_may_differ_between_csv_files(tmp_path: Path):
    (tmp_path / "a.csv").write_text("at,model,what\n2026-06-21,a,go\n")
    (tmp_path / "b.csv").write_text("MODEL;AT;WHAT;r2\nb;2026-06-21;go;0,5\nb;2026-06-20;go;0.7\n")
    (tmp_path / "c.csv").write_text("")
    (tmp_path / "d.csv").write_text("\n \n")
    reading = source_for(tmp_path / "*.csv", MODELS).read(None)
    assert runs(reading) == {"a": 1.0, "b": 2.0}
    assert r2(reading) == {"b": 0.7}
    assert reading.notes == (
        "column r2: 1 row with text that is not a number, left out",
        "2 files without any content",
    )


def test_json_keys_may_differ_in_case_and_lines_may_be_anything(tmp_path: Path):
    lines = [
        '{"AT": "2026-06-20", "Model": "a", "what": "go"}', "[1]", "7", '"x"', "null", "", "{}", '{"AT": "2026', "\x00",
        '{"AT": "2026-06-21", "Model": "\\ud800", "what": "go"}',
        '{"AT": "2026-06-21", "Model": "a", "what": "go", "it\'s \\"new\\"": {"a.b": [1]}}',
    ]  # fmt: skip
    reading = read(tmp_path / "log.jsonl", "\n".join(lines).encode() + b'\n{"AT": "2026-06-21", "Model": "Z\xfc"}')
    assert runs(reading) == {"a": 2.0}
    assert reading.facts["rows"] == 2


# -- files of other kinds --------------------------------------------------------------------------------------------

ROW = '{"at": "2026-06-21", "model": "a", "what": "go"}'
ARRAY = r"is a JSON array, not (CSV|JSON lines)\. Write one object a line, as `jq -c '\.\[\]'` does"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("log.csv", HEADER.replace("model", "größe").encode("latin-1"), "is not in UTF-8, as its header shows"),
        ("log.csv", (HEADER + GOOD).encode("utf-16"), r"is text in UTF-16, not CSV\. Save it in UTF-8"),
        ("log.csv", f"[{ROW}]".encode(), ARRAY),
        ("log.csv", b"", r"log\.csv is empty: no row was written to it yet"),
        ("log.csv", b"\n\n", r"log\.csv is empty"),
        ("log.csv", b"\n" + HEADER.encode(), "The first line of .* is blank. It has to name the columns"),
        ("log.csv", b"x" * 70_000, "which has to name the columns, is longer than 65536 bytes"),
        ("log.csv", b"at" + b",a" * 10_000 + b"\n", r"The header of .* names 10001 columns; at most 10000 are read"),
        ("log.csv", b"at" + b"," * 60_000 + b"\n", "names 60001 columns"),
        ("log.csv", zipped("x"), r"is compressed with gzip, not CSV\. Let its name end in \.csv\.gz"),
        ("log.csv", b"PK\x03\x04...", "is a ZIP archive or an Excel workbook, not CSV"),
        ("log.csv", (HEADER + GOOD.replace("\n", "\r\n")).encode(), r"its lines end in different ways"),
        ("log.csv.gz", HEADER.encode(), r"is not compressed with gzip, as its name says it is"),
        ("log.csv.gz", zipped(HEADER)[:-9], r"is no whole gzip file: its end is missing"),
        ("log.csv.gz", zipped(HEADER + "x" * 90_000)[:-9], "a gzip file is damaged, or"),
        ("log.csv.gz", b"", r"log\.csv\.gz is empty"),
        ("log.jsonl", f"[{ROW}]".encode(), ARRAY),
        ("log.jsonl", f"\n[\n  {ROW},\n  {ROW}\n]\n".encode(), ARRAY),
        ("log.jsonl", b'{\n  "at": "2026-06-21"\n}\n', "holds no JSON object on a line of its own"),
        ("log.jsonl", b"", r"log\.jsonl is empty"),
        ("log.jsonl", json.dumps({str(key): key for key in range(10_001)}).encode(), "more than 10000 different keys"),
        ("log.jsonl.gz", zipped(ROW * 9)[:-9], "a gzip file is damaged, or"),
        ("log.parquet", b"", r"log\.parquet is no whole Parquet file: it is empty"),
        ("log.parquet", b"PAR1" + b"x" * 100, r"is no whole Parquet file: its end is missing. If a writer is at work"),
        ("log.parquet", (HEADER + GOOD).encode(), r"is no whole Parquet file: it is damaged"),
        ("log.duckdb", b"PAR1" + b"x" * 100, r"is a Parquet file, not a DuckDB database\. Let its"),
        ("log.duckdb", b"", "is not a DuckDB database"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_says_what_it_is_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, why: str
):
    with pytest.raises(BadData, match=why) as caught:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(caught.value)


def test_a_sqlite_database_is_named(tmp_path: Path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE metrics (key TEXT)")
    with pytest.raises(BadData, match=r"mlflow\.db is a SQLite database, not a DuckDB database\. Export its table"):
        source_for(tmp_path / "mlflow.db", MODELS).read(None)


def test_of_several_files_the_one_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "a.csv.gz").write_bytes(zipped(HEADER + GOOD))
    (tmp_path / "b.csv.gz").write_bytes(zipped(HEADER + GOOD)[:-9])
    with pytest.raises(BadData, match=r"b\.csv\.gz is no whole gzip file"):
        source_for(tmp_path / "*.csv.gz", MODELS).read(None)
    with engine() as connection:
        for name in ("a", "b"):
            connection.execute(f"COPY (SELECT TIMESTAMP '2026-06-21' AS at) TO '{tmp_path}/{name}.parquet'")
    whole = (tmp_path / "b.parquet").read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.parquet").write_bytes(whole[:size])
        with pytest.raises(
            BadData, match=r"b\.parquet is no whole Parquet file: (it is empty|its end is missing|it is d)"
        ):
            source_for(tmp_path / "*.parquet", MODELS).read(None)


# -- names and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compressed_files_are_read(tmp_path: Path, kind: str):
    text = HEADER + GOOD if kind == "csv" else ROW + "\n"
    for number in range(3):
        (tmp_path / f"{number}.{kind}.gz").write_bytes(zipped(text))
    assert runs(source_for(tmp_path / f"1.{kind}.gz", MODELS).read(None)) == {"a": 1.0}
    assert runs(source_for(tmp_path / f"*.{kind}.gz", MODELS).read(None)) == {"a": 3.0}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_folders_that_say_a_columns_value_are_columns(tmp_path: Path, kind: str):
    for folder, day in [
        ("model=01/year=2026", 1),
        ("model=1.0/year=2026", 2),
        ("year=2025/model=a%20b", 3),
        ("other", 4),
    ]:
        (tmp_path / folder).mkdir(parents=True)
        text = f"at,what\n2026-06-{day:02},go\n" if kind == "csv" else f'{{"at": "2026-06-{day:02}", "what": "go"}}\n'
        (tmp_path / folder / f"log.{kind}").write_text(text)
        if kind == "parquet":
            with engine() as connection:
                select = f"SELECT TIMESTAMP '2026-06-{day:02}' AS at, 'go' AS what"
                connection.execute(f"COPY ({select}) TO '{tmp_path / folder}/log.parquet'")
    reading = source_for(tmp_path / "**" / f"*.{kind}", MODELS).read(None)
    assert runs(reading) == {"01": 1.0, "1.0": 1.0, "a b": 1.0}
    assert reading.facts["rows"] == 4


def test_brackets_in_a_path_are_those_of_a_folder_that_is_called_so(tmp_path: Path):
    for folder in ("run[1]", "run1", "run[2]x"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log[1].csv").write_text(HEADER + GOOD.replace(",a", f",{folder}"))
    assert runs(source_for(tmp_path / "run[1]" / "log[1].csv", MODELS).read(None)) == {"run[1]": 1.0}
    assert runs(source_for(tmp_path / "run[1]" / "*.csv", MODELS).read(None)) == {"run[1]": 1.0}
    assert runs(source_for(tmp_path / "run[0-9]" / "log[1].csv", MODELS).read(None)) == {"run1": 1.0}
    assert runs(source_for(tmp_path / "run*" / "log[1].csv", MODELS).read(None)) == {
        "run[1]": 1.0, "run1": 1.0, "run[2]x": 1.0,
    }  # fmt: skip
