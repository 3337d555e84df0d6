"""The audit table's columns: what `init-audit` creates, and what a writer of the log fills.

The names and types are those of the built-in catalogue's table; another catalogue's columns are derived from how it
reads them.
"""

from dataclasses import dataclass
from typing import Final

from exporter.catalog import Catalog, CountRows
from exporter.sources.audit.query import is_flag


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column to create: name, GoogleSQL type, and what it means."""

    name: str
    type: str
    description: str


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
"""Standard columns that no metric reads; they are created whatever the catalogue names."""


def table_columns(catalog: Catalog) -> tuple[TableColumn, ...]:
    """The columns to create for a catalogue, in the standard order first."""
    derived: dict[str, str] = {catalog.audit.timestamp: "TIMESTAMP"}
    if catalog.audit.env:
        derived[catalog.audit.env] = "STRING"
    for _, column in catalog.audit.labels:
        derived[column] = "STRING"
    for _, origin in catalog.audit_metrics():
        if isinstance(origin, CountRows):
            derived.setdefault(origin.column, "BOOL" if is_flag(origin) else "STRING")
            if origin.where:
                derived.setdefault(origin.where, "BOOL")
        else:
            derived.setdefault(origin.column, "FLOAT64")
    for sentinel in catalog.audit.missing:
        for column, _ in sentinel:
            derived.setdefault(column, "FLOAT64")
    standard = [column for column in STANDARD if column.name in derived or column.name in INFORMATIONAL]
    known = {column.name for column in STANDARD}
    others = [TableColumn(name, kind, "") for name, kind in derived.items() if name not in known]
    if catalog.audit.timestamp not in known:
        # The column that must be there comes first.
        others.sort(key=lambda column: column.name != catalog.audit.timestamp)
        return (*others, *standard)
    return (*standard, *others)


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
