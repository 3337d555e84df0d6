"""What Google's client raises, in an operator's words: the one place where those exceptions become ours."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.sources.boundary import text

FINE_GRAINED_READER: Final = "Fine-Grained Reader (datacatalog.categoryFineGrainedReader)"
MAX_SAID: Final = 300
"""Characters of Google's own sentence that an error quotes."""
_PROTECTED: Final = re.compile(r"policy tag.* on columns? (.+)", re.DOTALL | re.IGNORECASE)
_MAX_NAMES: Final = 20_000
"""Characters of an error in which names of columns are looked for."""


class ColumnsProtected(SourceUnavailable):
    """BigQuery refused a query for columns that carry a policy tag, which the service account may not read.

    Attributes:
        names: the columns as the refusal names them: `dataset.table.column`, often with the project before it, and
            with the fields below where the column is a STRUCT.
        said: Google's own sentence.
    """

    def __init__(self, names: tuple[str, ...], said: str) -> None:
        super().__init__(
            f"Permission denied: give the service account the role {FINE_GRAINED_READER} on the policy tag of "
            f"{', '.join(names[:5])}. BigQuery said: {said}",
            reason="permission",
        )
        self.names = names
        self.said = said


class BigQueryErrors:
    """Translates exceptions; the messages name the project, the table and the key file.

    Args:
        table: full name of the audit table.
    """

    def __init__(self, settings: Settings, table: str) -> None:
        self._settings = settings
        self._table = table

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Run a block of calls to BigQuery.

        Raises:
            SourceError: what Google's libraries or requests raised inside, in words.
        """
        try:
            yield
        except (SourceError, MemoryError):
            raise
        except (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException, FutureTimeout) as error:
            raise self._translate(error) from error
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            # A body that is no JSON, JSON of another shape, or a number beyond a calendar surfaces as one of these from
            # inside the client.
            raise BadData(
                f"BigQuery's endpoint answered something that is not its API ({type(error).__name__}). Is a proxy or a "
                "login page in between?"
            ) from error

    def _translate(self, error: Exception) -> SourceError:
        if isinstance(error, api.RetryError) and error.cause is not None:
            cause = error.cause
            return self._translate(cause) if isinstance(cause, Exception) else SourceTimeout("BigQuery did not answer.")
        if isinstance(error, auth.GoogleAuthError):
            return self._auth_error(error)
        if isinstance(error, api.GoogleAPICallError):
            return self._api_error(error)
        if isinstance(error, requests.exceptions.Timeout | FutureTimeout):
            return SourceTimeout(f"BigQuery did not answer within {self._settings.audit_timeout_seconds:g} s.")
        if isinstance(error, requests.exceptions.SSLError):
            return SourceUnavailable("The TLS connection to BigQuery failed: is a proxy replacing certificates?")
        if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
            return SourceUnavailable("BigQuery's answer broke off in the middle.")
        if isinstance(error, requests.exceptions.InvalidJSONError):
            return BadData("BigQuery's endpoint answered something that is not JSON. Is a proxy in between?")
        return SourceUnavailable(f"BigQuery cannot be reached ({type(error).__name__}). Is the network up?")

    def _auth_error(self, error: auth.GoogleAuthError) -> SourceError:
        if isinstance(error, auth.TransportError):
            return SourceUnavailable("Google's token endpoint cannot be reached. Is the network up?")
        if isinstance(error, auth.InvalidOperation):
            return SourceUnavailable(
                "BigQuery did not accept the credentials, and they cannot be renewed.", reason="auth"
            )
        if isinstance(error, auth.RefreshError):
            path = self._settings.google_credentials
            return SourceUnavailable(
                "Google refused the credentials: the key was revoked, the service account disabled, or this machine's "
                f"clock is wrong. Make a new key{f' and put it at {path}' if path else ''}.",
                reason="auth",
            )
        return self.bad_credentials()

    def bad_credentials(self, error: OSError | None = None) -> SourceError:
        """What an operator is told of credentials that cannot be used.

        Args:
            error: why the key file could not be read.
        """
        path = self._settings.google_credentials
        if path is None:
            message = (
                "No Google credentials were found. Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, "
                "or run where a service account is attached."
            )
        elif isinstance(error, FileNotFoundError):
            message = f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which does not exist."
        elif isinstance(error, IsADirectoryError):
            message = (
                f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which is a folder. Docker makes one where the file of a "
                "volume is missing: remove it, put the service account's key file there, and start the container again."
            )
        elif isinstance(error, PermissionError):
            message = (
                f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which this user (id {os.geteuid()}) may not read: "
                "change its owner or mode."
            )
        elif error is not None:
            message = f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which cannot be read: {error.strerror or error}."
        else:
            message = f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which is not a usable Google key file."
        return SourceUnavailable(message, reason="auth")

    def _api_error(self, error: api.GoogleAPICallError) -> SourceError:
        reason = _first_reason(error)
        said = _said(error)
        if reason == "bytesBilledLimitExceeded":
            return SourceUnavailable(
                f"The query would bill more than AUDIT_MAX_BYTES_BILLED ({self._settings.audit_max_bytes_billed}) and "
                f"was not run. Raise the limit, or partition the table. BigQuery said: {said}",
                reason="quota",
            )
        if isinstance(error, api.TooManyRequests) or reason in ("rateLimitExceeded", "quotaExceeded"):
            return SourceUnavailable(
                f"BigQuery's quota is used up; the exporter asks less often for a while. BigQuery said: {said}",
                reason="quota",
                retry_after=_retry_after(error),
            )
        if isinstance(error, api.Unauthorized):
            return SourceUnavailable(f"BigQuery did not accept the credentials. It said: {said}", reason="auth")
        if isinstance(error, api.Forbidden):
            if reason == "billingNotEnabled":
                return SourceUnavailable(
                    f"Billing is not enabled on project {self._settings.google_project}. BigQuery said: {said}",
                    reason="permission",
                )
            if names := _protected_columns(error):
                return ColumnsProtected(names, said)
            if "bigquery.jobs.create" in said:
                missing = f"bigquery.jobUser on project {self._settings.google_project}"
            else:
                missing = f"bigquery.dataViewer on the dataset of {self._table}"
            return SourceUnavailable(
                f"Permission denied: give the service account the role {missing}. BigQuery said: {said}",
                reason="permission",
            )
        if isinstance(error, api.NotFound):
            return SourceUnavailable(f"{self._not_found(said)} BigQuery said: {said}", reason="not_found")
        if isinstance(error, api.ServerError):
            return SourceUnavailable(f"BigQuery answered {error.code}: {said}")
        if reason in ("stopped", "timeout"):
            return SourceTimeout(f"BigQuery stopped the query after {self._settings.audit_timeout_seconds:g} s.")
        return BadData(f"BigQuery refused the query ({error.code}): {said}")

    def _not_found(self, said: str) -> str:
        """What to do where something was not found, by what Google says that is."""
        lowered = said.lower()
        if "not found: project" in lowered:
            return f"Project {self._settings.google_project} does not exist: check GOOGLE_CLOUD_PROJECT."
        if "in location" in lowered:
            return (
                f"What {self._table} reads is not all in one region. BigQuery runs a query in the table's own: a view "
                "must be in the region of its tables."
            )
        if "not found: dataset" in lowered:
            return (
                f"Dataset {self._table.rpartition('.')[0]} does not exist: check AUDIT_TABLE, or create it with "
                "`python -m exporter init-audit`."
            )
        return (
            f"Table {self._table} does not exist: check AUDIT_TABLE, or create it with `python -m exporter init-audit`."
        )


def _first_reason(error: api.GoogleAPICallError) -> str:
    first = error.errors[0] if error.errors else None
    return str(first.get("reason", "")) if isinstance(first, Mapping) else ""


def _sentence(error: api.GoogleAPICallError) -> str:
    first = error.errors[0] if error.errors else None
    message = first.get("message") if isinstance(first, Mapping) else None
    return str(message or error.message or error.code)


def _said(error: api.GoogleAPICallError) -> str:
    """Google's own sentence: one line, bounded, without the request's URL."""
    return text(" ".join(_sentence(error).split()), MAX_SAID)


def _protected_columns(error: api.GoogleAPICallError) -> tuple[str, ...]:
    """The columns that the refusal of a policy tag names; none for another refusal.

    Two wordings were found in public reports: `User has neither fine-grained reader nor masked get permission to get
    data protected by policy tag "TAXONOMY : TAG" on columns DATASET.TABLE.COLUMN, DATASET.TABLE.COLUMN.` and `User does
    not have permission to access policy tag "…" on column PROJECT.DATASET.TABLE.COLUMN.`
    """
    found = _PROTECTED.search(_sentence(error)[:_MAX_NAMES])
    names = found[1].split(",") if found else []
    return tuple(text(stripped, MAX_SAID) for name in names if (stripped := name.strip(" \t\r\n.'\"`")))


def _retry_after(error: api.GoogleAPICallError) -> float | None:
    response = error.response
    seconds = response.headers.get("Retry-After", "") if response is not None and hasattr(response, "headers") else ""
    return float(seconds) if re.fullmatch(r"[0-9]{1,6}", seconds) else None
