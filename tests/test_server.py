"""What the worker does when it starts; serving itself is tested in integration/test_serve.py."""

import gc
from types import SimpleNamespace

import pytest

from exporter.errors import ConfigError
from exporter.server import after_worker_start, refuse_foreign_host


def test_a_started_worker_forks_the_refresh_process_which_keeps_no_listener():
    started: list[object] = []
    refresher = SimpleNamespace(start=started.append)
    try:
        after_worker_start(SimpleNamespace(wsgi=SimpleNamespace(extensions={"refresher": refresher}), sockets=["s"]))
        assert started == [["s"]]
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


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
