"""Why there was no answer at all, in full: what the library's errors mean, and which may pass."""

import pytest
import requests

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.sources.airflow import failures
from tests.sources.airflow.test_failures import ACCESS

HOST = "airflow:8080"
NO_TLS = f"No secure connection to Airflow at {HOST}: "
AWAY = (
    "The name airflow:8080 does not resolve now: Airflow, or the container with that name, is not running, or the host "
    "in AIRFLOW_BASE_URL is wrong."
)
CUT = f"Airflow at {HOST} closes the connection before its answer is complete."
EXCEPTIONS = requests.exceptions


@pytest.mark.parametrize(
    ("error", "kind", "why", "cut"),
    [
        (EXCEPTIONS.SSLError("NO_CERTIFICATE_OR_CRL_FOUND"), SourceUnavailable, "AIRFLOW_CA_FILE (/ca.pem)", False),
        (EXCEPTIONS.SSLError("[X509: reset]"), SourceUnavailable, "AIRFLOW_CA_FILE (/ca.pem)", False),
        (EXCEPTIONS.SSLError("PEM lib"), SourceUnavailable, "AIRFLOW_CA_FILE (/ca.pem)", False),
        (
            EXCEPTIONS.SSLError("CERTIFICATE_VERIFY_FAILED"),
            SourceUnavailable,
            f"{NO_TLS}its certificate is not trusted. If a private authority signed it, name that in AIRFLOW_CA_FILE.",
            False,
        ),
        (EXCEPTIONS.SSLError("reset"), SourceUnavailable, f"{NO_TLS}TLS fails. Is it plain http?", False),
        (
            EXCEPTIONS.ProxyError("reset"),
            SourceUnavailable,
            f"The proxy in HTTP_PROXY or HTTPS_PROXY does not lead to Airflow at {HOST}.",
            False,
        ),
        (
            EXCEPTIONS.ConnectTimeout("reset"),
            SourceTimeout,
            f"No connection to Airflow at {HOST} in time.",
            False,
        ),
        (
            EXCEPTIONS.ContentDecodingError("reset"),
            BadData,
            f"Airflow's answer at {HOST} is compressed in a way that cannot be read.",
            False,
        ),
        (
            EXCEPTIONS.ConnectionError("Connection refused"),
            SourceUnavailable,
            f"Connection refused by {HOST}: is Airflow's web server running there?",
            False,
        ),
        *(
            (EXCEPTIONS.ConnectionError(text), SourceUnavailable, AWAY, False)
            for text in ("Name or service not known", "failed to Resolve", "getaddrinfo failed", "name RESOLUTION")
        ),
        *(
            (EXCEPTIONS.ConnectionError(text), SourceUnavailable, CUT, True)
            for text in ("Connection reset", "ABORTED", "RemoteDisconnected", "broken pipe", "IncompleteRead")
        ),
        (EXCEPTIONS.ChunkedEncodingError("x"), SourceUnavailable, CUT, True),
        (
            EXCEPTIONS.ConnectionError("no route"),
            SourceUnavailable,
            f"Airflow at {HOST} cannot be reached (ConnectionError).",
            False,
        ),
        (
            EXCEPTIONS.InvalidHeader("reset"),
            SourceUnavailable,
            f"Airflow at {HOST} cannot be reached (InvalidHeader).",
            False,
        ),
    ],
)
def test_no_answer(error: requests.RequestException, kind: type[SourceError], why: str, cut: bool):
    found = failures.unreachable(error, ACCESS)
    assert type(found) is kind
    said = str(found)
    assert said.startswith(why) if why.startswith("AIRFLOW_CA_FILE") else said == why
    assert failures.was_cut_off(error) is cut


def test_the_cause_may_stand_some_errors_deeper():
    """requests tells kinds of failure apart in no other way."""
    for depth, cut in ((7, True), (8, False)):
        inner: BaseException = OSError("reset")
        for number in range(depth - 1):
            outer = OSError("x")
            if number % 2:
                outer.__cause__ = inner
            else:
                outer.__context__ = inner
            inner = outer
        error = EXCEPTIONS.ConnectionError("x")
        error.__cause__, error.__context__ = inner, OSError("getaddrinfo")
        assert failures.was_cut_off(error) is cut


def test_a_kind_of_error_may_be_known_by_its_name_alone():
    error = EXCEPTIONS.ConnectionError("x")
    error.__cause__ = ConnectionResetError("x")
    assert failures.was_cut_off(error)
