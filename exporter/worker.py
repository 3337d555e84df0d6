"""gunicorn's ASGI worker with an upper bound on connections and on the time that each may take.

One thread serves all connections, so a client that sends nothing, half a request, or reads nothing holds up nobody.
What it costs is bounded here: a connection has IDLE_SECONDS for its next whole request head and RESPONSE_SECONDS for an
answer, and where there are too many, the one that has been idle longest gives way.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 65.0
"""From the start of a connection, or the end of an answer, to the end of the next request's head. Longer than the usual
scrape intervals, so that Prometheus keeps its connection."""
RESPONSE_SECONDS: Final = 30.0
"""From the end of a request's head until the client has taken the whole answer."""
TICK_SECONDS: Final = 0.25
"""How often the worker looks after idle connections, the refresh loop, and gunicorn's master."""
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
        self._busy: set[Droppable] = set()

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
        self._idle.pop(connection, None)
        self._busy.add(connection)

    def waits(self, connection: Droppable) -> None:
        """The connection waits for a request from now on."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        self._idle[connection] = self._clock()

    def closed(self, connection: Droppable) -> None:
        """The connection is gone."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def drop_idle(self) -> None:
        """Drop connections that have been idle for too long."""
        limit = self._clock() - IDLE_SECONDS
        for connection, since in list(self._idle.items()):
            if since > limit:
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
        context = self._get_ssl_context()  # type: ignore[attr-defined]  # gunicorn's stubs leave it out
        for listener in self.sockets:
            server = await loop.create_server(lambda: Connection(self, connections), sock=listener.sock, ssl=context)  # type: ignore[attr-defined]
            self.servers.append(server)
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
            connections.drop_idle()
            await asyncio.sleep(TICK_SECONDS)
        await self._shutdown()  # type: ignore[attr-defined]


class Connection(ASGIProtocol):
    """One client's connection."""

    def __init__(self, worker: BoundedWorker, connections: Connections) -> None:
        super().__init__(worker)
        self._connections = connections
        self._asgi = worker.asgi
        self.app = self._answer
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: take the connection, and let another one give way if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- TCP and TLS have no others
        self._socket = transport
        super().connection_made(transport)
        self._connections.opened(self)

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
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self._asgi(scope, receive, send)
        except TimeoutError:
            self.drop()
        finally:
            if self._socket is not None and not self._socket.is_closing():
                self._connections.waits(self)
            else:
                self._connections.closed(self)
