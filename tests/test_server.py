"""What the worker does when it starts; serving itself is tested in integration/test_serve.py."""

import sys
from types import SimpleNamespace

from exporter.server import SWITCH_SECONDS, after_worker_start


def test_a_started_worker_refreshes_and_lets_scrapes_in_between():
    started: list[bool] = []
    refresher = SimpleNamespace(start=lambda: started.append(True))
    before = sys.getswitchinterval()
    try:
        after_worker_start(SimpleNamespace(wsgi=SimpleNamespace(extensions={"refresher": refresher})))
        assert started == [True]
        assert abs(sys.getswitchinterval() - SWITCH_SECONDS) < 1e-6
        assert before > SWITCH_SECONDS
    finally:
        sys.setswitchinterval(before)
