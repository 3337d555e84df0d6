"""gunicorn's hooks; serving itself is tested in integration/test_serve.py."""

import gc
import sys
from types import SimpleNamespace

import pytest

from exporter.errors import ConfigError
from exporter.server import SWITCH_SECONDS, after_worker_start, app, refuse_foreign_host


def test_a_started_worker_begins_to_refresh_and_gives_way_to_scrapes():
    started: list[bool] = []
    refresher = SimpleNamespace(start=lambda: started.append(True))
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    try:
        after_worker_start(SimpleNamespace(asgi=SimpleNamespace(refresher=refresher)))
        assert started == [True]
        assert gc.get_freeze_count() > 0
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(before)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def test_under_another_configuration_of_gunicorn_the_app_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    """Nothing would be refreshed there: gunicorn.conf.py alone has the hooks that do it."""
    with pytest.raises(SystemExit):
        app({})
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_the_server_listens_on_names_and_addresses_of_this_machine(host: str):
    refuse_foreign_host(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "nowhere.invalid"])
def test_another_machines_host_is_one_clear_sentence(host: str):
    with pytest.raises(ConfigError) as caught:
        refuse_foreign_host(host)
    (problem,) = caught.value.problems
    assert problem.startswith(f"EXPORTER_HOST: cannot listen on {host}: ")
    assert problem.endswith("Set a name or an address of this machine")
