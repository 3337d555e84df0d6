"""Which DAGs are watched: those that AIRFLOW_DAG_IDS or the catalogue names, and whether Airflow has them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from exporter.settings import Settings
from exporter.sources.airflow.api import AirflowApi

DAGS_EVERY_SECONDS: Final = 3600.0
ALL_DAGS_EVERY_SECONDS: Final = 600.0
"""How often the list of DAGs is asked for: with AIRFLOW_DAG_IDS=*, or when some are missing, new ones may be in it."""


class WatchedDags:
    """The DAGs that are watched, kept up to date with Airflow's list of DAGs.

    Args:
        needed: the DAGs that the catalogue takes XComs from.
        monotonic: seconds for ages.

    Attributes:
        ids: the watched DAGs; the needed ones come first, so that AIRFLOW_MAX_DAGS does not cut them off.
        missing: those that are asked for and that Airflow does not list.
        paused: those that are paused in Airflow.
    """

    def __init__(
        self, api: AirflowApi, settings: Settings, needed: Collection[str], monotonic: Callable[[], float]
    ) -> None:
        self._api = api
        self._monotonic = monotonic
        self._all = settings.airflow_dag_ids == ("*",)
        self._asked_for = (
            tuple(sorted(needed)) if self._all or not settings.airflow_dag_ids else settings.airflow_dag_ids
        )
        self._max_dags = settings.airflow_max_dags
        self._left_out = 0
        self._due = monotonic()
        self.ids: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        self.paused: tuple[str, ...] = ()

    def bring_up_to_date(self) -> None:
        """Ask for the list of DAGs when it is time to.

        Raises:
            SourceError: Airflow could not be asked.
        """
        now = self._monotonic()
        if now < self._due:
            return
        listed = {dag.dag_id: dag for dag in self._api.dags()}
        wanted = list(self._asked_for)
        if self._all:
            wanted = [dag for dag in wanted if dag in listed] + sorted(listed.keys() - set(wanted))
        self._left_out = max(0, len(wanted) - self._max_dags)
        self.ids = tuple(wanted[: self._max_dags])
        self.missing = tuple(dag for dag in self._asked_for if dag not in listed)
        self.paused = tuple(dag for dag in self.ids if dag in listed and listed[dag].paused)
        self._due = now + (ALL_DAGS_EVERY_SECONDS if self._all or self.missing else DAGS_EVERY_SECONDS)

    def have_runs(self, dag_ids: Iterable[str]) -> None:
        """Take DAGs that were missing and now have runs off the list of those."""
        if self.missing:
            seen = set(dag_ids)
            self.missing = tuple(dag for dag in self.missing if dag not in seen)

    def notes(self) -> Iterator[str]:
        """What an operator should know of them."""
        if self.missing:
            yield (
                f"Airflow has no DAG {', '.join(self.missing)} that this user may see: check AIRFLOW_DAG_IDS, the "
                "catalogue, and the user's permissions."
            )
        if self.paused:
            yield f"Paused in Airflow: {', '.join(self.paused)}."
        if self._left_out:
            yield f"{self._left_out} DAGs are not watched: AIRFLOW_MAX_DAGS is {self._max_dags}."
