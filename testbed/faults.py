"""Faults at the transport: a reverse proxy between a client and a real server, told by a test how to misbehave.

    with FaultProxy(upstream="http://127.0.0.1:9050") as proxy:
        client = make_client(proxy.url)
        proxy.add(hang(), path="/queries", times=1)
        ...
        assert proxy.count("POST", "/bigquery/v2/projects/p/queries") == 1

Without an upstream it answers by a script, a function from `Request` to `Reply`. Every connection carries one request,
so that each fault hits exactly the requests it was meant for.
"""

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

_LOOPBACK: Final = "127.0.0.1"
_UPSTREAM_TIMEOUT: Final = 60.0
_CLIENT_TIMEOUT: Final = 60.0
_JOIN_TIMEOUT: Final = 10.0
_HEAD_LIMIT: Final = 64 * 1024
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "proxy-connection"}
)
_GOOGLE_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("INVALID_ARGUMENT", "invalid"),
    401: ("UNAUTHENTICATED", "authError"),
    403: ("PERMISSION_DENIED", "accessDenied"),
    404: ("NOT_FOUND", "notFound"),
    409: ("ALREADY_EXISTS", "duplicate"),
    429: ("RESOURCE_EXHAUSTED", "rateLimitExceeded"),
    500: ("INTERNAL", "internalError"),
    502: ("UNAVAILABLE", "backendError"),
    503: ("UNAVAILABLE", "backendError"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the proxy received it. Header names are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def body_length(self) -> int:
        """Bytes in the body."""
        return len(self.body)

    @property
    def target(self) -> str:
        """Path and query as they stood in the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The query string, parsed."""
        return urllib.parse.parse_qs(self.query, keep_blank_values=True)

    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `Content-Length` is added when it is sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Script = Callable[[Request], Reply]
Matches = Callable[[Request], bool]


class Exchange:
    """One request and the connection it came on, given to a fault to deal with."""

    def __init__(self, request: Request, connection: socket.socket, forward: Script, closing: threading.Event) -> None:
        self.request = request
        self.closing = closing
        """Set when the connection is cut by `release` or `close`: whatever waits must end."""
        self._connection = connection
        self._forward = forward

    def ask_upstream(self) -> Reply:
        """What the upstream, or the script, answers to this request."""
        return self._forward(self.request)

    def send(self, reply: Reply, *, body: bytes | None = None) -> None:
        """Send a reply whose `Content-Length` tells the truth about `reply.body`, with `body` in place of its body."""
        self.send_bytes(_head(reply))
        if self.request.method != "HEAD":
            self.send_bytes(reply.body if body is None else body)

    def send_bytes(self, content: bytes) -> None:
        """Send bytes as they are."""
        self._connection.sendall(content)

    def wait_for_end(self) -> None:
        """Block until the client closes the connection, or the proxy cuts it."""
        self._connection.settimeout(None)
        while self._connection.recv(65536):
            pass

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


Fault = Callable[[Exchange], None]


def hang() -> Fault:
    """Accept the request and never answer. It ends when the client gives up, or at `release` and `close`."""
    return Exchange.wait_for_end


def delay(seconds: float) -> Fault:
    """Answer truly, but only after some time."""

    def fault(exchange: Exchange) -> None:
        if not exchange.closing.wait(seconds):
            exchange.send(exchange.ask_upstream())

    return fault


def drip(bytes_per_second: float, *, reply: Reply | None = None) -> Fault:
    """Answer truly (or with `reply`), headers included, at this speed."""

    def fault(exchange: Exchange) -> None:
        whole = reply or exchange.ask_upstream()
        for byte in _head(whole) + whole.body:
            exchange.send_bytes(bytes((byte,)))
            if exchange.closing.wait(1.0 / bytes_per_second):
                return

    return fault


def answer(reply: Reply) -> Fault:
    """Answer with this instead of asking upstream."""
    return lambda exchange: exchange.send(reply)


def status(code: int, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Fault:
    """Answer with a status and, when `body` is not None, with JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    return answer(Reply(code, content, {"Content-Type": "application/json", **(headers or {})}))


def google_error(
    code: int,
    message: str = "made by a test",
    *,
    reason: str | None = None,
    status_name: str | None = None,
    retry_after: float | str | None = None,
) -> Fault:
    """Answer with an error in the shape of Google's JSON APIs. `reason` and `status_name` default to the usual ones."""
    usual_status, usual_reason = _GOOGLE_STATUS.get(code, ("UNKNOWN", "unknown"))
    error = {"message": message, "domain": "global", "reason": reason or usual_reason}
    body = {"error": {"code": code, "message": message, "status": status_name or usual_status, "errors": [error]}}
    return status(code, body, headers=None if retry_after is None else {"Retry-After": str(retry_after)})


def html(code: int = 200, text: str = "<!doctype html><title>Sign in</title><p>Please sign in.</p>") -> Fault:
    """Answer with a web page, as a login wall or a load balancer does."""
    return answer(Reply(code, text.encode(), {"Content-Type": "text/html; charset=utf-8"}))


def truncate(*, keep: float = 0.5, reply: Reply | None = None) -> Fault:
    """Announce the full `Content-Length`, send this part of the true body (or of `reply`'s) and close."""

    def fault(exchange: Exchange) -> None:
        whole = reply or exchange.ask_upstream()
        exchange.send(whole, body=whole.body[: int(len(whole.body) * keep)])

    return fault


def reset(*, after_bytes: int = 0, reply: Reply | None = None) -> Fault:
    """Reset the connection, after having sent the first `after_bytes` of the true answer's body when there are any."""

    def fault(exchange: Exchange) -> None:
        if after_bytes:
            whole = reply or exchange.ask_upstream()
            exchange.send(whole, body=whole.body[:after_bytes])
        exchange.reset()

    return fault


class Rule:
    """A fault in force: for which requests, and for how many more of them."""

    def __init__(self, fault: Fault, matches: Matches, times: int | None) -> None:
        self.fault = fault
        self.matches = matches
        self.remaining = times
        """Requests it will still hit; None for no end."""
        self.hits = 0
        """Requests it has hit."""


class FaultProxy:
    """A reverse proxy that counts requests and produces faults.

    Used as a context manager, which closes it: hung connections are released and all its threads have ended. Rules
    are tried in the order they were added; the first that matches and is not used up deals with the request.

    Args:
        upstream: base URL (http) of the server behind it.
        script: answers in place of an upstream. With neither, everything not dealt with by a fault is a 502.
    """

    def __init__(self, upstream: str | None = None, *, script: Script | None = None) -> None:
        if upstream is not None and script is not None:
            raise ValueError("either an upstream or a script")
        self.script = script
        self._upstream = urllib.parse.urlsplit(upstream) if upstream is not None else None
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._arrival = threading.Condition(self._lock)
        self._rules: list[Rule] = []
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._handlers: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._port = 0
        self.listen()

    @property
    def url(self) -> str:
        """The base URL to give to the client. It stays the same after `refuse` and `listen`."""
        return f"http://{_LOOPBACK}:{self._port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return tuple(self._requests)

    @property
    def open_connections(self) -> int:
        """Connections that are being dealt with, hung ones included."""
        with self._lock:
            return len(self._connections)

    def count(self, method: str | None = None, path: str | None = None) -> int:
        """How many requests there were with this method and exactly this path; None stands for any."""
        return sum(method in (None, seen.method) and path in (None, seen.path) for seen in self.requests)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many requests there were, by method and path."""
        totals: dict[tuple[str, str], int] = {}
        for seen in self.requests:
            totals[seen.method, seen.path] = totals.get((seen.method, seen.path), 0) + 1
        return totals

    def wait_for_requests(self, number: int, timeout: float = 60.0) -> bool:
        """Block until this many requests have arrived since the last `forget`. False when the time is over."""
        with self._arrival:
            return self._arrival.wait_for(lambda: len(self._requests) >= number, timeout)

    def replace(self, upstream: str) -> None:
        """Put another server behind the same address."""
        self._upstream = urllib.parse.urlsplit(upstream)

    def forget(self) -> None:
        """Count from zero again."""
        with self._lock:
            self._requests.clear()

    def add(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str | re.Pattern[str] | None = None,
        matches: Matches | None = None,
        times: int | None = None,
    ) -> Rule:
        """Put a fault in force.

        Args:
            fault: what to do, for example `hang()`.
            method: only for this method.
            path: only where this stands in the path, or where this pattern is found in it.
            matches: only where this says so.
            times: for this many requests; None for no end.
        """

        def applies(request: Request) -> bool:
            if method is not None and request.method != method:
                return False
            if isinstance(path, str) and path not in request.path:
                return False
            if isinstance(path, re.Pattern) and not path.search(request.path):
                return False
            return matches is None or matches(request)

        rule = Rule(fault, applies, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Lift all faults. Requests already hanging go on hanging: `release` ends those."""
        with self._lock:
            self._rules.clear()

    def release(self) -> None:
        """Cut every connection that is being dealt with. The proxy goes on working."""
        with self._lock:
            connections, closing, self._closing = list(self._connections), self._closing, threading.Event()
        closing.set()
        for connection in connections:
            _cut(connection)

    def listen(self) -> None:
        """Accept connections, on the same port as before. Nothing happens when it does already."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LOOPBACK, self._port))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        self._port = int(listener.getsockname()[1])
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name=f"fault-proxy-{self._port}")
        self._acceptor.start()

    def refuse(self) -> None:
        """Stop listening, so that connections are refused, until `listen`. Those already open are cut."""
        listener, self._listener = self._listener, None
        acceptor, self._acceptor = self._acceptor, None
        if listener is not None:
            # Closing alone does not wake up a thread in accept().
            _cut(listener)
            listener.close()
        if acceptor is not None:
            acceptor.join(_JOIN_TIMEOUT)
        self.release()

    def close(self) -> None:
        """Stop listening, release every hung connection and wait for all threads."""
        self.refuse()
        while True:
            with self._lock:
                handler = next(iter(self._handlers), None)
            if handler is None:
                return
            handler.join(_JOIN_TIMEOUT)
            if handler.is_alive():
                raise RuntimeError(f"{handler.name} has not ended")
            with self._lock:
                self._handlers.discard(handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                # Taken together, so that whoever is cut by `release` also sees its event.
                arguments = (connection, self._closing)
                thread = threading.Thread(target=self._serve, args=arguments, name=f"fault-proxy-{self._port}-request")
                self._connections.add(connection)
                self._handlers.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket, closing: threading.Event) -> None:
        try:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.settimeout(_CLIENT_TIMEOUT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if (request := _receive(connection)) is not None:
                    self._deal_with(Exchange(request, connection, self._forward, closing))
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()
            with self._lock:
                self._handlers.discard(threading.current_thread())

    def _deal_with(self, exchange: Exchange) -> None:
        with self._arrival:
            self._requests.append(exchange.request)
            self._arrival.notify_all()
            rules = list(self._rules)
        # Predicates are the test's own code, which may ask the proxy: they run without the lock.
        matching = [rule for rule in rules if rule.matches(exchange.request)]
        with self._lock:
            chosen = next((rule for rule in matching if rule.remaining is None or rule.remaining > 0), None)
            if chosen is not None:
                chosen.hits += 1
                if chosen.remaining is not None:
                    chosen.remaining -= 1
        if chosen is not None:
            chosen.fault(exchange)
        else:
            exchange.send(exchange.ask_upstream())

    def _forward(self, request: Request) -> Reply:
        if self.script is not None:
            return self.script(request)
        if self._upstream is None:
            return Reply(502, b"no upstream and no script", {"Content-Type": "text/plain"})
        upstream = http.client.HTTPConnection(
            self._upstream.hostname or _LOOPBACK, self._upstream.port or 80, timeout=_UPSTREAM_TIMEOUT
        )
        with contextlib.closing(upstream):
            headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
            # Kept: the host that the client named, so that a URL made from it leads through the proxy again.
            target = self._upstream.path.rstrip("/") + request.target
            upstream.request(request.method, target, body=request.body or None, headers=headers)
            response = upstream.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Reply(response.status, response.read(), kept)


def _receive(connection: socket.socket) -> Request | None:
    """Read one request; None when the client closes before it has sent one."""
    content = b""
    while b"\r\n\r\n" not in content:
        part = connection.recv(65536)
        if not part or len(content) > _HEAD_LIMIT:
            return None
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _receive_chunked(connection, body)
    else:
        while len(body) < int(headers.get("content-length", 0)):
            if not (part := connection.recv(65536)):
                return None
            body += part
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body)


def _receive_chunked(connection: socket.socket, content: bytes) -> bytes:
    """Read a chunked body of which `content` has arrived already."""
    body = b""
    while True:
        while b"\r\n" not in content:
            content += _more(connection)
        size_line, _, content = content.partition(b"\r\n")
        size = int(size_line.split(b";")[0], 16)
        while len(content) < size + 2:
            content += _more(connection)
        body, content = body + content[:size], content[size + 2 :]
        if size == 0:
            return body


def _more(connection: socket.socket) -> bytes:
    if not (part := connection.recv(65536)):
        raise http.client.IncompleteRead(b"")
    return part


def _head(reply: Reply) -> bytes:
    reason = http.client.responses.get(reply.status, "Unknown")
    headers = {**reply.headers, "Content-Length": str(len(reply.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _cut(connection: socket.socket) -> None:
    """Wake up whoever reads from or writes to this socket, at both ends."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
