"""The connections behind the deadline: through a proxy, in the making, and used again."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from exporter.errors import BadData, SourceTimeout
from exporter.sources.deadlines import DeadlineAdapter
from testbed import faults


def mounted(connect_timeout: float = 1.0, **options: int) -> tuple[DeadlineAdapter, requests.Session]:
    adapter = DeadlineAdapter(connect_timeout, **options)
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    return adapter, session


def test_a_call_through_a_proxy_ends_with_an_interrupt():
    """Its connections are made by another part of the library, and have to be found all the same."""
    adapter, session = mounted()
    ended = threading.Event()
    with faults.FaultProxy() as proxy:
        session.proxies = {"http": proxy.url}
        proxy.add(faults.hang())

        def call() -> None:
            with adapter.deadline(30), pytest.raises(SourceTimeout):
                session.get("http://airflow.example.org/api")
            ended.set()

        thread = threading.Thread(target=call)
        thread.start()
        assert proxy.wait_for_requests(1)
        assert proxy.requests[0].path == "http://airflow.example.org/api"
        adapter.interrupt()
        assert ended.wait(10), "the call goes on until its deadline"
        thread.join()


def test_a_connection_in_the_making_ends_at_the_deadline_however_long_it_may_take(unanswered: str):
    adapter, session = mounted(connect_timeout=30.0)
    began = time.monotonic()
    with adapter.deadline(0.1), pytest.raises(SourceTimeout):
        session.get(unanswered)
    assert time.monotonic() - began < 10


class KeepsAlive(ThreadingHTTPServer):
    """Answers on connections that stay open, and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.body = b""
        self.chunked = False
        self.connections = 0
        self.open = threading.Semaphore(0)
        """Released with every connection that the client closes."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: KeepsAlive
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.server.open.release()

    def do_GET(self) -> None:
        body = self.server.body
        self.send_response(200)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[KeepsAlive]:
    made = KeepsAlive()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("body", [b"", b"fine", b"x" * 200_000])
def test_a_connection_is_given_back_and_used_again(body: bytes, chunked: bool, server: KeepsAlive):
    adapter, session = mounted()
    server.body, server.chunked = body, chunked
    with adapter.deadline(30):
        for _ in range(10):
            assert session.get(server.url).content == body
    assert server.connections == 1
    session.close()


def test_an_interrupt_does_not_mind_connections_that_have_ended(server: KeepsAlive):
    adapter, session = mounted()
    session.get(server.url)
    adapter.interrupt()
    assert server.open.acquire(timeout=10)
    ended = threading.Event()
    for _ in range(20):
        adapter.interrupt()  # shuts down what both sides have shut down, which is an error of the system
        ended.wait(0.005)
    with adapter.deadline(30):
        assert session.get(server.url).status_code == 200
    session.close()


def test_one_whose_answer_was_not_read_to_its_end_is_closed(server: KeepsAlive):
    """At once, and not when everybody has forgotten the error; what is left unread is no part of the next answer."""
    adapter, session = mounted(max_body_bytes=100_000)
    server.body = b"x" * 5_000_000
    with adapter.deadline(30):
        with pytest.raises(BadData) as caught:
            session.get(server.url)
        assert server.open.acquire(timeout=10), f"the server still has the connection of {caught.value!r}"
        server.body = b"fine"
        assert session.get(server.url).content == b"fine"
    assert server.connections == 2
    session.close()
