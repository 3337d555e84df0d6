"""What Google's client raises, in an operator's words. No BigQuery is needed here."""

import os
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.sources.audit.bigquery_errors import FINE_GRAINED_READER, BigQueryErrors, ColumnsProtected
from exporter.sources.boundary import text

TABLE = "p1.d.t"
ENV = {"GOOGLE_CLOUD_PROJECT": "project-1", "AUDIT_TIMEOUT_SECONDS": "20", "AUDIT_MAX_BYTES_BILLED": "20000000"}


def errors(**env: str) -> BigQueryErrors:
    return BigQueryErrors(Settings.from_env({**ENV, **env}), TABLE)


def raised(error: Exception, **env: str) -> SourceError:
    with pytest.raises(SourceError) as caught, errors(**env).translated():
        raise error
    return caught.value


def answer(kind: type[api.GoogleAPICallError], message: str = "No.", reason: str = "", said: str = "") -> Exception:
    first = {"reason": reason, "message": said} if reason or said else None
    return kind(message, errors=[first, {"reason": "notTheFirst"}] if first else ())  # type: ignore[no-untyped-call]


UNREACHABLE = " Is the network up?"
MISSING = "Permission denied: give the service account the role "
INIT = "check AUDIT_TABLE, or create it with `python -m exporter init-audit`. BigQuery said: "


@pytest.mark.parametrize(
    ("error", "kind", "message", "reason"),
    [
        # the way there
        (api.RetryError("tried", answer(api.NotFound, "Not found: Project x")), SourceUnavailable,
         "Project project-1 does not exist: check GOOGLE_CLOUD_PROJECT. BigQuery said: Not found: Project x",
         "not_found"),
        (api.RetryError("tried", requests.exceptions.ReadTimeout()), SourceTimeout,
         "BigQuery did not answer within 20 s.", None),
        (api.RetryError("tried", None), SourceUnavailable,
         f"BigQuery cannot be reached (RetryError).{UNREACHABLE}", None),
        (api.RetryError("tried", KeyboardInterrupt()), SourceTimeout, "BigQuery did not answer.", None),
        (FutureTimeout(), SourceTimeout, "BigQuery did not answer within 20 s.", None),
        (requests.exceptions.ConnectTimeout(), SourceTimeout, "BigQuery did not answer within 20 s.", None),
        (requests.exceptions.SSLError(), SourceUnavailable,
         "The TLS connection to BigQuery failed: is a proxy replacing certificates?", None),
        (requests.exceptions.ChunkedEncodingError(), SourceUnavailable,
         "BigQuery's answer broke off in the middle.", None),
        (requests.exceptions.ContentDecodingError(), SourceUnavailable,
         "BigQuery's answer broke off in the middle.", None),
        (requests.exceptions.InvalidJSONError(), BadData,
         "BigQuery's endpoint answered something that is not JSON. Is a proxy in between?", None),
        (requests.exceptions.ConnectionError(), SourceUnavailable,
         f"BigQuery cannot be reached (ConnectionError).{UNREACHABLE}", None),
        *((error, BadData,
           f"BigQuery's endpoint answered something that is not its API ({type(error).__name__}). Is a proxy or a "
           "login page in between?", None)
          for error in (ValueError(), KeyError(), TypeError(), AttributeError(), OverflowError(), RecursionError())),
        # credentials
        (auth.TransportError(), SourceUnavailable, f"Google's token endpoint cannot be reached.{UNREACHABLE}", None),
        (auth.InvalidOperation(), SourceUnavailable,
         "BigQuery did not accept the credentials, and they cannot be renewed.", "auth"),
        (auth.RefreshError(), SourceUnavailable,
         "Google refused the credentials: the key was revoked, the service account disabled, or this machine's clock "
         "is wrong. Make a new key.", "auth"),
        (auth.DefaultCredentialsError(), SourceUnavailable,
         "No Google credentials were found. Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, or run "
         "where a service account is attached.", "auth"),
        (answer(api.Unauthorized), SourceUnavailable, "BigQuery did not accept the credentials. It said: No.", "auth"),
        # limits
        (answer(api.BadRequest, reason="bytesBilledLimitExceeded"), SourceUnavailable,
         "The query would bill more than AUDIT_MAX_BYTES_BILLED (20000000) and was not run. Raise the limit, or "
         "partition the table. BigQuery said: No.", "quota"),
        *((error, SourceUnavailable,
           "BigQuery's quota is used up; the exporter asks less often for a while. BigQuery said: No.", "quota")
          for error in (answer(api.TooManyRequests), answer(api.Forbidden, reason="rateLimitExceeded"),
                        answer(api.Forbidden, reason="quotaExceeded"))),
        # permissions
        (answer(api.Forbidden, reason="billingNotEnabled"), SourceUnavailable,
         "Billing is not enabled on project project-1. BigQuery said: No.", "permission"),
        (answer(api.Forbidden, "No bigquery.jobs.create."), SourceUnavailable,
         f"{MISSING}bigquery.jobUser on project project-1. BigQuery said: No bigquery.jobs.create.", "permission"),
        (answer(api.Forbidden), SourceUnavailable,
         f"{MISSING}bigquery.dataViewer on the dataset of p1.d.t. BigQuery said: No.", "permission"),
        # what is not there
        (answer(api.NotFound, "not found: dataset x"), SourceUnavailable,
         f"Dataset p1.d does not exist: {INIT}not found: dataset x", "not_found"),
        (answer(api.NotFound, "Not found: Dataset x was not found in location EU"), SourceUnavailable,
         "What p1.d.t reads is not all in one region. BigQuery runs a query in the table's own: a view must be in the "
         "region of its tables. BigQuery said: Not found: Dataset x was not found in location EU", "not_found"),
        (answer(api.NotFound, "Not found: Table x"), SourceUnavailable,
         f"Table p1.d.t does not exist: {INIT}Not found: Table x", "not_found"),
        # the query
        (answer(api.InternalServerError), SourceUnavailable, "BigQuery answered 500: No.", None),
        (answer(api.GatewayTimeout), SourceUnavailable, "BigQuery answered 504: No.", None),
        (answer(api.BadRequest, reason="stopped"), SourceTimeout, "BigQuery stopped the query after 20 s.", None),
        (answer(api.BadRequest, reason="timeout"), SourceTimeout, "BigQuery stopped the query after 20 s.", None),
        (answer(api.BadRequest), BadData, "BigQuery refused the query (400): No.", None),
        # its sentence
        (answer(api.BadRequest, said=" two\n  lines "), BadData, "BigQuery refused the query (400): two lines", None),
        (answer(api.BadRequest, "", reason="x"), BadData, "BigQuery refused the query (400): 400", None),
        (api.BadRequest("No.", errors=["odd"]), BadData, "BigQuery refused the query (400): No.", None),
    ],
)  # fmt: skip
def test_every_error_says_what_to_do(error: Exception, kind: type[SourceError], message: str, reason: str | None):
    found = raised(error)
    assert (type(found), str(found)) == (kind, message)
    assert found.reason == (reason or {SourceTimeout: "timeout", BadData: "bad_data"}.get(kind, "unavailable"))
    assert found.__cause__ is error


def test_long_sentences_are_cut():
    found = str(raised(answer(api.BadRequest, "x" * 1000)))
    assert found.startswith("BigQuery refused the query (400): xxx")
    assert len(found) == len("BigQuery refused the query (400): ") + 300


def test_ours_pass_and_so_does_what_is_nobodys_answer():
    for error in (SourceTimeout("ours"), MemoryError()):
        with pytest.raises(type(error)) as caught, errors().translated():
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "0"}, 0.0), ({"Retry-After": "999999"}, 999999.0), ({"Retry-After": "1000000"}, None),
     ({"Retry-After": "1.5"}, None), ({"Retry-After": "Thu, 26 Nov 2026 00:00:00 GMT"}, None), ({}, None),
     (None, None)],
)  # fmt: skip
def test_how_long_a_quota_is_used_up(headers: Mapping[str, str] | None, seconds: float | None):
    response = SimpleNamespace(headers=headers) if headers is not None else SimpleNamespace()
    assert raised(api.TooManyRequests("No.", response=response)).retry_after == seconds
    assert raised(api.TooManyRequests("No.")).retry_after is None


NEITHER = (
    "User has neither fine-grained reader nor masked get permission to get data protected by policy tag "
    '"T : x" on columns'
)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (f"Access Denied: BigQuery BigQuery: {NEITHER} d.t.a, d.t.b.", ("d.t.a", "d.t.b")),
        ('User does not have permission to access POLICY TAG "T : x" on column `p.d.t.maX`.', ("p.d.t.maX",)),
        (f"{NEITHER} {'c' * 250}", ("c" * 250,)),
        (f"{NEITHER} d.t.a,\n 'd.t.b.f', ,\".", ("d.t.a", "d.t.b.f")),
    ],
)
def test_a_refusal_of_policy_tags_names_the_columns(said: str, names: tuple[str, ...]):
    found = raised(answer(api.Forbidden, said=said))
    assert isinstance(found, ColumnsProtected)
    line = text(" ".join(said.split()), 300)
    assert (found.names, found.said, found.reason) == (names, line, "permission")
    assert (
        str(found) == f"{MISSING}{FINE_GRAINED_READER} on the policy tag of {', '.join(names)}. BigQuery said: {line}"
    )


def test_of_many_protected_columns_all_are_known_and_five_are_named():
    columns = [f"d.t.column_{n:03}" for n in range(1000)]
    found = raised(answer(api.Forbidden, said=f"{NEITHER} {', '.join(columns)}."))
    assert isinstance(found, ColumnsProtected)
    assert found.names == tuple(columns)
    assert f"policy tag of {', '.join(columns[:5])}. BigQuery said: " in str(found)
    far = raised(answer(api.Forbidden, said=f"{NEITHER} {'d.t.c, ' * 10_000}"))
    assert isinstance(far, ColumnsProtected)
    assert len(far.names) == (20_000 - len(NEITHER) - 1) // len("d.t.c, ") + 1, "as far as an error is searched"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FileNotFoundError(2, "gone"), "which does not exist."),
        (IsADirectoryError(21, "folder"),
         "which is a folder. Docker makes one where the file of a volume is missing: remove it, put the service "
         "account's key file there, and start the container again."),
        (PermissionError(13, "no"), f"which this user (id {os.geteuid()}) may not read: change its owner or mode."),
        (OSError(5, "Input/output error"), "which cannot be read: Input/output error."),
        (OSError("odd"), "which cannot be read: odd."),
        (None, "which is not a usable Google key file."),
    ],
)  # fmt: skip
def test_a_key_file_that_cannot_be_used(tmp_path: Path, error: OSError | None, why: str):
    key = tmp_path / "key.json"
    key.write_text("{}")
    found = errors(GOOGLE_APPLICATION_CREDENTIALS=str(key)).bad_credentials(error)
    assert (type(found), str(found)) == (SourceUnavailable, f"GOOGLE_APPLICATION_CREDENTIALS names {key}, {why}")
    assert found.reason == "auth"
    refused = raised(auth.RefreshError(), GOOGLE_APPLICATION_CREDENTIALS=str(key))
    assert str(refused).endswith(f"Make a new key and put it at {key}.")
    unusable = raised(auth.MalformedError(), GOOGLE_APPLICATION_CREDENTIALS=str(key))
    assert str(unusable) == f"GOOGLE_APPLICATION_CREDENTIALS names {key}, which is not a usable Google key file."
