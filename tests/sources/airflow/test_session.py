"""One request: versions, log-in, retries, deadlines, and one plain error for each thing that goes wrong."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.sources.airflow import session as session_module
from exporter.sources.airflow.api import AirflowApi
from exporter.sources.airflow.session import Session
from testbed.fake_airflow import DAGS, NOW, PASSWORD, FakeAirflow, settings
from testbed.faults import FaultProxy, Reply, drip, hang, html, reset, status, truncate

BOTH = pytest.mark.parametrize("api", ["v1", "v2"])
RUNS_LIST = "/dags/~/dagRuns/list"


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> FakeAirflow:
    api = request.node.callspec.params.get("api", "v2") if hasattr(request.node, "callspec") else "v2"
    return FakeAirflow(api)


def make(url: str, **env: str) -> AirflowApi:
    return AirflowApi(Session(settings(url, **env), clock=lambda: NOW, jitter=lambda: -0.5))


def failure(client: AirflowApi, seconds: float = 10.0) -> SourceError:
    """The error that asking for the DAGs ends in. No secret is in it."""
    with pytest.raises(SourceError) as caught, client.session.deadline(seconds):
        client.dags()
    for text in (str(caught.value), repr(caught.value)):
        assert PASSWORD not in text
        assert "planted-token" not in text
    return caught.value


# -- versions ----------------------------------------------------------------------------------------------------------


@BOTH
def test_the_version_is_found_by_asking(api: str, proxy: FaultProxy):
    client = make(proxy.url)
    assert [dag.dag_id for dag in client.dags()] == sorted(DAGS)
    assert client.session.api() == api
    assert client.session.ask_version() == {"v1": "2.11.2", "v2": "3.3.2"}[api]


@BOTH
def test_a_version_that_is_set_is_not_asked_for(api: str, proxy: FaultProxy):
    make(proxy.url, AIRFLOW_API=api).dags()
    assert not [seen.path for seen in proxy.requests if seen.path.endswith("/version")]


@BOTH
def test_a_path_prefix_stands_before_everything(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.prefix = "/some/airflow"
    assert make(proxy.url + "/some/airflow/").dags()
    assert all(seen.path.startswith("/some/airflow/") for seen in proxy.requests)
    assert make(proxy.url + f"/some/airflow/api/{api}").dags()


@BOTH
def test_nothing_there_is_said_with_the_address(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.prefix = "/airflow"
    error = failure(make(proxy.url))
    assert error.reason == "not_found"
    assert f"There is no Airflow at {proxy.url}" in str(error)


@BOTH
@pytest.mark.parametrize("question", ["dags", "running"])
def test_an_airflow_that_was_replaced_is_noticed_at_the_next_refresh(
    api: str, question: str, fake: FakeAirflow, proxy: FaultProxy
):
    """By GET the old paths are 404, by POST 405."""
    client = make(proxy.url)
    for now in (api, "v2" if api == "v1" else "v1", api):
        fake.api = now
        if client.session.sent():
            with pytest.raises(SourceUnavailable, match="the next refresh notices") as caught:
                client.dags() if question == "dags" else client.running(DAGS)
            assert caught.value.reason == "not_found"
        assert client.dags()
        assert client.running(DAGS) == ()
        assert client.session.api() == now


def test_an_airflow_that_was_replaced_by_an_older_one_while_a_token_ran_out(fake: FakeAirflow, proxy: FaultProxy):
    """It has no /auth/token. That is no wrong password: it must not be backed off from as from one."""
    at = [1000.0]
    client = AirflowApi(Session(settings(proxy.url), clock=lambda: NOW, monotonic=lambda: at[0]))
    client.dags()
    fake.api = "v1"
    at[0] += fake.token_seconds
    error = failure(client)
    assert (error.reason, "replaced by one that speaks API v1" in str(error)) == ("not_found", True)
    assert client.dags()


@BOTH
def test_a_version_that_is_set_is_kept_to(api: str, fake: FakeAirflow, proxy: FaultProxy):
    client = make(proxy.url, AIRFLOW_API=api)
    client.dags()
    fake.api = "v2" if api == "v1" else "v1"
    for _ in range(2):
        error = failure(client)
        assert (error.reason, "AIRFLOW_API" in str(error)) == ("not_found", True)


# -- log-in ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_wrong_password(api: str, proxy: FaultProxy):
    error = failure(make(proxy.url, AIRFLOW_PASSWORD="not the right one"))
    assert error.reason == "auth"
    assert "AIRFLOW_PASSWORD" in str(error)
    assert "wants a log-in" not in str(error)
    assert "not the right one" not in str(error)


@BOTH
def test_no_credentials_at_all(api: str, proxy: FaultProxy):
    error = failure(make(proxy.url, AIRFLOW_USERNAME="", AIRFLOW_PASSWORD=""))
    assert error.reason == "auth"
    assert "wants a log-in" in str(error)
    assert "AIRFLOW_USERNAME" in str(error)


@BOTH
def test_a_bearer_token_of_ones_own(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.api = "v2"
    fake.tokens.append("planted-token.of.mine")
    client = make(proxy.url, AIRFLOW_TOKEN="planted-token.of.mine")
    assert client.dags()
    assert proxy.count(path="/auth/token") == 0
    fake.revoked.add("planted-token.of.mine")
    error = failure(client)
    assert (error.reason, "AIRFLOW_TOKEN" in str(error)) == ("auth", True)


def test_a_missing_permission_is_not_a_wrong_password(fake: FakeAirflow, proxy: FaultProxy):
    for fake.api in ("v1", "v2"):
        client = make(proxy.url)
        client.dags()
        fake.forbidden = "dagRuns"
        with pytest.raises(SourceUnavailable, match="may not read running runs") as caught:
            client.running(DAGS)
        assert caught.value.reason == "permission"
        fake.forbidden = None


def test_a_token_that_expired_is_renewed_in_mid_refresh(fake: FakeAirflow, proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    fake.revoked.update(fake.tokens)
    assert client.running(DAGS) == ()
    assert proxy.count("POST", "/auth/token") == 2
    assert client.session.sent()["401"] == 1


def test_a_token_is_renewed_before_it_expires(fake: FakeAirflow, proxy: FaultProxy):
    fake.token_seconds = 300
    at = [1000.0]
    client = AirflowApi(Session(settings(proxy.url), clock=lambda: NOW, monotonic=lambda: at[0]))
    client.dags()
    at[0] += 239
    client.dags()
    assert len(fake.tokens) == 1
    at[0] += 2
    client.dags()
    assert len(fake.tokens) == 2
    assert "401" not in client.session.sent()


def test_a_token_that_the_restarted_server_no_longer_knows_is_renewed(proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    proxy.add(status(403, {"detail": "Invalid JWT token"}), path="/dags", times=1)
    assert client.dags()


def test_a_storm_of_401_ends_in_one_error(proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(status(401, {"detail": "Token Expired"}), path="/dags")
    assert failure(client).reason == "auth"
    assert proxy.count("POST", "/auth/token") == 2
    assert proxy.count("GET", "/api/v2/dags") == 2


def test_many_that_wait_for_a_token_get_it_from_one_log_in(fake: FakeAirflow, proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    fake.revoked.update(fake.tokens)
    proxy.forget()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: client.dags(), range(24)))
    assert proxy.count("POST", "/auth/token") == 1


def test_no_token_endpoint(proxy: FaultProxy):
    proxy.add(status(404, {"detail": "Not Found"}), path="/auth/token")
    error = failure(make(proxy.url))
    assert (error.reason, "AIRFLOW_TOKEN" in str(error)) == ("auth", True)


def test_what_the_log_in_says_is_not_repeated(proxy: FaultProxy):
    proxy.add(status(422, {"detail": f"input_value={PASSWORD}"}), path="/auth/token")
    assert failure(make(proxy.url)).reason == "auth"


# -- redirects, proxies, web pages -------------------------------------------------------------------------------------


@BOTH
def test_a_redirect_is_not_followed(api: str, proxy: FaultProxy):
    with FaultProxy(script=lambda _: Reply(200, b"{}", {"Content-Type": "application/json"})) as elsewhere:
        client = make(proxy.url)
        client.dags()
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/moved"
        proxy.add(status(307, headers={"Location": target + "?secret=1"}))
        error = failure(client)
        assert "localhost" in str(error)
        assert "secret" not in str(error)
        assert elsewhere.requests == ()


def test_a_login_page_by_redirect(proxy: FaultProxy):
    proxy.add(status(302, headers={"Location": "https://sso.example.org/login?next=x"}))
    error = failure(make(proxy.url))
    assert (error.reason, "log-in page at https://sso.example.org" in str(error)) == ("auth", True)


def test_a_login_page_instead_of_json(proxy: FaultProxy):
    proxy.add(html())
    error = failure(make(proxy.url))
    assert "web page instead of JSON" in str(error)


def test_another_content_type(proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    proxy.add(lambda exchange: exchange.send(Reply(200, b'{"dags": []}', {"Content-Type": "text/plain"})))
    assert "content type 'text/plain'" in str(failure(client))


def test_a_firewall(proxy: FaultProxy):
    proxy.add(html(403))
    error = failure(make(proxy.url))
    assert (error.reason, "proxy or firewall" in str(error)) == ("permission", True)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b'{"dags": [{"dag_i', "not complete JSON"), (b"[]", "not a JSON object"), (b'{"dags": 3}', "no list 'dags'")],
)
def test_broken_json(content: bytes, said: str, proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    proxy.add(lambda exchange: exchange.send(Reply(200, content, {"Content-Type": "application/json"})))
    error = failure(client)
    assert isinstance(error, BadData)
    assert said in str(error)


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_what_passes_is_tried_again(code: int, proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(status(code), path="/dags", times=2)
    assert client.dags()
    assert client.session.sent()[str(code)] == 2


@pytest.mark.parametrize("fault", [reset(), truncate(), reset(after_bytes=10)])
def test_a_connection_that_is_lost_is_made_anew(fault, proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(fault, path="/dags", times=2)
    assert client.dags()
    assert client.session.sent()["error"] == 2


def test_trying_again_has_an_end(proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(status(503), path="/dags")
    error = failure(client)
    assert (error.reason, "503" in str(error)) == ("unavailable", True)
    assert proxy.count("GET", "/api/v2/dags") == session_module.ATTEMPTS
    proxy.clear()
    proxy.add(truncate(), path="/dags")
    assert "closes the connection" in str(failure(client))


def test_500_is_not_tried_again(proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(status(500, {"detail": "boom"}), path="/dags")
    assert "answers 500" in str(failure(client))
    assert proxy.count("GET", "/api/v2/dags") == 1


def test_a_short_retry_after_is_waited_for(proxy: FaultProxy):
    client = make(proxy.url)
    proxy.add(status(429, headers={"Retry-After": "1"}), path="/dags", times=1)
    began = time.monotonic()
    assert client.dags()
    assert time.monotonic() - began >= 0.7


def test_a_long_retry_after_is_left_to_the_loop(fake: FakeAirflow, proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    for value in ("120", fake.date()):
        proxy.clear()
        proxy.add(status(429, headers={"Retry-After": value}), path="/dags")
        error = failure(client)
        assert error.reason == "quota"
        assert error.retry_after == (120.0 if value == "120" else 0.0)


# -- time --------------------------------------------------------------------------------------------------------------


def test_connection_refused(proxy: FaultProxy):
    client = make(proxy.url)
    proxy.refuse()
    error = failure(client)
    assert (error.reason, "Connection refused" in str(error)) == ("unavailable", True)
    assert client.session.sent() == {"error": 1}


def test_an_unknown_host():
    assert "does not resolve now" in str(failure(make("http://no-such-host.invalid:8080")))


@pytest.mark.parametrize("fault", [hang(), drip(20)])
def test_the_deadline_holds_whatever_the_server_does(fault, proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    proxy.add(fault)
    began = time.monotonic()
    error = failure(client, seconds=0.7)
    assert isinstance(error, SourceTimeout)
    assert time.monotonic() - began < 10


def test_interrupt_ends_a_call_and_a_wait(proxy: FaultProxy):
    client = make(proxy.url)
    client.dags()
    for fault in (hang(), status(503, headers={"Retry-After": "8"})):
        proxy.clear()
        proxy.forget()
        proxy.add(fault)
        timer = threading.Thread(target=lambda: (proxy.wait_for_requests(1), client.session.interrupt()))
        timer.start()
        began = time.monotonic()
        assert isinstance(failure(client), SourceTimeout)
        assert time.monotonic() - began < 7
        timer.join()


def test_the_servers_clock_is_what_counts(fake: FakeAirflow, proxy: FaultProxy):
    fake.now = NOW + 7200
    client = make(proxy.url)
    assert client.now() == NOW
    client.dags()
    assert client.now() == NOW + 7200
    fake.now = NOW + 1
    client.dags()
    assert client.now() == NOW


def test_netrc_does_not_replace_the_password(
    fake: FakeAirflow, proxy: FaultProxy, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    fake.api = "v1"
    assert make(proxy.url).dags()
