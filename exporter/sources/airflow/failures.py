"""What can go wrong between the exporter and an Airflow, as one plain error each.

Every failure becomes a SourceError whose message says what happened, where, and what to do. Facts about Airflow's
answers were seen on Airflow 2.11.2 (v1) and 3.3.2 (v2):

- v1 answers 403 both to a wrong password and to a missing permission (401 only with AUTH_ROLE_PUBLIC unset).
- v2 answers 401 to an expired token and 403 "Invalid JWT token" to one that it did not sign.
- Airflow 3 answers every path that it does not know with its web interface.
"""

import email.utils
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.showable import cut, escaped
from exporter.sources.boundary import parse_json

_QUOTED: Final = 200
_LOOKED_AT: Final = 4096


class XComUnreadable(BadData):
    """Airflow cannot give one XCom; `final` when asking again cannot help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Access:
    """How the exporter reaches an Airflow, as far as messages about it need to know.

    Attributes:
        url: its address.
        api: the version of the API that is spoken, `v1` or `v2`; None when it is not known.
        has_user: a user and a password are set.
        has_token: AIRFLOW_TOKEN is set.
        admitted: Airflow has given these credentials a good answer before.
        is_asked_for_version: AIRFLOW_API does not say which version of the API to speak.
        ca_file: the file with certificate authorities, if one is set.
        now: Airflow's time in Unix seconds.
    """

    url: str
    api: str | None
    has_user: bool
    has_token: bool
    admitted: bool
    is_asked_for_version: bool
    ca_file: str | None
    now: float


def json_object(response: requests.Response, what: str, access: Access) -> Mapping[str, Any]:
    """The JSON object in a good answer.

    Args:
        what: what Airflow was asked for, such as `the list of DAGs`.

    Raises:
        SourceError: it is something else; the message says what and what to do.
    """
    if response.status_code >= 300:
        raise refusal(response, what, access)
    if not is_json(response):
        raise _no_json(response, what, access)
    try:
        content = parse_json(response.content)
    except ValueError as error:
        raise BadData(f"Airflow's answer about {what} cannot be used: {error}.") from None
    if not isinstance(content, dict):
        raise BadData(f"Airflow's answer about {what} is not a JSON object.")
    return content


def refusal(response: requests.Response, what: str, access: Access) -> SourceError:
    """What an answer means whose status is none of 200 to 299."""
    status = response.status_code
    if 300 <= status < 400:
        return _redirect(response, access)
    if status == 401 or (status == 403 and token_refused(response)):
        return _not_accepted(status, access)
    if status == 403:
        return _forbidden(response, what, access)
    if status in (404, 405):  # the other version's paths are 404, and 405 where Airflow 3 is asked by POST
        api = f" by its API {access.api}" if access.api else ""
        then = (
            "If it was upgraded, the next refresh notices; if not, check AIRFLOW_BASE_URL."
            if access.is_asked_for_version
            else "Check AIRFLOW_BASE_URL and AIRFLOW_API."
        )
        return SourceUnavailable(
            f"Airflow answers {status} under {access.url} when asked for {what}{api}. {then}", reason="not_found"
        )
    if status == 429:
        return SourceUnavailable(
            "Airflow, or a proxy before it, says that there are too many requests (429).",
            reason="quota",
            retry_after=retry_after(response, access.now),
        )
    if status >= 500:
        page = " with a web page" if is_html(response) else ""
        return SourceUnavailable(
            f"Airflow, or a proxy before it, answers {status}{page} when asked for {what}: look at its web "
            "server's log.",
            retry_after=retry_after(response, access.now),
        )
    return BadData(f"Airflow refuses to be asked for {what} like this ({status}){_detail(response)}.")


def log_in_refused(response: requests.Response, access: Access) -> SourceError | None:
    """What a refusal by `/auth/token` means; None when it is none of the log-in's own."""
    status = response.status_code
    if status in (401, 403) and is_json(response):
        return SourceUnavailable(
            f"Airflow does not accept this user and password ({status}): check AIRFLOW_USERNAME and AIRFLOW_PASSWORD.",
            reason="auth",
        )
    if status in (404, 405):
        return SourceUnavailable(
            f"Airflow has no /auth/token under {access.url} ({status}), so its auth manager gives no token for a "
            "password: set AIRFLOW_TOKEN, or AIRFLOW_API=v1 if this is Airflow 2.",
            reason="auth",
        )
    if status in (400, 422):  # its detail may repeat the password: not quoted
        return SourceUnavailable(f"Airflow refuses the log-in as malformed ({status}).", reason="auth")
    return None


def no_airflow(access: Access) -> SourceError:
    """Neither version of the API is there."""
    return SourceUnavailable(
        f"There is no Airflow at {access.url}: neither /api/v2/version nor /api/v1/version exists (404). Check "
        "AIRFLOW_BASE_URL, with the path prefix if there is one.",
        reason="not_found",
    )


def other_version(access: Access) -> SourceError:
    """Another Airflow than before answers."""
    return SourceUnavailable(
        f"The Airflow at {access.url} was replaced by one that speaks API {access.api}: the next refresh asks it so.",
        reason="not_found",
    )


def bad_ca_file(access: Access) -> SourceError:
    """The file with certificate authorities cannot be read."""
    return SourceUnavailable(
        f"AIRFLOW_CA_FILE ({access.ca_file}) cannot be used: it has to be a readable PEM file with certificates."
    )


def unreachable(error: requests.RequestException, access: Access) -> SourceError:
    """Why there was no answer at all."""
    host = urllib.parse.urlsplit(access.url).netloc
    text = _chain(error)
    if isinstance(error, requests.exceptions.SSLError) and re.search(r"NO_CERTIFICATE|PEM|\[X509", text):
        return bad_ca_file(access)
    if isinstance(error, requests.exceptions.SSLError):
        return SourceUnavailable(
            f"No secure connection to Airflow at {host}: "
            + (
                "its certificate is not trusted. If a private authority signed it, name that in AIRFLOW_CA_FILE."
                if "CERTIFICATE_VERIFY_FAILED" in text
                else "TLS fails. Is it plain http?"
            )
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return SourceUnavailable(f"The proxy in HTTP_PROXY or HTTPS_PROXY does not lead to Airflow at {host}.")
    if isinstance(error, requests.exceptions.Timeout):
        return SourceTimeout(f"No connection to Airflow at {host} in time.")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return BadData(f"Airflow's answer at {host} is compressed in a way that cannot be read.")
    if "refused" in text:
        return SourceUnavailable(f"Connection refused by {host}: is Airflow's web server running there?")
    if re.search(r"name or service|resolve|getaddrinfo|name resolution", text, re.IGNORECASE):
        return SourceUnavailable(
            f"The name {host} does not resolve now: Airflow, or the container with that name, is not running, or the "
            "host in AIRFLOW_BASE_URL is wrong."
        )
    if was_cut_off(error):
        return SourceUnavailable(f"Airflow at {host} closes the connection before its answer is complete.")
    return SourceUnavailable(f"Airflow at {host} cannot be reached ({type(error).__name__}).")


def was_cut_off(error: requests.RequestException) -> bool:
    """Whether a connection that stood was lost, so that another one may do."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return True
    plain = isinstance(error, requests.exceptions.ConnectionError) and not isinstance(
        error, requests.exceptions.SSLError | requests.exceptions.ProxyError | requests.exceptions.Timeout
    )
    return plain and bool(re.search(r"reset|aborted|disconnected|broken pipe|incomplete", _chain(error), re.IGNORECASE))


def is_json(response: requests.Response) -> bool:
    """Whether the answer calls itself JSON."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_html(response: requests.Response) -> bool:
    """Whether the answer calls itself a web page."""
    return "html" in response.headers.get("Content-Type", "").lower()


def token_refused(response: requests.Response) -> bool:
    """Whether the answer says that the token is no good."""
    return response.status_code == 401 or (response.status_code == 403 and b"JWT" in response.content[:_QUOTED])


def retry_after(response: requests.Response, now: float) -> float | None:
    """Seconds that the answer asks to wait: a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _no_json(response: requests.Response, what: str, access: Access) -> SourceError:
    if is_html(response) and b"airflow" in response.content[:_LOOKED_AT].lower():
        return SourceUnavailable(
            f"{access.url} leads to Airflow's web interface, not to its API, when asked for {what}: check the path in "
            "AIRFLOW_BASE_URL.",
            reason="not_found",
        )
    if is_html(response):
        return BadData(
            f"{access.url} answers with a web page instead of JSON when asked for {what}: either a log-in page stands "
            "before Airflow, or AIRFLOW_BASE_URL leads to something else."
        )
    kind = response.headers.get("Content-Type", "none")[:60]
    return BadData(f"{access.url} answers with content type {kind!r} instead of JSON when asked for {what}.")


def _not_accepted(status: int, access: Access) -> SourceError:
    if access.has_token:
        return SourceUnavailable(
            f"Airflow does not accept AIRFLOW_TOKEN ({status}): it has expired or is not Airflow's own. Set a new one.",
            reason="auth",
        )
    if not access.has_user:
        return SourceUnavailable(
            f"Airflow wants a log-in ({status}): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD, or AIRFLOW_TOKEN.",
            reason="auth",
        )
    return SourceUnavailable(
        f"Airflow does not accept this user and password ({status}): check AIRFLOW_USERNAME and AIRFLOW_PASSWORD"
        + (", and that [api] auth_backends has basic_auth." if access.api == "v1" else "."),
        reason="auth",
    )


def _forbidden(response: requests.Response, what: str, access: Access) -> SourceError:
    if not is_json(response):
        return SourceUnavailable(
            f"{access.url} answers 403 with a web page when asked for {what}: a proxy or firewall before Airflow keeps "
            "the exporter out.",
            reason="permission",
        )
    if access.admitted or access.api == "v2":
        return SourceUnavailable(
            f"The Airflow user may not read {what} (403): give it the Viewer role.", reason="permission"
        )
    if not access.has_user and not access.has_token:
        return SourceUnavailable(
            "Airflow wants a log-in (403): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD.", reason="auth"
        )
    return SourceUnavailable(
        "Airflow keeps this user out (403, which Airflow 2 says in each of these cases): AIRFLOW_USERNAME or "
        "AIRFLOW_PASSWORD is wrong, [api] auth_backends lacks basic_auth, or the user has no role that may read "
        f"{what} (Viewer may).",
        reason="auth",
    )


def _redirect(response: requests.Response, access: Access) -> SourceError:
    """Redirects are not followed: the password would go along, and what they lead to is no API."""
    try:
        target = urllib.parse.urlsplit(urllib.parse.urljoin(response.url, response.headers.get("Location", "")))
        address = f"{target.scheme}://{target.hostname}" + (f":{target.port}" if target.port else "")
    except ValueError:
        return BadData(f"{access.url} redirects to something that is no address.")
    where = cut(escaped(address), _QUOTED)
    if re.search(r"log-?in|sign-?in|oauth|sso|/auth", target.path + (target.hostname or ""), re.IGNORECASE):
        return SourceUnavailable(
            f"{access.url} sends the exporter to a log-in page at {where}: something before Airflow wants a log-in of "
            "its own. Let the exporter reach Airflow's API without it.",
            reason="auth",
        )
    return SourceUnavailable(
        f"{access.url} redirects to {where}{cut(escaped(target.path), _QUOTED)}, which is not followed: set "
        "AIRFLOW_BASE_URL to the address that Airflow really has.",
    )


def _detail(response: requests.Response) -> str:
    """What Airflow says about a refusal, on one short line."""
    try:
        content = parse_json(response.content) if is_json(response) else None
    except ValueError:
        content = None
    detail = content.get("detail") if isinstance(content, dict) else None
    return f": {cut(escaped(' '.join(detail[:_LOOKED_AT].split())), _QUOTED)}" if isinstance(detail, str) else ""


def _chain(error: BaseException) -> str:
    """The texts of an error and of what caused it: requests tells kinds of failure apart in no other way."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 8:
        texts.append(f"{type(current).__name__} {current}")
        current = current.__cause__ or current.__context__
    return " | ".join(texts)
