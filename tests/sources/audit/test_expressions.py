"""What single columns are read as, on DuckDB: numbers, flags, texts, times, labels, and what stands at a path.

BigQuery's emulator is asked for the same in `tests/integration/test_bigquery_tables.py`.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime

import duckdb
import pytest

from exporter.catalog import NO_AUDIT, AuditSpec, Path, Place, TimeSpec
from exporter.errors import BadData
from exporter.sources.audit.columns import FLOAT_MAX, Column, as_flag, as_number, as_text, at_path, literal, quote
from exporter.sources.audit.duckdb_types import google_type
from exporter.sources.audit.row_keys import environment, label_value, moment
from exporter.sources.audit.times import advice, as_micros
from exporter.sources.audit.transpile import to_duckdb


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.closing(duckdb.connect(config={"threads": 1})) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


Read = Callable[[str, Callable[[Column], str]], object]
"""What an expression over a column `c` gives, for a DuckDB value in it."""


@pytest.fixture
def read(connection: duckdb.DuckDBPyConnection) -> Read:
    def value(held: str, expression: Callable[[Column], str]) -> object:
        connection.execute(f"CREATE OR REPLACE TABLE log AS SELECT {held} AS c")
        kind = connection.execute("DESCRIBE log").fetchall()[0][1]
        sql = to_duckdb(f"SELECT {expression(Column('c', google_type(kind)))} AS v FROM log")
        found = connection.execute(sql, {"float_max": FLOAT_MAX} if "$float_max" in sql else {}).fetchall()
        return found[0][0]

    return value


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "number", "flag", "text"),
    [
        ("0.5::DOUBLE", 0.5, True, "0.5"),
        ("0.0::DOUBLE", 0.0, False, "0.0"),
        ("'nan'::DOUBLE", ..., None, "nan"),
        ("'inf'::DOUBLE", ..., None, "inf"),
        ("'-inf'::DOUBLE", ..., None, "-inf"),
        ("1.7976931348623157e308::DOUBLE", FLOAT_MAX, True, ...),
        ("-3::BIGINT", -3.0, True, "-3"),
        ("0::BIGINT", 0.0, False, "0"),
        ("1.50::DECIMAL(9, 2)", 1.5, True, "1.50"),
        ("true", 1.0, True, "true"),
        ("false", 0.0, False, "false"),
        ("NULL::BOOLEAN", None, None, None),
        ("' TRUE '", 1.0, True, "true"),
        ("'False'", 0.0, False, "false"),
        ("' 1 '", 1.0, True, "1"),
        ("'0'", 0.0, False, "0"),
        ("' 2.5e1'", 25.0, None, "2.5e1"),
        ("'yes'", None, None, "yes"),
        ("''", None, None, ""),
        ("NULL::VARCHAR", None, None, None),
    ],
)
def test_a_column_as_a_number_a_flag_and_a_text(read: Read, held: str, number: object, flag: object, text: object):
    """An ellipsis is not asked for: what is not finite is dropped by a comparison with the largest number."""
    for expression, expected in ((as_number, number), (as_flag, flag), (as_text, text)):
        found = read(held, expression)
        assert expected is ... or (found, type(found)) == (expected, type(expected)), expression


def test_casts_are_those_that_bigquery_has():
    """DuckDB forgives more: a BOOL cast to FLOAT64, or compared with 0, and a STRUCT that is read as JSON."""
    for kind, whole in (("STRING", "`c`"), ("JSON", "`c`"), ("STRUCT<a INT64>", "TO_JSON_STRING(`c`)")):
        assert at_path(Column("c", kind), ("a",)).sql == f"""JSON_VALUE({whole}, '$."a"')"""
    flag = Column("c", "BOOL")
    assert (as_number(flag), as_flag(flag)) == ("CAST(CAST(`c` AS INT64) AS FLOAT64)", "`c`")
    assert as_number(Column("c", "FLOAT64")) == "`c`"


@pytest.mark.parametrize("text", ["a", "it's", "back\\slash", "\\'", "`tick`", '"'])
def test_texts_and_names_are_quoted(connection: duckdb.DuckDBPyConnection, text: str):
    sql = to_duckdb(f"SELECT {literal(text)} AS {quote(text)}")
    cursor = connection.execute(sql)
    assert (cursor.fetchall(), (cursor.description or [])[0][0]) == ([(text,)], text)


NESTED = {"a": {"b.c": [{"d": 0.5}, "e"]}, "n": None, "t": "x", "f": True, "1": 7}


@pytest.mark.parametrize("kind", ["VARCHAR", "JSON", "STRUCT"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("a", "b.c", 0, "d"), "0.5"), (("a", "b.c", 1), "e"), (("f",), "true"), (("1",), "7"), (("t",), "x"),
        (("n",), None), (("a",), None), (("a", "b.c"), None), (("a", "b.c", 2), None), (("nothing",), None),
    ],
)  # fmt: skip
def test_what_stands_at_a_path(read: Read, kind: str, path: Path, expected: str | None):
    struct = "{'a': {'b.c': [to_json({'d': 0.5}), to_json('e')]}, 'n': NULL::INT, 't': 'x', 'f': true, '1': 7}"
    held = struct if kind == "STRUCT" else f"'{json.dumps(NESTED)}'::{kind}"
    found: list[Column] = []

    def at(column: Column) -> str:
        found.append(at_path(column, path))
        return found[0].sql

    assert read(held, at) == expected
    dotted = {("a", "b.c", 0, "d"): "c, path a.b.c[0].d", ("t",): "c, path t"}
    assert found[0].name == dotted.get(path, found[0].name)
    assert found[0].type == "STRING"


@pytest.mark.parametrize(
    ("kind", "google"),
    [
        ("DECIMAL(18,3)", "NUMERIC"), ("DECIMAL(18,3)[]", "DECIMAL(18,3)[]"), ("ENUM('a', 'b')", "STRING"),
        ("ENUM('a')[]", "ENUM('a')[]"), ("TIMESTAMP_NS", "DATETIME"), ("UHUGEINT", "INT64"), ("FLOAT", "FLOAT64"),
        ("JSON", "JSON"), ("MAP(VARCHAR, INTEGER)", "MAP(VARCHAR, INTEGER)"),
    ],
)  # fmt: skip
def test_duckdbs_types_in_googles_words(kind: str, google: str):
    assert google_type(kind) == google


# -- times -------------------------------------------------------------------------------------------------------------

AT = datetime.fromisoformat("2026-06-21T00:00:00+00:00").timestamp()
BERLIN = TimeSpec(zone="Europe/Berlin")
SECONDS, MILLIS, MICROS = (TimeSpec(unit=unit) for unit in ("s", "ms", "us"))
HALF = ("2026-06-21 01", "20260621", "2026-02-30", "")


@pytest.mark.parametrize(
    ("time", "held"),
    [
        (TimeSpec(), "TIMESTAMPTZ '2026-06-21 02:00:00+02'"),
        (TimeSpec(), "TIMESTAMP '2026-06-21 00:00:00'"),
        (TimeSpec(), "DATE '2026-06-21'"),
        (TimeSpec(), "' 2026-06-21 '"),
        (TimeSpec(), "'2026-06-21T00:00Z'"),
        (TimeSpec(), "'2026-06-21 02:00:00.000+02:00'"),
        (BERLIN, "TIMESTAMPTZ '2026-06-21 00:00:00+00'"),
        (BERLIN, "TIMESTAMP '2026-06-21 02:00:00'"),
        (BERLIN, "'2026-06-21 02:00:00'"),
        (BERLIN, "' 2026-06-21T02:00 '"),
        (BERLIN, "'2026-06-21T00:00:00Z'"),
        (BERLIN, "'2026-06-21 00:00:00 UTC'"),
        (BERLIN, "'2026-06-20T20:00:00.000-0400'"),
        (BERLIN, "'2026-06-21T05:30:00+05:30'"),
        (TimeSpec(zone="Africa/Abidjan"), "DATE '2026-06-21'"),
        (SECONDS, "1782000000::BIGINT"),
        (SECONDS, "1782000000.0::DOUBLE"),
        (SECONDS, "1782000000.0::DECIMAL(20, 3)"),
        (SECONDS, "' 1782000000.0 '"),
        (MILLIS, "1782000000000::BIGINT"),
        (MILLIS, "1782000000000.0::DOUBLE"),
        (MICROS, "1782000000000000::BIGINT"),
        (MICROS, "1782000000000000.2::DOUBLE"),
        (MICROS, "'1782000000000000'"),
        (TimeSpec(format="%d/%m/%Y"), "' 21/06/2026 '"),
        (TimeSpec(format="%d.%m.%Y %H:%M:%S.%f", zone="Europe/Berlin"), "'21.06.2026 02:00:00.000'"),
        (TimeSpec(format="%d %b %Y %H:%M %z", zone="Europe/Berlin"), "' 21 Jun 2026 01:00 +0100 '"),
        (TimeSpec(format="it's %d/%m/%Y"), "'it''s 21/06/2026'"),
    ],
)
def test_times_of_every_kind_are_one_moment(read: Read, time: TimeSpec, held: str):
    assert read(held, lambda column: as_micros(column, time)) == round(AT * 1_000_000)


def test_fractions_of_a_second_are_written_as_bigquery_writes_them():
    """DuckDB, which knows Python's way, gets that back from `to_duckdb`."""
    expression = as_micros(Column("c", "STRING"), TimeSpec(format="%H:%M:%S.%f"))
    assert expression == "UNIX_MICROS(TIMESTAMP(SAFE.PARSE_DATETIME('%H:%M:%E*S', TRIM(`c`))))"


@pytest.mark.parametrize(
    ("time", "held"),
    [
        (TimeSpec(), "NULL::TIMESTAMPTZ"),
        *((zone, f"'{half}'") for zone in (TimeSpec(), BERLIN) for half in HALF),
        (TimeSpec(format="%d/%m/%Y"), "'2026-06-21'"),
        (TimeSpec(format="%d/%m/%Y %z"), "'21/06/2026'"),
        (SECONDS, "'n/a'"),
        (SECONDS, "'nan'::DOUBLE"),
        (MICROS, "1e300::DOUBLE"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(read: Read, time: TimeSpec, held: str):
    assert read(held, lambda column: as_micros(column, time)) is None


@pytest.mark.parametrize(("time", "unit"), [(SECONDS, 1_000_000), (MILLIS, 1_000), (MICROS, 1)])
@pytest.mark.parametrize("bound", [-62_135_596_800, 253_402_300_799])
def test_numbers_are_times_in_the_years_1_to_9999(read: Read, time: TimeSpec, unit: int, bound: int):
    held, beyond = bound * 1_000_000 // unit, 1 if bound > 0 else -1
    for kind, step in (("BIGINT", 1), ("DOUBLE", 100)):  # so far from 1970 a FLOAT64 does not tell microseconds apart
        found = [
            read(f"({number})::{kind}", lambda column: as_micros(column, time))
            for number in (held, held + step * beyond)
        ]
        assert found == [bound * 1_000_000, None]


@pytest.mark.parametrize(
    ("kind", "time", "why"),
    [
        ("BOOL", TimeSpec(),
         "BOOL; a row's time must be TIMESTAMP, DATETIME, DATE, a STRING that holds one, or a number with its unit."),
        ("FLOAT64", TimeSpec(),
         "FLOAT64. If it holds seconds, milliseconds or microseconds since 1970, say which in the catalogue: "
         "timestamp: {column: c, unit: s} (or ms, us)."),
        ("DATE", SECONDS,
         "DATE, but audit.timestamp.unit in the catalogue is for columns that hold epoch numbers: take it out, or name "
         "another column."),
        ("DATE", TimeSpec(format="%d"),
         "DATE, but audit.timestamp.format in the catalogue is for columns that hold texts: take it out, or name "
         "another column."),
    ],
)  # fmt: skip
def test_a_column_that_does_not_go_with_the_catalogue_is_refused_with_advice(kind: str, time: TimeSpec, why: str):
    with pytest.raises(BadData) as caught:
        as_micros(Column("c", kind), time)
    assert str(caught.value) == f"The audit table's column 'c' has type {why}"


def test_the_advice_for_a_log_without_a_usable_time():
    said = "The catalogue says that it holds "
    assert advice(MILLIS) == f"{said}numbers in ms since 1970: check audit.timestamp.unit"
    assert advice(TimeSpec(format="%d/%m")) == f"{said}texts such as %d/%m: check audit.timestamp.format"
    assert advice(BERLIN).startswith("A text must be ISO 8601, such as 2026-03-01T06:00:00Z.")


# -- what tells rows apart ---------------------------------------------------------------------------------------------


def spec(timestamp: str = "at", path: Path = ()) -> AuditSpec:
    return AuditSpec("a.b", timestamp, None, (), time=TimeSpec(path=path))


@pytest.mark.parametrize(
    ("held", "label"),
    [
        ("' a b '", "a b"), ("'x'", "x"), ("''", None), ("'  '", None), ("NULL::VARCHAR", None),
        (f"' {'x' * 200} '", "x" * 200), (f"'{'x' * 201}'", None), (f"'{'模' * 200}'", "模" * 200),
        ("7::BIGINT", "7"), ("true", "true"), ("NULL::BIGINT", None),
    ],
)  # fmt: skip
def test_a_label_is_a_short_text(read: Read, held: str, label: str | None):
    assert read(held, lambda column: label_value({"c": column}, "model", Place("C"))) == label


@pytest.mark.parametrize(("held", "env"), [("' a '", " a "), ("7::BIGINT", "7"), ("true", "true")])
def test_an_environment_is_the_columns_text_as_it_stands(read: Read, held: str, env: str):
    assert read(held, lambda column: environment({"c": column}, Place("C"), "prod")) == env


def test_the_filter_on_a_text_is_on_the_column_itself():
    """A cast around it would keep BigQuery from reading only its partitions and clusters."""
    assert environment({"c": Column("c", "STRING")}, Place("c"), "prod") == "`c`"


def test_keys_may_be_nested(read: Read):
    held = '\'{"a": {"b": "2026-06-21"}}\''
    path: Path = ("a", "b")
    assert read(held, lambda column: label_value({"c": column}, "model", Place("c", path))) == "2026-06-21"
    assert read(held, lambda column: environment({"c": column}, Place("c", path), "prod")) == "2026-06-21"
    assert read(held, lambda column: moment({"c": column}, spec("C", path))) == round(AT * 1_000_000)


COLUMNS = {name: Column(name.upper(), kind) for name, kind in (("x", "FLOAT64"), ("d", "DATE"), ("s", "STRING"))}
HAS = "Its columns: X, D, S."
ADD = "or add it with `python -m exporter init-audit`."


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda c: moment(c, spec()),
         "The audit table has no column 'at', which says when a row was recorded. Name the right column in the "
         f"catalogue (audit.timestamp), {ADD} {HAS}"),
        (lambda c: moment(c, spec("D", ("a", 0))),
         "audit.timestamp: column D has type DATE, in which there is no path a[0]."),
        (lambda c: label_value(c, "model", Place("m")),
         "The audit table has no column 'm', which says the label 'model'. Name the right column in the catalogue "
         f"(audit.labels), {ADD} {HAS}"),
        (lambda c: label_value(c, "model", Place("x")),
         "The audit table's column 'X' has type FLOAT64; the values of the label 'model' must be STRING, INT64 or "
         "BOOL."),
        (lambda c: label_value(c, "model", Place("x", ("a",))),
         "audit.labels: model: column X has type FLOAT64, in which there is no path a."),
        (lambda c: environment(c, None, "prod"),
         "AUDIT_ENV is 'prod', but the audit table has no column 'env' to filter on. Unset AUDIT_ENV, or name the "
         f"column in the catalogue (audit.env). {HAS}"),
        (lambda c: environment(c, Place("stage"), "prod"),
         "AUDIT_ENV is 'prod', but the audit table has no column 'stage' to filter on. Unset AUDIT_ENV, or name the "
         f"column in the catalogue (audit.env). {HAS}"),
        (lambda c: environment(c, Place("d"), "prod"),
         "AUDIT_ENV filters on column 'D', which has type DATE, not STRING, INT64 or BOOL."),
        (lambda c: environment(c, Place("d", ("a",)), "prod"),
         "audit.env: column D has type DATE, in which there is no path a."),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_read_says_what_to_do(ask: Callable[[dict[str, Column]], str], why: str):
    with pytest.raises(BadData) as caught:
        ask(COLUMNS)
    assert str(caught.value) == why


def test_many_columns_are_named_as_far_as_they_fit():
    many = {f"c{n}": Column(f"c{n}", "STRING") for n in range(1000)}
    with pytest.raises(BadData) as caught:
        moment(many, NO_AUDIT)
    listed = str(caught.value).partition("Its columns: ")[2]
    assert listed.startswith("c0, c1, c2, ")
    assert len(listed) == 300 + len(".")
