"""gunicorn's ASGI worker with an upper bound on connections and on the time that each may take.

One thread serves all connections, so a client that sends nothing, half a request, or reads nothing holds up nobody.
What it costs is bounded here: a connection has IDLE_SECONDS for its next whole request head and RESPONSE_SECONDS for an
answer, and where there are too many, the one that has been idle longest gives way.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

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
answered. gunicorn alone takes heads of 800 KB, and holds requests without end while it answers them one by one."""
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
        web = self.asgi.web  # type: ignore[attr-defined]  # it is our App
        watch = None if web is None else asyncio.create_task(web.watch())
        refused = RareWarning(log, "TLS: failed connections: %d; the last: %s")

        def accepted() -> asyncio.Protocol:
            if web is not None and web.current.tls is not None:
                return Handshake(self, connections, web, refused)
            return Connection(self, connections)

        for listener in self.sockets:
            self.servers.append(await loop.create_server(accepted, sock=listener.sock))  # type: ignore[attr-defined]
        alive_at = time.monotonic()
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self._quick_shutdown = True
                break
            if self.asgi.refresher.alive():  # type: ignore[attr-defined]  # it is our App
                alive_at = time.monotonic()
            elif time.monotonic() - alive_at > DEAD_SECONDS:
                log.critical("the refresh loop has stopped: this worker ends, and gunicorn starts another one")
                break
            connections.drop_late()
            await asyncio.sleep(TICK_SECONDS)
        if watch is not None:
            watch.cancel()
        await self._shutdown()  # type: ignore[attr-defined]


class Handshake(asyncio.Protocol):
    """One client's connection until TLS is up; then a Connection takes its place.

    It counts like any connection. Its context is the one that holds when it begins, so that a certificate that was
    replaced is served without a restart.
    """

    def __init__(self, worker: BoundedWorker, connections: Connections, web: WebFile, refused: RareWarning) -> None:
        self._worker = worker
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
        connection = Connection(self._worker, self._connections)
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


class Connection(ASGIProtocol):
    """One client's connection."""

    def __init__(self, worker: BoundedWorker, connections: Connections) -> None:
        super().__init__(worker)
        self._connections = connections
        self._asgi = worker.asgi
        self.app = self._answer
        self._socket: asyncio.Transport | None = None
        self._ahead = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: take the connection, and let another one give way if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- TCP and TLS have no others
        self._socket = transport
        super().connection_made(transport)
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: take what the client has sent, unless it is too much."""
        self._ahead += len(data)
        if self._ahead > MAX_AHEAD:
            self.drop()
            return
        try:
            super().data_received(data)
        except ValueError:  # what gunicorn's parser lets out of a Content-Length of 5,000 digits
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: forget the connection."""
        super().connection_lost(exc)
        self._connections.closed(self)

    def drop(self) -> None:
        """End the connection at once; what the client has not taken yet is thrown away."""
        if self._socket is not None:
            self._socket.abort()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app for one request."""
        self._connections.serves(self)
        try:
            await self._asgi(scope, receive, send)
        finally:
            parser = self._callback_parser  # type: ignore[attr-defined]  # gunicorn's; None after an upgrade
            self._ahead = 0 if parser is None else len(parser.remaining())
            if self._socket is not None and not self._socket.is_closing():
                self._connections.waits(self)
            else:
                self._connections.closed(self)
