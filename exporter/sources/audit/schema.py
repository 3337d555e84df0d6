"""The audit table's columns: what `init-audit` creates, and what a writer of the log fills.

The names and types are those of the built-in catalogue's table; another catalogue's columns are derived from how it
reads them.
"""

from dataclasses import dataclass
from typing import Final

from exporter.catalog import Catalog, CountRows, TimeSpec
from exporter.sources.audit.query import is_flag


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column to create: name, GoogleSQL type, and what it means (nothing is known of another catalogue's)."""

    name: str
    type: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `init-audit` found and did."""

    table: str
    created: bool
    added: tuple[str, ...]
    mismatched: tuple[str, ...]
    """Columns that exist with another type, which were left alone."""

    def __str__(self) -> str:
        if self.created:
            lines = [f"created table {self.table} with {len(self.added)} columns"]
        elif self.added:
            lines = [f"added to table {self.table}: {', '.join(self.added)}"]
        else:
            lines = [f"table {self.table} has every column already; nothing was changed"]
        return "\n".join([*lines, *(f"left alone: {text}" for text in self.mismatched)])


STANDARD: Final = (
    TableColumn("timestamp", "TIMESTAMP", "When the run was recorded"),
    TableColumn("drift_detected", "BOOL", "Whether drift was found"),
    TableColumn("drift_share", "FLOAT64", "Share of the features that drifted, 0 to 1"),
    TableColumn("drifted_features_count", "INT64", "Number of features that drifted"),
    TableColumn("r2", "FLOAT64", "R2 of the champion on test_current"),
    TableColumn("rmse", "FLOAT64", "RMSE of the champion on test_current"),
    TableColumn("champion_r2_baseline", "FLOAT64", "R2 of the champion on test_baseline"),
    TableColumn("r2_current", "FLOAT64", "R2 of the challenger on test_current"),
    TableColumn("r2_baseline", "FLOAT64", "R2 of the challenger on test_baseline"),
    TableColumn("r2_train", "FLOAT64", "R2 of the challenger on its training set"),
    TableColumn("model_improvement", "FLOAT64", "R2 of the challenger minus R2 of the champion"),
    TableColumn("fine_tune_triggered", "BOOL", "Whether a challenger was trained"),
    TableColumn("fine_tune_success", "BOOL", "Whether that training succeeded"),
    TableColumn("double_evaluation_enabled", "BOOL", "Whether both test sets were evaluated"),
    TableColumn("baseline_regression", "BOOL", "Whether the challenger fell back on test_baseline"),
    TableColumn("deployment_decision", "STRING", "deploy, skip, reject, or not_triggered"),
    TableColumn("env", "STRING", "Environment, such as dev or prod"),
    TableColumn("error_message", "STRING", "What went wrong, if anything did"),
    TableColumn("model_uri", "STRING", "Where the model is stored"),
    TableColumn("run_id", "STRING", "Id of the run that wrote the row"),
)
INFORMATIONAL: Final = frozenset(
    {"double_evaluation_enabled", "baseline_regression", "error_message", "model_uri", "run_id", "r2_train"}
)
"""Standard columns that no metric reads. They are created for a catalogue that names all the other ones, whose log is
therefore written by the pipeline that fills them."""


def table_columns(catalog: Catalog) -> tuple[TableColumn, ...]:
    """The columns to create for a catalogue, which are those that it names, in the standard order first."""
    audit = catalog.audit
    derived: dict[str, str] = {audit.timestamp: _time_type(audit.time)}
    for place in ([audit.env] if audit.env else []) + [place for _, place in audit.labels]:
        derived.setdefault(place.column, "JSON" if place.path else "STRING")
    for _, origin in catalog.audit_metrics():
        if isinstance(origin, CountRows):
            kind = "BOOL" if is_flag(origin) else "STRING"
            if origin.where:
                derived.setdefault(origin.where, "BOOL")
        else:
            kind = "FLOAT64"
        derived.setdefault(origin.column, "JSON" if origin.path else kind)
        for column, value in origin.only:
            of_value = "BOOL" if isinstance(value, bool) else "STRING" if isinstance(value, str) else "FLOAT64"
            derived.setdefault(column, of_value)
    for sentinel in audit.missing:
        for column, _ in sentinel:
            derived.setdefault(column, "FLOAT64")
    # A type that the catalogue asks for is kept: its timestamp may be a number.
    standard = [column for column in STANDARD if column.name in derived and column.name != audit.timestamp]
    first = next((c for c in STANDARD if (c.name, c.type) == (audit.timestamp, derived[audit.timestamp])), None)
    timestamp = first or TableColumn(audit.timestamp, derived[audit.timestamp])
    known = {column.name for column in STANDARD}
    if known - INFORMATIONAL <= set(derived):
        standard = [column for column in STANDARD if column.name != audit.timestamp]
    others = [
        TableColumn(name, kind) for name, kind in derived.items() if name not in known and name != audit.timestamp
    ]
    # The column that must be there comes first.
    return (timestamp, *standard, *others)


def _time_type(time: TimeSpec) -> str:
    """The type of a new timestamp column that is read as the catalogue says."""
    if time.path:
        return "JSON"
    if time.unit:
        return "INT64"
    if time.format:
        return "STRING"
    return "TIMESTAMP" if time.zone == "UTC" else "DATETIME"


def compare(wanted: tuple[TableColumn, ...], present: dict[str, str]) -> tuple[list[TableColumn], tuple[str, ...]]:
    """The columns that a table lacks, and sentences about those that it has with another type.

    Args:
        present: GoogleSQL types by lower-case column name.
    """
    lacking = [column for column in wanted if column.name.lower() not in present]
    mismatched = tuple(
        f"column {column.name} is {present[column.name.lower()]}, expected {column.type}"
        for column in wanted
        if present.get(column.name.lower(), column.type) != column.type
    )
    return lacking, mismatched
