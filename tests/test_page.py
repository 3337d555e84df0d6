"""What the page at `/` shows, over a refresher that is turned by hand: as rows, and as HTML."""

import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter import page
from exporter.app import App
from exporter.catalog import AuditSpec, Catalog, CountRows, MetricSpec, NewestColumn, Place
from exporter.catalog_parser import load_catalog
from exporter.errors import SourceUnavailable
from exporter.health import report
from exporter.ledger import Ledger
from exporter.page import Row, Series
from exporter.refresh import Refresher
from exporter.snapshot import Gap, Grid, HistogramSample, Labels, Observation, Reading, Sample, Snapshot, SourceStatus
from testbed.asgi_client import AsgiClient
from testbed.scripted import Clock, ScriptedSource, failing, reading, turn

CATALOG = load_catalog()
CHAMPION = "bike_model_r2_champion_current"
NOW = 1_700_000_000.0


def with_observations(catalog: Catalog, **observations: Observation) -> Reading:
    return replace(reading(catalog, Clock(NOW), r2=None, deploys=None), observations=observations)


def rows(
    found: Reading | None,
    catalog: Catalog = CATALOG,
    status: SourceStatus | None = None,
    *,
    grown: float = 0.0,
    too_old: bool = False,
) -> dict[str, Row]:
    status = status or SourceStatus("audit", up=True)
    snapshot = Snapshot(NOW, (status,), {} if found is None else {found.source: found})
    said = report(catalog, snapshot, age_seconds=grown, uptime_seconds=1.0, interval=60.0, too_old=too_old)
    return {row.name: row for row in page.rows(catalog, snapshot, said, grown=grown, too_old=too_old)}


# -- rows --------------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_catalogue_has_a_row_with_a_value_or_a_reason():
    found = rows(reading(CATALOG, Clock(NOW)))
    assert list(found) == [metric.name for metric in CATALOG.metrics]
    for row in found.values():
        assert row.help
        assert bool(row.series) != bool(row.missing)
        assert bool(row.missing) == bool(row.why)


def test_a_value_has_its_source_and_its_age_which_grows_with_the_snapshots():
    found = rows(reading(CATALOG, Clock(NOW)), grown=3600.0)
    assert found[CHAMPION].series == (Series("", "0.75", "0.75"),)
    assert (found[CHAMPION].source, found[CHAMPION].age) == ("audit", "1 h ago")
    assert found[CHAMPION].observed == "2023-11-14T22:12:20+00:00"
    assert found["bike_model_r2_production"].series == found[CHAMPION].series, "an alias shows the same"
    assert found["bike_model_deployments_total"].series == (Series("deploy", "3", "3.0"), Series("skip", "0", "0.0"))
    assert found["bike_model_deployments_total"].about == "counter by decision"


def test_a_held_value_says_so():
    held = SourceStatus("audit", up=False, held=True, error="gone")
    assert rows(reading(CATALOG, Clock(NOW)), status=held)[CHAMPION].source == "audit, held since it went down"


@pytest.mark.parametrize(
    ("found", "status", "metric", "missing", "why"),
    [
        (None, SourceStatus("audit"), CHAMPION, "not read yet", "audit: no reading that is good to show"),
        (None, SourceStatus("audit", up=False), CHAMPION, "source down", "audit: no reading that is good to show"),
        (None, SourceStatus("audit", up=False), "bike_model_r2_production", "source down", f"alias of {CHAMPION}"),
        (reading(CATALOG, Clock(NOW), r2=None), None, CHAMPION, "no value yet", "audit: no value yet"),
        (
            reading(CATALOG, Clock(NOW), r2=None, gaps=(Gap(CHAMPION, "the table has no column r2"),)),
            None,
            CHAMPION,
            "not in the source",
            "the table has no column r2",
        ),
        (reading(CATALOG, Clock(NOW)), None, "bike_prediction_mae", "not set up", "airflow: not configured"),
        (with_observations(CATALOG, **{CHAMPION: Observation(())}), None, CHAMPION, "no series yet", "nothing has"),
    ],
)
def test_a_missing_value_has_a_plain_word_and_the_detail(found, status, metric, missing, why):
    row = rows(found, status=status)[metric]
    assert (row.series, row.missing) == ((), missing)
    assert why in row.why


def test_values_that_are_too_old_are_not_shown():
    found = rows(reading(CATALOG, Clock(NOW)), too_old=True)
    assert {(row.series, row.missing) for row in found.values()} == {((), "too old")}


def test_a_histogram_shows_how_many_and_their_mean():
    name = "airflow_dag_run_duration_seconds"
    labels = (("dag_id", "daily"), ("state", "success"))
    samples = (
        HistogramSample(labels, (0, 2, 1), 600.0),
        HistogramSample((("dag_id", ""), ("state", "failed")), (0, 0, 0), 0.0),
    )
    found = replace(with_observations(CATALOG, **{name: Observation(samples, NOW)}), source="airflow")
    assert rows(found, status=SourceStatus("airflow", up=True))[name].series == (
        Series("daily / success", "3, mean 3 min 20 s", "count 3, sum 600.0"),
        Series("(empty) / failed", "none yet", "count 0"),
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("x", 1234567.0, "1,234,567"),
        ("x", 0.123456789, "0.123457"),
        ("x", 1e300, "1e+300"),
        ("x", -0.5, "-0.5"),
        ("x_seconds", 0.0, "0 s"),
        ("x_seconds", 59.96, "59.96 s"),
        ("x_seconds", 3725.0, "1 h 2 min"),
        ("x_seconds", -90.0, "-90 s"),
        ("x_seconds", 1e300, "1e+300 s"),
        ("x_timestamp_seconds", NOW, "2023-11-14 22:13 UTC"),
        ("x_timestamp_seconds", 1e300, "1e+300"),
    ],
)
def test_a_value_is_shown_by_the_unit_in_its_name(name: str, value: float, shown: str):
    metric = MetricSpec(name, "gauge", "Help.", (), (NewestColumn("x"),))
    catalog = Catalog(AuditSpec("t", "timestamp", None, ()), (metric,), "f")
    found = rows(with_observations(catalog, **{name: Observation((Sample((), value),), 1e300)}), catalog)
    assert found[name].series == (Series("", shown, repr(value)),)
    assert found[name].observed is None, "no time that a calendar has"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-7200, "dated 2 h ahead"),
        (-1, "just now"),
        (0.4, "just now"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (7199, "1 h ago"),
        (86400 * 1500, "1,500 d ago"),
    ],
)
def test_ages_in_words(seconds: float, words: str):
    assert page.ago(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01234, "0.0123 s"), (59.99, "60 s"), (60, "1 min"), (3599.9, "1 h"), (90061, "1 d 1 h"), (86400, "1 d")],
)
def test_durations_in_words(seconds: float, words: str):
    assert page.duration(seconds) == words


def test_costs_are_what_the_sources_counted():
    telemetry = {
        "mlops_exporter_bigquery_queries_total": tuple(
            Sample((("outcome", name),), count)
            for name, count in (("executed", 2.0), ("cached", 1.0), ("skipped", 9.0))
        ),
        "mlops_exporter_bigquery_bytes_billed_total": (Sample((), 20 * 2.0**20),),
        "mlops_exporter_airflow_requests_total": tuple(
            Sample((("code", code),), count) for code, count in (("200", 1200.0), ("503", 2.0), ("error", 1.0))
        ),
    }
    statuses = (SourceStatus("audit", up=True, duration_seconds=1.5), SourceStatus("airflow", up=True))
    snapshot = Snapshot(NOW, statuses, {}, telemetry)
    said = report(CATALOG, snapshot, age_seconds=0.0, uptime_seconds=1.0, interval=60.0)
    assert page.costs(snapshot, said) == {
        "audit": (
            "The last refresh took 1.5 s.",
            "BigQuery ran 2 queries and billed 20 MiB.",
            "It answered 1 from its cache; 9 were not needed.",
        ),
        "airflow": ("1,203 requests, of which 2 with 503, 1 without an answer.",),
    }


def test_without_bigquery_and_requests_there_is_nothing_to_say_of_their_cost():
    snapshot = Snapshot(NOW, (SourceStatus("audit"), SourceStatus("airflow")), {})
    said = report(CATALOG, snapshot, age_seconds=0.0, uptime_seconds=1.0, interval=60.0)
    assert page.costs(snapshot, said) == {"audit": (), "airflow": ()}


# -- many series -------------------------------------------------------------------------------------------------------


def many_models(models: int) -> tuple[Catalog, Reading]:
    """A catalogue of 16 metrics, a quarter of them counters, and a reading with a series of each for every model."""
    values = (("a", "a"), ("b", "b"))
    metrics = tuple(
        MetricSpec(f"gauge_{n}", "gauge", "Help.", ("model",), (NewestColumn("x"),))
        if n % 4
        else MetricSpec(f"count_{n}_total", "counter", "Help.", ("model", "kind"), (CountRows("x", values),))
        for n in range(16)
    )
    sets: tuple[Labels, ...] = tuple((("model", f"model_{n:05d}"),) for n in range(models))
    observations = {}
    for metric in metrics:
        own: tuple[Labels, ...] = ((("kind", "a"),), (("kind", "b"),)) if metric.type == "counter" else ((),)
        columns = tuple((labels, array("d", [float("nan"), *range(1, models)])) for labels in own)
        observations[metric.name] = Observation(Grid(sets, columns), NOW)
    catalog = Catalog(AuditSpec("t", "timestamp", None, (), (("model", Place("model")),)), metrics, "many")
    return catalog, with_observations(catalog, **observations)


def test_of_many_series_the_first_are_shown_and_the_others_counted():
    catalog, found = many_models(10_000)
    row = rows(found, catalog)["gauge_1"]
    assert [one.labels for one in row.series] == [f"model_{n:05d}" for n in range(1, 7)], "not the one without a value"
    assert row.more == 9_999 - 6
    assert rows(found, catalog)["count_0_total"].more == 2 * 9_999 - 6


def test_long_label_values_are_cut():
    labels = (("decision", "W" * 200),)
    found = with_observations(CATALOG, bike_model_deployments_total=Observation((Sample(labels, 1.0),)))
    assert rows(found)["bike_model_deployments_total"].series[0].labels == "W" * 79 + "…"


def test_ten_thousand_models_make_a_small_page_in_a_few_milliseconds():
    def page_of(models: int) -> tuple[int, float]:
        catalog, found = many_models(models)
        source = ScriptedSource(lambda _: found)
        refresher = Refresher(catalog, [source], Ledger.open(None), interval=60, stale_after=3600)
        try:
            refresher.run_once()
            client = AsgiClient(App(refresher, catalog))
            size = len(client.get("/").data)
            took = []
            for _ in range(5):
                began = time.process_time()
                assert client.get("/").status_code == 200
                took.append(time.process_time() - began)
            return size, min(took)
        finally:
            refresher.stop()

    few, many = page_of(10), page_of(10_000)
    assert many[0] < few[0] + 1_000
    assert many[0] < 64_000
    assert many[1] - few[1] < 0.05, "seconds of CPU; generous, for a machine that does other things too"


# -- HTML --------------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def source(clock: Clock) -> ScriptedSource:
    return ScriptedSource(lambda _: reading(CATALOG, clock))


@pytest.fixture
def refresher(clock: Clock, source: ScriptedSource):
    made = Refresher(
        CATALOG,
        [source],
        Ledger.open(None),
        interval=60,
        stale_after=3600,
        wall=clock.wall,
        monotonic=clock.monotonic,
        jitter=lambda: 0.0,
    )
    yield made
    made.stop()


@pytest.fixture
def get(refresher: Refresher) -> Callable[[], str]:
    def made() -> str:
        answer = AsgiClient(App(refresher, CATALOG)).get("/")
        assert answer.status_code == 200
        return answer.text

    return made


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(refresher: Refresher):
    refresher.run_once()
    answer = AsgiClient(App(refresher, CATALOG)).get("/")
    tags = Tags(answer.text).tags
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"} == set()
    names = {name for _, attributes in tags for name in attributes}
    assert [name for name in names if name.startswith("on") or name in ("src", "style", "srcset")] == []
    (style,) = [attributes for tag, attributes in tags if tag == "style"]
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", f"style-src 'nonce-{style['nonce']}'"]
    assert "url(" not in answer.text
    assert "@import" not in answer.text


def test_no_two_pages_have_the_same_nonce(get):
    def nonce(text: str) -> str | None:
        return next(attributes["nonce"] for tag, attributes in Tags(text).tags if tag == "style")

    assert nonce(get()) != nonce(get())


def test_the_page_shows_every_metric_before_and_after_the_first_refresh(refresher: Refresher, get):
    before = get()
    assert "not read yet" in before
    refresher.run_once()
    after = get()
    for metric in CATALOG.metrics:
        assert f">{metric.name}</code>" in before
        assert f">{metric.name}</code>" in after
    assert 'title="0.75"' in after
    assert "3 of 22 metrics have a value" in " ".join(after.split())


def test_text_from_outside_is_escaped_and_odd_characters_are_no_error(refresher, source, clock, get):
    odd = '<script>alert("1")</script> \ud800 \u202e'
    labels = (("decision", odd),)
    found = reading(CATALOG, clock, gaps=(Gap(CHAMPION, odd),), r2=None)
    observations = {"bike_model_deployments_total": Observation((Sample(labels, 1.0),), NOW)}
    facts = {"engine": odd, "table": odd, "location": odd}
    source.answer = lambda _: replace(found, observations=observations, notes=(odd,), facts=facts)
    refresher.run_once()
    text = get()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; \\ud800") == 6


def test_a_source_that_is_down_says_why_and_that_its_values_are_kept(refresher, source, clock, get):
    refresher.run_once()
    source.answer = failing(SourceUnavailable("the network is down"))
    clock.advance(60)
    turn(refresher)
    text = get()
    assert "down, last values kept" in text
    assert "the network is down" in text
    assert "held since it went down" in text
    assert "1 failed" in text


def test_once_the_loop_has_stopped_for_too_long_no_value_is_shown(refresher, clock, get):
    refresher.run_once()
    clock.advance(3661)
    text = get()
    assert "too old to be shown" in text
    assert "0.75" not in text
    assert "not asked any more" in text
    assert '<strong class="badge down">down</strong>' in text


@pytest.mark.parametrize("broken", ["exporter.page.rows", "exporter.page.costs", "exporter.health.report"])
def test_a_bug_costs_what_it_breaks_and_not_the_page(refresher, get, monkeypatch, caplog, broken: str):
    refresher.run_once()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(broken, fail)
    text = get()
    assert "MLOps exporter" in text
    assert "bug" in text
    assert "planted" in caplog.text
    assert "planted" not in text
