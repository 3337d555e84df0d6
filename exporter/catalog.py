"""The model of a catalogue: which metrics there are, and where each value comes from. `catalog_parser` makes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

METRIC_TYPES: Final = ("gauge", "counter", "histogram", "untyped")
RESERVED_PREFIXES: Final = ("mlops_exporter_", "process_", "python_")
"""Names of the exporter's own metrics, which a catalogue cannot declare."""
DERIVED_SUFFIXES: Final = ("_count", "_sum", "_bucket")
"""What a histogram's samples append to its name."""
AIRFLOW_FIGURES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "dag_run_duration": ("histogram", ("dag_id", "state")),
    "task_duration": ("histogram", ("dag_id", "task_id", "state")),
    "dag_runs": ("counter", ("dag_id", "state")),
    "dag_run_active": ("gauge", ("dag_id",)),
    "dag_last_success": ("gauge", ("dag_id",)),
}
"""What Airflow's own figures are: metric type and labels."""


Path = tuple[str | int, ...]
"""The way into a nested value: keys of objects, indexes (from 0) of lists."""
Equal = tuple[str, str | float | bool]
"""A column and what it has to hold: lower-case text, a number or a flag."""


@dataclass(frozen=True, slots=True)
class NewestColumn:
    """The newest value of an audit column that is neither NULL nor a sentinel.

    `path` leads into a column of JSON, STRUCTs or lists; `only` names rows by what their other columns hold.
    """

    column: str
    path: Path = ()
    only: tuple[Equal, ...] = ()


@dataclass(frozen=True, slots=True)
class CountRows:
    """Audit rows counted by a column's value; `where` names a BOOL column that must be true.

    `values` pairs each label value with the column's value, as lower-case text (BOOL: `true`, `false`). `path` and
    `only` are as in `NewestColumn`.
    """

    column: str
    values: tuple[tuple[str, str], ...]
    where: str | None = None
    path: Path = ()
    only: tuple[Equal, ...] = ()


@dataclass(frozen=True, slots=True)
class XCom:
    """A value that a task pushed: `field` takes one entry of a dict, `take: length` the length of a list."""

    dag: str
    task: str
    key: str
    field: str | None = None
    take: str | None = None


@dataclass(frozen=True, slots=True)
class AirflowFigure:
    """One of Airflow's own figures, a key of AIRFLOW_FIGURES."""

    figure: str


Origin = NewestColumn | CountRows | XCom | AirflowFigure


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `origins` are in order of preference; an alias has none and shows the value of `alias_of`.

    `labels` begin with those of `AuditSpec.labels` where the value comes from the audit log.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    origins: tuple[Origin, ...]
    alias_of: str | None = None
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeSpec:
    """How the timestamp column is read, where its type does not say it: see `exporter.sources.audit.times`.

    `unit` is that of epoch numbers, a key of UNITS; `zone` an IANA name, for times that have none; `format` that of
    texts, made of FORMAT_ELEMENTS.
    """

    path: Path = ()
    unit: str | None = None
    zone: str = "UTC"
    format: str | None = None


UNITS: Final[Mapping[str, int]] = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Units of epoch numbers, in microseconds."""
FORMAT_ELEMENTS: Final = tuple(f"%{letter}" for letter in "YymdbBHIpMSfzjaA%")
"""What a time's format is made of; the meanings are those of strftime in C and Python."""


@dataclass(frozen=True, slots=True)
class Place:
    """A column, or what stands at a path in it."""

    column: str
    path: Path = ()


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """The audit table. Each entry of `missing` holds values that, all together in one row, mean NULL in its columns.

    `labels` pairs label names with the places that hold their values; rows are told apart by them. `time` says how the
    timestamp column is read.
    """

    table: str
    timestamp: str
    env: Place | None
    missing: tuple[tuple[tuple[str, float], ...], ...]
    labels: tuple[tuple[str, Place], ...] = ()
    time: TimeSpec = TimeSpec()


NO_AUDIT: Final = AuditSpec("", "", None, ())
"""No audit log is read: every metric comes from elsewhere."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The validated catalogue. `fingerprint` changes with the file's content; `audit` is NO_AUDIT where it has none."""

    audit: AuditSpec
    metrics: tuple[MetricSpec, ...]
    fingerprint: str

    @property
    def has_audit_log(self) -> bool:
        """Whether an audit log is read."""
        return self.audit != NO_AUDIT

    def audit_metrics(self) -> Iterator[tuple[MetricSpec, NewestColumn | CountRows]]:
        """The metrics that the audit log can give, with the part of the declaration that says how."""
        for metric in self.metrics:
            for origin in metric.origins:
                if isinstance(origin, NewestColumn | CountRows):
                    yield metric, origin

    def audit_columns(self) -> tuple[str, ...]:
        """All columns that the catalogue names, the timestamp first."""
        names = [self.audit.timestamp]
        if self.audit.env:
            names.append(self.audit.env.column)
        names.extend(place.column for _, place in self.audit.labels)
        for _, origin in self.audit_metrics():
            names.append(origin.column)
            if isinstance(origin, CountRows) and origin.where:
                names.append(origin.where)
            names.extend(column for column, _ in origin.only)
        for sentinel in self.audit.missing:
            names.extend(column for column, _ in sentinel)
        return tuple(dict.fromkeys(names))


def dotted(path: Path) -> str:
    """A path as it is written in one line: `metrics[0].drift.share`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def exposed_names(metric: MetricSpec) -> tuple[str, ...]:
    """The family's name and every sample name that it takes in either exposition format."""
    if metric.type == "counter":
        base = metric.name.removesuffix("_total")
        return base, metric.name, f"{base}_created"
    if metric.type == "histogram":
        return metric.name, *(metric.name + suffix for suffix in (*DERIVED_SUFFIXES, "_created"))
    return (metric.name,)
