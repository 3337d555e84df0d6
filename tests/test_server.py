"""What the worker does when it starts; serving itself is tested in integration/test_serve.py."""

import gc
import sys
from types import SimpleNamespace

from exporter.server import COLLECT, SWITCH_SECONDS, after_worker_start


def test_a_started_worker_refreshes_and_lets_scrapes_in_between():
    started: list[bool] = []
    refresher = SimpleNamespace(start=lambda: started.append(True))
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    try:
        after_worker_start(SimpleNamespace(wsgi=SimpleNamespace(extensions={"refresher": refresher})))
        assert started == [True]
        assert abs(sys.getswitchinterval() - SWITCH_SECONDS) < 1e-6
        assert before > SWITCH_SECONDS
        assert gc.get_threshold() == COLLECT
        assert gc.get_freeze_count() > 0
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
        gc.set_threshold(*thresholds)
