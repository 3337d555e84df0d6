"""The worker's connections over real sockets: what a client sends ahead of its answers is bounded."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from exporter.worker import MAX_AHEAD, MAX_FIELDS, Connection, Connections, http_config

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"x" * 10_000
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


@pytest.fixture
def serve() -> Callable[[Client], Any]:
    """Runs a client of a server."""

    async def run(client: Client) -> Any:
        config, state, connections = http_config(app), ServerState(), Connections(16)
        listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(config, state, connections), "127.0.0.1", 0
        )
        async with listening:
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
            try:
                return await asyncio.wait_for(client(reader, writer), 60)
            finally:
                writer.transport.abort()

    return lambda client: asyncio.run(run(client))


@pytest.mark.parametrize(
    ("start", "then"),
    [
        pytest.param(b"", GET * 1000, id="requests without end, whose answers nobody reads"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"A: " + b"x" * 8000 + b"\r\n", id="a head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"x" * 8000, id="a body"),
    ],
)
def test_a_client_that_sends_more_than_it_may_is_dropped(serve: Callable[[Client], Any], start: bytes, then: bytes):
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


def test_many_requests_at_once_are_answered_up_to_the_bound(serve: Callable[[Client], Any]):
    count = MAX_AHEAD // len(GET) - 1

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(GET * (count - 1) + GET.replace(b"Host", b"Connection: close\r\nHost"))
        return (await reader.read()).count(b"HTTP/1.1 200 OK")

    assert serve(client) == count


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", id="a number of 5,000 digits"
        ),
        pytest.param(GET[:-2] + b"a: b\r\n" * MAX_FIELDS + b"\r\n", id="more header fields than a client has"),
        pytest.param(b"\x16\x03\x01\x00\x05hello\r\n\r\n", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(GET[:-2] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="two lengths"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="a path that is no ASCII"),
    ],
)
def test_what_is_no_request_is_answered_with_400_and_no_line_in_the_log(
    serve: Callable[[Client], Any], caplog: pytest.LogCaptureFixture, request_: bytes
):
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(request_)
        return await reader.read()

    assert serve(client).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert caplog.text == ""


def test_a_client_that_asks_for_another_protocol_gets_its_answer_and_a_new_connection(
    serve: Callable[[Client], Any], caplog: pytest.LogCaptureFixture
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
