"""A server that nobody reaches."""

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def unanswered() -> Iterator[str]:
    """A listening socket whose backlog is full, so that a new connection gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        yield f"http://127.0.0.1:{port}/"
        for one in waiting:
            one.close()
