"""GoogleSQL to DuckDB's dialect: sqlglot's translation, and what it does not know."""

import sqlglot
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.parsers.bigquery import BigQueryParser


class _ColumnsWithDots(BigQuery):
    """In GoogleSQL a quoted name may be a path, `dataset.table`. Of columns, which a DuckDB table may call anything,
    the audit query quotes the whole name."""

    class Parser(BigQueryParser):
        def _parse_column(self) -> exp.Expr | None:
            return super(BigQueryParser, self)._parse_column()


def to_duckdb(sql: str) -> str:
    """The audit query as DuckDB takes it."""
    tree = sqlglot.parse_one(sql, dialect=_ColumnsWithDots)
    return tree.transform(_translated).sql(dialect="duckdb")


def _translated(node: exp.Expr) -> exp.Expr:
    # A text that is no JSON is NULL in BigQuery, an error in DuckDB.
    if isinstance(node, exp.JSONExtractScalar):
        node.set("this", exp.TryCast(this=node.this, to=exp.DataType.build("JSON"), safe=True))
    elif isinstance(node, exp.SafeFunc) and isinstance(node.this, exp.ParseDatetime | exp.StrToTime):
        written = str(node.this.args["format"].this).replace("%E*S", "%S.%f")
        return exp.func("TRY_STRPTIME", node.this.this, exp.Literal.string(written))
    return node
