"""What the worker does when it starts; serving itself is tested in integration/test_serve.py."""

import gc
from types import SimpleNamespace

from exporter.server import after_worker_start


def test_a_started_worker_forks_the_refresh_process_which_keeps_no_listener():
    started: list[object] = []
    refresher = SimpleNamespace(start=started.append)
    try:
        after_worker_start(SimpleNamespace(wsgi=SimpleNamespace(extensions={"refresher": refresher}), sockets=["s"]))
        assert started == [["s"]]
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
