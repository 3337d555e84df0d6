"""The refresh loop in a process of its own, so that nothing it does can hold up a scrape.

Reading rows and rendering keep Python's interpreter busy for a second when there are many series, and a driver's C code
need not give its lock back at all. So the gunicorn worker forks a process that owns sources, ledger and loop, and keeps
nothing but the rendered bytes and what `/health` shows. Values are as fresh, and held as long, as with one process.

The two speak over a socket pair (pickled, between a process and its own fork). The bodies, tens of MiB, go through a
file in memory, which is read without Python's lock. Each ends with the other: without its worker the refresh process
leaves at once, and without its refresh process the worker ends after RESTART_SECONDS, so that gunicorn starts both
anew. A refresh process that has been silent for a minute is killed.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol

from exporter.errors import ConfigError, RefreshProcessError
from exporter.metrics import Exposition
from exporter.refresh import UNHEALTHY_AFTER_SECONDS, Asked, Refresher, State
from exporter.snapshot import Observation, Snapshot

log = logging.getLogger(__name__)

PROCESS_NAME: Final = "mlops-refresh"
"""What `top` and `ps -o comm` call it, on Linux."""
BEAT_SECONDS: Final = 5.0
"""The refresh process says at least this often whether its loop turns."""
START_SECONDS: Final = 30.0
"""How long the first state may take: it is made from what the ledger kept, and asks nobody."""
ANSWER_SECONDS: Final = 2.0
"""How long a wish to refresh waits for its answer."""
RESTART_SECONDS: Final = 5.0
"""How long the last state is served after the refresh process has ended, before the worker ends as well: a refresh that
kills its process must not be repeated without a pause."""
STOP_SECONDS: Final = 0.5
"""How long the loop may take to end; then it is cut off."""
_LEFT_TO_THE_WORKER: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
)
"""Signals that a terminal or a supervisor sends to a whole group. The refresh process ends with its worker."""
_BODIES: Final = tuple(field.name for field in dataclasses.fields(Exposition))

Build = Callable[[Callable[[State], None]], Refresher]
"""Makes the Refresher, in the process that it will run in, from what to call with every state after the first."""


class Closable(Protocol):
    """What the refresh process does not keep of its worker's: sockets it listens on."""

    def close(self) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A state, whose bodies have these lengths and follow each other in the body file."""

    snapshot: Snapshot
    made_at: float
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Taken:
    """The bodies were read; others may be written."""


@dataclass(frozen=True, slots=True)
class _Beat:
    alive: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """There will be no state: the settings cannot be used."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ask:
    number: int
    force: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    number: int
    asked: Asked


@dataclass(frozen=True, slots=True)
class _Stop:
    """End the loop, then the process."""


class _Link:
    """One end of the socket pair, which several threads write to."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock:
            self._connection.send(message)

    def receive(self) -> Any:
        return self._connection.recv()

    def wait(self, seconds: float) -> bool:
        return self._connection.poll(seconds)


class RefreshProcess:
    """What requests are answered from, as a Refresher would: its state as the refresh process last sent it.

    Args:
        build: makes the Refresher, in the new process.
        interval: seconds between two refreshes of a source.
        end_worker: called when the refresh process has ended by itself, RESTART_SECONDS later.
    """

    def __init__(self, build: Build, *, interval: float, end_worker: Callable[[], None] | None = None) -> None:
        self._build = build
        self._interval = interval
        self._end_worker = end_worker or _terminate_this_process
        self._started = time.monotonic()
        self._state: State | None = None
        self._pid: int | None = None
        self._link: _Link | None = None
        self._bodies = -1
        self._beat, self._says_alive = self._started, False
        self._numbers = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Asked]] = {}
        self._stopping = threading.Event()
        self._reaping = threading.Lock()
        self._status: int | None = None

    # -- what requests use -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state that was received last. Its snapshot tells which metrics have values, and not the values."""
        if self._state is None:
            raise RuntimeError("the refresh process was not started")
        return self._state

    @property
    def interval(self) -> float:
        """Seconds between two refreshes of a source."""
        return self._interval

    @property
    def pid(self) -> int | None:
        """The refresh process's id, while there is one."""
        return self._pid

    def uptime_seconds(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def state_age_seconds(self, state: State) -> float:
        """Seconds since the state was made. Both processes read the same monotonic clock."""
        return max(0.0, time.monotonic() - state.made_at)

    def alive(self) -> bool:
        """Whether the refresh process is there and has said lately that its loop turns."""
        fresh = time.monotonic() - self._beat < UNHEALTHY_AFTER_SECONDS
        return self._pid is not None and self._says_alive and fresh

    def ask_now(self, *, force: bool = False) -> Asked:
        """See `Refresher.ask_now`. Waits for the refresh process's answer, not for a source.

        Raises:
            RefreshProcessError: it does not answer.
        """
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        try:
            if self._link is None or self._pid is None:
                raise RefreshProcessError("the refresh process has ended")
            self._link.send(_Ask(number, force))
            return answers.get(timeout=ANSWER_SECONDS)
        except (queue.Empty, OSError) as error:
            raise RefreshProcessError(f"the refresh process did not answer within {ANSWER_SECONDS:g} s") from error
        finally:
            del self._answers[number]

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self, not_kept: Iterable[Closable] = ()) -> None:
        """Fork, and wait for the first state. To be called while there is no other thread, as gunicorn's hooks are.

        Args:
            not_kept: what the new process closes at once.

        Raises:
            ConfigError: the settings cannot be used.
            RefreshProcessError: the process ended, or gave no state in time.
        """
        self._bodies = _body_file()
        ours, theirs = Pipe()
        # Until it has its own dispositions, a signal would run the worker's handlers in the new process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_WORKER)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run(self._build, _Link(theirs), self._bodies, not_kept, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._pid, self._link = pid, _Link(ours)
        try:
            self._receive_first(self._link)
        except BaseException:
            self._kill()
            raise
        threading.Thread(target=self._listen, args=(self._link,), name="refresh-link", daemon=True).start()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End the loop and the process; cut it off when that takes longer than `timeout` seconds."""
        self._stopping.set()
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(_Stop())
        self._wait(timeout)
        self._kill()

    # -- the worker's end ------------------------------------------------------------------------------------------

    def _receive_first(self, link: _Link) -> None:
        try:
            first = link.receive() if link.wait(START_SECONDS) else None
        except (EOFError, OSError):
            first = None
        if isinstance(first, _Refused):
            raise ConfigError(first.problems)
        if not isinstance(first, _Made):
            raise RefreshProcessError("the refresh process did not start: the log says why")
        self._take(first, link)
        self._beat, self._says_alive = time.monotonic(), True

    def _listen(self, link: _Link) -> None:
        """The thread that receives."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                if not link.wait(UNHEALTHY_AFTER_SECONDS):
                    # As gunicorn does with a worker: nothing else would notice a driver that keeps Python's lock.
                    log.error("the refresh process has said nothing for %g s: it is killed", UNHEALTHY_AFTER_SECONDS)
                    self._kill()
                message = link.receive()
                match message:
                    case _Made():
                        self._take(message, link)
                    case _Beat():
                        self._beat, self._says_alive = time.monotonic(), message.alive
                    case _Answer() if answers := self._answers.get(message.number):
                        answers.put(message.asked)
        if self._stopping.is_set():
            return
        self._wait(STOP_SECONDS)
        log.error(
            "the refresh process ended by itself (%s): its last values are served for another %g s, then the worker "
            "starts anew",
            "it is still there" if self._status is None else _how(self._status),
            RESTART_SECONDS,
        )
        if not self._stopping.wait(RESTART_SECONDS):
            self._end_worker()

    def _take(self, made: _Made, link: _Link) -> None:
        bodies, offset = {}, 0
        for name, length in zip(_BODIES, made.lengths, strict=True):
            bodies[name] = _read(self._bodies, offset, length)
            offset += length
        link.send(_Taken())
        self._state = State(made.snapshot, Exposition(**bodies), made.made_at)

    def _wait(self, seconds: float) -> None:
        """Wait until the process has ended, at most so long."""
        end = time.monotonic() + seconds
        while not self._reaped() and time.monotonic() < end:
            time.sleep(0.01)

    def _reaped(self) -> bool:
        """Whether the process has ended. From then on its id may be another's."""
        with self._reaping:
            if self._pid is not None:
                found, status = os.waitpid(self._pid, os.WNOHANG)
                if found:
                    self._pid, self._status = None, status
            return self._pid is None

    def _kill(self) -> None:
        with self._reaping:
            if self._pid is not None:
                os.kill(self._pid, signal.SIGKILL)
        self._wait(STOP_SECONDS)


# -- the refresh process -------------------------------------------------------------------------------------------


class _Loop:
    """Runs the Refresher, sends its states, and obeys."""

    def __init__(self, link: _Link, bodies: int) -> None:
        self._link = link
        self._bodies = bodies
        self._free = threading.Event()  # whether the body file may be written
        self._free.set()
        self._changed = threading.Condition()
        self._latest: State | None = None

    def run(self, build: Build) -> None:
        try:
            refresher = build(self._publish)
        except ConfigError as error:
            self._link.send(_Refused(error.problems))
            return
        self._send(refresher.state)
        threading.Thread(target=self._obey, args=(refresher,), name="obey", daemon=True).start()
        refresher.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not None, BEAT_SECONDS)
                state, self._latest = self._latest, None
            self._link.send(_Beat(refresher.alive()))
            if state is not None:
                self._send(state)
            del state  # which may be tens of MiB that the next one needs

    def _publish(self, state: State) -> None:
        """Called by the loop with a new state; one that was not sent yet is replaced."""
        with self._changed:
            self._latest = state
            self._changed.notify()

    def _send(self, state: State) -> None:
        self._free.wait()
        self._free.clear()
        lengths, offset = [], 0
        for name in _BODIES:
            body: bytes = getattr(state.exposition, name)
            _write(self._bodies, body, offset)
            lengths.append(len(body))
            offset += len(body)
        self._link.send(_Made(_for_health(state.snapshot), state.made_at, tuple(lengths)))

    def _obey(self, refresher: Refresher) -> None:
        """The thread that receives. It ends the process, when told to or when the worker is gone."""
        with contextlib.suppress(EOFError, OSError):
            while not isinstance(message := self._link.receive(), _Stop):
                match message:
                    case _Taken():
                        os.ftruncate(self._bodies, 0)
                        self._free.set()
                    case _Ask():
                        self._link.send(_Answer(message.number, refresher.ask_now(force=message.force)))
        refresher.stop(STOP_SECONDS)
        os._exit(0)


def _run(
    build: Build, link: _Link, bodies: int, not_kept: Iterable[Closable], mask: Iterable[signal.Signals | int]
) -> None:
    """All that the new process does. Never returns into the worker's code."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _LEFT_TO_THE_WORKER:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one in not_kept:
            one.close()
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(PROCESS_NAME, "ascii")
        _Loop(link, bodies).run(build)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # the worker is gone
    except BaseException:
        # Whatever it is, it must not go on into the worker's frames, of which this process has a copy.
        log.exception("the refresh process failed")
    finally:
        os._exit(status)


def _for_health(snapshot: Snapshot) -> Snapshot:
    """The snapshot without values, which were rendered, and with plain dicts, which can be pickled."""
    readings = {
        name: dataclasses.replace(
            reading,
            observations={
                metric: Observation((), observation.observed_at) for metric, observation in reading.observations.items()
            },
            facts=dict(reading.facts),
            carries={},
        )
        for name, reading in snapshot.readings.items()
    }
    statuses = tuple(dataclasses.replace(status, failures=dict(status.failures)) for status in snapshot.statuses)
    return dataclasses.replace(snapshot, readings=readings, statuses=statuses, telemetry={})


def _body_file() -> int:
    """An unnamed file, in memory where the system can: both processes hold the same descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("exposition")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(descriptor: int, body: bytes, offset: int) -> None:
    rest = memoryview(body)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _read(descriptor: int, offset: int, length: int) -> bytes:
    body = os.pread(descriptor, length, offset)
    while len(body) < length:
        more = os.pread(descriptor, length - len(body), offset + len(body))
        if not more:
            raise EOFError(f"the refresh process announced {length} bytes and wrote {len(body)}")
        body += more
    return body


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"status {code}"


def _terminate_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
