"""Airflow's REST API: version 1 (Airflow 2) and version 2 (Airflow 3) behind one client.

Both have the same lists of runs and task instances, asked by POST so that one request covers all DAGs. What differs is
the log-in (v1: basic auth on every request, v2: a token from `/auth/token`) and a few names. Facts about both were
seen on Airflow 2.11.2 and 3.3.2:

- v1 answers 403 both to a wrong password and to a missing permission (401 only with AUTH_ROLE_PUBLIC unset).
- v2 answers 201 to a good log-in, 401 to an expired token and 403 "Invalid JWT token" to one that it did not sign.
- A missing DAG is an empty list in both versions' POST lists.
- v1's XCom values are strings, v2's are JSON.
"""

import base64
import contextlib
import datetime
import email.utils
import json
import logging
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import requests
import urllib3

from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.sources.transport import DeadlineAdapter

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
RETRIED: Final = frozenset({429, 502, 503, 504})
BACK_OFF_SECONDS: Final = 0.5
MAX_RETRY_AFTER: Final = 10.0
"""A Retry-After above this is not waited for inside a refresh but handed to the refresh loop."""
PAGE_ROWS: Final = 1000
DAG_PAGE_ROWS: Final = 100
"""The most that GET lists give, whatever is asked for."""
MAX_PAGES: Final = 50
"""Pages of one list that are read before giving up."""
MAX_LIST_BYTES: Final = 32 * 2**20
MAX_XCOM_BYTES: Final = 2**20
RENEW_BEFORE_SECONDS: Final = 60.0
_FINISHED: Final = ("success", "failed")
_QUOTED: Final = 200
_LOOKED_AT: Final = 4096
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run. `start` and `end` are Unix seconds by Airflow's clock, None where it has none."""

    dag_id: str
    run_id: str
    state: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task of one run, or one of its mapped copies (`map_index` from 0; -1 when it is not mapped)."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class Dag:
    """One DAG that Airflow knows and this user may see."""

    dag_id: str
    paused: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """The first rows that match, and how many match in all."""

    rows: tuple[_Row, ...]
    total: int

    @property
    def complete(self) -> bool:
        """Whether these are all that match. A full page never counts as all: Airflow 3 may stop counting there."""
        return self.total <= len(self.rows) < PAGE_ROWS


@dataclass(frozen=True, slots=True)
class XComValue:
    """An XCom as Airflow gave it (text in v1, JSON in v2), and when it was written, as Airflow writes times."""

    value: Any
    written: str


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float


class XComUnreadable(BadData):
    """Airflow cannot give one XCom; `final` when asking again cannot help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class _Header(requests.auth.AuthBase):
    """Sets the Authorization header. Given to every request, so that no ~/.netrc entry takes its place."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


class Client:
    """Asks one Airflow. Opens no connection before the first question; safe to use from several threads.

    Args:
        clock: Unix seconds, used only until Airflow has said what time it is.
        monotonic: seconds for ages.
        jitter: a random number from 0 to 1.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if settings.airflow_url is None:
            raise ValueError("AIRFLOW_BASE_URL is not set")
        self.url = settings.airflow_url
        self._username = settings.airflow_username
        self._password = settings.airflow_password
        self._fixed_token = settings.airflow_token
        self._asked_api = settings.airflow_api
        self._clock = clock
        self._monotonic = monotonic
        self._jitter = jitter
        self._api: str | None = None if settings.airflow_api == "auto" else settings.airflow_api
        self.version: str | None = None
        """What Airflow calls itself, once it was asked."""
        self._token: _Token | None = None
        self._token_lock = threading.Lock()
        self._admitted = False
        self._skew = 0.0
        self._counts: dict[str, int] = {}
        self._counts_lock = threading.Lock()
        self._stop = threading.Event()
        connect = settings.airflow_connect_timeout_seconds
        self._lists = DeadlineAdapter(connect, max_body_bytes=MAX_LIST_BYTES, clock=monotonic)
        self._values = DeadlineAdapter(connect, max_body_bytes=MAX_XCOM_BYTES, clock=monotonic)
        verify: bool | str = settings.airflow_verify_tls
        if verify and settings.airflow_ca_file is not None:
            verify = str(settings.airflow_ca_file)
        if not verify:  # the settings have warned already, once and in plain words
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._verify = verify
        self._list_session = _session(self._lists)
        self._value_session = _session(self._values)

    # -- time and life ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Give everything that is asked inside `seconds` in all."""
        self._stop.clear()
        with self._lists.deadline(seconds), self._values.deadline(seconds):
            yield

    def remaining(self) -> float:
        """Seconds until the deadline.

        Raises:
            SourceTimeout: it has passed, or `interrupt` was called.
        """
        return self._lists.remaining()

    def interrupt(self) -> None:
        """End what is under way. From any thread."""
        self._stop.set()
        self._lists.interrupt()
        self._values.interrupt()

    def close(self) -> None:
        """Give connections back."""
        self._list_session.close()
        self._value_session.close()

    def now(self) -> float:
        """Unix seconds by Airflow's clock, which stands in the Date header of its answers, to the second."""
        return self._clock() + self._skew

    @property
    def skew_seconds(self) -> float:
        """How far Airflow's clock is ahead of this machine's."""
        return self._skew

    def sent(self) -> Mapping[str, int]:
        """Requests sent so far by HTTP status code, `error` for those without an answer."""
        with self._counts_lock:
            return dict(self._counts)

    # -- questions -------------------------------------------------------------------------------------------------

    def api(self) -> str:
        """The version of the API that is spoken, `v1` or `v2`; asks the server the first time.

        Raises:
            SourceError: neither version is there.
        """
        if self._api is None:
            self._api = self._detect()
        return self._api

    def ask_version(self) -> str:
        """Airflow's version, for example 2.11.2."""
        if self.version is None:
            answer = self._object(self._send("GET", f"/api/{self.api()}/version", None), "its version")
            self.version = str(answer.get("version"))
        return self.version

    def dags(self) -> tuple[Dag, ...]:
        """All DAGs that this user may see, by name."""
        found: dict[str, Dag] = {}
        active = {"only_active": "true"} if self.api() == "v1" else {"exclude_stale": "true"}
        for _ in range(MAX_PAGES):
            params = {"limit": DAG_PAGE_ROWS, "offset": len(found), "order_by": "dag_id", **active}
            answer = self._object(self._ask("GET", "/dags", params=params), "the list of DAGs")
            rows = _rows(answer, "dags")
            before = len(found)
            found.update(
                (str(row.get("dag_id")), Dag(str(row.get("dag_id")), bool(row.get("is_paused")))) for row in rows
            )
            if len(found) == before or len(found) >= _total(answer, len(found)):
                break
        return tuple(found[name] for name in sorted(found))

    def running(self, dag_ids: Collection[str]) -> tuple[DagRun, ...]:
        """The runs of these DAGs that are running now."""
        body = {"dag_ids": sorted(dag_ids), "states": ["running"], "order_by": "start_date"}
        return self._all("/dags/~/dagRuns/list", body, "dag_runs", "running runs", _run)

    def ended_runs(self, dag_ids: Collection[str], since: float, until: float | None) -> Page[DagRun]:
        """Runs of these DAGs that ended in success or failure from `since` to `until` (Unix seconds, both included)."""
        body = {"dag_ids": sorted(dag_ids), "states": list(_FINISHED), "order_by": "end_date", **_ended(since, until)}
        return self._page("/dags/~/dagRuns/list", body, "dag_runs", "finished runs", _run)

    def ended_tasks(self, dag_ids: Collection[str], since: float, until: float | None) -> Page[TaskInstance]:
        """Task instances of these DAGs that ended in success or failure from `since` to `until`, in no order."""
        body = {"dag_ids": sorted(dag_ids), "state": list(_FINISHED), **_ended(since, until)}
        return self._page("/dags/~/dagRuns/~/taskInstances/list", body, "task_instances", "finished tasks", _task)

    def all_ended_runs(self, dag_ids: Collection[str], since: float, until: float | None) -> tuple[DagRun, ...]:
        """The same as `ended_runs`, page after page."""
        body = {"dag_ids": sorted(dag_ids), "states": list(_FINISHED), "order_by": "end_date", **_ended(since, until)}
        return self._all("/dags/~/dagRuns/list", body, "dag_runs", "finished runs", _run)

    def all_ended_tasks(self, dag_ids: Collection[str], since: float, until: float | None) -> tuple[TaskInstance, ...]:
        """The same as `ended_tasks`, page after page."""
        body = {"dag_ids": sorted(dag_ids), "state": list(_FINISHED), **_ended(since, until)}
        return self._all("/dags/~/dagRuns/~/taskInstances/list", body, "task_instances", "finished tasks", _task)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> XComValue | None:
        """One XCom of one run; None when the task pushed none of this name.

        Raises:
            XComUnreadable: it is longer than MAX_XCOM_BYTES, or Airflow cannot show it.
            SourceError: it could not be asked for, which says nothing about it.
        """
        dag, run, task, name = (urllib.parse.quote(part, safe="") for part in (dag_id, run_id, task_id, key))
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{name}"
        response = self._ask("GET", path, values=True)
        if response.status_code == 404 and _is_json(response):
            return None
        if response.status_code == 500:
            raise XComUnreadable("Airflow answers 500 for it, as it does for values that it cannot show", final=False)
        answer = self._object(response, f"XCom {key}")
        return XComValue(answer.get("value"), str(answer.get("timestamp") or ""))

    def xcom_keys(self, dag_id: str, run_id: str) -> frozenset[tuple[str, str]]:
        """Task and key of every XCom of one run."""
        dag, run = (urllib.parse.quote(part, safe="") for part in (dag_id, run_id))
        found: set[tuple[str, str]] = set()
        seen = 0
        for _ in range(MAX_PAGES):
            params = {"limit": DAG_PAGE_ROWS, "offset": seen}
            path = f"/dags/{dag}/dagRuns/{run}/taskInstances/~/xcomEntries"
            answer = self._object(self._ask("GET", path, params=params), f"the XComs of {dag_id}")
            rows = _rows(answer, "xcom_entries")
            found.update((str(row.get("task_id")), str(row.get("key"))) for row in rows)
            seen += len(rows)
            if not rows or seen >= _total(answer, seen):
                break
        return frozenset(found)

    # -- lists -----------------------------------------------------------------------------------------------------

    def _page(
        self, path: str, body: Mapping[str, Any], name: str, what: str, row: Callable[[Mapping[str, Any]], _Row]
    ) -> Page[_Row]:
        response = self._ask("POST", path, body={**body, "page_limit": PAGE_ROWS})
        answer = self._object(response, what)
        rows = tuple(row(content) for content in _rows(answer, name))
        return Page(rows, _total(answer, len(rows)))

    def _all(
        self, path: str, body: Mapping[str, Any], name: str, what: str, row: Callable[[Mapping[str, Any]], _Row]
    ) -> tuple[_Row, ...]:
        rows: list[_Row] = []
        for _ in range(MAX_PAGES):
            page = self._page(path, {**body, "page_offset": len(rows)}, name, what, row)
            rows += page.rows
            if not page.rows or (page.total <= len(rows) and len(page.rows) < PAGE_ROWS):
                return tuple(rows)
        raise BadData(f"Airflow's list of {what} has more than {MAX_PAGES} pages ({page.total} rows).")

    # -- one request -----------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        values: bool = False,
    ) -> requests.Response:
        """Ask the API with the credentials; a token that is refused is renewed, once."""
        api = self.api()
        header, token = self._authorization()
        response = self._send(method, f"/api/{api}{path}", header, body=body, params=params, values=values)
        if token is not None and _token_refused(response):
            header, token = self._authorization(refused=token)
            response = self._send(method, f"/api/{api}{path}", header, body=body, params=params, values=values)
        self._admitted = self._admitted or response.ok
        return response

    def _authorization(self, refused: _Token | None = None) -> tuple[str | None, _Token | None]:
        """The Authorization header, and the renewable token in it if there is one.

        Whoever comes while another thread renews the token waits for that one.
        """
        if self._fixed_token is not None:
            return f"Bearer {self._fixed_token.reveal()}", None
        if self._username is None or self._password is None:
            return None, None
        if self.api() == "v1":
            pair = f"{self._username}:{self._password.reveal()}".encode()
            return "Basic " + base64.b64encode(pair).decode(), None
        with self._token_lock:
            token = self._token
            if token is None or token is refused or self._monotonic() >= token.renew_at:
                token = self._token = self._log_in(self._username, self._password.reveal())
            return f"Bearer {token.value}", token

    def _log_in(self, username: str, password: str) -> _Token:
        response = self._send("POST", "/auth/token", None, body={"username": username, "password": password})
        status = response.status_code
        if status in (401, 403) and _is_json(response):
            raise SourceUnavailable(
                f"Airflow does not accept this user and password ({status}): check AIRFLOW_USERNAME and "
                "AIRFLOW_PASSWORD.",
                reason="auth",
            )
        if status in (404, 405) and not response.ok:
            raise SourceUnavailable(
                f"Airflow has no /auth/token under {self.url} ({status}), so its auth manager gives no token for a "
                "password: set AIRFLOW_TOKEN, or AIRFLOW_API=v1 if this is Airflow 2.",
                reason="auth",
            )
        if status in (400, 422):  # its detail may repeat the password: not quoted
            raise SourceUnavailable(f"Airflow refuses the log-in as malformed ({status}).", reason="auth")
        answer = self._object(response, "a token")
        value = answer.get("access_token")
        if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
            raise BadData("Airflow's /auth/token gave no access_token.")
        lifetime = _lifetime(value, self.now())
        return _Token(value, self._monotonic() + lifetime - min(RENEW_BEFORE_SECONDS, lifetime / 5))

    def _send(
        self,
        method: str,
        path: str,
        authorization: str | None,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        values: bool = False,
    ) -> requests.Response:
        """Send one request, again where that may help. Everything that is asked here may be asked twice."""
        session = self._value_session if values else self._list_session
        for attempt in range(1, ATTEMPTS + 1):
            failure: requests.RequestException | None = None
            response: requests.Response | None = None
            try:
                response = session.request(
                    method,
                    self.url + path,
                    json=body,
                    params=params,
                    auth=_Header(authorization),
                    headers={"Accept": "application/json"},
                    allow_redirects=False,
                    verify=self._verify,  # the session's own would give way to REQUESTS_CA_BUNDLE
                )
            except requests.RequestException as error:
                failure = error
            except OSError as error:  # requests raises it bare for a file that it cannot read
                raise self._bad_ca_file() from error
            except BadData as error:
                if values:
                    raise XComUnreadable(f"longer than {MAX_XCOM_BYTES // 2**20} MiB", final=True) from error
                raise
            finally:
                self._count(response)
            if response is not None and response.status_code not in RETRIED:
                self._note_time(response)
                return response
            if failure is not None and not _was_cut_off(failure):
                raise self._unreachable(failure) from failure
            wait = self._wait_before_retry(attempt, response)
            if wait is None:
                if response is not None:
                    return response
                assert failure is not None  # noqa: S101 -- there was either an answer or a failure
                raise self._unreachable(failure) from failure
            self._stop.wait(wait)
            self.remaining()
        raise AssertionError("the last attempt returns or raises")

    def _wait_before_retry(self, attempt: int, response: requests.Response | None) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none."""
        if attempt == ATTEMPTS:
            return None
        wait = BACK_OFF_SECONDS * 2.0 ** (attempt - 1) * (0.5 + self._jitter())
        asked = _retry_after(response, self.now()) if response is not None else None
        if asked is not None:
            wait = asked + BACK_OFF_SECONDS * self._jitter()
        if wait > MAX_RETRY_AFTER or wait >= self.remaining():
            return None
        return wait

    def _count(self, response: requests.Response | None) -> None:
        code = "error" if response is None else str(response.status_code)
        with self._counts_lock:
            self._counts[code] = self._counts.get(code, 0) + 1

    def _note_time(self, response: requests.Response) -> None:
        try:
            theirs = email.utils.parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return
        skew = theirs - self._clock()
        # Date is cut to the second: within that, the clocks agree, and `now` should not jitter.
        if abs(skew - self._skew) > 1.5:
            self._skew = 0.0 if abs(skew) <= 1.5 else skew

    # -- what the version is ---------------------------------------------------------------------------------------

    def _detect(self) -> str:
        answers = []
        for api in ("v2", "v1"):
            response = self._send("GET", f"/api/{api}/version", None)
            if response.ok and _is_json(response):
                with contextlib.suppress(ValueError):
                    content = response.json()
                    if isinstance(content, dict) and isinstance(content.get("version"), str):
                        self.version = content["version"]
                        return api
            answers.append(response)
        for response in answers:
            if response.status_code != 404:
                self._object(response, "its version")
        raise SourceUnavailable(
            f"There is no Airflow at {self.url}: neither /api/v2/version nor /api/v1/version exists (404). Check "
            "AIRFLOW_BASE_URL, with the path prefix if there is one.",
            reason="not_found",
        )

    # -- what went wrong -------------------------------------------------------------------------------------------

    def _object(self, response: requests.Response, what: str) -> Mapping[str, Any]:
        """The JSON object in a good answer.

        Raises:
            SourceError: it is something else; the message says what and what to do.
        """
        if not response.ok or response.is_redirect or 300 <= response.status_code < 400:
            raise self._refusal(response, what)
        if not _is_json(response):
            if _is_html(response) and b"airflow" in response.content[:_LOOKED_AT].lower():
                raise SourceUnavailable(  # Airflow 3 answers every path that it does not know with its web interface
                    f"{self.url} leads to Airflow's web interface, not to its API, when asked for {what}: check the "
                    "path in AIRFLOW_BASE_URL.",
                    reason="not_found",
                )
            if _is_html(response):
                raise BadData(
                    f"{self.url} answers with a web page instead of JSON when asked for {what}: either a log-in page "
                    "stands before Airflow, or AIRFLOW_BASE_URL leads to something else."
                )
            kind = response.headers.get("Content-Type", "none")[:60]
            raise BadData(f"{self.url} answers with content type {kind!r} instead of JSON when asked for {what}.")
        try:
            content = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            raise BadData(f"Airflow's answer about {what} is not complete JSON.") from error
        if not isinstance(content, dict):
            raise BadData(f"Airflow's answer about {what} is not a JSON object.")
        return content

    def _refusal(self, response: requests.Response, what: str) -> SourceError:
        status = response.status_code
        if 300 <= status < 400:
            return self._redirect(response)
        if status == 401 or (status == 403 and _token_refused(response)):
            if self._fixed_token is not None:
                return SourceUnavailable(
                    f"Airflow does not accept AIRFLOW_TOKEN ({status}): it has expired or is not Airflow's own. Set a "
                    "new one.",
                    reason="auth",
                )
            if self._username is None:
                return SourceUnavailable(
                    f"Airflow wants a log-in ({status}): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD, or AIRFLOW_TOKEN.",
                    reason="auth",
                )
            return SourceUnavailable(
                f"Airflow does not accept this user and password ({status}): check AIRFLOW_USERNAME and "
                "AIRFLOW_PASSWORD" + (", and that [api] auth_backends has basic_auth." if self._api == "v1" else "."),
                reason="auth",
            )
        if status == 403:
            return self._forbidden(response, what)
        if status == 404:
            if self._asked_api == "auto":
                self._api = self.version = None  # Airflow may have been upgraded: ask again next time
            return SourceUnavailable(
                f"Airflow has no {what} where its API {self._api or ''} should be (404 under {self.url}): check "
                "AIRFLOW_BASE_URL and AIRFLOW_API.",
                reason="not_found",
            )
        if status == 429:
            return SourceUnavailable(
                "Airflow, or a proxy before it, says that there are too many requests (429).",
                reason="quota",
                retry_after=_retry_after(response, self.now()),
            )
        if status >= 500:
            page = " with a web page" if _is_html(response) else ""
            return SourceUnavailable(
                f"Airflow, or a proxy before it, answers {status}{page} when asked for {what}: look at its web "
                "server's log.",
                retry_after=_retry_after(response, self.now()),
            )
        return BadData(f"Airflow refuses to be asked for {what} like this ({status}){_detail(response)}.")

    def _forbidden(self, response: requests.Response, what: str) -> SourceError:
        if not _is_json(response):
            return SourceUnavailable(
                f"{self.url} answers 403 with a web page when asked for {what}: a proxy or firewall before Airflow "
                "keeps the exporter out.",
                reason="permission",
            )
        if self._admitted or self._api == "v2":
            return SourceUnavailable(
                f"The Airflow user may not read {what} (403): give it the Viewer role.", reason="permission"
            )
        if self._username is None and self._fixed_token is None:
            return SourceUnavailable(
                "Airflow wants a log-in (403): set AIRFLOW_USERNAME and AIRFLOW_PASSWORD.", reason="auth"
            )
        return SourceUnavailable(
            "Airflow keeps this user out (403, which Airflow 2 says in each of these cases): AIRFLOW_USERNAME or "
            "AIRFLOW_PASSWORD is wrong, [api] auth_backends lacks basic_auth, or the user has no role that may read "
            f"{what} (Viewer may).",
            reason="auth",
        )

    def _redirect(self, response: requests.Response) -> SourceError:
        """Redirects are not followed: the password would go along, and what they lead to is no API."""
        target = urllib.parse.urlsplit(urllib.parse.urljoin(response.url, response.headers.get("Location", "")))
        where = f"{target.scheme}://{target.hostname}" + (f":{target.port}" if target.port else "")
        if re.search(r"log-?in|sign-?in|oauth|sso|/auth", target.path + (target.hostname or ""), re.IGNORECASE):
            return SourceUnavailable(
                f"{self.url} sends the exporter to a log-in page at {where}: something before Airflow wants a log-in "
                "of its own. Let the exporter reach Airflow's API without it.",
                reason="auth",
            )
        return SourceUnavailable(
            f"{self.url} redirects to {where}{target.path[:_QUOTED]}, which is not followed: set AIRFLOW_BASE_URL to "
            "the address that Airflow really has.",
        )

    def _bad_ca_file(self) -> SourceError:
        return SourceUnavailable(
            f"AIRFLOW_CA_FILE ({self._verify}) cannot be used: it has to be a readable PEM file with certificates."
        )

    def _unreachable(self, error: requests.RequestException) -> SourceError:
        host = urllib.parse.urlsplit(self.url).netloc
        text = _chain(error)
        if isinstance(error, requests.exceptions.SSLError) and re.search(r"NO_CERTIFICATE|PEM|\[X509", text):
            return self._bad_ca_file()
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
            return SourceUnavailable(f"The name {host} is not known: check AIRFLOW_BASE_URL.")
        if _was_cut_off(error):
            return SourceUnavailable(f"Airflow at {host} closes the connection before its answer is complete.")
        return SourceUnavailable(f"Airflow at {host} cannot be reached ({type(error).__name__}).")


def _session(adapter: DeadlineAdapter) -> requests.Session:
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _ended(since: float, until: float | None) -> dict[str, str]:
    window = {"end_date_gte": format_time(since)}
    if until is not None:
        window["end_date_lte"] = format_time(until)
    return window


def format_time(at: float) -> str:
    """Unix seconds as Airflow reads them, to the microsecond."""
    at = min(max(at, 0.0), 253402300799.0)
    text = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: Any) -> float | None:
    """Airflow's time as Unix seconds; None for null and for anything else that is no time."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()


def _run(row: Mapping[str, Any]) -> DagRun:
    return DagRun(
        str(row.get("dag_id")),
        str(row.get("dag_run_id")),
        str(row.get("state")),
        parse_time(row.get("start_date")),
        parse_time(row.get("end_date")),
    )


def _task(row: Mapping[str, Any]) -> TaskInstance:
    index = row.get("map_index")
    return TaskInstance(
        str(row.get("dag_id")),
        str(row.get("dag_run_id")),
        str(row.get("task_id")),
        index if isinstance(index, int) else -1,
        str(row.get("state")),
        parse_time(row.get("start_date")),
        parse_time(row.get("end_date")),
    )


def _rows(answer: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    rows = answer.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadData(f"Airflow's answer has no list {name!r}.")
    return rows


def _total(answer: Mapping[str, Any], at_least: int) -> int:
    total = answer.get("total_entries")
    return max(total, at_least) if isinstance(total, int) else at_least


def _is_json(response: requests.Response) -> bool:
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _is_html(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _token_refused(response: requests.Response) -> bool:
    return response.status_code == 401 or (response.status_code == 403 and b"JWT" in response.content[:_QUOTED])


def _detail(response: requests.Response) -> str:
    """What Airflow says about a refusal, on one short line."""
    try:
        content = response.json() if _is_json(response) else None
    except ValueError:
        content = None
    detail = content.get("detail") if isinstance(content, dict) else None
    return f": {' '.join(str(detail).split())[:_QUOTED]}" if detail else ""


def _retry_after(response: requests.Response, now: float) -> float | None:
    """Seconds that the answer asks to wait: a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _was_cut_off(error: requests.RequestException) -> bool:
    """Whether a connection that stood was lost, so that another one may do."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return True
    plain = isinstance(error, requests.exceptions.ConnectionError) and not isinstance(
        error, requests.exceptions.SSLError | requests.exceptions.ProxyError | requests.exceptions.Timeout
    )
    return plain and bool(re.search(r"reset|aborted|disconnected|broken pipe|incomplete", _chain(error), re.IGNORECASE))


def _chain(error: BaseException) -> str:
    """The texts of an error and of what caused it: requests tells kinds of failure apart in no other way."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 8:
        texts.append(f"{type(current).__name__} {current}")
        current = current.__cause__ or current.__context__
    return " | ".join(texts)


def _lifetime(token: str, now: float) -> float:
    """Seconds that a JSON Web Token is still good for; a day when it does not say. It is not verified, only read."""
    day = 86400.0
    parts = token.split(".")
    if len(parts) != 3:
        return day
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return min(max(float(claims["exp"]) - float(claims.get("iat", now)), 1.0), day)
    except (ValueError, TypeError, KeyError):
        return day
