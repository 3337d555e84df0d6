"""The deadline on everything that is sent, against sockets that misbehave."""

import contextlib
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import requests

from exporter.errors import BadData, SourceTimeout
from exporter.sources.deadlines import DeadlineAdapter
from testbed import faults

NO_GZIP = faults.answer(faults.Reply(200, b"no gzip", {"Content-Encoding": "gzip"}))


def mounted(**options: float | int) -> tuple[DeadlineAdapter, requests.Session]:
    adapter = DeadlineAdapter(float(options.pop("connect_timeout", 1.0)), **options)  # type: ignore[arg-type]
    session = requests.Session()
    session.trust_env = False
    return adapter, adapter.carry(session)


def fine(_request: faults.Request) -> faults.Reply:
    return faults.Reply(200, b'{"fine": true}', {"Content-Type": "application/json"})


def dripping_head(exchange: faults.Exchange) -> None:
    """Sends its status line and then a header that never ends."""
    exchange.send_bytes(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        exchange.send_bytes(b"x")
        time.sleep(0.05)


def stalling(exchange: faults.Exchange) -> None:
    """Sends a part of its answer and then nothing more."""
    exchange.send(faults.Reply(200, b"x" * 100), body=b"x")
    exchange.wait_for_end()


def test_an_answer_is_given_back_as_requests_would():
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy, adapter.deadline(5):
        assert session.get(proxy.url).json() == {"fine": True}
        assert session.get(proxy.url).text == '{"fine": true}'
        assert list(session.get(proxy.url, stream=True).iter_content(10)) == [b'{"fine": t', b"rue}"]


def test_no_cookie_is_kept_or_sent_back():
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy, adapter.deadline(5):
        for number in range(3):
            proxy.add(faults.status(200, {}, headers={"Set-Cookie": f"c{number}=x; Path=/; Max-Age=9999"}))
            assert session.get(proxy.url).ok
            proxy.clear()
        assert session.get(proxy.url).ok
        assert [seen.headers.get("cookie") for seen in proxy.requests] == [None] * 4
    assert len(session.cookies) == 0


@pytest.mark.parametrize("fault", [faults.hang(), faults.drip(3), dripping_head])
def test_whatever_does_not_end_is_cut_off_at_the_deadline(fault: faults.Fault):
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy:
        proxy.add(fault)
        began = time.monotonic()
        with adapter.deadline(0.5), pytest.raises(SourceTimeout, match=r"within 0\.5 s"):
            session.get(proxy.url)
        assert 0.4 < time.monotonic() - began < 8
        proxy.clear()
        with adapter.deadline(5):
            assert session.get(proxy.url).status_code == 200


def test_the_outer_deadline_does_not_cut_off_what_is_sent_under_one_of_its_own():
    """A job is cancelled just when the deadline of its query ends."""
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy, adapter.deadline(0.3):
        proxy.add(faults.drip(100))  # about a second
        with adapter.deadline(10):
            assert session.get(proxy.url).status_code == 200


def test_all_requests_of_a_block_share_one_deadline():
    now = 0.0

    def slow(request: faults.Request) -> faults.Reply:
        nonlocal now
        now += 7.5
        return fine(request)

    adapter, session = mounted(clock=lambda: now)  # type: ignore[arg-type]
    with faults.FaultProxy(script=slow) as proxy:

        def many() -> None:
            while True:
                session.get(proxy.url)

        with adapter.deadline(30), pytest.raises(SourceTimeout, match="within 30 s"):
            many()
        assert len(proxy.requests) == 4, "the fourth answer came with the deadline"


@pytest.mark.parametrize("fault", [faults.hang(), stalling])
def test_nothing_is_waited_for_longer_than_is_left(fault: faults.Fault):
    times = chain([0.0, 29.8], repeat(30.0))
    adapter, session = mounted(clock=times.__next__)  # type: ignore[arg-type]
    with faults.FaultProxy() as proxy, adapter.deadline(30):
        proxy.add(fault)
        began = time.monotonic()
        with pytest.raises(SourceTimeout):
            session.get(proxy.url)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("fault", [faults.hang(), stalling])
def test_outside_of_a_block_a_read_waits_for_as_long_as_a_connect(fault: faults.Fault):
    adapter, session = mounted(connect_timeout=0.1)
    with faults.FaultProxy(script=fine) as proxy:
        assert session.get(proxy.url).status_code == 200
        proxy.add(fault)
        with pytest.raises(requests.exceptions.RequestException, match="Read timed out") as caught:
            session.get(proxy.url)
        assert isinstance(caught.value, requests.exceptions.ReadTimeout)
        assert caught.value.request is not None
        adapter.interrupt()
        with pytest.raises(SourceTimeout, match=r"within 0\.1 s"):
            session.get(proxy.url)
        assert len(proxy.requests) == 2


def test_a_request_after_the_deadline_is_not_sent():
    adapter, session = mounted(clock=iter([0.0, 100.0]).__next__)  # type: ignore[arg-type]
    with faults.FaultProxy(script=fine) as proxy:
        with adapter.deadline(10), pytest.raises(SourceTimeout):
            session.get(proxy.url)
        assert proxy.requests == ()


def test_interrupt_from_another_thread_ends_a_call_and_all_that_follow():
    adapter, session = mounted()
    ended: list[type[BaseException]] = []
    with faults.FaultProxy(script=fine) as proxy:
        proxy.add(faults.hang())

        def call() -> None:
            with adapter.deadline(30):
                for _ in range(2):
                    try:
                        session.get(proxy.url)
                    except SourceTimeout as error:
                        ended.append(type(error))

        thread = threading.Thread(target=call)
        thread.start()
        assert proxy.wait_for_requests(1)
        began = time.monotonic()
        adapter.interrupt()
        thread.join(20)
        assert time.monotonic() - began < 15
        assert ended == [SourceTimeout, SourceTimeout]
        assert len(proxy.requests) == 1


def test_a_body_that_is_too_long_is_refused():
    adapter, session = mounted(max_body_bytes=2**20)
    bodies = iter([b"x" * 2**20, b"x" * (2**20 + 1)])
    with faults.FaultProxy(script=lambda _: faults.Reply(200, next(bodies))) as proxy, adapter.deadline(30):
        assert len(session.get(proxy.url).content) == 2**20
        with pytest.raises(BadData, match="longer than 1 MiB"):
            session.get(proxy.url)


def test_a_compressed_body_counts_by_what_it_unpacks_to():
    bomb = gzip.compress(b"x" * 10_000_000)
    reply = faults.Reply(200, bomb, {"Content-Encoding": "gzip"})
    adapter, session = mounted(max_body_bytes=1_000_000)
    with faults.FaultProxy(script=lambda _: reply) as proxy, adapter.deadline(5), pytest.raises(BadData):
        session.get(proxy.url)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (faults.truncate(), requests.exceptions.ChunkedEncodingError, "Incomplete"),
        (faults.reset(), requests.exceptions.ConnectionError, "reset"),
        (NO_GZIP, requests.exceptions.ContentDecodingError, "gzip"),
    ],
)
def test_other_failures_stay_those_of_requests(
    fault: faults.Fault, error: type[requests.RequestException], message: str
):
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy:
        proxy.add(fault)
        with adapter.deadline(5), pytest.raises(error, match=message) as caught:
            session.get(proxy.url)
        assert caught.value.request is not None


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[str]:
    """A server whose TLS breaks in the middle of its answer."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: apt install openssl")
    new = (openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a")
    subprocess.run([*new, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                os.write(connection.fileno(), b"this is no record of TLS")
                with contextlib.suppress(OSError):
                    connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(30)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_tls_connection_that_breaks_is_a_failure_of_requests_as_well(breaking: str):
    adapter, session = mounted()
    session.verify = False
    session.mount("https://", adapter)
    with adapter.deadline(30), pytest.raises(requests.exceptions.SSLError, match="SSL") as caught:
        session.get(breaking)
    assert caught.value.request is not None


def test_a_connection_that_nobody_accepts_ends_with_the_connect_timeout(unanswered: str):
    adapter, session = mounted(connect_timeout=0.3)
    began = time.monotonic()
    with adapter.deadline(30), pytest.raises(requests.exceptions.ConnectTimeout):
        session.get(unanswered)
    assert time.monotonic() - began < 15


def test_no_timer_thread_is_left_behind():
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy:
        for _ in range(20):
            with adapter.deadline(30):
                session.get(proxy.url)
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline"]
