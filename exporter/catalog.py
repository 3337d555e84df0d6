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


@dataclass(frozen=True, slots=True)
class NewestColumn:
    """The newest value of an audit column that is neither NULL nor a sentinel."""

    column: str


@dataclass(frozen=True, slots=True)
class CountRows:
    """Audit rows counted by a column's value; `where` names a BOOL column that must be true.

    `values` pairs each label value with the column's value, as lower-case text (BOOL: `true`, `false`).
    """

    column: str
    values: tuple[tuple[str, str], ...]
    where: str | None = None


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
class AuditSpec:
    """The audit table. Each entry of `missing` holds values that, all together in one row, mean NULL in its columns.

    `labels` pairs label names with the columns that hold their values; rows are told apart by them.
    """

    table: str
    timestamp: str
    env: str | None
    missing: tuple[tuple[tuple[str, float], ...], ...]
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """The validated catalogue. `fingerprint` changes with the file's content."""

    audit: AuditSpec
    metrics: tuple[MetricSpec, ...]
    fingerprint: str

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
            names.append(self.audit.env)
        names.extend(column for _, column in self.audit.labels)
        for _, origin in self.audit_metrics():
            names.append(origin.column)
            if isinstance(origin, CountRows) and origin.where:
                names.append(origin.where)
        for sentinel in self.audit.missing:
            names.extend(column for column, _ in sentinel)
        return tuple(dict.fromkeys(names))


def exposed_names(metric: MetricSpec) -> tuple[str, ...]:
    """The family's name and every sample name that it takes in either exposition format."""
    if metric.type == "counter":
        base = metric.name.removesuffix("_total")
        return base, metric.name, f"{base}_created"
    if metric.type == "histogram":
        return metric.name, *(metric.name + suffix for suffix in (*DERIVED_SUFFIXES, "_created"))
    return (metric.name,)
