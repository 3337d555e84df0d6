"""The routes, over a refresher that is turned by hand."""

import gzip
import json
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporter import app
from exporter.app import App
from exporter.catalog import Catalog
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.settings import Secret
from exporter.snapshot import Gap
from testbed.asgi_client import AsgiClient
from testbed.scripted import Clock, ScriptedSource, failing, reading, turn

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def source(catalog: Catalog, clock: Clock) -> ScriptedSource:
    return ScriptedSource(
        lambda _: reading(catalog, clock, gaps=(Gap("bike_drift_share", "the table has no column drift_share"),))
    )


@pytest.fixture
def refresher(catalog: Catalog, clock: Clock, source: ScriptedSource) -> Iterator[Refresher]:
    made = Refresher(
        catalog,
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
def client(refresher: Refresher, catalog: Catalog) -> AsgiClient:
    return AsgiClient(App(refresher, catalog))


def test_metrics_are_text_where_nothing_is_asked_for(client: AsgiClient, refresher: Refresher):
    refresher.run_once()
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "text/plain"}, {"Accept": "text/html"}):
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == 200
        assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in answer.headers
        names = {family.name for family in text_string_to_metric_families(answer.text)}
        assert "bike_model_r2_champion_current" in names


@pytest.mark.parametrize(
    "accept",
    [
        PROMETHEUS_ACCEPT,
        PROMETHEUS_3_ACCEPT,
        "application/openmetrics-text",
        "text/plain,application/openmetrics-text",
        "application/openmetrics-text;q=0.5,text/plain;q=0.5",
        "text/*;q=0.5, Application/OpenMetrics-Text; version=1.0.0; q=0.5",
        "application/openmetrics-text;q=0.1,application/openmetrics-text;version=0.0.1;q=0.9,text/plain;q=0.5",
    ],
)
def test_metrics_are_openmetrics_where_it_is_asked_for_no_less_than_text(
    client: AsgiClient, refresher: Refresher, accept: str
):
    refresher.run_once()
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(answer.text)}
    assert {"bike_model_r2_champion_current", "bike_model_deployments"} <= names


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain;q=1,application/openmetrics-text;q=0.5",
        "text/plain;q=0.51,application/openmetrics-text;q=0.5",
        "*/*;q=0.6,application/openmetrics-text;q=0.5",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0,text/plain;q=0",
        "nonsense;;;",
    ],
)
def test_metrics_are_text_where_openmetrics_is_not_preferred(client: AsgiClient, accept: str):
    assert client.get("/metrics", headers={"Accept": accept}).content_type.startswith("text/plain")


def test_headers_that_take_long_to_parse_are_not_looked_at(client: AsgiClient, refresher: Refresher):
    """They would be parsed where everybody's scrapes wait: 64 KB of them take a quarter of a second."""
    refresher.run_once()
    long = {"Accept": "application/openmetrics-text, " * 100, "Accept-Encoding": "gzip, " * 200}
    answer = client.get("/metrics", headers=long)
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate", "br;q=1, gzip;q=0.5", "*"])
@pytest.mark.parametrize("accept", ["*/*", PROMETHEUS_ACCEPT])
def test_metrics_are_compressed_where_that_is_accepted(client, refresher, encoding, accept):
    refresher.run_once()
    answer = client.get("/metrics", headers={"Accept-Encoding": encoding, "Accept": accept})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert gzip.decompress(answer.data) == client.get("/metrics", headers={"Accept": accept}).data


@pytest.mark.parametrize("encoding", ["identity", "gzip;q=0", "deflate"])
def test_metrics_are_plain_where_gzip_is_not_accepted(client: AsgiClient, encoding: str):
    assert "Content-Encoding" not in client.get("/metrics", headers={"Accept-Encoding": encoding}).headers


@pytest.mark.parametrize("path", ["/metrics", "/health", "/-/healthy", "/-/ready", "/"])
def test_head_is_get_without_a_body(client: AsgiClient, refresher: Refresher, path: str):
    refresher.run_once()
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content_type) == (get.status_code, get.content_type)
    assert head.data == b""


@pytest.mark.parametrize("headers", [{}, {"Accept": PROMETHEUS_3_ACCEPT, "Accept-Encoding": "gzip"}])
def test_the_length_of_a_scrape_is_announced_to_head_too(client: AsgiClient, refresher: Refresher, headers):
    """Without it gunicorn would send the body in chunks."""
    refresher.run_once()
    head, get = client.head("/metrics", headers=headers), client.get("/metrics", headers=headers)
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.data))
    assert dict(head.headers) == dict(get.headers)


def test_every_scrape_serves_the_state_of_its_moment(client: AsgiClient, refresher: Refresher, clock: Clock):
    """What is remembered for two headers is which body they mean, not the body."""
    before = client.get("/metrics").text
    turn(refresher)
    assert client.get("/metrics").text != before


def test_a_scrape_asks_no_source(client: AsgiClient, refresher: Refresher, source: ScriptedSource):
    refresher.run_once()
    source.hang()
    for path in ("/metrics", "/health", "/-/healthy", "/-/ready", "/"):
        client.get(path)
    assert source.asked == 1
    source.release()


def test_unknown_paths_and_methods_are_refused_in_a_line(client: AsgiClient):
    answer = client.get("/nothing")
    assert (answer.status_code, answer.text, answer.mimetype) == (404, "404 Not Found\n", "text/plain")
    answer = client.post("/metrics")
    assert (answer.status_code, answer.text) == (405, "405 Method Not Allowed\n")
    assert {"GET", "HEAD"} <= set(answer.headers["Allow"].split(", "))


def test_health_before_the_first_refresh(client: AsgiClient):
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json["status"] == "starting"
    assert client.get("/-/ready").status_code == 503
    assert client.get("/metrics").status_code == 200


def test_ready_is_said_when_every_source_was_tried_and_not_before(catalog: Catalog, clock: Clock):
    quick = ScriptedSource(lambda _: reading(catalog, clock))
    slow = ScriptedSource(failing(SourceUnavailable("gone")), name="airflow")
    slow.hang()
    refresher = Refresher(
        catalog,
        [quick, slow],
        Ledger.open(None),
        interval=60,
        stale_after=3600,
        wall=clock.wall,
        monotonic=clock.monotonic,
    )
    client = AsgiClient(App(refresher, catalog))
    refresher.step()
    refresher.wait(5)
    clock.advance(2)
    refresher.step()
    assert [status.up for status in refresher.state.snapshot.statuses] == [True, None]
    assert client.get("/-/ready").status_code == 503
    assert (client.get("/health").status_code, client.get("/health").json["status"]) == (503, "starting")
    slow.release()
    turn(refresher)
    assert client.get("/-/ready").status_code == 200
    assert client.get("/health").json["status"] == "degraded"
    refresher.stop()


def test_health_when_all_is_well(client: AsgiClient, refresher: Refresher, clock: Clock):
    refresher.run_once()
    clock.advance(5)
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    body = answer.json
    assert body["status"] == "ok"
    audit = body["sources"]["audit"]
    assert audit["up"] is True
    assert audit["age_seconds"] == 5.0
    assert audit["last_success"] == "2023-11-14T22:13:20Z"
    assert audit["last_record"] == "2023-11-14T22:12:20Z"
    assert audit["last_error"] is None
    assert "bike_model_r2_champion_current" in audit["serves"]
    assert body["metrics_without_value"]["bike_drift_share"] == (
        "audit: the table has no column drift_share; airflow: not configured"
    )
    assert client.get("/-/ready").status_code == 200


def test_health_while_a_reading_is_held_and_when_nothing_is_left(client, refresher, source, clock):
    refresher.run_once()
    source.answer = failing(SourceUnavailable("the network is down"))
    clock.advance(60)
    refresher.step()
    refresher.wait(5)
    refresher.step()
    answer = client.get("/health")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["sources"]["audit"]["last_error"] == "the network is down"
    assert answer.json["sources"]["audit"]["last_error_reason"] == "unavailable"
    assert answer.json["sources"]["audit"]["held"] is True
    clock.advance(3600)
    refresher.step()
    refresher.wait(5)
    refresher.step()
    answer = client.get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "down")
    assert client.get("/metrics").status_code == 200


def test_healthy_follows_the_loop_not_the_sources(client: AsgiClient, refresher: Refresher, source, clock: Clock):
    assert client.get("/-/healthy").status_code == 503
    source.answer = failing(SourceUnavailable("gone"))
    refresher.start()
    assert source.entered.wait(30)
    assert client.get("/-/healthy").status_code == 200
    refresher.stop()
    assert client.get("/-/healthy").status_code == 503


def test_the_landing_page_links_and_shows_each_source(client: AsgiClient, refresher: Refresher, source, clock):
    class Links(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name == "href"]

    source.answer = failing(SourceUnavailable("no <b>route</b>"))
    refresher.run_once()
    page = client.get("/").text
    parser = Links()
    parser.feed(page)
    assert set(parser.found) == {"/metrics", "/health", "/-/healthy", "/-/ready"}
    assert "audit" in page
    assert "down" in page
    assert "no &lt;b&gt;route&lt;/b&gt;" in page


def test_health_is_one_json_document_with_a_final_newline(client: AsgiClient, refresher: Refresher):
    refresher.run_once()
    text = client.get("/health").text
    assert text.endswith("}\n")
    json.loads(text)


# -- POST /-/refresh ---------------------------------------------------------------------------------------------------

TOKEN = "planted-0123456789"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def asking(refresher: Refresher, catalog: Catalog) -> AsgiClient:
    return AsgiClient(App(refresher, catalog, Secret(TOKEN)))


@pytest.mark.parametrize("method", ["get", "post", "put"])
def test_without_a_token_there_is_no_such_path(client: AsgiClient, method: str):
    assert getattr(client, method)("/-/refresh", headers=bearer("")).status_code == 404


def test_with_the_token_the_sources_are_asked_and_the_answer_does_not_wait(asking, refresher, source, clock):
    refresher.run_once()
    source.hang()
    answer = asking.post("/-/refresh", headers=bearer(TOKEN))
    assert (answer.status_code, answer.json) == (202, {"status": "accepted"})
    assert asking.post("/-/refresh", headers=bearer(TOKEN)).json == {"status": "waiting"}
    refresher.step()
    answer = asking.post("/-/refresh", headers=bearer(TOKEN))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert answer.json == {"status": "too soon", "retry_after_seconds": 5}
    source.release()


def test_a_source_that_backs_off_is_named(asking, refresher, source):
    source.answer = failing(SourceUnavailable("slow down", reason="quota", retry_after=89.5))
    refresher.run_once()
    answer = asking.post("/-/refresh", headers=bearer(TOKEN))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "90")
    assert answer.json["backing_off_seconds"] == {"audit": 89.5}


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), bearer(""), bearer(TOKEN + "x"), bearer(TOKEN[:-1]), {"Authorization": f"Basic {TOKEN}"}],
)
def test_without_the_right_token_nothing_happens(asking, refresher, source, headers: dict[str, str]):
    refresher.run_once()
    answer = asking.post("/-/refresh", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mlops-exporter"'
    assert "planted" not in answer.text
    refresher.step()
    assert source.asked == 1
    assert asking.post("/-/refresh", headers=bearer(TOKEN)).status_code == 202, "no limit was used up"


def test_wrong_tokens_are_answered_slowly_and_logged_at_a_bounded_rate(asking, caplog, monkeypatch):
    monkeypatch.setattr(app, "REFUSAL_SECONDS", 0.05)
    began = time.monotonic()
    for number in range(10):
        assert asking.post("/-/refresh", headers=bearer(f"guess-{number}")).status_code == 401
    assert time.monotonic() - began >= 10 * 0.05
    assert sum("without the right token" in record.getMessage() for record in caplog.records) == 1
    assert "guess" not in caplog.text
    assert asking.post("/-/refresh", headers=bearer(TOKEN)).status_code == 202


def test_only_a_post_refreshes(asking: AsgiClient):
    for method in ("get", "put", "delete"):
        answer = getattr(asking, method)("/-/refresh", headers=bearer(TOKEN))
        assert answer.status_code == 405
        assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(("query", "code"), [("?force=true", 202), ("?force=False", 202), ("?force=yes", 400)])
def test_force_is_true_or_false(asking: AsgiClient, refresher: Refresher, query: str, code: int):
    refresher.run_once()
    assert asking.post(f"/-/refresh{query}", headers=bearer(TOKEN)).status_code == code


def test_the_token_is_on_no_page(asking: AsgiClient, refresher: Refresher):
    refresher.run_once()
    for path in ("/", "/health", "/metrics", "/-/refresh"):
        assert "planted" not in asking.get(path).text
