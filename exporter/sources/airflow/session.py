"""One request to an Airflow: its API's version, log-in, retries, deadline, and Airflow's own clock.

Version 1 of the API (Airflow 2) wants basic auth on every request, version 2 (Airflow 3) a token from `/auth/token`,
which answers 201 to a good log-in (seen on 3.3.2).
"""

import base64
import contextlib
import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import requests
import urllib3

from exporter.errors import BadData, SourceError
from exporter.settings import Settings
from exporter.showable import escaped
from exporter.sources import boundary
from exporter.sources.airflow import failures
from exporter.sources.deadlines import DeadlineAdapter

ATTEMPTS: Final = 3
RETRIED: Final = frozenset({429, 502, 503, 504})
BACK_OFF_SECONDS: Final = 0.5
MAX_RETRY_AFTER: Final = 10.0
"""A Retry-After above this is not waited for inside a refresh but handed to the refresh loop."""
MAX_LIST_BYTES: Final = 16 * 2**20
"""Decompressed. A page of 1,000 rows has 2 MB; as Python's text an answer may take four times its bytes."""
MAX_XCOM_BYTES: Final = 2**20
MAX_SKEW_SECONDS: Final = 3653 * 86400.0
"""A clock that is further off is no clock: counting from its time on would leave everything out."""
MAX_TOKEN_CHARACTERS: Final = 16 * 1024
VERSION_CHARACTERS: Final = 40
RENEW_BEFORE_SECONDS: Final = 60.0
"""How long before its end a token is renewed."""
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    renew_at: float


class _Header(requests.auth.AuthBase):
    """Sets the Authorization header. Given to every request, so that no ~/.netrc entry takes its place."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


class Session:
    """Sends requests to one Airflow. Opens no connection before the first one; safe to use from several threads.

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
        self._fixed_api = None if settings.airflow_api == "auto" else settings.airflow_api
        self._clock = clock
        self._monotonic = monotonic
        self._jitter = jitter
        self._api: str | None = self._fixed_api
        self.airflow_version: str | None = None
        """What Airflow calls itself, such as 3.3.2, once it was asked."""
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
        self._list_session = self._lists.carry(requests.Session())
        self._value_session = self._values.carry(requests.Session())

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

    # -- the API's version -----------------------------------------------------------------------------------------

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
        if self.airflow_version is None:
            answer = self.json_object(self._send("GET", f"/api/{self.api()}/version", None), "its version")
            self.airflow_version = _version(answer)
        return self.airflow_version

    def _detect(self) -> str:
        answers = []
        for api in ("v2", "v1"):
            response = self._send("GET", f"/api/{api}/version", None)
            if response.ok and failures.is_json(response):
                with contextlib.suppress(ValueError):
                    content = boundary.parse_json(response.content)
                    if isinstance(content, dict) and isinstance(content.get("version"), str):
                        self.airflow_version = _version(content)
                        return api
            answers.append(response)
        for response in answers:
            if response.status_code != 404:
                self.json_object(response, "its version")
        raise failures.no_airflow(self._access())

    # -- one question ----------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        values: bool = False,
    ) -> requests.Response:
        """Ask the API with the credentials; a token that is refused is renewed, once.

        Args:
            path: below `/api/v1` or `/api/v2`.
            values: an XCom is asked for, which is shorter than a list may be.

        Raises:
            SourceError: there was no answer.
        """
        api = self.api()
        header, token = self._authorization()
        response = self._send(method, f"/api/{api}{path}", header, body=body, params=params, values=values)
        if token is not None and failures.token_refused(response):
            header, token = self._authorization(refused=token)
            response = self._send(method, f"/api/{api}{path}", header, body=body, params=params, values=values)
        self._admitted = self._admitted or response.ok
        return response

    def json_object(self, response: requests.Response, what: str) -> Mapping[str, Any]:
        """The JSON object in a good answer to the question for `what`.

        Raises:
            SourceError: it is something else; the message says what and what to do.
        """
        try:
            answer = failures.json_object(response, what, self._access())
            self.remaining()  # a deadline may pass while a large answer is parsed
            return answer
        except SourceError as error:
            if error.reason == "not_found":
                self._forget_version()
            raise

    def _forget_version(self) -> None:
        """Airflow may have been upgraded, or back: its version is asked for again before the next question."""
        if self._fixed_api is None:
            self._api = self.airflow_version = self._token = None

    def _access(self) -> failures.Access:
        return failures.Access(
            url=self.url,
            api=self._api,
            has_user=self._username is not None,
            has_token=self._fixed_token is not None,
            admitted=self._admitted,
            is_asked_for_version=self._fixed_api is None,
            ca_file=self._verify if isinstance(self._verify, str) else None,
            now=self.now(),
        )

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
        if response.status_code in (404, 405):
            self._forget_version()
            if self.api() != "v2":
                raise failures.other_version(self._access())
        refusal = failures.log_in_refused(response, self._access())
        if refusal is not None:
            raise refusal
        answer = self.json_object(response, "a token")
        value = answer.get("access_token")
        if (
            not isinstance(value, str)
            or not value
            or not value.isascii()
            or not value.isprintable()
            or len(value) > MAX_TOKEN_CHARACTERS
        ):
            raise BadData("Airflow's /auth/token gave no access_token.")
        lifetime = _lifetime(value, self.now())
        return _Token(value, self._monotonic() + lifetime - min(RENEW_BEFORE_SECONDS, lifetime / 5))

    # -- one request -----------------------------------------------------------------------------------------------

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
            except ValueError as error:  # requests looks at a redirect's address though it is not to follow it
                raise BadData("Airflow's answer has a header that cannot be read.") from error
            except OSError as error:  # requests raises it bare for a file that it cannot read
                raise failures.bad_ca_file(self._access()) from error
            except BadData as error:
                if values:
                    raise failures.XComUnreadable(f"longer than {MAX_XCOM_BYTES // 2**20} MiB", final=True) from error
                raise
            finally:
                self._count(response)
            if response is not None and response.status_code not in RETRIED:
                self._note_time(response)
                return response
            if failure is not None and not failures.was_cut_off(failure):
                raise failures.unreachable(failure, self._access()) from failure
            wait = self._wait_before_retry(attempt, response)
            if wait is None:
                if response is not None:
                    return response
                assert failure is not None  # noqa: S101 -- there was either an answer or a failure
                raise failures.unreachable(failure, self._access()) from failure
            self._stop.wait(wait)
            self.remaining()
        raise AssertionError("the last attempt returns or raises")

    def _wait_before_retry(self, attempt: int, response: requests.Response | None) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none."""
        if attempt == ATTEMPTS:
            return None
        wait = BACK_OFF_SECONDS * 2.0 ** (attempt - 1) * (0.5 + self._jitter())
        asked = failures.retry_after(response, self.now()) if response is not None else None
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
        if abs(skew) > MAX_SKEW_SECONDS:
            return
        # Date is cut to the second: within that, the clocks agree, and `now` should not jitter.
        if abs(skew - self._skew) > 1.5:
            self._skew = 0.0 if abs(skew) <= 1.5 else skew


def _lifetime(token: str, now: float) -> float:
    """Seconds that a JSON Web Token is still good for; a day when it does not say. It is not verified, only read."""
    parts = token.split(".")
    if len(parts) != 3:
        return _DAY
    try:
        claims = boundary.parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        lifetime = boundary.unix_seconds(claims["exp"]) - boundary.unix_seconds(claims.get("iat", now))
    except (ValueError, TypeError, KeyError):
        return _DAY
    return min(max(lifetime, 1.0), _DAY)


def _version(answer: Mapping[str, Any]) -> str:
    return boundary.text(escaped(str(answer.get("version"))), VERSION_CHARACTERS)
