"""The worker's connections over real sockets: what a client sends ahead of its answers is bounded."""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from exporter.worker import (
    IDLE_SECONDS,
    MAX_AHEAD,
    MAX_FIELDS,
    RESPONSE_SECONDS,
    Connection,
    Connections,
    http_config,
)

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"x" * 10_000
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


@contextlib.asynccontextmanager
async def listening(app: Any, connections: Connections, state: ServerState) -> AsyncIterator[int]:
    """A server; gives its port."""
    config = http_config(app)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, connections), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def serve() -> Callable[..., Any]:
    """Runs a client of a server."""

    async def run(client: Client, app: Any) -> Any:
        async with listening(app, Connections(16), ServerState()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await asyncio.wait_for(client(reader, writer), 60)
            finally:
                writer.transport.abort()

    return lambda client, app=app: asyncio.run(run(client, app))


@pytest.mark.parametrize(
    ("start", "then"),
    [
        pytest.param(b"", GET * 1000, id="requests without end, whose answers nobody reads"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"A: " + b"x" * 8000 + b"\r\n", id="a head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"x" * 8000, id="a body"),
    ],
)
def test_a_client_that_sends_more_than_it_may_is_dropped(serve: Callable[..., Any], start: bytes, then: bytes):
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(start)
        try:
            for _ in range(80 if start else 1000):
                writer.write(then)
                await writer.drain()
            return await reader.read(1) == b""
        except ConnectionError:
            return True

    assert serve(client)


def test_of_requests_in_one_packet_the_first_is_answered_and_the_connection_closed(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET + GET + b"no request\r\n\r\n")
        return await reader.read()

    answer = serve(client)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close\r\n" in answer
    assert answer.endswith(ANSWER)
    assert caplog.text == ""


def test_a_client_that_waits_for_its_answers_may_send_as_much_as_it_likes(serve: Callable[..., Any]):
    long = GET[:-2] + b"A: " + b"x" * (MAX_AHEAD // 3) + b"\r\n\r\n"

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        for done in range(8):
            writer.write(long)
            if not (await reader.readuntil(ANSWER)).startswith(b"HTTP/1.1 200"):
                return done
        return 8

    assert serve(client) == 8


@pytest.mark.parametrize(
    ("meanwhile", "status"),
    [(GET.replace(b"Host", b"Connection: close\r\nHost"), b"200"), (b"no request\r\n\r\n", b"400")],
)
def test_what_comes_during_an_answer_waits_for_its_end(serve: Callable[..., Any], meanwhile: bytes, status: bytes):
    """Also where the client has the whole answer already, and the app does not know yet that this was its end."""

    async def unfinished(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER, "more_body": True})
        await sent.wait()
        await send({"type": "http.response.body", "more_body": False})

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, bytes]:
        writer.write(GET)
        answer = await reader.readuntil(ANSWER)
        for part in (meanwhile[:9], meanwhile[9:]):
            writer.write(part)
            await asyncio.sleep(0.01)  # a packet of its own
        sent.set()
        return answer, await reader.read()

    sent = asyncio.Event()
    first, second = serve(client, unfinished)
    assert first.count(b"HTTP/1.1") == second.count(b"HTTP/1.1") == 1
    assert second.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", id="a number of 5,000 digits"
        ),
        pytest.param(GET[:-2] + b"a: b\r\n" * MAX_FIELDS + b"\r\n", id="more header fields than a client has"),
        pytest.param(GET[:-2] + b"a: b\r\n" * 2 * MAX_FIELDS, id="header fields without end"),
        pytest.param(b"\x16\x03\x01\x00\x05hello\r\n\r\n", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(GET[:-2] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="two lengths"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="a path that is no ASCII"),
    ],
)
def test_what_is_no_request_is_answered_with_400_and_no_line_in_the_log(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, request_: bytes
):
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(request_)
        return await reader.read()

    assert serve(client).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert caplog.text == ""


def test_a_client_that_asks_for_another_protocol_gets_its_answer_and_a_new_connection(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """As Java's client asks for HTTP/2. The parser reads nothing after such a request."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        return await reader.read()

    answer = serve(client)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer
    assert answer.endswith(ANSWER)
    assert caplog.text == ""


def test_fields_behind_a_body_are_no_header_fields(serve: Callable[..., Any]):
    seen: list[bytes] = []

    async def listing(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])
        await app(scope, receive, send)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        chunked = GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        writer.write(chunked + b"Authorization: a\r\nCookie: b\r\n\r\n")
        await reader.readuntil(ANSWER)
        writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
        return await reader.read()

    assert serve(client, listing).endswith(ANSWER)
    assert seen == [b"host", b"transfer-encoding", b"connection", b"host"]


def test_what_is_done_for_a_client_ends_when_it_has_gone(serve: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    """As the refusals of wrong tokens wait for each other: else they would pile up."""

    async def waiting(_scope: Any, _receive: Any, _send: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def client(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(GET)
        await began.wait()
        writer.transport.abort()
        return await ended.wait()

    began, ended = asyncio.Event(), asyncio.Event()
    assert serve(client, waiting)
    assert caplog.text == ""


def test_whatever_clients_do_each_connection_is_accounted_for_as_idle_or_busy(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)  # below it, asyncio warns of what these clients do
    chance = random.Random(9101)
    now = 0.0
    answering = 0

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answering
        if scope["path"] != "/hang":
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
            await app(scope, receive, send)
            return
        answering += 1
        try:
            await asyncio.Event().wait()
        finally:
            answering -= 1

    hang = GET.replace(b"/metrics", b"/hang")
    pieces = (
        *(GET, GET, GET * 3, GET[:7], b"no request\r\n\r\n", hang),
        GET[:-2] + b"Connection: close\r\n\r\n",
        GET[:-2] + b"Content-Length: 9\r\n\r\n12345",
        GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    )

    async def run() -> None:
        nonlocal now
        connections, state = Connections(32, lambda: now), ServerState()
        async with listening(hanging, connections, state) as port:
            clients: list[asyncio.StreamWriter] = []
            for _ in range(300):
                if not clients or chance.random() < 0.3:
                    clients.append((await asyncio.open_connection("127.0.0.1", port))[1])
                client = chance.choice(clients)
                client.write(chance.choice(pieces))
                if chance.random() < 0.15:
                    clients.remove(client)
                    chance.choice((client.close, client.transport.abort))()
                await asyncio.sleep(0)
                assert len(connections) <= 32
            for piece in (b"", hang):
                clients.append((await asyncio.open_connection("127.0.0.1", port))[1])
                clients[-1].write(piece)
            await settled(lambda: len(connections) == len(state.connections))
            open_, busy = len(connections), answering
            assert 0 < busy < open_
            now += RESPONSE_SECONDS
            connections.drop_late()
            await settled(lambda: len(state.connections) == len(connections) == open_ - busy and answering == 0)
            now += IDLE_SECONDS - RESPONSE_SECONDS
            connections.drop_late()
            await settled(lambda: len(state.connections) == len(connections) == 0)
            for client in clients:
                client.transport.abort()

    async def settled(true: Callable[[], bool]) -> None:
        """It holds, and goes on to."""
        for _ in itertools.repeat(None, 5):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.001)

    asyncio.run(run())
    assert caplog.text == ""
