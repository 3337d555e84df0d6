"""gunicorn's ASGI worker with uvicorn's HTTP, and an upper bound on connections and on the time that each may take.

One thread serves all connections, so a client that sends nothing, half a request, or reads nothing holds up nobody.
What it costs is bounded here: a connection has IDLE_SECONDS for its next whole request head and RESPONSE_SECONDS for an
answer, and where there are too many, the one that has been idle longest gives way.
"""

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, Protocol, cast

from gunicorn.workers.gasgi import ASGIWorker
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from exporter.app import App
from exporter.logs import RareWarning
from exporter.web_config import has_allowed_san
from exporter.web_file import WebFile

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 65.0
"""From the start of a connection, or the end of an answer, to the end of the next request's head. Longer than the usual
scrape intervals, so that Prometheus keeps its connection."""
RESPONSE_SECONDS: Final = 30.0
"""From the end of a request's head until the client has taken the whole answer."""
HANDSHAKE_SECONDS: Final = 10.0
"""From the start of a connection until TLS is up."""
GOODBYE_SECONDS: Final = 1.0
"""How long a client may take to answer the end of TLS before its connection is dropped."""
MAX_AHEAD: Final = 65_536
"""Bytes that a connection may send ahead of its answers: a request's head, and requests after the one that is being
answered."""
MAX_BEHIND: Final = 65_536
"""Bytes of an answer that wait for the client to take them, before the next piece is added. TLS would have 512 KiB."""
MAX_FIELDS: Final = 100
"""Header fields of a request."""
TICK_SECONDS: Final = 0.25
"""How often the worker looks after its connections, the refresh loop, and gunicorn's master."""
DEAD_SECONDS: Final = 5.0
"""How long the refresh loop may be dead before the worker ends, so that gunicorn starts it anew: what kills it at once
must not be repeated without a pause."""


class Droppable(Protocol):
    """What Connections keeps account of."""

    def drop(self) -> None:
        """End the connection at once."""


class Connections:
    """The connections of a worker: which of them wait for a request, and since when.

    Args:
        limit: most connections at once.
        clock: seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._idle: dict[Droppable, float] = {}  # the longest idle first
        self._busy: dict[Droppable, float] = {}  # the longest busy first

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def opened(self, connection: Droppable) -> None:
        """A client has connected. The connection that has been idle longest gives way if there are too many; where
        none is idle, that is this one."""
        self.waits(connection)
        if len(self) > self._limit:
            self._drop(next(iter(self._idle)))

    def serves(self, connection: Droppable) -> None:
        """A request has arrived."""
        self.closed(connection)
        self._busy[connection] = self._clock()

    def waits(self, connection: Droppable) -> None:
        """The connection waits for a request from now on."""
        self.closed(connection)
        self._idle[connection] = self._clock()

    def closed(self, connection: Droppable) -> None:
        """The connection is gone."""
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)

    def drop_late(self) -> None:
        """Drop connections that have been idle, or busy with one answer, for too long."""
        now = self._clock()
        for since_when, seconds in ((self._idle, IDLE_SECONDS), (self._busy, RESPONSE_SECONDS)):
            for connection, since in list(since_when.items()):
                if now - since < seconds:
                    break
                self._drop(connection)

    def _drop(self, connection: Droppable) -> None:
        self.closed(connection)
        connection.drop()


class BoundedWorker(ASGIWorker):
    """The worker. It holds at most `worker_connections` of gunicorn's configuration."""

    async def _serve(self) -> None:
        """Serve until told to stop, until the master is gone, or until the refresh loop has been dead for a while."""
        loop = asyncio.get_running_loop()
        connections = Connections(self.worker_connections)
        app = cast(App, self.asgi)
        config, state = http_config(app), ServerState()
        watch = None if app.web is None else loop.create_task(app.web.watch())
        refused = RareWarning(log, "TLS: failed connections: %d; the last: %s")

        def connect() -> Connection:
            return Connection(config, state, connections)

        def accepted() -> asyncio.Protocol:
            if app.web is not None and app.web.current.tls is not None:
                return Handshake(connect, connections, app.web, refused)
            return connect()

        servers = [await loop.create_server(accepted, sock=listener.sock) for listener in self.sockets]  # type: ignore[attr-defined]
        alive_at = time.monotonic()
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self._quick_shutdown = True
                break
            if app.refresher.alive():
                alive_at = time.monotonic()
            elif time.monotonic() - alive_at > DEAD_SECONDS:
                log.critical("the refresh loop has stopped: this worker ends, and gunicorn starts another one")
                break
            connections.drop_late()
            state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            await asyncio.sleep(TICK_SECONDS)
        if watch is not None:
            watch.cancel()
        for server in servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()  # after the answer that it is at
        end = time.monotonic() + self.cfg.graceful_timeout
        while state.connections and not self._quick_shutdown and time.monotonic() < end:
            await asyncio.sleep(TICK_SECONDS / 10)
        for connection in list(state.connections):
            connection.transport.abort()


def http_config(app: App) -> Config:
    """What uvicorn's connections are told: the app, and to leave alone what is gunicorn's, ours or nobody's. Of their
    messages only errors are logged; what a client does wrong is answered, and would fill the log."""
    config = Config(
        app,
        http=HttpToolsProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        forwarded_allow_ips=[],
        workers=1,  # or it would look at WEB_CONCURRENCY
        timeout_keep_alive=int(IDLE_SECONDS) + 10,  # the worker itself ends idle connections
    )
    config.load()
    return config


class Handshake(asyncio.Protocol):
    """One client's connection until TLS is up; then a Connection takes its place.

    It counts like any connection. Its context is the one that holds when it begins, so that a certificate that was
    replaced is served without a restart.
    """

    def __init__(
        self, connect: Callable[[], "Connection"], connections: Connections, web: WebFile, refused: RareWarning
    ) -> None:
        self._connect = connect
        self._connections = connections
        self._config = web.current
        self._refused = refused
        self._early: list[bytes] = []
        self._socket: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: take the connection, and begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- TCP has no others
        self._socket = transport
        transport.pause_reading()  # until the handshake reads
        self._connections.opened(self)
        self._task = asyncio.get_running_loop().create_task(self._secure(transport))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: a client may send its request along with the end of its handshake."""
        self._early.append(data)

    def drop(self) -> None:
        """End the connection at once."""
        if self._socket is not None:
            self._socket.abort()

    async def _secure(self, transport: asyncio.Transport) -> None:
        client = (transport.get_extra_info("peername") or ("an unknown address",))[0]
        secured = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._config.tls,  # type: ignore[arg-type]  # there is one, or this class is not used
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
        except ssl.SSLError as error:
            self._refused(f"{_said(error)}, from {client}")
        except OSError:
            pass  # the client has gone, or took too long
        finally:
            self._connections.closed(self)
        if secured is None or secured.is_closing():
            return
        allowed = self._config.allowed_sans
        if allowed and not has_allowed_san(secured.get_extra_info("peercert") or {}, allowed):
            self._refused(f"the client's certificate has none of client_allowed_sans, from {client}")
            secured.abort()
            return
        connection = self._connect()
        secured.set_protocol(connection)
        connection.connection_made(secured)
        for data in self._early:
            connection.data_received(data)


def _said(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words; it has a fixed set of them."""
    reason = str(error.reason or type(error).__name__).lower().replace("_", " ")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason} ({error.verify_message})"
    return reason


class Connection(HttpToolsProtocol):
    """One client's connection: uvicorn's, with what a client may ask of it bounded.

    It has one request at a time. What a client sends behind one is held, as bytes, until that is answered: parsed, it
    would take seventy times the memory. Where one packet holds several requests, the connection ends after the first
    answer, as HTTP allows: the parser does not stop between them.

    Args:
        config: see `http_config`.
        state: what all connections share; the worker keeps the Date header in it up to date.
        connections: where this one is kept account of.
    """

    def __init__(self, config: Config, state: ServerState, connections: Connections) -> None:
        super().__init__(config, state, app_state={})
        self.app = self._answer
        self._connections = connections
        self._task: asyncio.Task[None] | None = None
        self._ahead = 0
        self._held = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Called by asyncio: take the connection, and let another one give way if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(MAX_BEHIND)
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: take what the client has sent, unless it is too much."""
        if self.transport.is_closing():
            return  # TLS goes on giving what it reads
        self._ahead += len(data)
        if self._ahead > MAX_AHEAD:
            self.drop()
        elif self._answers() and not self.cycle.more_body:
            self._held += data
        else:
            super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser: one more header field."""
        if len(self.headers) >= MAX_FIELDS:
            raise ValueError("too many header fields")  # uvicorn answers 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser: begin to answer."""
        if self._answers():
            raise ValueError("a request in one packet with another one")
        super().on_headers_complete()
        self.headers = []  # fields behind the body are none of the head
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # there is nothing to change to, and the parser would read no further
        self._connections.serves(self)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where the parser gives up: say so, but not in the middle of an answer."""
        if self._answers():
            self.cycle.keep_alive = False
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Called by uvicorn when the last of an answer is on its way: go on with what has come in since."""
        super().on_response_complete()
        if self.transport.is_closing():
            return  # what the client has not taken by the deadline of this answer is thrown away
        held, self._held, self._ahead = self._held, bytearray(), 0
        self._connections.waits(self)
        if held:
            self.data_received(bytes(held))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: forget the connection, and what is being done for it."""
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()
        del self.app  # it holds this object: collections that would find that out are rare
        self._connections.closed(self)

    def drop(self) -> None:
        """End the connection at once; what the client has not taken yet is thrown away."""
        self.transport.abort()

    def _answers(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app for one request, for as long as the client is there."""
        self._task = asyncio.current_task()
        with contextlib.suppress(asyncio.CancelledError):  # uvicorn would log it
            await self.config.loaded_app(scope, receive, send)
