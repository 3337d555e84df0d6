"""Windows: what is asked for, how wide, and how far it is counted then; and that every end is counted exactly once."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ledger import Ledger
from exporter.sources.airflow.counted import RUN, TASK, DagMark
from exporter.sources.airflow.records import DagRun, Page, TaskInstance
from exporter.sources.airflow.totals import OVERLAP_SECONDS, Totals
from exporter.sources.airflow.windows import LEAST_WINDOW_SECONDS, MAX_WINDOWS, catch_up

NOW = 1_750_000_000.0
LOOKBACK = 3600.0 * 30
DAGS = ("a", "b", "c")


@dataclass
class ListApi:
    """Answers from a list of (seconds at which it comes to light, event), `cap` rows a page.

    Attributes:
        asked: the questions for a page: DAGs, from when, until when.
        in_full: the windows of which all pages were asked for.
    """

    events: list[tuple[float, DagRun | TaskInstance]]
    cap: int
    at: float = 0.0
    began: float = NOW
    asked: list[tuple[list[str], float, float | None]] = field(default_factory=list)
    in_full: list[tuple[float, float | None]] = field(default_factory=list)

    def now(self) -> float:
        return self.began + self.at

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

    def _page(self, kind: type, ids: Collection[str], since: float, until: float | None) -> Page:
        self.asked.append((list(ids), since, until))
        found = self._matching(kind, ids, since, until)
        return Page(tuple(found[: self.cap]), len(found[: self.cap]), len(found))

    def ended_runs(self, *asked) -> Page:
        return self._page(DagRun, *asked)

    def ended_tasks(self, *asked) -> Page:
        return self._page(TaskInstance, *asked)

    def all_ended_runs(self, ids: Collection[str], since: float, until: float | None) -> tuple:
        self.in_full.append((since, until))
        return tuple(self._matching(DagRun, ids, since, until))

    def all_ended_tasks(self, ids: Collection[str], since: float, until: float | None) -> tuple:
        self.in_full.append((since, until))
        return tuple(self._matching(TaskInstance, ids, since, until))


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


# -- which windows -----------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("kind", [RUN, TASK])


def ended(kind: str, dag: str, end: float, name: str = "r") -> tuple[float, DagRun | TaskInstance]:
    """A run or a task instance that took five seconds."""
    if kind == RUN:
        return 0.0, DagRun(dag, name, "failed", end - 5, end)
    return 0.0, TaskInstance(dag, name, "t", -1, "failed", end - 5, end)


def spread(kind: str, many: int, since: float, until: float) -> list[tuple[float, DagRun | TaskInstance]]:
    """Ends of DAG a, evenly from `since` to `until`."""
    ends = (since + (until - since) * (number + 0.5) / many for number in range(many))
    return [ended(kind, "a", end, f"r{end}") for end in ends]


def empty() -> Totals:
    return Totals(Ledger.open(None), "here", (10.0,), (10.0,), ())


def look(
    api: ListApi,
    totals: Totals,
    kind: str,
    *dags: str,
    lookback: float = LOOKBACK,
    enough: Callable[[], bool] = lambda: False,
) -> frozenset[str]:
    marks = totals.load().dags
    arguments: tuple[Any, ...] = (api, totals, marks, kind, dags)
    return catch_up(*arguments, lookback=lookback, enough=enough)


def after(windows: int) -> Callable[[], bool]:
    """Enough after so many windows. It is not asked before the first one: every refresh gets on by one at least."""
    left = iter(range(windows - 1))
    return lambda: next(left, None) is None


def how_far(totals: Totals, kind: str, dag: str) -> tuple[float | None, bool]:
    mark = totals.load().dags.get(dag, DagMark())
    return mark.until(kind), mark.complete(kind)


@BOTH
def test_the_first_look_is_as_long_as_the_look_back_and_the_next_ones_overlap(kind: str):
    api, totals = ListApi([ended(kind, "a", NOW - 50)], 10), empty()
    assert look(api, totals, kind, "a", "b") == {"a"}
    assert api.asked == [(["a", "b"], NOW - LOOKBACK, None)]
    assert how_far(totals, kind, "a") == how_far(totals, kind, "b") == (NOW - 50, True)
    assert look(api, totals, kind, "a", "b") == frozenset()
    assert api.asked[1:] == [(["a", "b"], NOW - 50 - OVERLAP_SECONDS, None)]
    other = TASK if kind == RUN else RUN
    assert how_far(totals, other, "a") == (None, False)


@BOTH
def test_what_is_counted_goes_together_and_each_newcomer_catches_up_from_its_own_mark(kind: str):
    api, totals = ListApi([ended(kind, "a", NOW - 50), ended(kind, "b", NOW - 70)], 10), empty()
    look(api, totals, kind, "a")
    look(api, totals, kind, "b")
    totals.fold(kind, ["c"], [], NOW - 900, complete=False)
    api.asked.clear()
    api.events.append(ended(kind, "a", NOW - 10, "new"))
    api.events.append(ended(kind, "e", NOW - 20))
    assert look(api, totals, kind, "a", "c", "d", "b", "e") == {"a", "e"}
    assert api.asked == [
        (["a", "b"], NOW - 70 - OVERLAP_SECONDS, None),
        (["c"], NOW - 900, None),
        (["d", "e"], NOW - LOOKBACK, None),
    ]
    assert how_far(totals, kind, "b") == (NOW - 10, True)
    assert how_far(totals, kind, "c") == (NOW - 900, True)
    api.asked.clear()
    assert look(api, totals, kind) == frozenset()
    assert api.asked == []


def test_no_mark_lies_in_airflows_future():
    """Nor does one come from an end that is not known."""
    api, totals = ListApi([ended(RUN, "a", NOW + 5000), (0.0, DagRun("b", "r", "failed", None, None))], 10), empty()
    look(api, totals, RUN, "a")
    assert how_far(totals, RUN, "a") == (NOW + 1, True)
    look(api, totals, RUN, "b")
    assert how_far(totals, RUN, "b") == (NOW - LOOKBACK, True)


@BOTH
def test_a_window_is_made_smaller_until_it_fits_a_page(kind: str):
    """By how full the page was: 1,440 ends in a second, 900 a page. What would end now is left open towards now."""
    api, totals = ListApi([*spread(kind, 800, 0.0, 0.5), *spread(kind, 639, 0.5, 1.0)], 900, began=1.0), empty()
    api.events.append(ended(kind, "b", 0.75))
    assert look(api, totals, kind, "a", "b", lookback=1.0, enough=after(2)) == {"a"}
    assert [asked[1:] for asked in api.asked] == [(0.0, None), (0.0, 0.5)]
    assert how_far(totals, kind, "a") == how_far(totals, kind, "b") == (0.5, False)
    api, totals = ListApi(api.events, 900, began=1.0), empty()
    assert look(api, totals, kind, "a", "b", lookback=1.0) == {"a", "b"}
    assert [asked[1:] for asked in api.asked] == [(0.0, None), (0.0, 0.5), (0.5, None)]
    assert how_far(totals, kind, "a") == (api.events[1438][1].end, True)
    assert api.in_full == []


@pytest.mark.parametrize(("early", "factor"), [(0, 10.0), (1, 10.0), (90, 800 / 90)])
def test_a_window_with_room_to_spare_is_followed_by_a_wider_one(early: int, factor: float):
    """As wide as fills a page, and ten times as wide at most. Here most ends lie in the last tenth."""
    first = [(at, replace(event, dag_id="b")) for at, event in spread(RUN, early, 0.0, 0.032)]
    api = ListApi([*first, *spread(RUN, 2500 - early, 0.9, 1.0)], 100, began=1.0)
    assert look(api, empty(), RUN, "a", "b", lookback=1.0, enough=after(3)) == ({"b"} if early else set())
    wide = 0.8 * 100 / 2500
    assert [asked[1:] for asked in api.asked] == [
        (0.0, None),
        (0.0, pytest.approx(wide)),
        (pytest.approx(wide), pytest.approx(wide + factor * wide)),
    ]


@BOTH
def test_more_ends_at_one_moment_than_a_page_holds_are_read_page_after_page(kind: str):
    """Only where no narrower window can be asked for."""
    events = [ended(kind, "a", 0.0005, f"r{number}") for number in range(5)]
    api, totals = ListApi(events, 4, began=LEAST_WINDOW_SECONDS), empty()
    assert look(api, totals, kind, "a", lookback=LEAST_WINDOW_SECONDS) == {"a"}
    assert (api.asked, api.in_full) == ([(["a"], 0.0, None)], [(0.0, None)])
    assert how_far(totals, kind, "a") == (0.0005, True)
    known = totals.load()
    assert sum(total.events for total in (*known.runs.values(), *known.tasks.values())) == 5
    api = ListApi(spread(kind, 2000, 0.0, 1.0), 1, began=1.0)
    look(api, empty(), kind, "a", lookback=1.0, enough=after(2))
    assert api.asked[1] == (["a"], 0.0, LEAST_WINDOW_SECONDS / 2)
    assert api.in_full == []


@BOTH
def test_a_narrow_window_in_the_middle_is_read_page_after_page_too(kind: str):
    api, totals = ListApi([ended(kind, "a", 0.25, f"r{number}") for number in range(50)], 40, began=1.0), empty()
    look(api, totals, kind, "a", lookback=1.0)
    assert [(["a"], *window) for window in api.in_full] == [asked for asked in api.asked if asked[1:] in api.in_full]
    ((since, until),) = api.in_full
    assert until is not None
    assert until - since <= LEAST_WINDOW_SECONDS
    assert sum(total.events for total in (*totals.load().runs.values(), *totals.load().tasks.values())) == 50
    assert how_far(totals, kind, "a") == (api.asked[-1][1], True)


def test_a_refresh_asks_for_so_many_windows_and_no_more():
    """However the list behaves; here no page is ever all."""
    api = ListApi([], 0)
    api.ended_runs = lambda *asked: api.asked.append(asked) or Page((), 1, 2)  # type: ignore
    assert look(api, empty(), RUN, "a") == frozenset()
    assert len(api.asked) == MAX_WINDOWS
