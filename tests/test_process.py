"""The lists of processes that tests rely on."""

import subprocess
import sys
import threading

from testbed.process import children


def test_children_are_listed_while_threads_come_and_go():
    """The thread that started a child has ended; others begin and end during the look."""
    started: list[subprocess.Popen[bytes]] = []
    done = threading.Event()

    def start() -> None:
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

    def churn() -> None:
        while not done.is_set():
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=start), *(threading.Thread(target=churn) for _ in range(3))]
    for thread in threads:
        thread.start()
    threads[0].join()
    (child,) = started
    try:
        for _ in range(30):
            assert child.pid in children()
    finally:
        done.set()
        child.communicate(b"\n")
    for thread in threads:
        thread.join()
    assert child.pid not in children()
