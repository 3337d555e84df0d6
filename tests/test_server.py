"""gunicorn's hooks; serving itself is tested in integration/test_serve.py."""

import gc
import sys
from types import SimpleNamespace

import pytest

from exporter.server import SWITCH_SECONDS, after_worker_start, app


def test_a_started_worker_begins_to_refresh_and_gives_way_to_scrapes():
    started: list[bool] = []
    refresher = SimpleNamespace(start=lambda: started.append(True))
    before = sys.getswitchinterval()
    try:
        after_worker_start(SimpleNamespace(asgi=SimpleNamespace(refresher=refresher)))
        assert started == [True]
        assert gc.get_freeze_count() > 0
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


def test_under_another_configuration_of_gunicorn_the_app_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    """Nothing would be refreshed there: gunicorn.conf.py alone has the hooks that do it."""
    with pytest.raises(SystemExit):
        app({})
    assert capsys.readouterr().err.count("\n") == 1
