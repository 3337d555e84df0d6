"""HTTP under an overall deadline.

requests knows a connect timeout and a read timeout, but a read timeout starts again with every byte: a server that
drips one byte a second holds a thread for hours. DeadlineAdapter bounds everything that one refresh sends, on every
session it is mounted on (Google's client uses two: one for its API, one for tokens), and `interrupt()` ends calls that
are under way by shutting their sockets down.
"""

import contextlib
import http.cookiejar
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from exporter.errors import BadData, SourceTimeout

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024


class DeadlineAdapter(HTTPAdapter):
    """A transport adapter for requests that ends everything at a deadline.

    Args:
        connect_timeout: seconds for opening a connection.
        max_body_bytes: longest response body that is accepted, after decompression.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connect_timeout: float,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._end: float | None = None
        self._current: object | None = None
        self._seconds = connect_timeout
        self._interrupted = False
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        super().__init__()

    def carry(self, session: requests.Session) -> requests.Session:
        """Send what this session sends, without cookies: those of a server that names each anew would be kept, and sent
        back, without end."""
        for scheme in ("http://", "https://"):
            session.mount(scheme, self)
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        return session

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Give everything that is sent inside `seconds` in all; what is under way then is cut off.

        Inside, requests that come too late raise SourceTimeout.
        """
        self._seconds, self._end, self._interrupted = seconds, self._clock() + seconds, False
        current = self._current = object()

        def expire() -> None:
            # One inside another, as for a cancellation after the deadline, is not cut off by the outer one's end.
            if self._current is current:
                self.interrupt()

        watchdog = threading.Timer(seconds, expire)
        watchdog.daemon = True
        watchdog.name = "deadline"
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()
            self._end = None

    def remaining(self) -> float:
        """Seconds until the deadline.

        Raises:
            SourceTimeout: it has passed, or `interrupt` was called.
        """
        if self._interrupted:
            raise self._too_late()
        if self._end is None:
            return self._connect_timeout
        left = self._end - self._clock()
        if left <= 0:
            raise self._too_late()
        return left

    def interrupt(self) -> None:
        """Cut off what is being sent or received, and refuse more until the next `deadline`. From any thread."""
        self._interrupted = True
        for connection in list(self._connections):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools whose connections `interrupt` can find."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _tracking_pools(self._connections)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The same for connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _tracking_pools(self._connections)
        return manager

    def send(self, request: requests.PreparedRequest, *_args: Any, **kwargs: Any) -> requests.Response:
        """Send one request and read its whole answer before the deadline.

        Raises:
            SourceTimeout: the deadline has passed.
            BadData: the body is longer than `max_body_bytes`.
            requests.RequestException: as usual.
        """
        left = self.remaining()
        kwargs["timeout"] = min(self._connect_timeout, left), left
        try:
            response = super().send(request, **kwargs)
            response._content = self._body(response)
            response._content_consumed = True  # type: ignore[attr-defined]
            self.remaining()  # what a shut-down socket left behind can look like a short, complete answer
        except (requests.RequestException, OSError) as error:
            if self._interrupted or (self._end is not None and self._clock() >= self._end):
                raise self._too_late() from error
            raise
        return response

    def _body(self, response: requests.Response) -> bytes:
        """Read the body piece by piece, so that neither a drip nor a flood can go on for ever."""
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                size += len(piece)
                if size > self._max_body_bytes:
                    raise BadData(f"The answer is longer than {self._max_body_bytes // 2**20} MiB and was cut off.")
                pieces.append(piece)
                self.remaining()
        except urllib3.exceptions.ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error, request=response.request) from error
        except urllib3.exceptions.DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error, request=response.request) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.exceptions.ReadTimeout(error, request=response.request) from error
        except urllib3.exceptions.SSLError as error:
            raise requests.exceptions.SSLError(error, request=response.request) from error
        finally:
            response.raw.close()  # but a connection whose answer was read to its end, which is back in the pool
        return b"".join(pieces)

    def _too_late(self) -> SourceTimeout:
        return SourceTimeout(f"No complete answer within {self._seconds:g} s.")


def _tracking_pools(connections: weakref.WeakSet[HTTPConnection]) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, with connections that note themselves in `connections` when they are made."""

    class TrackedHTTPConnection(HTTPConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            connections.add(self)

    class TrackedHTTPSConnection(HTTPSConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            connections.add(self)

    class TrackedHTTPPool(HTTPConnectionPool):
        ConnectionCls = TrackedHTTPConnection

    class TrackedHTTPSPool(HTTPSConnectionPool):
        ConnectionCls = TrackedHTTPSConnection

    return {"http": TrackedHTTPPool, "https": TrackedHTTPSPool}
