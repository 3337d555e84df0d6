"""Airflow as a source: runs, tasks, and the XComs that metrics are made of.

One refresh asks, in this order: which DAGs there are (at the start and then once in a while), which runs are running,
which ended since the last refresh, which tasks did (only while there is something going on), and the XComs that are
not known yet. An idle Airflow is asked two questions. Everything counted is kept in the ledger (see `totals`).
"""

import json
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.catalog import AirflowFigure, Catalog, MetricSpec, XCom
from exporter.errors import SourceError, StateError
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Gap, HistogramSample, Labels, Observation, Reading, Sample
from exporter.sources import airflow_identity
from exporter.sources.airflow import xcom
from exporter.sources.airflow.client import Client, DagRun, XComUnreadable, XComValue
from exporter.sources.airflow.runs import active_seconds, catch_up
from exporter.sources.airflow.totals import (
    NOTHING,
    RUN,
    TASK,
    DagMark,
    KeptXCom,
    Known,
    Sum,
    SumKey,
    Total,
    Totals,
    sum_key,
)

log = logging.getLogger(__name__)

STATES: Final = ("failed", "success")
"""The end states that are counted, each exposed from the start at 0."""
DAGS_EVERY_SECONDS: Final = 3600.0
ALL_DAGS_EVERY_SECONDS: Final = 600.0
"""How often the list of DAGs is asked for: with AIRFLOW_DAG_IDS=*, or when some are missing, new ones may be in it."""
RESERVE: Final = 0.3
"""Part of the deadline that catching up leaves for the rest, so that a long look back ends in time."""
XCOM_SHARE: Final = 0.25
"""Part of the deadline that counters' XComs may take: one request each, they must not hold up what is ready."""
XCOM_ATTEMPTS: Final = 10
"""In how many refreshes an XCom that Airflow fails to give is asked for before it is given up."""
DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What `check` shows: the DAGs that are watched, and the XComs of each one's newest successful run."""

    version: str
    api: str
    dags: tuple[str, ...]
    missing: tuple[str, ...]
    paused: tuple[str, ...]
    found_xcoms: frozenset[XCom]
    absent_xcoms: frozenset[XCom]
    without_run: tuple[str, ...]
    requests: int


@dataclass
class _Pass:
    """What one refresh finds out on its way."""

    notes: list[str] = field(default_factory=list)
    gaps: dict[str, str] = field(default_factory=dict)
    ages: dict[str, float] = field(default_factory=dict)
    tasks_refused: str | None = None


class AirflowSource:
    """Implements Source. Settings must have AIRFLOW_BASE_URL.

    Args:
        wall: Unix seconds, for `read_at`. Everything that is compared with Airflow's times uses Airflow's clock.
        monotonic: seconds for ages and deadlines.
        jitter: a random number from 0 to 1, for the waits before retries.
    """

    name = "airflow"

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        ledger: Ledger,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.timeout_seconds = settings.airflow_timeout_seconds
        self._catalog = catalog
        self._lookback = settings.airflow_lookback_days * DAY
        self._wall = wall
        self._monotonic = monotonic
        self._client = Client(settings, clock=wall, monotonic=monotonic, jitter=jitter)
        self._specs = tuple(dict.fromkeys(spec for _, spec in _xcoms(catalog.metrics)))
        needed = sorted({spec.dag for spec in self._specs})
        self._all = settings.airflow_dag_ids == ("*",)
        self._asked_for = tuple(needed) if self._all or not settings.airflow_dag_ids else settings.airflow_dag_ids
        self._max_dags = settings.airflow_max_dags
        self.identity = airflow_identity(settings)
        buckets = {
            origin.figure: metric.buckets
            for metric in catalog.metrics
            for origin in metric.origins
            if isinstance(origin, AirflowFigure)
        }
        self._counters = tuple(spec for metric, spec in _xcoms(catalog.metrics) if metric.type == "counter")
        self._totals = Totals(
            ledger,
            self._client.url,
            buckets.get("dag_run_duration", ()),
            buckets.get("task_duration", ()),
            self._counters,
        )
        self._wants_tasks = "task_duration" in buckets
        self._known = NOTHING
        self._wanted: frozenset[str] = frozenset()
        self._watched: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._paused: tuple[str, ...] = ()
        self._left_out = 0
        self._dags_due = monotonic()
        self._stirring = True
        self._attempts: dict[tuple[str, str, str, str], int] = {}

    # -- what the loop uses ----------------------------------------------------------------------------------------

    def changed(self, previous: Reading) -> bool:  # noqa: ARG002 -- see below
        """Never: each look at Airflow is a request to it, so it is asked at a refresh only."""
        return False

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:  # noqa: ARG002 -- the ledger knows more than the reading
        """Ask Airflow what is new, count it, and give all that is known. See `Source.read`.

        Raises:
            SourceError: Airflow could not be asked.
        """
        self._wanted = wanted
        with self._client.deadline(self.timeout_seconds):
            found = _Pass()
            self._find_dags()
            running = self._client.running(self._watched) if self._watched else ()
            self._exist(run.dag_id for run in running)
            found.ages = active_seconds(running, self._watched, self._client.now())
            try:
                self._count(found, running)
            except StateError as error:
                found.notes.append(f"Counters stand still: {error}.")
            return self._reading(found)

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Requests sent, by status code."""
        counts = self._client.sent()
        samples = tuple(Sample((("code", code),), float(counts[code])) for code in sorted(counts))
        return {"mlops_exporter_airflow_requests_total": samples}

    def interrupt(self) -> None:
        """End a `read` that is under way."""
        self._client.interrupt()

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

    def survey(self) -> Survey:
        """Try everything that a refresh needs, without counting anything.

        Raises:
            SourceError: Airflow could not be asked; the message says what to do.
        """
        with self._client.deadline(self.timeout_seconds):
            client = self._client
            version = client.ask_version()
            self._find_dags()
            since = client.now() - self._lookback
            newest: dict[str, DagRun] = {}
            runs = client.all_ended_runs(self._watched, since, None) if self._watched else ()
            if self._watched:
                client.ended_tasks(self._watched, client.now(), None)
            for run in sorted(runs, key=lambda run: run.end or 0.0):
                if run.state == "success":
                    newest[run.dag_id] = run
            dags = sorted({spec.dag for spec in self._specs})
            keys = {dag: client.xcom_keys(dag, newest[dag].run_id) for dag in dags if dag in newest}
            looked = [spec for spec in self._specs if spec.dag in keys]
            found = frozenset(spec for spec in looked if (spec.task, spec.key) in keys[spec.dag])
            return Survey(
                version=version,
                api=client.api(),
                dags=self._watched,
                missing=self._missing,
                paused=self._paused,
                found_xcoms=found,
                absent_xcoms=frozenset(looked) - found,
                without_run=tuple(dag for dag in dags if dag in self._watched and dag not in newest),
                requests=2,
            )

    def counted(self) -> tuple[tuple[str, ...], Known, float]:
        """The watched DAGs that Airflow has, all that was counted of them, and Airflow's time. For `backfill`.

        Raises:
            SourceError: Airflow could not be asked.
            StateError: the ledger cannot be used.
        """
        with self._client.deadline(self.timeout_seconds):
            self._find_dags()
            dags = tuple(dag for dag in self._watched if dag not in self._missing)
            return dags, self._totals.load(), self._client.now()

    def ended_runs(self, since: float, until: float | None) -> tuple[DagRun, ...]:
        """The watched DAGs' runs that ended in this time (Unix seconds, both included), under a deadline of their own.

        Raises:
            SourceError: Airflow could not be asked.
        """
        with self._client.deadline(self.timeout_seconds):
            return self._client.all_ended_runs(self._watched, since, until) if self._watched else ()

    # -- asking ----------------------------------------------------------------------------------------------------

    def _find_dags(self) -> None:
        """Decide which DAGs are watched, when it is time to ask."""
        now = self._monotonic()
        if now >= self._dags_due:
            listed = {dag.dag_id: dag for dag in self._client.dags()}
            wanted = list(self._asked_for)
            if self._all:
                # Those that the catalogue needs come first: the cap must not cut them off.
                wanted = [dag for dag in wanted if dag in listed] + sorted(listed.keys() - set(wanted))
            self._left_out = max(0, len(wanted) - self._max_dags)
            self._watched = tuple(wanted[: self._max_dags])
            self._missing = tuple(dag for dag in self._asked_for if dag not in listed)
            self._paused = tuple(dag for dag in self._watched if dag in listed and listed[dag].paused)
            self._dags_due = now + (ALL_DAGS_EVERY_SECONDS if self._all or self._missing else DAGS_EVERY_SECONDS)

    def _notes_on_dags(self) -> Iterator[str]:
        if self._missing:
            yield (
                f"Airflow has no DAG {', '.join(self._missing)} that this user may see: check AIRFLOW_DAG_IDS, the "
                "catalogue, and the user's permissions."
            )
        if self._paused:
            yield (f"Paused in Airflow: {', '.join(self._paused)}.")
        if self._left_out:
            yield (f"{self._left_out} DAGs are not watched: AIRFLOW_MAX_DAGS is {self._max_dags}.")

    def _exist(self, dag_ids: Iterable[str]) -> None:
        """Take DAGs that were missing and now have runs off the list."""
        if self._missing:
            seen = set(dag_ids)
            self._missing = tuple(dag for dag in self._missing if dag not in seen)

    def _count(self, found: _Pass, running: Collection[DagRun]) -> None:
        """Have everything counted that ended, and fetch XComs; stops early when time runs short, to go on next time."""
        self._known = self._totals.load()
        if not self._watched:
            return
        try:
            ended = self._catch_up(RUN)
            stirring = bool(running or ended)
            unfinished = any(not self._mark(dag).task_complete for dag in self._watched)
            # Once more after the last sign of life: a task's end may come to light a moment after its run's.
            if self._wants_tasks and (stirring or self._stirring or unfinished):
                try:
                    self._catch_up(TASK)
                except SourceError as error:
                    if error.reason != "permission":
                        raise
                    found.tasks_refused = str(error)
                else:
                    self._stirring = stirring
        finally:
            self._known = self._totals.load()
        self._exist(ended)
        for kind, what in ((RUN, "runs"), (TASK, "tasks")):
            behind = [dag for dag in self._watched if not self._mark(dag).complete(kind)]
            if behind and not (kind == TASK and (found.tasks_refused or not self._wants_tasks)):
                found.notes.append(f"Still counting finished {what} of {', '.join(behind)}, back to the look back.")
        try:
            self._fetch_gauges(found)
            self._add_up(found)
        finally:
            self._known = self._totals.load()

    def _catch_up(self, kind: str) -> frozenset[str]:
        return catch_up(
            self._client,
            self._totals,
            self._known.dags,
            kind,
            self._watched,
            lookback=self._lookback,
            enough=self._short_of_time,
        )

    def _short_of_time(self) -> bool:
        return self._client.remaining() < RESERVE * self.timeout_seconds

    def _mark(self, dag_id: str) -> DagMark:
        return self._known.dags.get(dag_id, DagMark())

    # -- XComs -----------------------------------------------------------------------------------------------------

    def _fetch_gauges(self, found: _Pass) -> None:
        """Fetch the XComs that gauges need from the newest successful run, unless they are known."""
        for metric in self._catalog.metrics:
            if metric.type == "counter" or not self._is_wanted(metric):
                continue
            for spec in _xcoms_of(metric):
                success = self._mark(spec.dag).success
                if success is None or spec.dag not in self._watched:
                    continue
                kept = self._kept(spec)
                if kept is None:
                    kept = self._fetch(spec, success.run_id, success.end, found, metric.name)
                if kept is not None and _number_in(kept, spec) is not None:
                    break

    def _is_wanted(self, metric: MetricSpec) -> bool:
        preferred = metric.origins and isinstance(metric.origins[0], XCom | AirflowFigure)
        aliases = {other.name for other in self._catalog.metrics if other.alias_of == metric.name}
        return bool(preferred or self._wanted & {metric.name, *aliases})

    def _kept(self, spec: XCom) -> KeptXCom | None:
        """The XCom of the newest successful run, if it was fetched."""
        kept = self._known.xcoms.get((spec.dag, spec.task, spec.key))
        success = self._mark(spec.dag).success
        if kept is None or success is None or (kept.run_id, kept.run_end) != (success.run_id, success.end):
            return None
        return kept

    def _fetch(self, spec: XCom, run_id: str, run_end: float, found: _Pass, metric: str) -> KeptXCom | None:
        try:
            answer = self._ask_xcom(spec.dag, run_id, spec.task, spec.key)
        except XComUnreadable as error:
            kept = KeptXCom(run_id, run_end, None, str(error))
        except _TryAgain as error:
            found.notes.append(f"{metric}: {_where(spec)} could not be fetched: {error}")
            return None
        except SourceError as error:
            if error.reason != "permission":
                raise
            found.gaps[metric] = str(error)
            return None
        else:
            kept = _kept_value(run_id, run_end, answer)
        self._totals.keep_xcom(spec.dag, spec.task, spec.key, kept)
        key = (spec.dag, spec.task, spec.key)
        self._known = Known(
            self._known.dags,
            self._known.runs,
            self._known.tasks,
            self._known.sums,
            self._known.pending,
            {**self._known.xcoms, key: kept},
        )
        return kept

    def _ask_xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> XComValue | None:
        """The XCom.

        Raises:
            _TryAgain: Airflow failed to give it, but not often enough to give it up.
            XComUnreadable: it cannot be had.
            SourceError: as the client.
        """
        try:
            return self._client.xcom(dag_id, run_id, task_id, key)
        except XComUnreadable as error:
            tried = self._attempts.pop((dag_id, run_id, task_id, key), 0) + 1
            if tried < XCOM_ATTEMPTS and not error.final:
                self._attempts[dag_id, run_id, task_id, key] = tried
                raise _TryAgain(str(error)) from error
            raise

    def _add_up(self, found: _Pass) -> None:
        """Fetch the XComs that counters sum up, of the runs that were counted and not added yet."""
        end = self._monotonic() + XCOM_SHARE * self.timeout_seconds
        for pending in self._known.pending:
            specs = [
                s for s in self._counters if (s.dag, s.task, s.key) == (pending.dag_id, pending.task_id, pending.key)
            ]
            if not specs:  # the catalogue no longer asks for it
                self._totals.add_xcom(pending, None, {}, {})
                continue
            if self._short_of_time() or self._monotonic() > end:
                break
            values: dict[SumKey, float] = {}
            problems: dict[SumKey, str] = {}
            written: str | None = None
            try:
                answer = self._ask_xcom(pending.dag_id, pending.run_id, pending.task_id, pending.key)
            except _TryAgain:
                continue
            except XComUnreadable as error:
                problems = {sum_key(spec): str(error) for spec in specs}
            except SourceError as error:
                if error.reason != "permission":
                    raise
                for metric, spec in _xcoms(self._catalog.metrics):
                    if spec in specs:
                        found.gaps[metric.name] = str(error)
                break
            else:
                written = answer.written if answer else None
                for spec in specs:
                    try:
                        values[sum_key(spec)] = _amount(answer, spec)
                    except ValueError as error:
                        problems[sum_key(spec)] = str(error)
            self._totals.add_xcom(pending, written, values, problems)

    # -- the reading -----------------------------------------------------------------------------------------------

    def _reading(self, found: _Pass) -> Reading:
        now = self._wall()
        observations: dict[str, Observation] = {}
        for metric in self._catalog.metrics:
            figure = next((origin.figure for origin in metric.origins if isinstance(origin, AirflowFigure)), None)
            if figure is not None:
                observations[metric.name] = self._figure(figure, metric, found)
                if figure == "task_duration" and found.tasks_refused:
                    found.gaps[metric.name] = found.tasks_refused
            elif metric.type == "counter":
                for spec in _xcoms_of(metric):
                    self._sum(metric, spec, found, observations)
            else:
                self._newest(metric, found, observations)
        client = self._client
        return Reading(
            source=self.name,
            identity=self.identity,
            catalog=self._catalog.fingerprint,
            read_at=now,
            queried_at=now,
            token=None,
            observations=observations,
            gaps=tuple(Gap(metric, reason) for metric, reason in found.gaps.items()),
            notes=tuple(dict.fromkeys([*self._notes_on_dags(), *found.notes])),
            facts={
                "engine": f"Airflow {client.version}" if client.version else "Airflow",
                "api": client.api(),
                "url": client.url,
                "dags": ", ".join(self._watched),
                "missing_dags": ", ".join(self._missing),
                "pending_xcoms": len(self._known.pending),
                "clock_ahead_seconds": round(client.skew_seconds),
            },
        )

    def _shown(self, kind: str) -> Iterator[str]:
        """DAGs whose history is counted. Before that, totals would grow by the past, which looks like the present."""
        for dag in self._watched:
            if self._mark(dag).complete(kind) and self._is_there(dag):
                yield dag

    def _is_there(self, dag_id: str) -> bool:
        """Whether Airflow has this DAG, or had it: its list leaves out what fails to parse at the moment."""
        return dag_id not in self._missing or any(dag == dag_id for dag, _ in self._known.runs)

    def _figure(self, figure: str, metric: MetricSpec, found: _Pass) -> Observation:
        known, samples = self._known, list[Sample | HistogramSample]()
        ends: list[float | None] = []
        empty = Total(0, (0,) * (len(metric.buckets) + 1), 0.0, None)
        match figure:
            case "dag_runs" | "dag_run_duration":
                for dag in self._shown(RUN):
                    for state in STATES:
                        total = known.runs.get((dag, state), empty)
                        run_labels = (("dag_id", dag), ("state", state))
                        ends.append(total.last_end)
                        samples.append(_total_sample(run_labels, total, histogram=figure == "dag_run_duration"))
            case "task_duration":
                shown = set(self._shown(TASK))
                for dag, task in sorted({(dag, task) for dag, task, _ in known.tasks if dag in shown}):
                    for state in STATES:
                        total = known.tasks.get((dag, task, state), empty)
                        labels = (("dag_id", dag), ("task_id", task), ("state", state))
                        ends.append(total.last_end)
                        samples.append(_total_sample(labels, total, histogram=True))
            case "dag_run_active":
                samples += [Sample((("dag_id", dag),), age) for dag, age in found.ages.items() if self._is_there(dag)]
                ends.append(self._client.now())
            case "dag_last_success":
                for dag in self._watched:
                    if (success := self._mark(dag).success) is not None:
                        samples.append(Sample((("dag_id", dag),), success.end))
                        ends.append(success.end)
        return Observation(tuple(samples), max((end for end in ends if end is not None), default=None))

    def _sum(self, metric: MetricSpec, spec: XCom, found: _Pass, observations: dict[str, Observation]) -> None:
        if not self._is_watched(metric, spec, found) or spec.dag not in self._shown(RUN):
            return
        if any(
            p.backlog for p in self._known.pending if (p.dag_id, p.task_id, p.key) == (spec.dag, spec.task, spec.key)
        ):
            found.notes.append(f"{metric.name}: still adding up the look back.")
            return
        total = self._known.sums.get(sum_key(spec), Sum(0.0, None, None))
        if total.problem:
            found.notes.append(f"{metric.name}: {_where(spec)} of the newest run is left out: {total.problem}")
        observations[metric.name] = Observation((Sample((), total.total),), total.last_end)

    def _newest(self, metric: MetricSpec, found: _Pass, observations: dict[str, Observation]) -> None:
        """The gauge's value from the newest successful run, or why there is none."""
        reasons: list[str] = []
        fetched = True
        for spec in _xcoms_of(metric):
            if not self._is_watched(metric, spec, found):
                return
            kept = self._kept(spec)
            if kept is None:
                fetched = False
                break
            value = _number_in(kept, spec)
            if value is not None:
                observations[metric.name] = Observation((Sample((), value),), kept.run_end)
                break
            reason = _why_missing(kept, spec)
            reasons.append(f"{_where(spec)} {reason}")
            if kept.content is not None or kept.problem is not None:
                found.notes.append(f"{metric.name}: {_where(spec)} cannot be used: {reason}")
        if reasons and fetched and metric.name not in observations and self._is_wanted(metric):
            found.gaps.setdefault(metric.name, "newest successful run: " + "; ".join(reasons))

    def _is_watched(self, metric: MetricSpec, spec: XCom, found: _Pass) -> bool:
        if not self._is_there(spec.dag):
            found.gaps.setdefault(metric.name, f"Airflow has no DAG {spec.dag}")
            return False
        if self._watched and spec.dag not in self._watched:
            found.gaps.setdefault(metric.name, f"DAG {spec.dag} is not watched: AIRFLOW_DAG_IDS leaves it out")
            return False
        return True


class _TryAgain(Exception):
    """An XCom could not be had this time."""


def _xcoms(metrics: Iterable[MetricSpec]) -> Iterator[tuple[MetricSpec, XCom]]:
    for metric in metrics:
        for spec in _xcoms_of(metric):
            yield metric, spec


def _xcoms_of(metric: MetricSpec) -> Iterator[XCom]:
    for origin in metric.origins:
        if isinstance(origin, XCom):
            yield origin


def _where(spec: XCom) -> str:
    return f"XCom {spec.dag}/{spec.task}/{spec.key}"


def _total_sample(labels: Labels, total: Total, *, histogram: bool) -> Sample | HistogramSample:
    return HistogramSample(labels, total.counts, total.sum) if histogram else Sample(labels, float(total.events))


def _kept_value(run_id: str, run_end: float, answer: XComValue | None) -> KeptXCom:
    if answer is None:
        return KeptXCom(run_id, run_end, None, None)
    content = json.dumps(answer.value)
    if len(content) > xcom.MAX_CHARACTERS:
        return KeptXCom(run_id, run_end, None, f"longer than {xcom.MAX_CHARACTERS} characters")
    return KeptXCom(run_id, run_end, content, None)


def _number_in(kept: KeptXCom, spec: XCom) -> float | None:
    try:
        return None if kept.content is None else xcom.number(json.loads(kept.content), spec)
    except ValueError:
        return None


def _why_missing(kept: KeptXCom, spec: XCom) -> str:
    if kept.content is None:
        return kept.problem or "was not pushed"
    try:
        xcom.number(json.loads(kept.content), spec)
    except ValueError as error:
        return str(error)
    return "is there"


def _amount(answer: XComValue | None, spec: XCom) -> float:
    """What a run adds to a counter.

    Raises:
        ValueError: nothing, with the reason.
    """
    if answer is None:
        raise ValueError("was not pushed")
    amount = xcom.number(answer.value, spec)
    if amount < 0:
        raise ValueError(f"is negative ({amount:g})")
    return amount
