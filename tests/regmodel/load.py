"""Load on an HTTP server whose requests are counted by HttpMetrics, and the counts that must come of it.

Knows nothing of the application: a test gives the calls and what each must count as.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from testbed.exposed import Exposed

_WITHIN: Final = 30.0  # seconds for one call, and for the counts to settle


class Leave(Enum):
    """When a client closes its connection."""

    NEVER = "after the response"
    BEFORE = "when the request is sent"
    AMID = "when the response has begun"
    UPLOADING = "in the middle of its own body"


@dataclass(frozen=True)
class Call:
    """A request, and what it must be counted as.

    Args:
        counted: the status code that is expected in the metrics; of a client that stays, also in its response.
    """

    method: str
    path: str
    endpoint: str
    counted: int
    body: bytes = b""
    leave: Leave = Leave.NEVER
    error: bool = False  # counts as an error; a 5xx does anyway
    sees: int | None = None  # what a client that stays is answered, if it is not what is counted

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.method, self.endpoint, str(self.counted)


@dataclass
class Outcome:
    """What the server counted more after than before, without zeros."""

    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    timed: Counter[tuple[str, str]] = field(default_factory=Counter)


def expected(calls: Sequence[Call], untimed: frozenset[str] = frozenset({"/metrics", "/health"})) -> Outcome:
    """What these calls must count, exactly."""
    return Outcome(
        requests=Counter(call.labels for call in calls),
        errors=Counter((call.method, call.endpoint) for call in calls if call.error or call.counted >= 500),
        timed=Counter((call.method, call.endpoint) for call in calls if call.endpoint not in untimed),
    )


async def drive(base_url: str, calls: Sequence[Call], connections: int = 16) -> Outcome:
    """Make the calls over so many connections at a time; returns what was counted once that is as expected.

    If it never is, what was counted in the end. Nobody else may call the server meanwhile.
    """
    before = counted(await scrape(base_url))
    queue = list(reversed(calls))

    async def work() -> None:
        while queue:
            call = queue.pop()
            try:
                await asyncio.wait_for(make(base_url, call), _WITHIN)
            except Exception as error:
                raise AssertionError(f"{call}: {error!r}") from error

    async with asyncio.TaskGroup() as workers:
        for _ in range(connections):
            workers.create_task(work())
    # The server learns of the clients that left in its own time.
    deadline = asyncio.get_running_loop().time() + _WITHIN
    while True:
        after = counted(await scrape(base_url))
        outcome = Outcome(after.requests - before.requests, after.errors - before.errors, after.timed - before.timed)
        # The scrape is counted once it was answered: the one before is in the second and not in the first.
        scrapes = outcome.requests.pop(("GET", "/metrics", "200"), 0)
        if outcome == expected(calls) or asyncio.get_running_loop().time() > deadline:
            assert scrapes > 0
            return outcome
        await asyncio.sleep(0.05)


async def make(base_url: str, call: Call) -> None:
    """Make one call on a connection of its own and check the status that is answered."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(call.body)}\r\n\r\n"
        body = call.body[: len(call.body) // 2] if call.leave is Leave.UPLOADING else call.body
        writer.write(head.encode() + body)
        await writer.drain()
        if call.leave in (Leave.BEFORE, Leave.UPLOADING):
            # The server must have begun with the request, or there is nothing to count.
            await scrape(base_url)
            return
        answered = int((await reader.readuntil(b"\r\n")).split()[1])
        assert answered == (call.sees or call.counted), f"answered {answered}"
        if call.leave is Leave.AMID:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(1)
            return
        while await reader.read(65536):
            pass
    finally:
        # Data that is left unread makes the close a reset, which is how most clients leave.
        writer.transport.abort()


async def scrape(base_url: str, path: str = "/metrics") -> str:
    """The body of a page."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    finally:
        writer.close()


def counted(text: str) -> Outcome:
    """The counts of an exposition, without zeros."""
    outcome = Outcome()
    for sample in Exposed(text).samples:
        labels = sample.labels
        if sample.value == 0:
            continue
        if sample.name == "fastapi_requests_total":
            outcome.requests[labels["method"], labels["endpoint"], labels["status_code"]] = int(sample.value)
        elif sample.name == "fastapi_errors_total":
            outcome.errors[labels["method"], labels["endpoint"]] = int(sample.value)
        elif sample.name == "fastapi_request_duration_seconds_count":
            outcome.timed[labels["method"], labels["endpoint"]] = int(sample.value)
    return outcome
