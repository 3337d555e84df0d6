"""Columns that BigQuery refuses: the query is asked without them, and they are remembered for a while."""

from collections.abc import Mapping

import pytest
from google.api_core import exceptions as api

from exporter.errors import SourceUnavailable
from exporter.settings import Settings
from exporter.sources.audit.bigquery_errors import FINE_GRAINED_READER, BigQueryErrors, ColumnsProtected
from exporter.sources.audit.bigquery_protected import MOST_REFUSALS, ProtectedColumns, parts_of_column
from exporter.sources.audit.columns import Column
from exporter.sources.audit.query import AuditQuery, build_query
from tests.sources.audit.memory_log import NOW, catalogue, gauge

TABLE = "p.d.t"
NAMES = ("X", "y", "z")
MAX_AGE = 100.0


class BigQuery:
    """Refuses queries that read protected columns, `most` of them at a time."""

    def __init__(self, *protected: str, most: int = 9) -> None:
        self.columns = protected
        self.most = most
        self.asked = 0
        self.errors = BigQueryErrors(Settings.from_env({}), TABLE)
        self.protected = ProtectedColumns(self.errors, TABLE, MAX_AGE)
        self.catalog = catalogue(*(gauge(name, f"metric_{name}") for name in NAMES))

    def build(self, refused: Mapping[str, str]) -> AuditQuery:
        columns = [Column(name, "FLOAT64", protected=refused.get(name.lower(), "")) for name in NAMES]
        return build_query(self.catalog, [Column("at", "TIMESTAMP"), *columns], table=TABLE, env=None, now=NOW)

    def question(self, query: AuditQuery) -> str:
        self.asked += 1
        found = [name for name in self.columns if f"`{name.rpartition('.')[2]}`" in query.sql][: self.most]
        if found:
            raise api.Forbidden(f"No permission to access policy tag T on columns {', '.join(found)}.")  # type: ignore[no-untyped-call]
        return "answer"

    def ask(self, now: float = NOW, *, schema: str = "one", anew: bool = False) -> Mapping[str, str]:
        """Reasons by metric."""
        columns = ("at", *NAMES)
        query, answer = self.protected.ask(
            self.question, self.build, columns=columns, schema=schema, now=now, anew=anew
        )
        assert answer == "answer"
        return {gap.metric: gap.reason for gap in query.gaps}


def test_nothing_is_refused():
    bigquery = BigQuery()
    assert (bigquery.ask(), bigquery.asked) == ({}, 1)


@pytest.mark.parametrize("most", [1, 9])
def test_each_refused_column_costs_its_own_metric_and_is_named_as_the_table_spells_it(most: int):
    bigquery = BigQuery("p.d.t.X", "d.t.z", most=most)
    gaps = bigquery.ask()
    assert set(gaps) == {"metric_X", "metric_z"}
    said = "403 No permission to access policy tag T on columns "
    first = "p.d.t.X" if most == 1 else "p.d.t.X, d.t.z"
    reason = f"column X has a policy tag: the service account lacks the role {FINE_GRAINED_READER}. BigQuery said: "
    assert gaps["metric_X"] == f"{reason}{said.removeprefix('403 ')}{first}."
    assert bigquery.asked == (3 if most == 1 else 2)


def test_what_was_refused_is_remembered_for_its_time_while_the_schema_stays():
    bigquery = BigQuery("d.t.z")
    gaps = bigquery.ask()
    for now, schema, anew, asked in (
        (NOW + MAX_AGE - 1, "one", False, 1),
        (NOW, "one", False, 1),
        (NOW + MAX_AGE, "one", False, 2),  # from here the time counts
        (NOW + 2 * MAX_AGE - 1, "one", False, 1),
        (NOW + MAX_AGE - 1, "one", False, 2),  # the clock was put back
        (NOW + MAX_AGE - 1, "two", False, 2),
        (NOW + MAX_AGE - 1, "two", False, 1),
        (NOW + MAX_AGE - 1, "two", True, 2),
        (NOW + MAX_AGE - 1, "two", False, 1),
    ):
        bigquery.asked = 0
        assert bigquery.ask(now, schema=schema, anew=anew) == gaps
        assert bigquery.asked == asked, (now, schema, anew)


def test_a_column_that_is_released_is_back_after_its_time():
    bigquery = BigQuery("d.t.z")
    bigquery.ask()
    bigquery.columns = ()
    assert set(bigquery.ask(NOW + 1)) == {"metric_z"}
    assert bigquery.ask(NOW + MAX_AGE) == {}


@pytest.mark.parametrize("name", ["d.t.at", "p.d.other.hidden.X.deep.hidden", "q.r.s.nothing"])
def test_a_refusal_that_no_column_can_be_left_out_for_is_an_error(name: str):
    bigquery = BigQuery(name)
    bigquery.columns = (name,)

    def question(_query: AuditQuery) -> str:
        bigquery.asked += 1
        raise api.Forbidden(f"No policy tag T on column {name}.")  # type: ignore[no-untyped-call]

    with pytest.raises(ColumnsProtected):
        bigquery.protected.ask(question, bigquery.build, columns=("at", *NAMES), schema="", now=NOW, anew=False)
    assert bigquery.asked == (2 if "X" in name else 1), "a column of a view's table may be the view's of that name"


def test_refusals_without_end_are_an_error():
    asked = 0
    bigquery = BigQuery()

    def build(refused: Mapping[str, str]) -> AuditQuery:
        catalog = catalogue(gauge("x"), gauge(f"y{len(refused)}", "other"))
        return build_query(
            catalog, [Column("at", "TIMESTAMP"), Column(f"y{len(refused)}", "INT64")], table=TABLE, env=None, now=NOW
        )

    def question(query: AuditQuery) -> str:
        nonlocal asked
        assert f"`y{asked}`" in query.sql, "the newest query is asked"
        asked += 1
        raise api.Forbidden(f"No policy tag T on column d.t.c{asked}.")  # type: ignore[no-untyped-call]

    columns = [f"c{number}" for number in range(99)]
    with pytest.raises(ColumnsProtected), bigquery.errors.translated():
        bigquery.protected.ask(question, build, columns=columns, schema="", now=NOW, anew=False)
    assert asked == MOST_REFUSALS + 1


def test_other_errors_are_told_at_once():
    def question(_query: AuditQuery) -> str:
        raise api.NotFound("No.")  # type: ignore[no-untyped-call]

    bigquery = BigQuery()
    with pytest.raises(SourceUnavailable, match=r"^Table p\.d\.t does not exist"):
        bigquery.protected.ask(question, bigquery.build, columns=NAMES, schema="", now=NOW, anew=False)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("P.D.T.Col", ["col"]), ("p.d.t.col.field", ["col"]), ("d.t.col.field", ["col"]),
        ("q.d.other.col", ["other", "col"]), ("d.other.col", ["col"]),
        ("other.col", ["other", "col"]), ("col", ["col"]),
    ],
)  # fmt: skip
def test_the_parts_of_a_refusal_that_may_be_the_column(name: str, parts: list[str]):
    assert parts_of_column(name, "P.d.T") == parts
