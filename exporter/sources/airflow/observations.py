"""From what is counted of an Airflow to the observations of a reading, with a reason for each missing metric."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.catalog import AirflowFigure, Catalog, MetricSpec, XCom
from exporter.snapshot import HistogramSample, Labels, Observation, Sample
from exporter.sources.airflow import xcom_value
from exporter.sources.airflow.counted import OVERFLOW, RUN, TASK, Counted, KeptXCom, Sum, Total, sum_key, xcoms_of
from exporter.sources.airflow.records import DagRun
from exporter.sources.airflow.watched import WatchedDags
from exporter.sources.boundary import text

STATES: Final = ("failed", "success")
"""The end states that are counted, each exposed from the start at 0."""


@dataclass
class Remarks:
    """What one refresh has to say besides values: notes for the operator, and reasons by missing metric."""

    notes: list[str] = field(default_factory=list)
    gaps: dict[str, str] = field(default_factory=dict)


def figure_of(metric: MetricSpec) -> str | None:
    """The figure about runs or tasks that the metric shows; None when it shows none."""
    return next((origin.figure for origin in metric.origins if isinstance(origin, AirflowFigure)), None)


def needed_from_xcoms(catalog: Catalog, wanted: Collection[str]) -> frozenset[str]:
    """The metrics whose XComs are needed: those for which no other source is preferred, and those that are wanted.

    Args:
        wanted: see `Source.read`; an alias stands for its metric.
    """
    needed = set(wanted) | {metric.alias_of for metric in catalog.metrics if metric.name in wanted and metric.alias_of}
    for metric in catalog.metrics:
        if metric.origins and isinstance(metric.origins[0], XCom | AirflowFigure):
            needed.add(metric.name)
    return frozenset(needed)


def active_seconds(running: Collection[DagRun], dag_ids: Collection[str], now: float) -> dict[str, float]:
    """By DAG, the age of its oldest running run, 0 when none is running. Runs without a start have just begun."""
    ages = dict.fromkeys(dag_ids, 0.0)
    for run in running:
        if run.dag_id in ages and run.start is not None:
            ages[run.dag_id] = max(ages[run.dag_id], now - run.start)
    return ages


def newest_xcom(counted: Counted, xcoms: Mapping[tuple[str, str, str], KeptXCom], spec: XCom) -> KeptXCom | None:
    """The XCom of the newest successful run, if it was fetched."""
    kept = xcoms.get((spec.dag, spec.task, spec.key))
    success = counted.mark(spec.dag).success
    if kept is None or success is None or (kept.run_id, kept.run_end) != (success.run_id, success.end):
        return None
    return kept


def name_of(spec: XCom) -> str:
    """The XCom as messages name it."""
    return f"XCom {spec.dag}/{spec.task}/{spec.key}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What one refresh found out, as far as observations are made of it.

    Attributes:
        counted: what was counted by now.
        ages: seconds of each DAG's oldest running run.
        now: Unix seconds by Airflow's clock.
        needed: the metrics whose XComs are needed.
        remarks: where notes and reasons go.
    """

    catalog: Catalog
    dags: WatchedDags
    counted: Counted
    ages: Mapping[str, float]
    now: float
    needed: Collection[str]
    remarks: Remarks

    def observations(self) -> dict[str, Observation]:
        """The observations by metric name."""
        made: dict[str, Observation] = {}
        for metric in self.catalog.metrics:
            figure = figure_of(metric)
            if figure is not None:
                made[metric.name] = self._figure(figure, metric)
            elif metric.type == "counter":
                for spec in xcoms_of(metric):
                    observation = self._sum(metric, spec)
                    if observation is not None:
                        made[metric.name] = observation
            else:
                observation = self._newest(metric)
                if observation is not None:
                    made[metric.name] = observation
        return made

    def _shown(self, kind: str) -> Iterator[str]:
        """DAGs whose history is counted. Before that, totals would grow by the past, which looks like the present."""
        for dag in self.dags.ids:
            if self.counted.mark(dag).complete(kind) and self._is_there(dag):
                yield dag

    def _is_there(self, dag_id: str) -> bool:
        """Whether Airflow has this DAG, or had it: its list leaves out what fails to parse at the moment."""
        return dag_id not in self.dags.missing or any(dag == dag_id for dag, _ in self.counted.runs)

    def _figure(self, figure: str, metric: MetricSpec) -> Observation:
        counted, samples = self.counted, list[Sample | HistogramSample]()
        ends: list[float | None] = []
        empty = Total(0, (0,) * (len(metric.buckets) + 1), 0.0, None)
        match figure:
            case "dag_runs" | "dag_run_duration":
                for dag in self._shown(RUN):
                    for state in STATES:
                        total = counted.runs.get((dag, state), empty)
                        run_labels = (("dag_id", text(dag)), ("state", state))
                        ends.append(total.last_end)
                        samples.append(_total_sample(run_labels, total, histogram=figure == "dag_run_duration"))
            case "task_duration":
                shown = set(self._shown(TASK))
                for dag, task in sorted({(dag, task) for dag, task, _ in counted.tasks if dag in shown}):
                    for state in STATES:
                        total = counted.tasks.get((dag, task, state), empty)
                        labels = (("dag_id", text(dag)), ("task_id", text(task)), ("state", state))
                        ends.append(total.last_end)
                        samples.append(_total_sample(labels, total, histogram=True))
            case "dag_run_active":
                samples += [
                    Sample((("dag_id", text(dag)),), age) for dag, age in self.ages.items() if self._is_there(dag)
                ]
                ends.append(self.now)
            case "dag_last_success":
                for dag in self.dags.ids:
                    if (success := counted.mark(dag).success) is not None:
                        samples.append(Sample((("dag_id", text(dag)),), success.end))
                        ends.append(success.end)
        return Observation(tuple(samples), max((end for end in ends if end is not None), default=None))

    def _sum(self, metric: MetricSpec, spec: XCom) -> Observation | None:
        """The counter's sum; None while the look back is being added up."""
        if not self._is_watched(metric, spec) or spec.dag not in self._shown(RUN):
            return None
        where = (spec.dag, spec.task, spec.key)
        if any(p.backlog for p in self.counted.pending if (p.dag_id, p.task_id, p.key) == where):
            self.remarks.notes.append(f"{metric.name}: still adding up the look back.")
            return None
        total = self.counted.sums.get(sum_key(spec), Sum(0.0, None, None))
        if total.problem == OVERFLOW:
            self.remarks.gaps.setdefault(metric.name, f"{name_of(spec)}: {OVERFLOW}")
            return None
        if total.problem:
            self.remarks.notes.append(f"{metric.name}: {name_of(spec)} of the newest run is left out: {total.problem}")
        return Observation((Sample((), total.total),), total.last_end)

    def _newest(self, metric: MetricSpec) -> Observation | None:
        """The gauge's value from the newest successful run; None with a reason where there is none."""
        reasons: list[str] = []
        for spec in xcoms_of(metric):
            if not self._is_watched(metric, spec):
                return None
            kept = newest_xcom(self.counted, self.counted.xcoms, spec)
            if kept is None:  # not fetched, now or yet
                return None
            try:
                value = xcom_value.kept_number(kept, spec)
            except ValueError as error:
                reasons.append(f"{name_of(spec)} {error}")
                if kept.content is not None or kept.problem is not None:
                    self.remarks.notes.append(f"{metric.name}: {reasons[-1]}")
            else:
                return Observation((Sample((), value),), kept.run_end)
        if reasons and metric.name in self.needed:
            self.remarks.gaps.setdefault(metric.name, "newest successful run: " + "; ".join(reasons))
        return None

    def _is_watched(self, metric: MetricSpec, spec: XCom) -> bool:
        if not self._is_there(spec.dag):
            self.remarks.gaps.setdefault(metric.name, f"Airflow has no DAG {spec.dag}")
            return False
        if self.dags.ids and spec.dag not in self.dags.ids:
            self.remarks.gaps.setdefault(metric.name, f"DAG {spec.dag} is not watched: AIRFLOW_DAG_IDS leaves it out")
            return False
        return True


def _total_sample(labels: Labels, total: Total, *, histogram: bool) -> Sample | HistogramSample:
    return HistogramSample(labels, total.counts, total.sum) if histogram else Sample(labels, float(total.events))
