"""The fault proxy, against a real HTTP server and a plain client."""

import contextlib
import http.client
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import faults
from testbed.faults import FaultProxy, Reply, Request

BODY = json.dumps({"hello": "world" * 20}).encode()


class _Upstream(http.server.BaseHTTPRequestHandler):
    """Echoes a posted body, answers BODY to a GET and tells which host and target it was asked for."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length) or BODY
        self.send_response(200 if self.command != "DELETE" else 204)
        self.send_header("Content-Length", str(len(content) if self.command != "DELETE" else 0))
        self.send_header("X-Target", self.path)
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        if self.command not in ("HEAD", "DELETE"):
            self.wfile.write(content)

    do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  (names that http.server looks for)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultProxy]:
    with FaultProxy(upstream) as started:
        yield started


def ask(
    proxy: FaultProxy,
    path: str = "/x",
    method: str = "GET",
    body: bytes | Iterable[bytes] | None = None,
    timeout: float = 5.0,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request on a connection of its own: status, headers, body."""
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body=body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def proxy_threads(proxy: FaultProxy) -> list[str]:
    port = proxy.url.rpartition(":")[2]
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"fault-proxy-{port}")]


def test_passes_requests_through_unchanged(proxy: FaultProxy) -> None:
    """Method, target, body, and the host that the client named, reach the upstream; its answer comes back."""
    status, headers, body = ask(proxy, "/a/b?c=1&d=%20", "POST", b"payload")

    assert (status, body) == (200, b"payload")
    assert headers["X-Target"] == "/a/b?c=1&d=%20"
    assert f"http://{headers['X-Host']}" == proxy.url


def test_passes_a_chunked_body_through(proxy: FaultProxy) -> None:
    assert ask(proxy, "/up", "POST", iter([b"one ", b"two"]))[2] == b"one two"
    assert proxy.requests[0].body_length == 7


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("DELETE", 204)])
def test_answers_without_a_body(proxy: FaultProxy, method: str, status: int) -> None:
    assert ask(proxy, method=method)[::2] == (status, b"")


def test_records_and_counts_requests(proxy: FaultProxy) -> None:
    """Requests are counted by method and raw path, without the query, and kept in order."""
    ask(proxy, "/a?n=1")
    ask(proxy, "/a?n=2")
    ask(proxy, "/b", "POST", b"12345")

    assert proxy.counts() == {("GET", "/a"): 2, ("POST", "/b"): 1}
    assert (proxy.count(), proxy.count("GET"), proxy.count(path="/b"), proxy.count("POST", "/a")) == (3, 2, 1, 0)
    assert [(seen.method, seen.path, seen.query, seen.body_length) for seen in proxy.requests] == [
        ("GET", "/a", "n=1", 0),
        ("GET", "/a", "n=2", 0),
        ("POST", "/b", "", 5),
    ]
    assert proxy.requests[1].parameters == {"n": ["2"]}

    proxy.forget()

    assert proxy.requests == ()


def test_status_with_googles_error_shape(proxy: FaultProxy) -> None:
    proxy.add(faults.google_error(403, "Access Denied: Table p:d.t"))

    status, headers, body = ask(proxy)

    assert (status, headers["Content-Type"], headers["Retry-After"]) == (403, "application/json", None)
    assert json.loads(body) == {
        "error": {
            "code": 403,
            "message": "Access Denied: Table p:d.t",
            "status": "PERMISSION_DENIED",
            "errors": [{"message": "Access Denied: Table p:d.t", "domain": "global", "reason": "accessDenied"}],
        }
    }


def test_retry_after(proxy: FaultProxy) -> None:
    proxy.add(faults.google_error(403, reason="quotaExceeded", retry_after=17), times=1)
    proxy.add(faults.status(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}))

    status, headers, body = ask(proxy)
    assert (status, headers["Retry-After"]) == (403, "17")
    assert json.loads(body)["error"]["errors"][0]["reason"] == "quotaExceeded"
    assert ask(proxy)[1]["Retry-After"] == "Wed, 21 Oct 2026 07:28:00 GMT"


def test_html_where_json_is_expected(proxy: FaultProxy) -> None:
    proxy.add(faults.html())

    status, headers, body = ask(proxy)

    assert (status, headers.get_content_type(), body[:15]) == (200, "text/html", b"<!doctype html>")


def test_truncated_body(proxy: FaultProxy) -> None:
    """The length announced is that of the whole body."""
    proxy.add(faults.truncate(keep=0.5))

    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(proxy)

    assert len(caught.value.partial) == len(BODY) // 2
    assert len(caught.value.partial) + (caught.value.expected or 0) == len(BODY)


def test_connection_reset(proxy: FaultProxy) -> None:
    proxy.add(faults.reset())

    with pytest.raises(ConnectionResetError):
        ask(proxy)


def test_slow_drip(proxy: FaultProxy) -> None:
    """The answer is complete in the end, and no faster than it was told."""
    proxy.add(faults.drip(2000, reply=Reply(200, b"x" * 100)))

    started = time.monotonic()
    assert ask(proxy)[2] == b"x" * 100
    assert time.monotonic() - started >= 100 / 2000


def test_slow_drip_outlasts_a_timeout_on_silence(proxy: FaultProxy) -> None:
    """Every read succeeds in time, yet the whole takes longer: only a deadline on the whole notices."""
    proxy.add(faults.drip(100, reply=Reply(200, b"x" * 100)))

    started = time.monotonic()
    assert ask(proxy, timeout=1.0)[0] == 200
    assert time.monotonic() - started > 1.0


def test_delay(proxy: FaultProxy) -> None:
    proxy.add(faults.delay(0.1))

    started = time.monotonic()
    assert ask(proxy)[::2] == (200, BODY)
    assert time.monotonic() - started >= 0.1


def test_hang_ends_for_the_proxy_when_the_client_gives_up(proxy: FaultProxy) -> None:
    proxy.add(faults.hang())

    with pytest.raises(TimeoutError):
        ask(proxy, timeout=0.1)

    deadline = time.monotonic() + 30
    while proxy.open_connections and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert proxy.open_connections == 0


def test_closing_releases_hung_connections_and_ends_all_threads(upstream: str) -> None:
    proxy = FaultProxy(upstream)
    proxy.add(faults.hang(), path="/hang")
    proxy.add(faults.drip(1), path="/drip")
    proxy.add(faults.delay(60), path="/delay")
    paths = ("/hang", "/drip", "/delay", "/hang")
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = [pool.submit(ask, proxy, path, timeout=30) for path in paths]
        assert proxy.wait_for_requests(len(paths))

        started = time.monotonic()
        proxy.close()

        assert time.monotonic() - started < 20
        assert all(isinstance(answer.exception(5), http.client.HTTPException | OSError) for answer in answers)
    assert proxy_threads(proxy) == []


def test_a_connection_that_sends_nothing_does_not_keep_the_proxy_from_closing(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))):
        assert ask(proxy)[0] == 200
        proxy.close()

    assert proxy_threads(proxy) == []


def test_release_cuts_hung_requests_and_goes_on(proxy: FaultProxy) -> None:
    proxy.add(faults.hang(), times=1)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(ask, proxy, timeout=30)
        assert proxy.wait_for_requests(1)

        proxy.release()

        assert isinstance(hung.exception(5), http.client.HTTPException | OSError)
    assert ask(proxy)[0] == 200


def test_refuse_and_listen_again_on_the_same_port(proxy: FaultProxy) -> None:
    url = proxy.url
    assert ask(proxy)[0] == 200

    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    proxy.listen()

    assert proxy.url == url
    assert ask(proxy)[0] == 200


def test_a_fault_hits_only_what_it_was_meant_for(proxy: FaultProxy) -> None:
    """By method, by a part of the path, by a pattern and by a predicate."""
    proxy.add(faults.status(418), method="POST", path="/jobs")
    proxy.add(faults.status(410), path=re.compile(r"/tables/\w+$"))
    proxy.add(faults.status(429), matches=lambda request: b"SELECT" in request.body)

    assert ask(proxy, "/projects/p/jobs", "POST", b"{}")[0] == 418
    assert ask(proxy, "/projects/p/jobs")[0] == 200
    assert ask(proxy, "/tables/logs")[0] == 410
    assert ask(proxy, "/tables/logs/data")[0] == 200
    assert ask(proxy, "/queries", "POST", b"SELECT 1")[0] == 429


def test_a_fault_is_used_up(proxy: FaultProxy) -> None:
    """Faults follow each other in the order they were added."""
    twice = proxy.add(faults.status(500), times=2)
    once = proxy.add(faults.status(502), times=1)

    assert [ask(proxy)[0] for _ in range(4)] == [500, 500, 502, 200]
    assert (twice.hits, twice.remaining, once.hits) == (2, 0, 1)


def test_clear_lifts_all_faults(proxy: FaultProxy) -> None:
    proxy.add(faults.status(500))
    assert ask(proxy)[0] == 500

    proxy.clear()

    assert ask(proxy)[0] == 200


def test_answers_by_script_without_an_upstream() -> None:
    def script(request: Request) -> Reply:
        return Reply(201, json.dumps([request.method, request.target, request.json()]).encode())

    with FaultProxy(script=script) as proxy:
        status, _, body = ask(proxy, "/api?x=1", "POST", b'{"k": 1}')
        proxy.add(faults.truncate(keep=0), times=1)
        with pytest.raises(http.client.IncompleteRead):
            ask(proxy, "/api", "POST", b"1")

    assert (status, json.loads(body)) == (201, ["POST", "/api?x=1", {"k": 1}])


def test_no_upstream_and_no_script_is_a_bad_gateway() -> None:
    with FaultProxy() as proxy:
        assert ask(proxy)[0] == 502


def test_an_upstream_that_is_gone_closes_the_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with FaultProxy(f"http://127.0.0.1:{unused.getsockname()[1]}") as proxy, pytest.raises(ConnectionError):
            ask(proxy)
