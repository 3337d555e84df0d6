"""The rules of a session, to the boundary: waits before retries, tokens' lives, Airflow's clock, what a log-in says."""

import base64
import contextlib
import gzip
import json
import time
import warnings
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import urllib3

from exporter.errors import BadData, SourceError, SourceTimeout
from exporter.settings import Settings
from exporter.sources.airflow.failures import XComUnreadable
from exporter.sources.airflow.session import (
    ATTEMPTS,
    MAX_LIST_BYTES,
    MAX_RETRY_AFTER,
    MAX_SKEW_SECONDS,
    MAX_TOKEN_CHARACTERS,
    MAX_XCOM_BYTES,
    VERSION_CHARACTERS,
    Session,
)
from testbed.fake_airflow import NOW, PASSWORD, USERNAME, FakeAirflow, settings
from testbed.faults import Exchange, FaultProxy, Reply, answer, html, reset, status

DAY = 86400.0


def session(url: str, *, clock: Callable[[], float] = lambda: NOW, **env: str) -> Session:
    """It does not wait before retries, and its monotonic time stands still."""
    return Session(settings(url, **env), clock=clock, monotonic=lambda: 1000.0, jitter=lambda: -0.5)


def replies(proxy: FaultProxy, content: Any, path: str, code: int = 200, **headers: str) -> None:
    """Have the path answer this JSON."""
    reply = Reply(code, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})
    proxy.add(lambda exchange: exchange.send(reply), path=path)


def failure(made: Session, path: str = "/dags") -> SourceError:
    with pytest.raises(SourceError) as caught:
        made.json_object(made.ask("GET", path, params={"limit": 1}), "the list of DAGs")
    return caught.value


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_without_an_address_there_is_no_session():
    with pytest.raises(ValueError, match=r"^AIRFLOW_BASE_URL is not set$"):
        Session(Settings.from_env({}))


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_a_question_is_sent_as_it_was_asked(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.api = api
    made = session(proxy.url)
    assert made.sent() == {}
    assert made.ask("GET", "/dags", params={"limit": 7, "order_by": "dag_id"}).ok
    seen = proxy.requests[-1]
    assert (seen.method, seen.path, seen.query) == ("GET", f"/api/{api}/dags", "limit=7&order_by=dag_id")
    assert seen.headers["accept"] == "application/json"
    body = {"dag_ids": ["a"], "states": ["running"], "page_limit": 5}
    for values in (False, True):
        assert made.ask("POST", "/dags/~/dagRuns/list", body=body, values=values).ok
        assert (proxy.requests[-1].method, proxy.requests[-1].json()) == ("POST", body)
    if api == "v2":
        (log_in,) = (seen for seen in proxy.requests if seen.path == "/auth/token")
        assert (log_in.method, log_in.json()) == ("POST", {"username": USERNAME, "password": PASSWORD})
        assert "authorization" not in log_in.headers
    codes = {"200": 4 if api == "v2" else 5, "201": 1} if api == "v2" else {"404": 1, "200": 4}
    assert made.sent() == codes


def test_a_list_may_be_longer_than_an_xcom(proxy: FaultProxy):
    replies(proxy, {"version": "3.3.2", "x": "y" * (2 * MAX_XCOM_BYTES)}, "/dags")
    replies(proxy, {"version": "3.3.2", "x": "y" * (2 * MAX_XCOM_BYTES)}, "/version")
    made = session(proxy.url, AIRFLOW_API="v1")
    assert made.ask("GET", "/dags").ok
    assert made.ask_version() == "3.3.2"
    with pytest.raises(XComUnreadable, match=r"^longer than 1 MiB$") as caught:
        made.ask("GET", "/dags", values=True)
    assert caught.value.final


@pytest.mark.parametrize(("more", "good"), [(0, True), (1, False)])
def test_a_list_may_be_so_long_and_not_longer(more: int, good: bool, proxy: FaultProxy):
    body = gzip.compress(b" " * (MAX_LIST_BYTES + more), compresslevel=1)
    reply = Reply(200, body, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    proxy.add(answer(reply), path="/dags")
    made = session(proxy.url, AIRFLOW_API="v1")
    with contextlib.nullcontext() if good else pytest.raises(BadData, match="longer than 16 MiB"):
        assert made.ask("GET", "/dags").ok


@pytest.mark.parametrize("values", [False, True])
def test_lists_and_xcoms_have_their_deadline_by_the_given_clock(values: bool, proxy: FaultProxy):
    at = [1000.0]

    def late(exchange: Exchange) -> None:
        at[0] += 6
        exchange.send(Reply(200, b"{}", {"Content-Type": "application/json"}))

    proxy.add(late, path="/dags")
    made = Session(settings(proxy.url, AIRFLOW_API="v1"), clock=lambda: NOW, monotonic=lambda: at[0])
    with made.deadline(5.0), pytest.raises(SourceTimeout):
        made.ask("GET", "/dags", values=values)


@pytest.mark.parametrize(
    ("env", "header"),
    [
        ({"AIRFLOW_TOKEN": "mine"}, "Bearer mine"),
        ({"AIRFLOW_USERNAME": "", "AIRFLOW_PASSWORD": ""}, None),
        ({"AIRFLOW_API": "v1"}, "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()),
    ],
)
def test_credentials_of_every_kind(env: dict[str, str], header: str | None, proxy: FaultProxy):
    session(proxy.url, **env).ask("GET", "/dags", params={"limit": 1})
    asked = [seen for seen in proxy.requests if seen.path.endswith("/dags")]
    assert [seen.headers.get("authorization") for seen in asked] == [header]
    assert proxy.count(path="/auth/token") == 0


def test_only_a_token_that_can_be_renewed_is(fake: FakeAirflow, proxy: FaultProxy):
    made = session(proxy.url)
    made.ask("GET", "/dags", params={"limit": 1})
    proxy.add(status(403, {"detail": "Forbidden"}), path="/dags", times=1)
    assert made.ask("GET", "/dags", params={"limit": 1}).status_code == 403
    assert len(fake.tokens) == 1
    proxy.add(status(401), path="/dags", times=1)
    body = {"dag_ids": [], "states": ["running"], "page_limit": 5}
    assert made.ask("POST", "/dags/~/dagRuns/list", body=body, values=True).status_code == 200
    assert len(fake.tokens) == 2
    again, before = proxy.requests[-1], proxy.requests[-3]
    assert (again.method, again.path, again.json()) == (before.method, before.path, body)
    assert again.headers["authorization"] == f"Bearer {fake.tokens[1]}"


@pytest.mark.parametrize("verified", [True, False])
def test_certificates_that_are_not_checked_are_no_warning_at_each_request(verified: bool):
    """The settings have given one already."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        session("https://airflow.example", AIRFLOW_VERIFY_TLS=str(verified).lower())
        warnings.warn("not verified", urllib3.exceptions.InsecureRequestWarning, stacklevel=1)
    assert len(given) == verified


@pytest.mark.parametrize(
    ("verified", "named", "read"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_authorities_are_read_from_the_file_that_is_named_where_certificates_are_checked(
    verified: bool, named: bool, read: bool, proxy: FaultProxy, tmp_path: Path
):
    """It is missing here, and nobody answers."""
    proxy.refuse()
    path = tmp_path / "ca.pem"
    env = {"AIRFLOW_VERIFY_TLS": str(verified).lower()} | ({"AIRFLOW_CA_FILE": str(path)} if named else {})
    error = failure(session(proxy.url.replace("http", "https"), **env))
    assert (f"AIRFLOW_CA_FILE ({path}) cannot be used" in str(error)) == read
    assert ("refused" in str(error)) != read


def test_an_xcom_may_be_no_longer_after_a_token_was_renewed(proxy: FaultProxy):
    made = session(proxy.url)
    made.ask("GET", "/dags", params={"limit": 1})
    proxy.add(status(401), path="/dags", times=1)
    replies(proxy, {"x": "y" * (2 * MAX_XCOM_BYTES)}, "/dags")
    with pytest.raises(XComUnreadable):
        made.ask("GET", "/dags", values=True)


def test_a_redirect_to_no_address_is_no_answer(proxy: FaultProxy):
    proxy.add(status(302, headers={"Location": "http://[elsewhere"}), path="/dags")
    error = failure(session(proxy.url))
    assert (type(error), str(error)) == (BadData, "Airflow's answer has a header that cannot be read.")


# -- which Airflow -----------------------------------------------------------------------------------------------------


def test_a_version_is_text_of_some_characters(proxy: FaultProxy):
    replies(proxy, {"version": "3" * VERSION_CHARACTERS}, "/version")
    made = session(proxy.url)
    assert (made.api(), made.airflow_version) == ("v2", "3" * VERSION_CHARACTERS)
    proxy.clear()
    replies(proxy, {"version": "3" * (VERSION_CHARACTERS + 1)}, "/version")
    made = session(proxy.url, AIRFLOW_API="v1")
    assert len(made.ask_version()) == VERSION_CHARACTERS
    assert made.ask_version() == made.airflow_version
    assert proxy.count("GET", "/api/v1/version") == 1


@pytest.mark.parametrize(
    ("code", "content", "api"),
    [(500, {"version": "3.3.2"}, "v1"), (200, {"version": 3}, "v1"), (200, [], "v1"), (200, {"version": "3"}, "v2")],
)
def test_the_other_version_is_tried_where_one_does_not_answer_well(
    code: int, content: Any, api: str, fake: FakeAirflow, proxy: FaultProxy
):
    fake.api = "v1"
    replies(proxy, content, "/api/v2/version", code)
    assert session(proxy.url).api() == api


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_the_refusal_of_either_version_is_told(api: str, fake: FakeAirflow, proxy: FaultProxy):
    fake.prefix = "/elsewhere"
    proxy.add(status(500, {"detail": "boom"}), path=f"/api/{api}/version")
    assert "answers 500 when asked for its version" in str(failure(session(proxy.url)))
    proxy.clear()
    proxy.add(html(), path=f"/api/{api}/version")
    assert "web page instead of JSON when asked for its version" in str(failure(session(proxy.url)))
    with pytest.raises(SourceError, match="web page instead of JSON when asked for its version"):
        session(proxy.url, AIRFLOW_API=api).ask_version()


def test_what_is_not_found_has_the_version_asked_for_again(proxy: FaultProxy):
    for env, asked in (({}, 2), ({"AIRFLOW_API": "v2"}, 0)):
        proxy.forget()
        made = session(proxy.url, **env)
        made.ask("GET", "/dags", params={"limit": 1})
        assert failure(made, "/nothing").reason == "not_found"
        made.ask("GET", "/dags", params={"limit": 1})
        assert proxy.count("GET", "/api/v2/version") == asked


def test_an_airflow_1_that_took_the_place_of_a_2_is_no_wrong_password(fake: FakeAirflow, proxy: FaultProxy):
    made = session(proxy.url, AIRFLOW_API="v2")
    fake.api = "v1"
    error = failure(made)
    assert (error.reason, "/auth/token" in str(error)) == ("auth", True)
    for code in (404, 405):
        proxy.clear()
        made = session(proxy.url)
        fake.api = "v2"
        assert made.api() == "v2"
        fake.api = "v1"
        proxy.add(status(code), path="/auth/token")
        error = failure(made)
        assert (error.reason, "replaced by one that speaks API v1" in str(error)) == ("not_found", True)


def test_credentials_that_were_good_once_lack_a_permission_and_others_are_wrong(fake: FakeAirflow, proxy: FaultProxy):
    """Airflow 2 says 403 in both cases."""
    fake.api = "v1"
    made = session(proxy.url)
    fake.forbidden = "dags"
    assert failure(made).reason == "auth"
    fake.forbidden = None
    made.ask("GET", "/dags", params={"limit": 1})
    made.ask("GET", "/nothing")
    fake.forbidden = "dags"
    assert failure(made).reason == "permission"


# -- tokens ------------------------------------------------------------------------------------------------------------


def token(claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"planted.{part}.signature"


@pytest.mark.parametrize(
    ("given", "lifetime"),
    [
        (token({"iat": NOW, "exp": NOW + 3600}), 3600.0),
        (token({"iat": NOW - 9000, "exp": NOW - 8900}), 100.0),
        *((token({"iat": NOW, "exp": NOW + 500, "n": "x" * length}), 500.0) for length in range(9)),
        (token({"exp": NOW + 1000}), 1000.0),
        (token({"iat": NOW, "exp": NOW + 300}), 300.0),
        (token({"iat": NOW, "exp": NOW + 301, "n": "?>"}), 301.0),
        (token({"iat": NOW, "exp": NOW + 0.1}), 1.0),
        (token({"iat": NOW, "exp": NOW - 5}), 1.0),
        (token({"iat": NOW, "exp": NOW + 2 * DAY}), DAY),
        (token({"iat": NOW}), DAY),
        (token({"exp": "soon"}), DAY),
        (token([1]), DAY),
        (token(7), DAY),
        ("one.two", DAY),
        ("a.b.c.d", DAY),
        ("planted.!.signature", DAY),
    ],
)
def test_a_token_is_renewed_shortly_before_its_end(given: str, lifetime: float, proxy: FaultProxy):
    """A minute before, or a fifth of its life where that is less. One that does not say lives for a day."""
    replies(proxy, {"access_token": given}, "/auth/token", 201)
    replies(proxy, {}, "/dags")
    at = [1000.0]
    made = Session(settings(proxy.url, AIRFLOW_API="v2"), clock=lambda: NOW, monotonic=lambda: at[0])
    used = lifetime - min(60.0, lifetime / 5)
    for after, logged_in in ((0.0, 1), (used - 0.001, 1), (used, 2)):
        at[0] = 1000.0 + after
        made.ask("GET", "/dags")
        assert proxy.count("POST", "/auth/token") == logged_in


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ({"access_token": "x" * MAX_TOKEN_CHARACTERS}, True),
        ({"access_token": "x" * (MAX_TOKEN_CHARACTERS + 1)}, False),
        ({"access_token": ""}, False),
        ({"access_token": 7}, False),
        ({"access_token": "ü"}, False),
        ({"access_token": "a\nb"}, False),
        ({"token": "x"}, False),
    ],
)
def test_a_token_is_one_line_of_plain_text(answer: Any, good: bool, fake: FakeAirflow, proxy: FaultProxy):
    replies(proxy, answer, "/auth/token", 201)
    made = session(proxy.url)
    if good:
        assert made.ask("GET", "/dags", params={"limit": 1}).status_code == 401
        return
    error = failure(made)
    assert isinstance(error, BadData)
    assert str(error) == "Airflow's /auth/token gave no access_token."


def test_what_a_log_in_answers_is_named_as_such(proxy: FaultProxy):
    proxy.add(html(), path="/auth/token")
    assert "when asked for a token" in str(failure(session(proxy.url)))


# -- retries -----------------------------------------------------------------------------------------------------------


class Waits:
    """A session whose wait before a retry is measured against the time that is left.

    The clock says once, when the wait was worked out after so many calls of `jitter`, that `left` seconds are left of a
    hundred.
    """

    def __init__(self, url: str, jitter: float, left: float, calls: int) -> None:
        self._jitter, self._left, self._calls = jitter, left, calls
        self._leaps = False
        self.session = Session(
            settings(url, AIRFLOW_API="v1"), clock=lambda: NOW, monotonic=self._clock, jitter=self._random
        )

    def _clock(self) -> float:
        leaps, self._leaps = self._leaps, False
        return 1100.0 - self._left if leaps else 1000.0

    def _random(self) -> float:
        self._calls -= 1
        self._leaps = self._calls == 0
        return self._jitter


@pytest.mark.parametrize(
    ("attempt", "headers", "jitter", "wait"),
    [
        (1, {}, -0.484375, 0.0078125),
        (2, {}, -0.484375, 0.015625),
        (1, {}, -0.46875, 0.015625),
        (1, {"Retry-After": "0"}, 0.03125, 0.015625),
        (2, {"Retry-After": "0"}, 0.03125, 0.015625),
    ],
)
def test_a_wait_doubles_is_what_airflow_asks_for_and_has_to_fit_the_deadline(
    attempt: int, headers: dict[str, str], jitter: float, wait: float, proxy: FaultProxy
):
    proxy.add(status(503, headers=headers), path="/dags")
    for left, sent in ((wait, attempt), (wait * 1.01, ATTEMPTS)):
        proxy.forget()
        waits = Waits(proxy.url, jitter, left, calls=attempt * (2 if headers else 1))
        with waits.session.deadline(100.0):
            began = time.monotonic()
            assert waits.session.ask("GET", "/dags").status_code == 503
        assert len(proxy.requests) == sent
        assert time.monotonic() - began >= (0.0 if sent < attempt + 1 else wait)


@pytest.mark.parametrize("written", [lambda seconds: f"{seconds:.0f}", lambda seconds: formatdate(NOW + seconds)])
@pytest.mark.parametrize(("asked", "handed_on"), [(MAX_RETRY_AFTER, False), (MAX_RETRY_AFTER + 1, True)])
def test_a_long_wait_is_handed_on_before_the_deadline_is_looked_at(
    asked: float, handed_on: bool, written: Callable[[float], str], proxy: FaultProxy
):
    """Which has passed here."""
    proxy.add(status(429, headers={"Retry-After": written(asked)}), path="/dags")

    def jitter() -> float:
        made.interrupt()
        return 0.0

    made = Session(settings(proxy.url, AIRFLOW_API="v1"), clock=lambda: NOW, jitter=jitter)
    with made.deadline(100.0):
        if handed_on:
            assert made.ask("GET", "/dags").status_code == 429
        else:
            with pytest.raises(SourceTimeout):
                made.ask("GET", "/dags")
    assert len(proxy.requests) == 1


def test_the_last_attempt_is_the_last(proxy: FaultProxy):
    for fault, code in ((status(503), "503"), (reset(), "error")):
        made = session(proxy.url, AIRFLOW_API="v1")
        proxy.clear()
        proxy.forget()
        proxy.add(fault)
        assert failure(made).reason == "unavailable"
        assert (len(proxy.requests), made.sent()) == (ATTEMPTS, {code: ATTEMPTS})


# -- Airflow's clock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "skew"),
    [
        ([1], 0.0),
        ([1.5], 0.0),
        ([-1.5], 0.0),
        ([2], 2.0),
        ([-2], -2.0),
        ([7200, 7201.5], 7200.0),
        ([7200, 7202], 7202.0),
        ([7200, 1.5], 0.0),
        ([7200, -2], -2.0),
        ([MAX_SKEW_SECONDS], MAX_SKEW_SECONDS),
        ([MAX_SKEW_SECONDS + 1], 0.0),
        ([-MAX_SKEW_SECONDS - 1], 0.0),
        ([7200, None], 7200.0),
    ],
)
def test_airflows_clock_counts_where_it_is_clearly_another(theirs: list[float | None], skew: float, proxy: FaultProxy):
    """Its Date is cut to the second, so up to one and a half are none."""
    at = [NOW]
    made = session(proxy.url, clock=lambda: at[0], AIRFLOW_API="v1")
    for ahead in theirs:
        proxy.clear()
        if ahead is None:
            replies(proxy, {}, "/dags", Date="soon")
        else:
            at[0] = NOW - ahead
        made.ask("GET", "/dags", params={"limit": 1})
    assert made.skew_seconds == skew
    at[0] = NOW
    assert made.now() == NOW + skew
