"""Clients that send nothing, half a request, or read nothing, each on a connection of its own."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

REQUEST: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(port: int, sent: bytes = b"") -> socket.socket:
    """A connection to this machine with a small receive buffer, on which so much was sent and nothing is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.settimeout(10)
    if sent:
        client.sendall(sent)
    return client


@contextlib.contextmanager
def clients(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many of these connections for the length of a `with` block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port, sent)) for _ in range(count)]


@contextlib.contextmanager
def all_kinds(port: int, silent: int, halves: int, readers: int) -> Iterator[int]:
    """Clients that send nothing, that send the first byte of a request, and that ask for `/metrics` and never read.

    Gives their number.
    """
    with clients(port, silent), clients(port, halves, REQUEST[:1]), clients(port, readers, REQUEST):
        yield silent + halves + readers
