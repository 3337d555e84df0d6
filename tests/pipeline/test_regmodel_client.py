"""The pipeline's client of the API: faults on the way are one clear error, within the deadline."""

import time
from collections.abc import Callable

import pytest

from bike_pipeline import regmodel as client
from bike_pipeline.regmodel import RegModel, RegModelError
from testbed.faults import FaultProxy, Reply, drip, hang, html, status, truncate
from testbed.process import free_port


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (hang, "GET /models at http"),
        (lambda: drip(200, reply=Reply(200, b" " * 10_000)), "GET /models: the answer was not complete after"),
        (lambda: status(500, {"detail": "out of order"}), "GET /models: HTTP 500: b'"),
        (lambda: status(503, {"detail": "there is no champion yet"}), "there is no champion yet"),
        (truncate, "GET /models"),
        (html, "the answer is not JSON"),
        (lambda: status(200, {"champion": None}), "there is no champion yet"),
        (lambda: status(200, {"models": []}), "not the expected answer (KeyError('champion'))"),
    ],
    ids=["hang", "drip", "500", "503", "truncated", "html", "no champion", "other answer"],
)
def test_a_fault_is_one_error_in_time(fault: Callable[[], object], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "READ_SECONDS", 0.5)
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(RegModel._ask, "__kwdefaults__", {"params": None, "body": None, "read_seconds": 0.5})
    with FaultProxy() as proxy:
        proxy.add(fault())
        began = time.monotonic()
        with pytest.raises(RegModelError) as caught:
            RegModel(proxy.url).champion()
        assert time.monotonic() - began < 30
    assert said in str(caught.value)


def test_nobody_listens():
    with pytest.raises(RegModelError, match="ConnectionError"):
        RegModel(f"http://127.0.0.1:{free_port()}").champion()
