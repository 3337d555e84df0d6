"""The deadline on everything that is sent, against sockets that misbehave."""

import gzip
import threading
import time

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


def test_an_answer_is_given_back_as_requests_would():
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy, adapter.deadline(5):
        assert session.get(proxy.url).json() == {"fine": True}
        assert session.get(proxy.url).text == '{"fine": true}'


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
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy:
        proxy.add(faults.delay(0.25))
        began = time.monotonic()

        def many() -> None:
            while True:
                session.get(proxy.url)

        with adapter.deadline(2), pytest.raises(SourceTimeout):
            many()
        assert time.monotonic() - began < 10
        assert 2 <= len(proxy.requests) <= 9


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
    adapter, session = mounted(max_body_bytes=1000)
    reply = faults.Reply(200, b"x" * 2000)
    with faults.FaultProxy(script=lambda _: reply) as proxy, adapter.deadline(5), pytest.raises(BadData):
        session.get(proxy.url)


def test_a_compressed_body_counts_by_what_it_unpacks_to():
    bomb = gzip.compress(b"x" * 10_000_000)
    reply = faults.Reply(200, bomb, {"Content-Encoding": "gzip"})
    adapter, session = mounted(max_body_bytes=1_000_000)
    with faults.FaultProxy(script=lambda _: reply) as proxy, adapter.deadline(5), pytest.raises(BadData):
        session.get(proxy.url)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.truncate(), requests.exceptions.ChunkedEncodingError),
        (faults.reset(), requests.exceptions.ConnectionError),
        (
            faults.answer(faults.Reply(200, b"no gzip", {"Content-Encoding": "gzip"})),
            requests.exceptions.ContentDecodingError,
        ),
    ],
)
def test_other_failures_stay_those_of_requests(fault: faults.Fault, error: type[Exception]):
    adapter, session = mounted()
    with faults.FaultProxy(script=fine) as proxy:
        proxy.add(fault)
        with adapter.deadline(5), pytest.raises(error):
            session.get(proxy.url)


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
