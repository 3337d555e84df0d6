"""The worker's connections over real sockets: what a client sends ahead of its answers is bounded."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from exporter import server
from exporter.server import GunicornLogger, gunicorn_options
from exporter.settings import Settings
from exporter.worker import MAX_AHEAD, Connection, Connections

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"x" * 10_000
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Client], Any]:
    """Runs a client of a server with gunicorn's own protocol under our configuration."""
    monkeypatch.setattr(server, "_configured", False)  # so that it is again afterwards
    config = Config()
    for name, value in gunicorn_options(Settings()).items():
        config.set(name, value)

    async def run(client: Client) -> Any:
        loop = asyncio.get_running_loop()
        worker = SimpleNamespace(
            cfg=config,
            log=GunicornLogger(config),
            asgi=app,
            loop=loop,
            nr_conns=0,
            nr=0,
            max_requests=10**9,
            alive=True,
        )
        connections = Connections(16)
        listening = await loop.create_server(lambda: Connection(worker, connections), "127.0.0.1", 0)
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


def test_a_number_too_long_for_python_costs_its_connection_and_no_traceback(
    serve: Callable[[Client], Any], caplog: pytest.LogCaptureFixture
):
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
        return await reader.read()

    assert serve(client) == b""
    assert caplog.text == ""
