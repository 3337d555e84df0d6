"""One refresh of Airflow, and what `check` and `backfill` ask besides.

A refresh asks, in this order: which DAGs there are (at the start and then once in a while), which runs are running,
which ended since the last refresh, which tasks did (only while there is something going on), and the XComs that are
not known yet. An idle Airflow is asked two questions. Everything counted is kept in the ledger (see `totals`).
"""

import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.catalog import AirflowFigure, Catalog, XCom
from exporter.choice import AIRFLOW
from exporter.errors import SourceError, StateError
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Gap, Reading, Sample
from exporter.sources.airflow import xcom_value
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.counted import NOTHING, RUN, TASK, Counted, xcoms_of_all
from exporter.sources.airflow.observations import (
    Findings,
    Remarks,
    active_seconds,
    figure_of,
    needed_from_xcoms,
)
from exporter.sources.airflow.records import DagRun
from exporter.sources.airflow.session import Session
from exporter.sources.airflow.totals import Totals
from exporter.sources.airflow.watched import WatchedDags
from exporter.sources.airflow.windows import catch_up
from exporter.sources.airflow.xcom_fetch import XComFetcher

RESERVE: Final = 0.3
"""Part of the deadline that catching up leaves for the rest, so that a long look back ends in time."""
XCOM_SHARE: Final = 0.25
"""Part of the deadline that counters' XComs may take: one request each, they must not hold up what is ready."""
DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What `check` shows: the DAGs that are watched, and the XComs of each one's newest successful run.

    Attributes:
        xcoms: why an XCom gives no value, in the words of a refresh; None for one that gives one.
    """

    version: str
    api: str
    dags: tuple[str, ...]
    missing: tuple[str, ...]
    paused: tuple[str, ...]
    xcoms: Mapping[XCom, str | None]
    without_run: tuple[str, ...]
    requests: int


class AirflowSource:
    """Implements Source. Settings must have AIRFLOW_BASE_URL.

    Args:
        wall: Unix seconds, for `read_at`. Everything that is compared with Airflow's times uses Airflow's clock.
        monotonic: seconds for ages and deadlines.
        jitter: a random number from 0 to 1, for the waits before retries.
    """

    name = AIRFLOW

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
        self.identity = f"{settings.airflow_url} {','.join(settings.airflow_dag_ids) or '-'}"
        self.timeout_seconds = settings.airflow_timeout_seconds
        self._catalog = catalog
        self._lookback = settings.airflow_lookback_days * DAY
        self._wall = wall
        self._monotonic = monotonic
        self._session = Session(settings, clock=wall, monotonic=monotonic, jitter=jitter)
        self._api = AirflowApi(self._session)
        self._specs = tuple(dict.fromkeys(spec for _, spec in xcoms_of_all(catalog.metrics)))
        self._dags = WatchedDags(self._api, settings, {spec.dag for spec in self._specs}, monotonic)
        buckets = {
            origin.figure: metric.buckets
            for metric in catalog.metrics
            for origin in metric.origins
            if isinstance(origin, AirflowFigure)
        }
        counters = tuple(spec for metric, spec in xcoms_of_all(catalog.metrics) if metric.type == "counter")
        self._totals = Totals(
            ledger,
            self._session.url,
            buckets.get("dag_run_duration", ()),
            buckets.get("task_duration", ()),
            counters,
        )
        self._xcoms = XComFetcher(self._api, self._totals, catalog, counters)
        self._wants_tasks = "task_duration" in buckets
        self._counted = NOTHING
        self._busy_before = True

    # -- what the loop uses ----------------------------------------------------------------------------------------

    def changed(self, previous: Reading) -> bool:  # noqa: ARG002 -- see below
        """Never: each look at Airflow is a request to it, so it is asked at a refresh only."""
        return False

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:  # noqa: ARG002 -- the ledger knows more than the reading
        """Ask Airflow what is new, count it, and give all that is known. See `Source.read`.

        Raises:
            SourceError: Airflow could not be asked.
        """
        needed = needed_from_xcoms(self._catalog, wanted)
        with self._session.deadline(self.timeout_seconds):
            remarks = Remarks()
            self._dags.bring_up_to_date()
            running = self._api.running(self._dags.ids) if self._dags.ids else ()
            self._dags.have_runs(run.dag_id for run in running)
            ages = active_seconds(running, self._dags.ids, self._api.now())
            try:
                self._count(running, needed, remarks)
            except StateError as error:
                remarks.notes.append(f"Counters stand still: {error}.")
            return self._reading(ages, needed, remarks)

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        """Requests sent, by status code."""
        counts = self._session.sent()
        samples = tuple(Sample((("code", code),), float(counts[code])) for code in sorted(counts))
        return {"mlops_exporter_airflow_requests_total": samples}

    def interrupt(self) -> None:
        """End a `read` that is under way."""
        self._session.interrupt()

    def close(self) -> None:
        """Give connections back."""
        self._session.close()

    # -- what check and backfill use -------------------------------------------------------------------------------

    def survey(self) -> Survey:
        """Try everything that a refresh needs, without counting anything.

        Raises:
            SourceError: Airflow could not be asked; the message says what to do.
        """
        with self._session.deadline(self.timeout_seconds):
            api = self._api
            version = self._session.ask_version()
            self._dags.bring_up_to_date()
            watched = self._dags.ids
            since = api.now() - self._lookback
            newest: dict[str, DagRun] = {}
            runs = api.all_ended_runs(watched, since, None) if watched else ()
            if watched:
                api.ended_tasks(watched, api.now(), None)
            for ended in sorted(runs, key=lambda run: run.end or 0.0, reverse=True):
                if ended.state == "success":
                    newest.setdefault(ended.dag_id, ended)
            xcoms: dict[XCom, str | None] = {}
            for spec in self._specs:
                run = newest.get(spec.dag)
                if run is not None:
                    kept = self._xcoms.look(spec, run.run_id, run.end or 0.0)
                    xcoms[spec] = xcom_value.why_missing(kept, spec)
            return Survey(
                version=version,
                api=self._session.api(),
                dags=watched,
                missing=self._dags.missing,
                paused=self._dags.paused,
                xcoms=xcoms,
                without_run=tuple(
                    dag for dag in sorted({spec.dag for spec in self._specs}) if dag in watched and dag not in newest
                ),
                requests=2,
            )

    def counted(self) -> tuple[tuple[str, ...], Counted, float]:
        """The watched DAGs that Airflow has, all that was counted of them, and Airflow's time. For `backfill`.

        Raises:
            SourceError: Airflow could not be asked.
            StateError: the ledger cannot be used.
        """
        with self._session.deadline(self.timeout_seconds):
            self._dags.bring_up_to_date()
            dags = tuple(dag for dag in self._dags.ids if dag not in self._dags.missing)
            return dags, self._totals.load(), self._api.now()

    def ended_runs(self, since: float, until: float | None) -> tuple[DagRun, ...]:
        """The watched DAGs' runs that ended in this time (Unix seconds, both included), under a deadline of their own.

        Raises:
            SourceError: Airflow could not be asked.
        """
        with self._session.deadline(self.timeout_seconds):
            return self._api.all_ended_runs(self._dags.ids, since, until) if self._dags.ids else ()

    # -- one refresh -----------------------------------------------------------------------------------------------

    def _count(self, running: Collection[DagRun], needed: Collection[str], remarks: Remarks) -> None:
        """Have everything counted that ended, and fetch XComs; stops early when time runs short, to go on next time."""
        self._counted = self._totals.load()
        if not self._dags.ids:
            return
        tasks_refused = False
        try:
            ended = self._catch_up(RUN)
            busy = bool(running or ended)
            unfinished = any(not self._counted.mark(dag).task_complete for dag in self._dags.ids)
            # Once more after the last sign of life: a task's end may come to light a moment after its run's.
            if self._wants_tasks and (busy or self._busy_before or unfinished):
                try:
                    self._catch_up(TASK)
                except SourceError as error:
                    if error.reason != "permission":
                        raise
                    tasks_refused = True
                    tasks = (metric.name for metric in self._catalog.metrics if figure_of(metric) == "task_duration")
                    remarks.gaps.update(dict.fromkeys(tasks, str(error)))
                else:
                    self._busy_before = busy
        finally:
            self._counted = self._totals.load()
        self._dags.have_runs(ended)
        for kind, what in ((RUN, "runs"), (TASK, "tasks")):
            behind = [dag for dag in self._dags.ids if not self._counted.mark(dag).complete(kind)]
            if behind and not (kind == TASK and (tasks_refused or not self._wants_tasks)):
                remarks.notes.append(f"Still counting finished {what} of {', '.join(behind)}, back to the look back.")
        try:
            self._xcoms.fetch_gauges(self._counted, self._dags.ids, needed, remarks)
            end = self._monotonic() + XCOM_SHARE * self.timeout_seconds
            self._xcoms.add_up(
                self._counted, lambda: not self._is_short_of_time() and self._monotonic() <= end, remarks
            )
        finally:
            self._counted = self._totals.load()

    def _catch_up(self, kind: str) -> frozenset[str]:
        return catch_up(
            self._api,
            self._totals,
            self._counted.dags,
            kind,
            self._dags.ids,
            lookback=self._lookback,
            enough=self._is_short_of_time,
        )

    def _is_short_of_time(self) -> bool:
        return self._session.remaining() < RESERVE * self.timeout_seconds

    def _reading(self, ages: Mapping[str, float], needed: Collection[str], remarks: Remarks) -> Reading:
        now = self._wall()
        session, dags = self._session, self._dags
        found = Findings(self._catalog, dags, self._counted, ages, self._api.now(), needed, remarks)
        observations = found.observations()
        return Reading(
            source=self.name,
            identity=self.identity,
            catalog=self._catalog.fingerprint,
            read_at=now,
            queried_at=now,
            token=None,
            observations=observations,
            gaps=tuple(Gap(metric, reason) for metric, reason in remarks.gaps.items()),
            notes=tuple(dict.fromkeys([*dags.notes(), *self._api.take_left_out(), *remarks.notes])),
            facts={
                "engine": f"Airflow {session.airflow_version}" if session.airflow_version else "Airflow",
                "api": session.api(),
                "url": session.url,
                "dags": ", ".join(dags.ids),
                "missing_dags": ", ".join(dags.missing),
                "pending_xcoms": len(self._counted.pending),
                "clock_ahead_seconds": round(session.skew_seconds),
            },
        )
