"""Which XComs are fetched, and when: what gauges need from the newest successful run, and what counters sum up.

Each is one request, so an XCom is fetched only when a metric needs it, and once for a run.
"""

import json
from collections.abc import Callable, Collection
from typing import Final

from exporter.catalog import Catalog, XCom
from exporter.errors import SourceError
from exporter.sources.airflow import xcom_value
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.counted import Counted, KeptXCom, Pending, SumKey, sum_key, xcoms_of, xcoms_of_all
from exporter.sources.airflow.failures import XComUnreadable
from exporter.sources.airflow.observations import Remarks, name_of, newest_xcom
from exporter.sources.airflow.records import XComValue
from exporter.sources.airflow.totals import Totals
from exporter.sources.airflow.xcom_value import NOT_PUSHED

XCOM_ATTEMPTS: Final = 10
"""In how many refreshes an XCom that Airflow fails to give is asked for before it is given up."""
MAPPED: Final = (
    "was pushed by mapped copies of its task, whose XComs are not read: push it from a task that is not mapped"
)


class XComFetcher:
    """Fetches XComs and keeps them in the totals.

    Args:
        counters: the XComs that counters sum up.
    """

    def __init__(self, api: AirflowApi, totals: Totals, catalog: Catalog, counters: Collection[XCom]) -> None:
        self._api = api
        self._totals = totals
        self._catalog = catalog
        self._counters = counters
        self._attempts: dict[tuple[str, str, str, str], int] = {}
        self._keys: dict[tuple[str, str, str], frozenset[str]] = {}

    def look(self, spec: XCom, run_id: str, run_end: float) -> KeptXCom:
        """The XCom of one run, or why there is none. Keeps nothing: `check` says by it what a refresh would.

        Raises:
            SourceError: Airflow could not be asked.
        """
        try:
            return self._kept(run_id, run_end, spec, self._api.xcom(spec.dag, run_id, spec.task, spec.key))
        except XComUnreadable as error:
            return KeptXCom(run_id, run_end, None, f"cannot be used: {error}")

    def fetch_gauges(
        self, counted: Counted, dag_ids: Collection[str], needed: Collection[str], remarks: Remarks
    ) -> None:
        """Fetch the XComs that gauges need from the newest successful runs, unless they are known.

        Args:
            dag_ids: the watched DAGs.
            needed: names of the metrics whose XComs are needed.

        Raises:
            SourceError, StateError: Airflow could not be asked, or the ledger not be written.
        """
        known = dict(counted.xcoms)
        for metric in self._catalog.metrics:
            if metric.type == "counter" or metric.name not in needed:
                continue
            for spec in xcoms_of(metric):
                success = counted.mark(spec.dag).success
                if success is None or spec.dag not in dag_ids:
                    continue
                kept = newest_xcom(counted, known, spec)
                if kept is None:
                    kept = self._fetch(spec, success.run_id, success.end, remarks, metric.name)
                    if kept is None:
                        continue
                    self._totals.keep_xcom(spec.dag, spec.task, spec.key, kept)
                    known[spec.dag, spec.task, spec.key] = kept
                if xcom_value.why_missing(kept, spec) is None:
                    break

    def add_up(self, counted: Counted, may_go_on: Callable[[], bool], remarks: Remarks) -> None:
        """Fetch the XComs that counters sum up, of the runs that were counted and not added yet.

        Args:
            may_go_on: whether there is time for one more request.

        Raises:
            SourceError, StateError: Airflow could not be asked, or the ledger not be written.
        """
        for pending in counted.pending:
            where = (pending.dag_id, pending.task_id, pending.key)
            specs = [spec for spec in self._counters if (spec.dag, spec.task, spec.key) == where]
            if not specs:  # the catalogue no longer asks for it
                self._totals.add_xcom(pending, None, {}, {})
                continue
            if not may_go_on():
                break
            try:
                self._add(pending, specs)
            except _TryAgain:
                continue
            except SourceError as error:
                if error.reason != "permission":
                    raise
                for metric, spec in xcoms_of_all(self._catalog.metrics):
                    if spec in specs:
                        remarks.gaps[metric.name] = str(error)
                break

    def _fetch(self, spec: XCom, run_id: str, run_end: float, remarks: Remarks, metric: str) -> KeptXCom | None:
        try:
            return self._kept(run_id, run_end, spec, self._ask(spec.dag, run_id, spec.task, spec.key))
        except XComUnreadable as error:
            return KeptXCom(run_id, run_end, None, f"cannot be used: {error}")
        except _TryAgain as error:
            remarks.notes.append(f"{metric}: {name_of(spec)} could not be fetched: {error}")
        except SourceError as error:
            if error.reason != "permission":
                raise
            remarks.gaps[metric] = str(error)
        return None

    def _kept(self, run_id: str, run_end: float, spec: XCom, answer: XComValue | None) -> KeptXCom:
        if answer is None:
            return KeptXCom(run_id, run_end, None, self._why_absent(spec.dag, run_id, spec.task, spec.key))
        content = json.dumps(answer.value)
        if len(content) > xcom_value.MAX_CHARACTERS:
            return KeptXCom(
                run_id, run_end, None, f"cannot be used: longer than {xcom_value.MAX_CHARACTERS} characters"
            )
        return KeptXCom(run_id, run_end, content, None)

    def _why_absent(self, dag_id: str, run_id: str, task_id: str, key: str) -> str | None:
        """Why Airflow has no such XCom: None when the task did not push it."""
        where = (dag_id, run_id, task_id)
        if where not in self._keys:
            self._keys = {where: self._api.xcom_keys(dag_id, run_id, task_id)}
        return MAPPED if key in self._keys[where] else None

    def _add(self, pending: Pending, specs: Collection[XCom]) -> None:
        values: dict[SumKey, float] = {}
        problems: dict[SumKey, str] = {}
        written: str | None = None
        try:
            answer = self._ask(pending.dag_id, pending.run_id, pending.task_id, pending.key)
        except XComUnreadable as error:
            problems = {sum_key(spec): str(error) for spec in specs}
        else:
            if answer is None:
                why = self._why_absent(pending.dag_id, pending.run_id, pending.task_id, pending.key)
                problems = {sum_key(spec): why or NOT_PUSHED for spec in specs}
            else:
                written = answer.written
                for spec in specs:
                    try:
                        values[sum_key(spec)] = _amount(answer.value, spec)
                    except ValueError as error:
                        problems[sum_key(spec)] = str(error)
        self._totals.add_xcom(pending, written, values, problems)

    def _ask(self, dag_id: str, run_id: str, task_id: str, key: str) -> XComValue | None:
        """The XCom.

        Raises:
            _TryAgain: Airflow failed to give it, but not often enough to give it up.
            XComUnreadable: it cannot be had.
            SourceError: as the API.
        """
        try:
            return self._api.xcom(dag_id, run_id, task_id, key)
        except XComUnreadable as error:
            tried = self._attempts.pop((dag_id, run_id, task_id, key), 0) + 1
            if tried < XCOM_ATTEMPTS and not error.final:
                self._attempts[dag_id, run_id, task_id, key] = tried
                raise _TryAgain(str(error)) from error
            raise


class _TryAgain(Exception):
    """An XCom could not be had this time."""


def _amount(value: object, spec: XCom) -> float:
    """What a run adds to a counter.

    Raises:
        ValueError: nothing, with the reason.
    """
    amount = xcom_value.number(value, spec)
    if amount < 0:
        raise ValueError(f"is negative ({amount:g})")
    return amount
