"""Property: whatever ends, in whatever order it comes to light, is counted exactly once."""

from collections.abc import Collection
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ledger import Ledger
from exporter.sources.airflow.counted import RUN, TASK
from exporter.sources.airflow.records import DagRun, Page, TaskInstance
from exporter.sources.airflow.totals import OVERLAP_SECONDS, Totals
from exporter.sources.airflow.windows import MAX_WINDOWS, catch_up

NOW = 1_750_000_000.0
LOOKBACK = 3600.0 * 30
DAGS = ("a", "b", "c")


@dataclass
class ListApi:
    """Answers from a list of (seconds at which it comes to light, event), `cap` rows a page."""

    events: list[tuple[float, DagRun | TaskInstance]]
    cap: int
    at: float = 0.0

    def now(self) -> float:
        return NOW + self.at

    def _matching(
        self, kind: type, ids: Collection[str], since: float, until: float | None
    ) -> list[DagRun | TaskInstance]:
        return [
            event
            for shown, event in self.events
            if shown <= self.at
            and isinstance(event, kind)
            and event.dag_id in ids
            and (event.end is None or (event.end >= since and (until is None or event.end <= until)))
        ]

    def _page(self, *asked) -> Page:
        found = self._matching(*asked)
        return Page(tuple(found[: self.cap]), len(found[: self.cap]), len(found))

    def ended_runs(self, *asked) -> Page:
        return self._page(DagRun, *asked)

    def ended_tasks(self, *asked) -> Page:
        return self._page(TaskInstance, *asked)

    def all_ended_runs(self, *asked) -> tuple:
        return tuple(self._matching(DagRun, *asked))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, DagRun]]:
    """Runs that ended before or after NOW and come to light up to the overlap later; some end more than once."""
    events: dict[tuple, tuple[float, DagRun]] = {}
    for number in range(draw(st.integers(0, 25))):
        offset = draw(st.one_of(st.integers(-30000, 6000), st.sampled_from([-600, 0, 1, 600]))) + draw(
            st.sampled_from([0.0, 0.25, 0.000001])
        )
        late = draw(st.sampled_from([0.0, 1.0, OVERLAP_SECONDS - 61.0]))
        shown = max(0.0, offset) + (late if offset > 0 else 0.0)
        run_id = f"r{number // draw(st.sampled_from([1, 2]))}"
        state = draw(st.sampled_from(["success", "failed"]))
        start = draw(st.sampled_from([None, NOW + offset - 45.0, NOW + offset + 5.0]))
        event = DagRun(draw(st.sampled_from(DAGS)), run_id, state, start, NOW + offset)
        events.setdefault((event.dag_id, event.run_id, event.end), (shown, event))
    return list(events.values())


@settings(max_examples=50, deadline=None)
@given(
    events=histories(),
    cap=st.integers(1, 12),
    steps=st.lists(st.tuples(st.floats(1, 900), st.integers(1, 6), st.booleans()), max_size=25),
    newcomer=st.integers(0, 10),
)
def test_every_end_is_counted_once(events, cap: int, steps, newcomer: int):
    api = ListApi(events, cap)
    ledger = Ledger.open(None)
    totals = Totals(ledger, "here", (10.0, 60.0), (10.0,), ())

    def look(dags: Collection[str], windows: int) -> None:
        left = iter(range(windows))
        catch_up(
            api,  # type: ignore[arg-type]
            totals,
            totals.load().dags,
            RUN,
            dags,
            lookback=LOOKBACK,
            enough=lambda: next(left, None) is None,
        )

    for number, (seconds, windows, restart) in enumerate(steps):
        look(DAGS if number >= newcomer else DAGS[:2], windows)
        api.at += seconds
        if restart:
            totals = Totals(ledger, "here", (10.0, 60.0), (10.0,), ())
    api.at += 10_000
    for _ in range(60):
        # As many as a refresh may ask for: more ends at one instant than a page holds take about a hundred to find.
        look(DAGS, MAX_WINDOWS)
    known = totals.load()
    assert sum(total.events for total in known.runs.values()) == len(events)
    timed = [e for _, e in events if e.start is not None and e.end is not None and e.end >= e.start]
    assert sum(sum(total.counts) for total in known.runs.values()) == len(timed)
    assert all(known.dags[dag].run_complete for dag in DAGS)


def test_identities_older_than_the_overlap_are_dropped():
    ledger = Ledger.open(None)
    totals = Totals(ledger, "here", (10.0,), (10.0,), ())
    api = ListApi([], 1000)
    for number in range(200):
        api.at = number * 60.0
        end = NOW + api.at - 1
        api.events.append((api.at, DagRun("a", f"r{number}", "success", end - 5, end)))
        api.events.append((api.at, TaskInstance("a", f"r{number}", "t", -1, "success", end - 5, end)))
        for kind in (RUN, TASK):
            arguments = (api, totals, totals.load().dags, kind, ["a"])
            catch_up(*arguments, lookback=LOOKBACK, enough=lambda: False)  # type: ignore[arg-type]
    with ledger.transaction() as connection:
        kept = connection.execute("SELECT count(*) FROM airflow_seen").fetchone()[0]
    assert kept <= 2 * (OVERLAP_SECONDS / 60 + 1)
    assert totals.load().runs["a", "success"].events == 200
    assert totals.load().tasks["a", "t", "success"].events == 200
