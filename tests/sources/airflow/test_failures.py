"""What each answer and each failure is called: in full, for what it says is all that an operator has."""

import dataclasses
import io
import json
from typing import Any

import pytest
import requests

from exporter.errors import SourceError
from exporter.sources.airflow import failures
from exporter.sources.airflow.failures import Access, XComUnreadable

NOW = 1_750_000_000.0
URL = "http://airflow:8080/x"
ACCESS = Access(
    url=URL,
    api="v2",
    has_user=True,
    has_token=False,
    admitted=False,
    is_asked_for_version=True,
    ca_file="/ca.pem",
    now=NOW,
)
WHAT = "the list of DAGs"
JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/HTML; charset=utf-8"}


def response(code: int, content: Any = None, headers: dict[str, str] | None = None) -> requests.Response:
    """An answer; its content is bytes, or becomes JSON."""
    made = requests.Response()
    made.status_code = code
    made.url = f"{URL}/api/v2/dags"
    made.headers.update(JSON if headers is None else headers)
    made.raw = io.BytesIO(content if isinstance(content, bytes) else json.dumps(content).encode())
    return made


def access(**changed: Any) -> Access:
    return dataclasses.replace(ACCESS, **changed)


def refused(answer: requests.Response, given: Access = ACCESS) -> tuple[str, str]:
    """The reason and the message, as `json_object` and `refusal` alike give them."""
    with pytest.raises(SourceError) as caught:
        failures.json_object(answer, WHAT, given)
    return caught.value.reason, str(caught.value)


# -- good answers, and those that are no JSON --------------------------------------------------------------------------


def test_a_good_answer_is_a_json_object():
    assert failures.json_object(response(200, {"a": 1}), WHAT, ACCESS) == {"a": 1}
    assert failures.json_object(response(299, {"a": 1}, {"Content-Type": "a/problem+JSON;x"}), WHAT, ACCESS) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "headers", "reason", "why"),
    [
        (
            b'{"a": ',
            JSON,
            "bad_data",
            "Airflow's answer about the list of DAGs cannot be used: not complete JSON.",
        ),
        ([1], JSON, "bad_data", "Airflow's answer about the list of DAGs is not a JSON object."),
        (
            b"<title>AirFlow</title>",
            HTML,
            "not_found",
            f"{URL} leads to Airflow's web interface, not to its API, when asked for the list of DAGs: check the path "
            "in AIRFLOW_BASE_URL.",
        ),
        (
            b"x" * 4090 + b"airflow",
            HTML,
            "bad_data",
            f"{URL} answers with a web page instead of JSON when asked for the list of DAGs: either a log-in page "
            "stands before Airflow, or AIRFLOW_BASE_URL leads to something else.",
        ),
        (
            b"airflow",
            {},
            "bad_data",
            f"{URL} answers with content type 'none' instead of JSON when asked for the list of DAGs.",
        ),
        (
            b"{}",
            {"Content-Type": "x" * 61},
            "bad_data",
            f"{URL} answers with content type '{'x' * 60}' instead of JSON when asked for the list of DAGs.",
        ),
    ],
)
def test_what_is_no_json_object(content: Any, headers: dict[str, str], reason: str, why: str):
    assert refused(response(200, content, headers)) == (reason, why)


# -- refusals ----------------------------------------------------------------------------------------------------------

LOG_IN = "check AIRFLOW_USERNAME and AIRFLOW_PASSWORD"
ROLE = ("permission", "The Airflow user may not read the list of DAGs (403): give it the Viewer role.")


@pytest.mark.parametrize(
    ("code", "content", "changed", "expected"),
    [
        (401, {}, {}, ("auth", f"Airflow does not accept this user and password (401): {LOG_IN}.")),
        (
            401,
            {},
            {"api": "v1"},
            (
                "auth",
                f"Airflow does not accept this user and password (401): {LOG_IN}, and that [api] auth_backends has "
                "basic_auth.",
            ),
        ),
        (
            401,
            {},
            {"has_token": True},
            (
                "auth",
                "Airflow does not accept AIRFLOW_TOKEN (401): it has expired or is not Airflow's own. Set a new one.",
            ),
        ),
        (
            401,
            {},
            {"has_user": False},
            (
                "auth",
                "Airflow wants a log-in (401): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD, or AIRFLOW_TOKEN.",
            ),
        ),
        (
            403,
            {"detail": "Invalid JWT token"},
            {},
            ("auth", f"Airflow does not accept this user and password (403): {LOG_IN}."),
        ),
        (403, {"detail": "x" * 200 + "JWT"}, {}, ROLE),
        (403, {}, {}, ROLE),
        (403, {}, {"api": "v1", "admitted": True}, ROLE),
        (
            403,
            {},
            {"api": "v1", "has_user": False},
            ("auth", "Airflow wants a log-in (403): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD."),
        ),
        *(
            (
                403,
                {},
                {"api": "v1", **changed},
                (
                    "auth",
                    "Airflow keeps this user out (403, which Airflow 2 says in each of these cases): AIRFLOW_USERNAME "
                    "or AIRFLOW_PASSWORD is wrong, [api] auth_backends lacks basic_auth, or the user has no role that "
                    "may read the list of DAGs (Viewer may).",
                ),
            )
            for changed in ({}, {"has_user": False, "has_token": True})
        ),
        *(
            (
                code,
                {},
                changed,
                ("not_found", f"Airflow answers {code} under {URL} when asked for the list of DAGs{then}"),
            )
            for code in (404, 405)
            for changed, then in (
                (
                    {},
                    " by its API v2. If it was upgraded, the next refresh notices; if not, check AIRFLOW_BASE_URL.",
                ),
                ({"is_asked_for_version": False}, " by its API v2. Check AIRFLOW_BASE_URL and AIRFLOW_API."),
                (
                    {"api": None},
                    ". If it was upgraded, the next refresh notices; if not, check AIRFLOW_BASE_URL.",
                ),
            )
        ),
        (429, {}, {}, ("quota", "Airflow, or a proxy before it, says that there are too many requests (429).")),
        *(
            (
                code,
                {},
                {},
                (
                    "unavailable",
                    f"Airflow, or a proxy before it, answers {code} when asked for the list of DAGs: look at its web "
                    "server's log.",
                ),
            )
            for code in (500, 503)
        ),
        (
            499,
            {"detail": " too \n many "},
            {},
            ("bad_data", "Airflow refuses to be asked for the list of DAGs like this (499): too many."),
        ),
        (
            418,
            {"detail": "x" * 300},
            {},
            (
                "bad_data",
                f"Airflow refuses to be asked for the list of DAGs like this (418): {'x' * 199}….",
            ),
        ),
        *(
            (418, content, {}, ("bad_data", "Airflow refuses to be asked for the list of DAGs like this (418)."))
            for content in ({"detail": 7}, {}, [1], b"{")
        ),
        (400, {}, {}, ("bad_data", "Airflow refuses to be asked for the list of DAGs like this (400).")),
    ],
)
def test_refusals(code: int, content: Any, changed: dict[str, Any], expected: tuple[str, str]):
    assert refused(response(code, content), access(**changed)) == expected


def test_refusals_by_web_page():
    assert refused(response(403, b"<html>", HTML)) == (
        "permission",
        f"{URL} answers 403 with a web page when asked for the list of DAGs: a proxy or firewall before Airflow keeps "
        "the exporter out.",
    )
    assert refused(response(502, b"<html>", HTML))[1] == (
        "Airflow, or a proxy before it, answers 502 with a web page when asked for the list of DAGs: look at its web "
        "server's log."
    )
    assert refused(response(418, b'{"detail": "x"}', HTML))[1] == (
        "Airflow refuses to be asked for the list of DAGs like this (418)."
    )


@pytest.mark.parametrize("code", [429, 500])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("999999999", 999999999.0),
        ("1234567890", None),
        ("Sun, 15 Jun 2025 15:07:40 GMT", 60.0),
        ("Sun, 15 Jun 2025 15:05:40 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
    ],
)
def test_how_long_an_answer_asks_to_wait(code: int, header: str, seconds: float | None):
    error = failures.refusal(response(code, {}, {**JSON, "Retry-After": header}), WHAT, ACCESS)
    assert error.retry_after == seconds
    assert failures.retry_after(response(code, {}), NOW) is None


MOVED = "which is not followed: set AIRFLOW_BASE_URL to the address that Airflow really has."
FIRST = "something before Airflow wants a log-in of its own. Let the exporter reach Airflow's API without it."


@pytest.mark.parametrize(
    ("location", "reason", "why"),
    [
        ("https://other:8443/y?secret=1", "unavailable", f"redirects to https://other:8443/y, {MOVED}"),
        ("/moved", "unavailable", f"redirects to http://airflow:8080/moved, {MOVED}"),
        (None, "unavailable", f"redirects to http://airflow:8080/x/api/v2/dags, {MOVED}"),
        ("https://a/" + "y" * 300, "unavailable", f"redirects to https://a/{'y' * 198}…, {MOVED}"),
        *(
            (target, "auth", f"sends the exporter to a log-in page at https://{host}: {FIRST}")
            for target, host in (
                ("https://a/Login", "a"),
                ("https://a/log-in?x", "a"),
                ("https://a/signin", "a"),
                ("https://a/b/oauth2", "a"),
                ("https://SSO.example.org:1/", "sso.example.org:1"),
                ("https://a/auth", "a"),
            )
        ),
        ("https:///oauth", "auth", f"sends the exporter to a log-in page at https://None: {FIRST}"),
        ("http://[::1", "bad_data", "redirects to something that is no address."),
        ("http://x:99999/", "bad_data", "redirects to something that is no address."),
    ],
)
def test_redirects(location: str | None, reason: str, why: str):
    headers = JSON if location is None else {**JSON, "Location": location}
    for code in (300, 399):
        assert refused(response(code, {}, headers)) == (reason, f"{URL} {why}")


# -- log-in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "headers", "why"),
    [
        (401, JSON, f"Airflow does not accept this user and password (401): {LOG_IN}."),
        (403, JSON, f"Airflow does not accept this user and password (403): {LOG_IN}."),
        (403, HTML, None),
        *(
            (
                code,
                HTML,
                f"Airflow has no /auth/token under {URL} ({code}), so its auth manager gives no token for a password: "
                "set AIRFLOW_TOKEN, or AIRFLOW_API=v1 if this is Airflow 2.",
            )
            for code in (404, 405)
        ),
        (400, JSON, "Airflow refuses the log-in as malformed (400)."),
        (422, HTML, "Airflow refuses the log-in as malformed (422)."),
        (201, JSON, None),
        (500, JSON, None),
    ],
)
def test_log_ins(code: int, headers: dict[str, str], why: str | None):
    error = failures.log_in_refused(response(code, {"detail": "planted"}, headers), ACCESS)
    if why is None:
        assert error is None
    else:
        assert error is not None
        assert (error.reason, str(error)) == ("auth", why)


def test_other_airflows_and_files():
    error = failures.no_airflow(ACCESS)
    assert (error.reason, str(error)) == (
        "not_found",
        f"There is no Airflow at {URL}: neither /api/v2/version nor /api/v1/version exists (404). Check "
        "AIRFLOW_BASE_URL, with the path prefix if there is one.",
    )
    error = failures.other_version(access(api="v1"))
    assert (error.reason, str(error)) == (
        "not_found",
        f"The Airflow at {URL} was replaced by one that speaks API v1: the next refresh asks it so.",
    )
    assert str(failures.bad_ca_file(ACCESS)) == (
        "AIRFLOW_CA_FILE (/ca.pem) cannot be used: it has to be a readable PEM file with certificates."
    )
    unreadable = XComUnreadable("longer than 1 MiB", final=True)
    assert (str(unreadable), unreadable.final, unreadable.reason) == ("longer than 1 MiB", True, "bad_data")


# -- kinds of answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "content", "refused"),
    [
        (401, b"", True),
        (403, b"x" * 197 + b"JWT", True),
        (403, b"x" * 198 + b"JWT", False),
        (403, b"jwt", False),
        (500, b"JWT", False),
    ],
)
def test_a_refused_token(code: int, content: bytes, refused: bool):
    assert failures.token_refused(response(code, content)) is refused


@pytest.mark.parametrize(
    ("kind", "is_json", "is_html"),
    [
        ("application/json", True, False),
        (" Application/JSON ; charset=utf-8", True, False),
        ("application/problem+json", True, False),
        ("application/jsonx", False, False),
        ("text/html", False, True),
        ("TEXT/HTML; x=application/json", False, True),
        ("", False, False),
    ],
)
def test_what_an_answer_calls_itself(kind: str, is_json: bool, is_html: bool):
    answer = response(200, b"", {"Content-Type": kind} if kind else {})
    assert (failures.is_json(answer), failures.is_html(answer)) == (is_json, is_html)
