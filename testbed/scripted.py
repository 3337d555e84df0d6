"""A source that answers from a script, and clocks that tests move: what the refresh loop is tested with."""

import threading
from array import array
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from exporter.catalog import Catalog
from exporter.errors import SourceError, SourceTimeout
from exporter.refresh import Refresher, State
from exporter.snapshot import Gap, Grid, Observation, Reading, Sample

INTERVAL: Final = 60.0
"""Between two refreshes, of the refresher that the fixture `build` makes."""
STALE: Final = 3600.0
"""Its stale limit."""


class Clock:
    """Wall and monotonic time that move only when told; wall time can also jump by itself."""

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self.wall_now = wall
        self.monotonic_now = 1000.0

    def wall(self) -> float:
        return self.wall_now

    def monotonic(self) -> float:
        return self.monotonic_now

    def advance(self, seconds: float) -> None:
        self.wall_now += seconds
        self.monotonic_now += seconds


class ScriptedSource:
    """Gives what `answer` returns or raises. `hang()` makes reads wait until `release()` or `interrupt()`."""

    def __init__(self, answer: Callable[[Reading | None], Reading], name: str = "audit") -> None:
        self.name = name
        self.identity = "scripted"
        self.timeout_seconds = 30.0
        self.answer = answer
        self.asked = 0
        self.looked = 0
        self.looks_changed: Callable[[Reading], bool] = lambda _: False
        self.wanted: frozenset[str] = frozenset()
        self.closed = False
        self.interruptible = True
        self._gate = threading.Event()
        self._gate.set()
        self._interrupted = False
        self.entered = threading.Event()

    def hang(self, *, interruptible: bool = True) -> None:
        self.interruptible = interruptible
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    def read(self, previous: Reading | None, wanted: frozenset[str] = frozenset()) -> Reading:
        self.asked += 1
        self.wanted = wanted
        self._interrupted = False
        self.entered.set()
        self._gate.wait(timeout=30)
        if self._interrupted:
            raise SourceTimeout("interrupted")
        return self.answer(previous)

    def changed(self, previous: Reading) -> bool:
        self.looked += 1
        return self.looks_changed(previous)

    def telemetry(self) -> Mapping[str, tuple[Sample, ...]]:
        return {}

    def interrupt(self) -> None:
        if self.interruptible and not self._gate.is_set():
            self._interrupted = True
            self._gate.set()

    def close(self) -> None:
        self.closed = True


def reading(
    catalog: Catalog,
    clock: Clock,
    *,
    source: str = "audit",
    r2: float | None = 0.75,
    deploys: float | None = 3.0,
    newer: float = 0.0,
    gaps: tuple[Gap, ...] = (),
    identity: str = "scripted",
) -> Reading:
    """A reading with a gauge and a counter, made now. Of the `deploys` rows, `newer` are newer than any before."""
    observations = {}
    if r2 is not None:
        observations["bike_model_r2_champion_current"] = Observation((Sample((), r2),), clock.wall() - 60)
    if deploys is not None:
        counts = [("deploy", deploys, newer), ("skip", 0.0, 0.0)]
        observations["bike_model_deployments_total"] = Observation(
            Grid(((),), tuple(((("decision", name),), array("d", [count])) for name, count, _ in counts)),
            clock.wall() - 60,
            tuple(array("d", [count]) for *_, count in counts),
        )
    return Reading(
        source=source,
        identity=identity,
        catalog=catalog.fingerprint,
        read_at=clock.wall(),
        queried_at=clock.wall(),
        token="t",
        observations=observations,
        gaps=gaps,
        facts={"engine": "scripted", "last_record_at": clock.wall() - 60},
    )


def failing(error: SourceError) -> Callable[[Reading | None], Reading]:
    """An answer that is always this error."""

    def answer(_previous: Reading | None) -> Reading:
        raise error

    return answer


def turn(refresher: Refresher) -> State:
    """One refresh of everything that is due: ask, wait for the answers, publish."""
    refresher.step()
    for _ in range(1000):
        if not refresher.calling:
            break
        refresher.wait(0.01)
        refresher.step()
    return refresher.state


def settle(refresher: Refresher, *sources: ScriptedSource) -> State:
    """The first refresh, with what stands in for other sources, and counting begins."""
    turn(refresher)
    state = turn(refresher)
    for source in sources:
        source.asked = 0
    return state


def value(state: State, name: str, **labels: str) -> float | None:
    """The value of the first sample with this name and at least these labels that is on show; None for none."""
    for family in text_string_to_metric_families(state.exposition.text.decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None
