"""What was counted of Airflow's finished runs, tasks and XComs, as frozen values. `totals` keeps them in the ledger."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.catalog import MetricSpec, XCom

RUN: Final = "run"
TASK: Final = "task"
OVERFLOW: Final = "the sum with the newest run's value is larger than a number can be; that value is left out"
"""The problem of a sum that would become infinite."""
SumKey = tuple[str, str, str, str, str]
"""What identifies the sum of an XCom: DAG, task, key, field and take."""


@dataclass(frozen=True, slots=True)
class Total:
    """Events of one kind: how many, how their durations fall into the buckets, the durations' sum, the newest end."""

    events: int
    counts: tuple[int, ...]
    sum: float
    last_end: float | None


@dataclass(frozen=True, slots=True)
class Success:
    """The newest successful run of a DAG."""

    run_id: str
    end: float


@dataclass(frozen=True, slots=True)
class DagMark:
    """How far a DAG's history is counted; None: not begun. Complete once the first look back has come to its end."""

    run_until: float | None = None
    run_complete: bool = False
    task_until: float | None = None
    task_complete: bool = False
    success: Success | None = None

    def until(self, kind: str) -> float | None:
        """The mark for runs or tasks."""
        return self.run_until if kind == RUN else self.task_until

    def complete(self, kind: str) -> bool:
        """Whether the first look back at runs or tasks is done."""
        return self.run_complete if kind == RUN else self.task_complete


@dataclass(frozen=True, slots=True)
class Sum:
    """A counter made of XComs. `problem` is why the newest run's value is not in it."""

    total: float
    last_end: float | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """An XCom that is still to be added to its sums; `backlog` if its run was found in the first look back."""

    dag_id: str
    run_id: str
    run_end: float
    task_id: str
    key: str
    backlog: bool


@dataclass(frozen=True, slots=True)
class KeptXCom:
    """An XCom of a run as it was fetched: a JSON value, or nothing with or without a problem."""

    run_id: str
    run_end: float
    content: str | None
    problem: str | None


@dataclass(frozen=True)
class Counted:
    """Everything that was counted, at one moment. Keys: (DAG, state) for runs, (DAG, task, state) for tasks."""

    dags: Mapping[str, DagMark]
    runs: Mapping[tuple[str, str], Total]
    tasks: Mapping[tuple[str, str, str], Total]
    sums: Mapping[SumKey, Sum]
    pending: tuple[Pending, ...]
    xcoms: Mapping[tuple[str, str, str], KeptXCom]

    def mark(self, dag_id: str) -> DagMark:
        """How far the DAG's history is counted."""
        return self.dags.get(dag_id, DagMark())


NOTHING: Final = Counted({}, {}, {}, {}, (), {})


def sum_key(spec: XCom) -> SumKey:
    """What identifies the sum of an XCom."""
    return spec.dag, spec.task, spec.key, spec.field or "", spec.take or ""


def xcoms_of(metric: MetricSpec) -> Iterator[XCom]:
    """The XComs that the metric can be made of, in order of preference."""
    for origin in metric.origins:
        if isinstance(origin, XCom):
            yield origin


def xcoms_of_all(metrics: Iterable[MetricSpec]) -> Iterator[tuple[MetricSpec, XCom]]:
    """The same for many metrics."""
    for metric in metrics:
        for spec in xcoms_of(metric):
            yield metric, spec
