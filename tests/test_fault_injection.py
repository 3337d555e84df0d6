"""A fault in any function that a turn of the refresh loop calls, once and always.

The functions are found by looking at what a turn calls, not listed by hand. Each is made to raise, by giving it other
code: so it raises for everybody who calls it, whatever name they know it by.
"""

import gc
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter import health
from exporter.app import App
from exporter.catalog import Catalog
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import SETTLE_SECONDS, Refresher
from exporter.snapshot import Reading
from testbed.asgi_client import AsgiClient
from testbed.exposed import Exposed
from testbed.scripted import Clock, ScriptedSource, reading, turn

PACKAGE = str(Path(sys.modules["exporter"].__file__ or "").parent)
INTERVAL = 60.0
STALE = 600.0
R2 = "bike_model_r2_champion_current"
ACTIVE = "airflow_dag_run_active_seconds"
CORE = (
    "exporter.guard",
    "exporter.refresh.Refresher.step",
    "exporter.refresh.Refresher.wait",
    "exporter.refresh.Refresher.state",
    "exporter.refresh.Refresher.calling",
)
"""What guards everything else, or is asked by the test itself. A fault in the guard ends the loop's thread, and with it
the worker: see integration/test_processes.py."""

_hooks: dict[int, Callable[..., object]] = {}


class Injected(Exception):
    """The fault."""


class Fault:
    """Makes one function raise while the block lasts, as long as `fires` says so."""

    def __init__(self, function: types.FunctionType, fires: Callable[..., bool]) -> None:
        self._function = function
        self._fires = fires
        self.fired = 0

    def __enter__(self) -> "Fault":
        function, number = self._function, id(self)
        self._code = function.__code__
        original = types.FunctionType(
            self._code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__ = function.__kwdefaults__

        def hook(*args: object, **kwargs: object) -> object:
            if self._fires(*args, **kwargs):
                self.fired += 1
                raise Injected(function.__qualname__)
            return original(*args, **kwargs)

        _hooks[number] = hook
        sys.modules[__name__]._hooks = _hooks
        namespace: dict[str, types.FunctionType] = {}
        exec(
            f"def stub(*args, **kwargs):\n import sys\n"
            f" return sys.modules[{__name__!r}]._hooks[{number}](*args, **kwargs)",
            namespace,
        )
        function.__code__ = namespace["stub"].__code__
        return self

    def __exit__(self, *_: object) -> None:
        self._function.__code__ = self._code
        del _hooks[id(self)]


class Bench:
    """A refresher over two scripted sources, turned by hand, and what it says to the outside."""

    def __init__(self, catalog: Catalog) -> None:
        self.clock = Clock()
        self.values = {"audit": 0.0, "airflow": 0.0}
        self.sources = [ScriptedSource(self._answer(name), name=name) for name in self.values]
        self.refresher = Refresher(
            catalog,
            self.sources,
            Ledger.open(None),
            interval=INTERVAL,
            stale_after=STALE,
            wall=self.clock.wall,
            monotonic=self.clock.monotonic,
            jitter=lambda: 0.0,
        )
        self.client = AsgiClient(App(self.refresher, catalog))
        self._catalog = catalog

    def _answer(self, name: str) -> Callable[[Reading | None], Reading]:
        def answer(_previous: Reading | None) -> Reading:
            self.values[name] += 0.01
            r2 = self.values[name] if name == "audit" else None
            made = reading(self._catalog, self.clock, source=name, r2=r2, deploys=3.0 if name == "audit" else None)
            if name == "audit":
                return made
            from exporter.snapshot import Observation, Sample

            value = Observation((Sample((("dag_id", "d"),), self.values[name]),), self.clock.wall())
            return Reading(**{**vars(made), "observations": {ACTIVE: value}})

        return answer

    def turn(self) -> None:
        self.clock.advance(INTERVAL)
        turn(self.refresher)
        turn(self.refresher)

    def shown(self) -> Exposed:
        return Exposed(self.client.get("/metrics").text)

    def is_well(self) -> bool:
        """Whether both sources' newest values are shown, and nothing is said to be wrong."""
        shown = self.shown()
        return (
            shown.value(R2) == pytest.approx(self.values["audit"])
            and shown.value(ACTIVE, dag_id="d") == pytest.approx(self.values["airflow"])
            and shown.value("mlops_exporter_source_up", source="audit") == 1
            and shown.value("mlops_exporter_source_up", source="airflow") == 1
            and self.client.get("/health").json["status"] == "ok"
        )

    def is_well_again(self) -> bool:
        """Whether it is within three turns."""
        for _ in range(3):
            self.turn()
            if self.is_well():
                return True
        return False

    def errors(self) -> float:
        """How many bugs the loop has met."""
        return self.shown().value("mlops_exporter_loop_errors_total") or 0.0

    def tells(self, errors: float) -> bool:
        """Whether something is said to be wrong, somewhere an operator or an alert looks.

        Args:
            errors: how many bugs the loop had met before.
        """
        shown = self.shown()
        report = self.client.get("/health").json
        return (
            report["status"] != "ok"
            or (shown.value("mlops_exporter_loop_errors_total") or 0) > errors
            or (report["snapshot_age_seconds"] or 0) >= INTERVAL
            or shown.value("mlops_exporter_source_up", source="audit") != 1
        )


@pytest.fixture
def bench(catalog: Catalog) -> Iterator[Bench]:
    made = Bench(catalog)
    yield made
    made.refresher.stop()


def functions_of_a_turn(catalog: Catalog) -> dict[str, types.FunctionType]:
    """Every function of the package that a turn calls, by its full name, whichever thread calls it."""
    import threading

    bench = Bench(catalog)
    codes: set[types.CodeType] = set()

    def look(frame: types.FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            codes.add(frame.f_code)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        bench.turn()
        bench.sources[0].answer = failing_once(bench.sources[0].answer)
        bench.turn()
        bench.turn()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        bench.refresher.stop()
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__code__ in codes and not thing.__code__.co_freevars:
            found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return {name: function for name, function in found.items() if not name.startswith(CORE)}


def failing_once(answer: Callable[[Reading | None], Reading]) -> Callable[[Reading | None], Reading]:
    left = [1]

    def fail_first(previous: Reading | None) -> Reading:
        if left:
            left.pop()
            raise SourceUnavailable("gone")
        return answer(previous)

    return fail_first


@pytest.fixture(scope="module")
def functions(catalog: Catalog) -> dict[str, types.FunctionType]:
    return functions_of_a_turn(catalog)


def test_what_a_turn_calls_is_found(functions: dict[str, types.FunctionType]):
    assert {
        "exporter.counters.recounted",
        "exporter.choice.choose",
        "exporter.exposition.render",
        "exporter.families.families",
        "exporter.ledger.Ledger.save_reading",
        "exporter.refresh.Refresher._make_state",
        "exporter.schedule.Schedule.succeeded",
        "exporter.source_thread.SourceThread.begin",
    } <= set(functions)
    assert len(functions) > 60


def about(source: str) -> Callable[..., bool]:
    """Whether a call is about this source, as far as its arguments tell."""

    def of_this(thing: object) -> bool:
        name = thing if isinstance(thing, str) else getattr(thing, "name", getattr(thing, "source", None))
        return name == source or getattr(name, "name", None) == source

    return lambda *args, **kwargs: any(of_this(argument) for argument in (*args, *kwargs.values()))


def test_a_fault_that_happens_once_is_told_and_all_is_well_afterwards(functions, bench):
    assert bench.is_well_again()
    for name, function in functions.items():
        left = [1]
        with Fault(function, lambda *_, left=left, **__: bool(left and left.pop())):
            bench.turn()
        assert bench.is_well_again(), f"{name}: {bench.client.get('/health').text}"


def test_a_fault_that_stays_is_told_as_long_as_it_stays_and_all_is_well_afterwards(functions, bench):
    assert bench.is_well_again()
    for name, function in functions.items():
        errors = bench.errors()
        with Fault(function, lambda *_, **__: True) as fault:
            for _ in range(3):
                bench.turn()
            assert not fault.fired or bench.tells(errors) or bench.is_well(), f"{name} fails, and nothing says so"
        assert bench.is_well_again(), f"{name}: {bench.client.get('/health').text}"


def test_a_fault_about_one_source_leaves_the_other_ones_values_fresh(functions, bench):
    spoilt = 0
    assert bench.is_well_again()
    for name, function in functions.items():
        asked = bench.sources[1].asked
        with Fault(function, about("audit")) as fault:
            for _ in range(3):
                bench.turn()
            bench.clock.advance(SETTLE_SECONDS)  # so long may a new state wait for the source that is spoilt
            turn(bench.refresher)
            if fault.fired:
                spoilt += 1
                assert bench.shown().value(ACTIVE, dag_id="d") == pytest.approx(bench.values["airflow"]), name
                assert bench.sources[1].asked >= asked + 3, f"{name}: airflow was not asked any more"
        assert bench.is_well_again(), f"{name}: {bench.client.get('/health').text}"
    assert spoilt > 10


def test_when_no_state_can_be_made_any_more_values_are_dropped_at_the_stale_limit(bench, functions):
    bench.turn()
    with Fault(functions["exporter.refresh.Refresher._make_state"], lambda *_, **__: True):
        bench.turn()
        assert bench.shown().value(R2) is not None
        for _ in range(int(STALE / INTERVAL) + 2):
            bench.turn()
        shown = bench.shown()
        assert shown.value(R2) is None
        assert shown.value("mlops_exporter_source_up", source="audit") == 0
        assert bench.client.get("/health").json["status"] == "down"
    bench.turn()
    assert bench.is_well()


def test_a_thread_that_cannot_be_started_is_tried_again(bench, monkeypatch):
    import threading

    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "source-audit":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bench.turn()
    shown = bench.shown()
    assert shown.value("mlops_exporter_source_up", source="audit") == 0
    assert shown.value("mlops_exporter_source_up", source="airflow") == 1
    assert "thread" in bench.client.get("/health").json["sources"]["audit"]["last_error"]
    monkeypatch.undo()
    bench.turn()
    assert bench.is_well()


@pytest.mark.parametrize("error", [SystemExit("from a driver"), KeyboardInterrupt(), MemoryError(), RecursionError()])
def test_whatever_a_driver_raises_its_source_is_asked_again(bench, error):
    answer = bench.sources[0].answer

    def raising(_previous: Reading | None) -> Reading:
        raise error

    bench.sources[0].answer = raising
    bench.turn()
    assert bench.client.get("/health").json["sources"]["audit"]["last_error_reason"] == "internal"
    bench.sources[0].answer = answer
    bench.turn()
    assert bench.is_well()


def test_a_label_that_cannot_be_written_costs_its_family_and_is_named(bench, catalog):
    from exporter.snapshot import Observation, Sample

    good = bench.sources[1].answer

    def odd(previous: Reading | None) -> Reading:
        made = good(previous)
        bad = Observation((Sample((("dag_id", "\udcff"),), 1.0),), 1.0)
        return Reading(**{**vars(made), "observations": {ACTIVE: bad}})

    bench.sources[1].answer = odd
    bench.turn()
    shown = bench.shown()
    assert ACTIVE not in shown.names()
    assert shown.value(R2) == pytest.approx(bench.values["audit"])
    report = bench.client.get("/health").json
    assert report["status"] == "degraded"
    assert f"rendering {ACTIVE}" in report["bugs"]
    bench.turn()
    assert bench.shown().value("mlops_exporter_loop_errors_total") >= 1
    bench.sources[1].answer = good
    bench.turn()
    assert bench.is_well()
    assert health.overall(bench.refresher.state.snapshot) == "ok"
