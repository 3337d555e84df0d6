"""The audit-log query, built from the catalogue. Shared by both engines; does no I/O.

The query is written once, in BigQuery's dialect (GoogleSQL), and reads the table once. Rows are first grouped by
timestamp and then reduced to the newest value of every column (`MAX_BY`), so that rows with equal timestamps give the
same answer every time: the larger value wins, as TRUE does for a flag.

Where the catalogue turns columns into labels, both steps are grouped by them as well, and the answer has one row for
each label set, the newest first, up to as many as EXPORTER_MAX_SERIES allows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from exporter.catalog import Catalog, CountRows, Equal, MetricSpec, NewestColumn
from exporter.settings import Settings
from exporter.snapshot import Gap, Labels
from exporter.sources.audit.columns import (
    FLOAT_MAX,
    LABEL_TYPES,
    NUMBER_TYPES,
    Column,
    as_flag,
    as_number,
    as_text,
    at_path,
)
from exporter.sources.audit.row_keys import environment, label_value, moment, no_path
from exporter.sources.audit.times import advice
from exporter.sources.boundary import text

SOURCE_NAME: Final = "audit"

HOUR_US: Final = 3_600_000_000
BEGINNING_US: Final = -62_135_596_800_000_000
"""The year 1, in microseconds since 1970: no row's time is earlier, in either engine."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter: name without `@`, GoogleSQL type, value."""

    name: str
    type: str
    value: str | float | int


@dataclass(frozen=True, slots=True)
class GaugeOutput:
    """Output columns `v<index>`, `t<index>` (and `b<index>` for text): a column's newest value, for these metrics."""

    index: int
    column: str
    metrics: tuple[str, ...]
    is_text: bool


@dataclass(frozen=True, slots=True)
class CountOutput:
    """Output columns `k<index>`: a metric's rows by label value, up to the horizon; `newer<index>`: how many of those
    are newer than `since`."""

    metric: str
    label: str
    indexes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """The query and what is needed to read its row; `gaps` are the metrics that this table cannot give."""

    sql: str
    parameters: tuple[Parameter, ...]
    gauges: tuple[GaugeOutput, ...]
    counts: tuple[CountOutput, ...]
    gaps: tuple[Gap, ...]
    missing_columns: tuple[str, ...]
    timestamp: str
    """The column that says when a row was recorded, and what it has to hold: for a log whose rows all lack it."""
    history_sql: str = ""
    labels: tuple[str, ...] = ()
    """Labels from output columns `l<index>`, by which the rows are grouped; none: the answer is one row."""
    most_series: int = 0
    """EXPORTER_MAX_SERIES, where there are labels."""
    set_series: int = 1
    """How many series one label set has when every column holds a value, aliases included."""

    @property
    def most_sets(self) -> int:
        """How many label sets the answer has at most."""
        return max(1, self.most_series // self.set_series)

    def set_of(self, row: Mapping[str, Any]) -> Labels | None:
        """The label set that a row is about; None for rows that lack one of the labels."""
        values = [row[f"l{index}"] for index in range(len(self.labels))]
        if any(value is None for value in values):
            return None
        return tuple((label, text(str(value))) for label, value in zip(self.labels, values, strict=True))

    def history(self, until: float) -> "AuditQuery":
        """The same stages as a list instead of one row: what every moment up to `until` (Unix seconds) adds, oldest
        first. Columns: `at` in microseconds, `n` rows, `x<index>` for gauges, `c<index>` for counts, `l<index>` for
        labels."""
        until_us = int(until * 1_000_000)
        parameters = (p if p.name != "horizon" else dataclasses.replace(p, value=until_us) for p in self.parameters)
        return dataclasses.replace(self, sql=self.history_sql, parameters=tuple(parameters))


def audit_table(settings: Settings, catalog: Catalog) -> str:
    """The audit table's full name: `project.dataset.table` in BigQuery, `schema.table` in DuckDB."""
    name = settings.audit_table or catalog.audit.table
    if not settings.uses_bigquery:
        return ".".join(name.split(".")[-2:])
    return name if name.count(".") > 1 else f"{settings.google_project}.{name}"


def audit_identity(settings: Settings, catalog: Catalog) -> str:
    """What an audit reading is made of: a short digest of the engine, the table and the filter."""
    place = "bigquery" if settings.uses_bigquery else str(settings.embedded)
    content = json.dumps([place, audit_table(settings, catalog), settings.audit_env])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def horizon_us(now: float) -> int:
    """The newest timestamp that counts, in microseconds: later rows are dated in the future.

    One to two hours ahead, rounded to the hour, so that a restarted exporter sends the same text and parameters and
    BigQuery's result cache can answer for free.
    """
    return (int(now * 1_000_000) // HOUR_US + 2) * HOUR_US


def build_query(
    catalog: Catalog,
    columns: Sequence[Column],
    *,
    table: str,
    env: str | None,
    now: float,
    since: float | None = None,
    filters: Sequence[str] = (),
    filter_parameters: Sequence[Parameter] = (),
    max_series: int = 200_000,
) -> AuditQuery:
    """Build the query for the columns that the table really has.

    Args:
        columns: the table's columns.
        table: quoted name of the table, as the FROM clause takes it.
        env: keep only rows whose env column has this value; None for all rows.
        now: Unix seconds; rows later than `horizon_us` of it give no gauge and are not counted.
        since: time in Unix seconds of the newest row that was ever counted, None if there was none. It stays the same
            while no newer row comes, so that a result cache can answer.
        filters: more conditions, such as the one on the partitioning column, with their parameters.
        max_series: most series that labels may make; see `AuditQuery.most_sets`.

    Raises:
        BadData: the timestamp column, a label's column, or the env column that a filter needs, is missing or of a type
            that cannot work.
    """
    builder = _QueryBuilder(catalog, columns, max_series, BEGINNING_US if since is None else round(since * 1_000_000))
    return builder.build(table, env, now, filters, filter_parameters)


class _QueryBuilder:
    """Collects the three stages: `log`, each row's columns as numbers, flags and texts; `moments`, one row for each
    timestamp; and the answer, one row in all. With labels, the last two have that many for each label set."""

    def __init__(self, catalog: Catalog, columns: Sequence[Column], max_series: int, since_us: int) -> None:
        self.catalog = catalog
        self.since_us = since_us
        self.max_series = max_series
        # Blanks around a name, as after the commas of a CSV file's header, are nobody's intention.
        self.columns = {column.name.strip().lower(): column for column in columns}
        self.parameters: list[Parameter] = []
        self.log: dict[str, str] = {}
        self.moments: list[str] = []
        self.answer: list[str] = []

    def build(
        self, table: str, env: str | None, now: float, filters: Sequence[str], filter_parameters: Sequence[Parameter]
    ) -> AuditQuery:
        conditions = list(filters)
        self.parameters += filter_parameters
        audit = self.catalog.audit
        at = moment(self.columns, audit)
        labels = [label_value(self.columns, label, place) for label, place in audit.labels]
        if env is not None:
            found = environment(self.columns, audit.env, env)
            conditions.append(f"{found} = {self.parameter('env', 'STRING', env)}")
        self.parameter("horizon", "INT64", horizon_us(now))
        self.parameter("since", "INT64", self.since_us)
        self.parameter("float_max", "FLOAT64", FLOAT_MAX)
        self.moments.append("COUNT(*) AS `n`")
        self.answer += [
            "SUM(IF(`at` IS NULL, 0, `n`)) AS `rows`",
            "MAX(IF(`at` <= @horizon, `at`, NULL)) AS `newest`",
            "SUM(IF(`at` IS NULL, `n`, 0)) AS `undated`",
            "SUM(IF(`at` > @horizon, `n`, 0)) AS `future`",
            "MIN(IF(`at` > @horizon, `at`, NULL)) AS `first_future`",
        ]
        gaps: list[Gap] = []
        metrics_by_origin: dict[NewestColumn, list[str]] = {}
        counts: list[CountOutput] = []
        for metric, origin in self.catalog.audit_metrics():
            reason = self.cannot(origin)
            if reason:
                gaps.append(Gap(metric.name, reason))
            elif isinstance(origin, NewestColumn):
                same = dataclasses.replace(origin, column=origin.column.lower())
                metrics_by_origin.setdefault(same, []).append(metric.name)
            else:
                counts.append(self.count(metric, origin, sum(len(known.indexes) for known in counts)))
        gauges = tuple(
            self.newest(index, origin, tuple(names)) for index, (origin, names) in enumerate(metrics_by_origin.items())
        )
        where = f"\n  WHERE {' AND '.join(conditions)}" if conditions else ""
        by = [f"`l{index}`" for index in range(len(labels))]
        log = [
            f"{at} AS `at`",
            *(f"{expression} AS {alias}" for expression, alias in zip(labels, by, strict=True)),
            *(f"{expression} AS {alias}" for expression, alias in self.log.items()),
        ]
        keys = ["`at`", *by]
        moments = (
            f"WITH log AS (\n  SELECT\n    {_lines(log, 4)}\n  FROM {table}{where}\n), moments AS (\n"
            f"  SELECT\n    {_lines([*keys, *self.moments], 4)}\n  FROM log\n  GROUP BY {', '.join(keys)}\n)"
        )
        query = AuditQuery(
            f"{moments}\nSELECT\n  {_lines(self.answer, 2)}\nFROM moments",
            tuple(self.parameters),
            gauges,
            tuple(counts),
            tuple(gaps),
            tuple(name for name in self.catalog.audit_columns() if name.lower() not in self.columns),
            f"{self.catalog.audit.timestamp}. {advice(self.catalog.audit.time)}",
            f"{moments}\nSELECT *\nFROM moments\nWHERE `at` <= @horizon\nORDER BY `at`",
        )
        if not by:
            return query
        aliases: dict[str | None, int] = {}
        for metric in self.catalog.metrics:
            aliases[metric.alias_of] = aliases.get(metric.alias_of, 0) + 1
        series = sum(1 + aliases.get(metric, 0) for gauge in gauges for metric in gauge.metrics)
        series += sum((1 + aliases.get(count.metric, 0)) * len(count.indexes) for count in counts)
        query = dataclasses.replace(
            query,
            labels=tuple(label for label, _ in self.catalog.audit.labels),
            most_series=self.max_series,
            set_series=max(1, series),
        )
        return dataclasses.replace(query, sql=self.grouped(moments, by, gauges, query.most_sets))

    def grouped(self, moments: str, by: Sequence[str], gauges: Sequence[GaugeOutput], most: int) -> str:
        """The query that answers for each label set. What is said of all rows stands in every row of the answer, so
        that a limited one says it too: columns that begin with `all_`."""
        nameless = " OR ".join(f"{label} IS NULL" for label in by)
        overall = [
            f"SUM(IF({nameless} OR `rows` = 0, 0, 1)) OVER () AS `all_sets`",
            f"SUM(IF({nameless}, `rows`, 0)) OVER () AS `all_nameless`",
            "MAX(`newest`) OVER () AS `all_newest`",
            "MIN(`first_future`) OVER () AS `all_first_future`",
            *(f"SUM(`{name}`) OVER () AS `all_{name}`" for name in ("rows", "undated", "future")),
            *(f"SUM(`b{gauge.index}`) OVER () AS `all_b{gauge.index}`" for gauge in gauges if gauge.is_text),
        ]
        return (
            f"{moments}, label_sets AS (\n"
            f"  SELECT\n    {_lines([*by, *self.answer], 4)}\n  FROM moments\n  GROUP BY {', '.join(by)}\n)\n"
            f"SELECT\n  {_lines(['*', *overall], 2)}\nFROM label_sets\n"
            # Rows that no series is made of come last, so that they take nobody's place.
            f"ORDER BY IF({nameless} OR `rows` = 0, 1, 0), `newest` DESC, {', '.join(by)}\nLIMIT {most}"
        )

    def in_log(self, expression: str) -> str:
        """The alias of an expression over a row; the same expression is written once."""
        return self.log.setdefault(expression, f"`e{len(self.log)}`")

    # -- parts of the query ----------------------------------------------------------------------------------------

    def parameter(self, name: str, kind: str, value: str | float | int) -> str:
        self.parameters.append(Parameter(name, kind, value))
        return f"@{name}"

    def cannot(self, origin: NewestColumn | CountRows) -> str | None:
        """Why the table cannot give this, or None if it can."""
        flags = NUMBER_TYPES | {"BOOL", "STRING"}
        wanted = [] if origin.path else [(origin.column, self.readable(origin), self.meaning(origin))]
        if isinstance(origin, CountRows) and origin.where:
            wanted.append((origin.where, flags, "a flag"))
        for name, value in origin.only:
            wanted.append((name, LABEL_TYPES if isinstance(value, str) else flags, repr(value)))
        for name in dict.fromkeys((origin.column, *(name for name, _, _ in wanted))):
            if (found := self.columns.get(name.lower())) is None or found.protected:
                return found.protected if found else f"the table has no column {name}"
        for name, types, meaning in wanted:
            column = self.columns[name.lower()]
            if column.type not in types:
                return f"column {name} has type {column.type}, which cannot be read as {meaning}"
        return no_path(self.columns[origin.column.lower()], origin.path) if origin.path else None

    def read(self, origin: NewestColumn | CountRows) -> Column:
        """The column that an origin names, or what stands at its path there."""
        column = self.columns[origin.column.lower()]
        return at_path(column, origin.path) if origin.path else column

    def equals(self, equal: Equal) -> str:
        """The condition that a row's column holds a value."""
        name, value = equal
        column = self.columns[name.lower()]
        if isinstance(value, bool):
            return ("" if value else "NOT ") + self.in_log(as_flag(column))
        text = isinstance(value, str)
        expression = self.in_log(as_text(column) if text else as_number(column))
        kind = "STRING" if text else "FLOAT64"
        known = (p.name for p in self.parameters if p.name.startswith("only") and (p.type, p.value) == (kind, value))
        name = next(known, "") or self.parameter(f"only{len(self.parameters)}", kind, value)[1:]
        return f"{expression} = @{name}"

    @staticmethod
    def readable(origin: NewestColumn | CountRows) -> frozenset[str]:
        if isinstance(origin, NewestColumn) or is_flag(origin):
            return NUMBER_TYPES | {"BOOL", "STRING"}
        return frozenset({"STRING", "BOOL", "INT64"})

    @staticmethod
    def meaning(origin: NewestColumn | CountRows) -> str:
        return "a number" if isinstance(origin, NewestColumn) else "one of " + ", ".join(v for _, v in origin.values)

    def newest(self, index: int, origin: NewestColumn, metrics: tuple[str, ...]) -> GaugeOutput:
        """Add the newest value of a column: value `v`, its time `t`, and for text the count `b` of unreadable rows."""
        column = self.read(origin)
        number = self.in_log(as_number(column))
        only = [self.equals(equal) for equal in origin.only]
        conditions = ["`at` <= @horizon", *only, f"ABS({number}) <= @float_max", *self.sentinels(column)]
        self.moments.append(f"MAX(IF({' AND '.join(conditions)}, {number}, NULL)) AS `x{index}`")
        self.answer += [
            f"MAX_BY(`x{index}`, IF(`x{index}` IS NULL, NULL, `at`)) AS `v{index}`",
            f"MAX(IF(`x{index}` IS NULL, NULL, `at`)) AS `t{index}`",
        ]
        is_text = column.type == "STRING"
        if is_text:
            unreadable = [*only, f"{self.in_log(as_text(column))} != ''", f"{number} IS NULL"]
            self.moments.append(f"COUNTIF({' AND '.join(unreadable)}) AS `y{index}`")
            self.answer.append(f"SUM(IF(`at` IS NULL, 0, `y{index}`)) AS `b{index}`")
        return GaugeOutput(index, column.name, metrics, is_text)

    def sentinels(self, column: Column) -> list[str]:
        """Conditions that are false in rows whose values together mean that this column's is missing."""
        found = []
        for number, sentinel in enumerate(self.catalog.audit.missing):
            held = [self.columns.get(name.lower()) for name, _ in sentinel]
            present = [one for one in held if one and not one.protected and one.type in NUMBER_TYPES | {"STRING"}]
            if column not in present or len(present) < len(sentinel):
                continue
            parts = []
            for position, (one, (_, value)) in enumerate(zip(present, sentinel, strict=True)):
                name = f"missing{number}_{position}"
                if all(parameter.name != name for parameter in self.parameters):
                    self.parameter(name, "FLOAT64", value)
                parts.append(f"{self.in_log(as_number(one))} = @{name}")
            found.append(f"NOT IFNULL({' AND '.join(parts)}, FALSE)")
        return found

    def count(self, metric: MetricSpec, origin: CountRows, start: int) -> CountOutput:
        """Add one count `k` for each label value, and how many of those rows are newer."""
        column = self.read(origin)
        also = f" AND {self.in_log(as_flag(self.columns[origin.where.lower()]))}" if origin.where else ""
        also += "".join(f" AND {self.equals(equal)}" for equal in origin.only)
        indexes = []
        for index, (value, wanted) in enumerate(origin.values, start):
            if is_flag(origin):
                matches = ("" if wanted == "true" else "NOT ") + self.in_log(as_flag(column))
            else:
                matches = f"{self.in_log(as_text(column))} = {self.parameter(f'value{index}', 'STRING', wanted)}"
            self.moments.append(f"COUNTIF({matches}{also}) AS `c{index}`")
            self.answer += [
                f"SUM(IF(`at` <= @horizon, `c{index}`, 0)) AS `k{index}`",
                f"SUM(IF(`at` <= @horizon AND `at` > @since, `c{index}`, 0)) AS `newer{index}`",
            ]
            indexes.append((value, index))
        return CountOutput(metric.name, metric.labels[-1], tuple(indexes))


def _lines(parts: Sequence[str], indent: int) -> str:
    return (",\n" + " " * indent).join(parts)


def is_flag(origin: CountRows) -> bool:
    """Whether the rows are counted by a yes-or-no column."""
    return all(wanted in ("true", "false") for _, wanted in origin.values)
