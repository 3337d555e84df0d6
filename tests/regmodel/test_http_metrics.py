"""What the HTTP metrics count: each way in which a request can end, and each way to reach a route."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from regmodel.http_metrics import HttpMetrics, install
from testbed.exposed import Exposed
from tests.regmodel.served import create_app

Message = dict[str, Any]


def counts(registry: CollectorRegistry, name: str = "fastapi_requests_total") -> dict[tuple[str, ...], float]:
    """Values over 0 by the labels method, endpoint and, for requests, status code."""
    order = ("method", "endpoint", "status_code")
    samples = Exposed(generate_latest(registry)).samples
    return {
        tuple(s.labels[label] for label in order if label in s.labels): s.value
        for s in samples
        if s.name == name and s.value
    }


def errors(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return counts(registry, "fastapi_errors_total")


def timed(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return counts(registry, "fastapi_request_duration_seconds_count")


def ask(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    async def one() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


class Client:
    """A server's side of one request, by hand: what is received, and what was sent."""

    def __init__(self, *received: Message, refuses: int = 1000) -> None:
        self.received = list(received) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[Message] = []
        self.refuses = refuses  # the message from which on send raises
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        if self.received:
            return self.received.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self.refuses:
            raise OSError("the client is gone")
        self.sent.append(message)

    async def ask(self, app: Any, path: str = "/x", method: str = "GET", **scope: Any) -> BaseException | None:
        """What the application raised."""
        whole = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": method, "path": path}
        whole |= {"headers": [], "query_string": b"", "root_path": "", **scope}
        try:
            await app(whole, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 (what it is, is the answer)
            return error
        return None


def by_hand(
    handle: Callable[[Message, Any, Any], Awaitable[None]], **options: Any
) -> tuple[HttpMetrics, CollectorRegistry]:
    """A plain ASGI application with the one route /x."""

    async def route(request: Request) -> Response:
        raise AssertionError

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scope["endpoint"] = route
        await handle(scope, receive, send)

    registry = CollectorRegistry()
    return HttpMetrics(app, registry, routes=lambda: [Route("/x", route)], **options), registry


START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b""}
DISCONNECT = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "status"),
    [
        ("GET", "/models/7", "/models/{version}", 200),
        ("GET", "/models/none", "/models/{version}", 404),
        ("GET", "/outer/inner/models/7", "/outer/inner/models/{version}", 200),
        ("GET", "/v2/inner/models/7", "/v2/inner/models/{version}", 200),
        ("GET", "/either/a", "/either/a", 200),
        ("GET", "/either/b", "/either/b", 200),
        ("GET", "/sub/items/1", "/sub/items/{id}", 200),
        ("GET", "/tenants/5/items/1", "/tenants/{id}/items/{id}", 200),
        ("GET", "/tenants/5/items/x", "/tenants/{id}/items/{id}", 422),
        ("GET", "/tenants/5/items/13", "/tenants/{id}/items/{id}", 500),
        ("GET", "/sub/nothing", "unmatched", 404),
        ("GET", "/static/a/b.css", "/static", 200),
        ("POST", "/predict", "/predict", 422),
        ("POST", "/created", "/created", 201),
        ("GET", "/raises", "/raises", 500),
        ("GET", "/answers-500", "/answers-500", 500),
        ("GET", "/unavailable", "/unavailable", 503),
        ("GET", "/stream/3", "/stream/{chunks}", 200),
        ("DELETE", "/predict", "/predict", 405),
        ("OPTIONS", "/predict", "/predict", 405),
        ("HEAD", "/openapi.json", "/openapi.json", 200),
        ("GET", "/models/7/", "unmatched", 307),
        ("GET", "/nothing", "unmatched", 404),
    ],
)
def test_each_request_is_counted_once_under_its_template(method: str, path: str, endpoint: str, status: int) -> None:
    registry = CollectorRegistry()
    answer = ask(create_app(registry), method, path)
    assert answer.status_code == status
    assert counts(registry) == {(method, endpoint, str(status)): 1}
    assert errors(registry) == ({(method, endpoint): 1} if status >= 500 else {})
    assert timed(registry) == {(method, endpoint): 1}


def test_methods_that_clients_invent_share_one_value() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    for method in ("BREW", "PROPFIND", "get"):
        asyncio.run(Client().ask(app, "/predict", method))
    assert counts(registry) == {("_OTHER", "/predict", "405"): 3}


def test_random_paths_share_one_value() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    before = len(Exposed(generate_latest(registry)).series())
    for number in range(50):
        ask(app, "GET", f"/{number}/{number}")
    assert counts(registry) == {("GET", "unmatched", "404"): 50}
    assert len(Exposed(generate_latest(registry)).series()) - before <= 1 + 16  # errors; a histogram


def test_health_and_metrics_are_counted_and_not_timed() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    for path in ("/health", "/metrics"):
        assert ask(app, "GET", path).status_code == 200
    assert counts(registry) == {("GET", "/health", "200"): 1, ("GET", "/metrics", "200"): 1}
    assert not any(
        s.labels["endpoint"] in ("/health", "/metrics")
        for s in Exposed(generate_latest(registry)).samples
        if s.name.startswith("fastapi_request_duration")
    )


def test_series_of_known_routes_exist_before_the_first_request() -> None:
    registry = CollectorRegistry()
    create_app(registry)
    exposed = Exposed(generate_latest(registry))
    expected = [
        ("POST", "/predict", {"200", "422", "500"}),
        ("POST", "/created", {"201", "500"}),
        ("GET", "/models/{version}", {"200", "422", "500"}),
        ("GET", "/v2/inner/models/{version}", {"200", "422", "500"}),
        ("GET", "/tenants/{id}/items/{id}", {"200", "422", "500"}),
        ("GET", "/unavailable", {"200", "500", "503"}),
        ("GET", "/health", {"200", "500"}),
        ("GET", "unmatched", {"404"}),
    ]
    for method, endpoint, statuses in expected:
        labels = {"method": method, "endpoint": endpoint}
        found = {
            s.labels["status_code"]: s.value
            for s in exposed.samples
            if s.name == "fastapi_requests_total" and labels.items() <= s.labels.items()
        }
        assert found == dict.fromkeys(statuses, 0)
        assert exposed.value("fastapi_errors_total", **labels) == 0
        untimed = endpoint == "/health"
        assert exposed.value("fastapi_request_duration_seconds_count", **labels) == (None if untimed else 0)


def test_root_path_is_not_part_of_an_endpoint() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    for path in ("/api/models/1", "/api/either/b", "/api/tenants/7/items/1", "/api/nothing"):
        asyncio.run(Client().ask(app, path, root_path="/api"))
    assert set(counts(registry)) == {
        ("GET", "/models/{version}", "200"),
        ("GET", "/either/b", "200"),
        ("GET", "/tenants/{id}/items/{id}", "200"),
        ("GET", "unmatched", "404"),
    }


def test_an_application_below_another_counts_its_own_templates() -> None:
    registry = CollectorRegistry()
    parent = Starlette(routes=[Mount("/below", create_app(registry))])
    for path in ("/below/models/1", "/below/either/a", "/below/nothing"):
        ask(parent, "GET", path)
    assert set(counts(registry)) == {
        ("GET", "/models/{version}", "200"),
        ("GET", "/either/a", "200"),
        ("GET", "unmatched", "404"),
    }


def test_starlette_alone() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    inner = Router([Route("/files/{name:path}", hello), Route("/{number:int}", hello, methods=["PUT"])])
    registry = CollectorRegistry()
    app = Starlette(routes=[Host("{name}.local", Router([Mount("/deep/{one}", inner)])), Route("/", hello)])
    install(app, registry)
    host = {"host": "a.local"}
    assert ask(app, "GET", "/deep/1/files/a/b", headers=host).status_code == 200
    assert ask(app, "PUT", "/deep/1/7", headers=host).status_code == 200
    assert ask(app, "GET", "/").status_code == 200
    assert counts(registry) == {
        ("GET", "/deep/{one}/files/{name:path}", "200"): 1,
        ("PUT", "/deep/{one}/{number:int}", "200"): 1,
        ("GET", "/", "200"): 1,
    }


def test_what_a_middleware_answers_has_the_endpoint_of_its_path() -> None:
    class Refuse:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
            if scope["path"].endswith("secret"):
                await PlainTextResponse("no", 401)(scope, receive, send)
            elif scope["path"].endswith("bug"):
                raise RuntimeError
            else:
                await self.app(dict(scope), receive, send)  # a copy, as the ASGI specification asks for

    registry = CollectorRegistry()
    app = create_app(registry)
    app.add_middleware(Refuse)
    for path in ("/models/secret", "/models/bug", "/models/fine", "/nothing"):
        ask(app, "GET", path)
    assert counts(registry) == {
        ("GET", "/models/{version}", "401"): 1,
        ("GET", "/models/{version}", "500"): 1,
        ("GET", "/models/{version}", "200"): 1,
        ("GET", "unmatched", "404"): 1,
    }


def test_routes_that_come_later_are_seen() -> None:
    registry = CollectorRegistry()
    app = FastAPI()
    install(app, registry)

    @app.get("/late/{one}")
    async def late(one: str) -> str:
        return one

    assert ask(app, "GET", "/late/1").status_code == 200
    assert counts(registry) == {("GET", "/late/{one}", "200"): 1}


def test_lifespan_passes_and_makes_the_series_of_late_routes() -> None:
    registry = CollectorRegistry()
    app = FastAPI()
    install(app, registry)
    app.add_api_route("/late", lambda: "late")

    async def run() -> list[Message]:
        client = Client({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, client.receive, client.send)
        return client.sent

    assert [one["type"] for one in asyncio.run(run())] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    late = {"method": "GET", "endpoint": "/late", "status_code": "200"}
    assert Exposed(generate_latest(registry)).value("fastapi_requests_total", **late) == 0


def test_websockets_pass_uncounted() -> None:
    async def echo(socket: Any) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    registry = CollectorRegistry()
    app = Starlette(routes=[WebSocketRoute("/ws", echo)])
    install(app, registry)

    async def run() -> list[Message]:
        client = Client({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hi"})
        assert await client.ask(app, "/ws", type="websocket") is None
        return client.sent

    assert [one["type"] for one in asyncio.run(run())] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert counts(registry) == {}


def test_two_applications_in_one_process_do_not_clash() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    first, second = (create_app(one) for one in registries)
    ask(first, "GET", "/health")
    ask(second, "GET", "/raises")
    assert counts(registries[0]) == {("GET", "/health", "200"): 1}
    assert counts(registries[1]) == {("GET", "/raises", "500"): 1}
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        create_app(registries[0])


def test_an_application_that_served_already_is_refused() -> None:
    app = Starlette()
    ask(app, "GET", "/")
    with pytest.raises(RuntimeError, match="after an application has started"):
        install(app, CollectorRegistry())


def test_an_exception_amid_a_stream_is_one_error_and_not_a_200() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    asyncio.run(Client().ask(app, "/broken-stream"))
    assert counts(registry) == {("GET", "/broken-stream", "500"): 1}
    assert errors(registry) == {("GET", "/broken-stream"): 1}


def test_a_background_task_that_fails_is_an_error_of_a_request_that_succeeded() -> None:
    def fail() -> None:
        raise RuntimeError

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(fail))

    registry = CollectorRegistry()
    app = Starlette(routes=[Route("/x", hello)])
    metrics = install(app, registry)
    asyncio.run(Client().ask(app))
    assert counts(registry) == {("GET", "/x", "200"): 1}
    assert errors(registry) == {("GET", "/x"): 1}
    assert timed(registry) == {("GET", "/x"): 1}
    assert metrics.in_flight == 0


def test_a_stream_is_timed_until_its_last_byte_and_counted_only_then() -> None:
    during: list[Any] = []

    async def handle(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(3):
            await asyncio.sleep(0.02)
            await send(CHUNK)
        during.append((counts(registry), metrics.in_flight))
        await send(END)
        during.append((counts(registry), metrics.in_flight))

    metrics, registry = by_hand(handle)
    assert asyncio.run(Client().ask(metrics)) is None
    assert during == [({}, 1), ({("GET", "/x", "200"): 1}, 1)]
    assert metrics.in_flight == 0
    assert Exposed(generate_latest(registry)).value("fastapi_request_duration_seconds_sum", endpoint="/x") >= 0.06


async def _sees_disconnect_and_returns(scope: Message, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sees_disconnect_amid(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await _sees_disconnect_and_returns(scope, receive, send)


async def _sees_disconnect_and_answers(scope: Message, receive: Any, send: Any) -> None:
    await _sees_disconnect_and_returns(scope, receive, send)
    await send({**START, "status": 400})
    await send(END)


async def _raises_client_disconnect_after_a_500(scope: Message, receive: Any, send: Any) -> None:
    await _sees_disconnect_and_returns(scope, receive, send)
    await send({**START, "status": 500})  # as ServerErrorMiddleware does
    await send(END)
    raise ClientDisconnect


async def _fails_after_a_disconnect(scope: Message, receive: Any, send: Any) -> None:
    await _sees_disconnect_and_returns(scope, receive, send)
    raise RuntimeError


async def _own_os_error_after_a_disconnect(scope: Message, receive: Any, send: Any) -> None:
    await _sees_disconnect_and_returns(scope, receive, send)
    raise FileNotFoundError


async def _503_after_a_disconnect(scope: Message, receive: Any, send: Any) -> None:
    await _sees_disconnect_and_returns(scope, receive, send)
    await send({**START, "status": 503})
    await send(END)


async def _asks_after_the_end(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await send(END)
    assert (await receive())["type"] == "http.disconnect"


async def _group(scope: Message, receive: Any, send: Any) -> None:
    raise BaseExceptionGroup("", [ClientDisconnect(), asyncio.CancelledError()])


@pytest.mark.parametrize(
    ("handle", "status"),
    [
        (_sees_disconnect_and_returns, 499),
        (_sees_disconnect_amid, 499),
        (_sees_disconnect_and_answers, 499),
        (_raises_client_disconnect_after_a_500, 499),
        (_group, 499),
        (_fails_after_a_disconnect, 500),
        (_own_os_error_after_a_disconnect, 500),
        (_503_after_a_disconnect, 503),
        (_asks_after_the_end, 200),
    ],
)
def test_a_client_that_leaves(handle: Any, status: int) -> None:
    metrics, registry = by_hand(handle)
    asyncio.run(Client(DISCONNECT).ask(metrics))
    assert counts(registry) == {("GET", "/x", str(status)): 1}
    assert errors(registry) == ({("GET", "/x"): 1} if status >= 500 else {})
    assert timed(registry) == {("GET", "/x"): 1}
    assert metrics.in_flight == 0


@pytest.mark.parametrize("refuses", [0, 1, 2])
def test_a_server_whose_send_says_that_the_client_left(refuses: int) -> None:
    async def handle(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        await send(END)

    metrics, registry = by_hand(handle)
    assert isinstance(asyncio.run(Client(refuses=refuses).ask(metrics)), OSError)
    assert counts(registry) == {("GET", "/x", "499"): 1}
    assert errors(registry) == {}


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_starlette_streams_to_a_client_that_left(spec_version: str) -> None:
    async def endless() -> Any:
        while True:
            yield b"x"
            client.gone.set()
            await asyncio.sleep(0)

    async def stream(request: Request) -> Response:
        return StreamingResponse(endless())

    registry = CollectorRegistry()
    app = Starlette(routes=[Route("/x", stream)])
    metrics = install(app, registry)
    client = Client(refuses=5)
    asyncio.run(client.ask(app, asgi={"version": "3.0", "spec_version": spec_version}))
    assert counts(registry) == {("GET", "/x", "499"): 1}
    assert errors(registry) == {}
    assert metrics.in_flight == 0


@pytest.mark.parametrize(("left", "status"), [(True, "499"), (False, "200")])
def test_a_slow_answer_looks_whether_somebody_is_still_there(left: bool, status: str) -> None:
    async def handle(scope: Message, receive: Any, send: Any) -> None:
        if left:
            client.gone.set()
        await send(START)
        await send(END)

    metrics, registry = by_hand(handle, look_after=0)
    client = Client({"type": "http.request"}, refuses=1000)
    client.received.clear()
    assert asyncio.run(client.ask(metrics)) is None
    assert counts(registry) == {("GET", "/x", status): 1}
    assert len(client.sent) == 2


def test_what_a_look_received_is_for_the_application() -> None:
    received: list[Message] = []

    async def handle(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send(END)
        received.append(await asyncio.wait_for(receive(), 5))
        client.gone.set()
        received.append(await receive())

    metrics, registry = by_hand(handle, look_after=0)
    client = Client({"type": "http.request", "body": b"all", "more_body": False})
    assert asyncio.run(client.ask(metrics)) is None
    assert received == [{"type": "http.request", "body": b"all", "more_body": False}, DISCONNECT]
    assert counts(registry) == {("GET", "/x", "200"): 1}


def test_a_cancelled_request_is_aborted_and_not_an_error() -> None:
    async def run() -> None:
        entered = asyncio.Event()

        async def handle(scope: Message, receive: Any, send: Any) -> None:
            entered.set()
            await asyncio.Event().wait()

        metrics, registry = by_hand(handle)
        task = asyncio.create_task(Client().ask(metrics))
        await entered.wait()
        assert metrics.in_flight == 1
        task.cancel()
        assert isinstance(await task, asyncio.CancelledError)
        assert metrics.in_flight == 0
        assert counts(registry) == {("GET", "/x", "499"): 1}
        assert errors(registry) == {}

    asyncio.run(run())


@pytest.mark.parametrize("messages", [[], [START], [START, CHUNK]])
def test_an_application_that_returns_without_a_complete_response_failed(messages: list[Message]) -> None:
    async def handle(scope: Message, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    metrics, registry = by_hand(handle)
    assert asyncio.run(Client().ask(metrics)) is None
    assert counts(registry) == {("GET", "/x", "500"): 1}
    assert errors(registry) == {("GET", "/x"): 1}


def test_an_aborted_upload_is_not_a_server_error() -> None:
    registry = CollectorRegistry()
    app = create_app(registry)
    half = {"type": "http.request", "body": b'{"hour"', "more_body": True}
    headers = [(b"content-type", b"application/json")]
    asyncio.run(Client(half, DISCONNECT).ask(app, "/predict", "POST", headers=headers))
    assert counts(registry) == {("POST", "/predict", "499"): 1}
    assert errors(registry) == {}


def test_base_http_middleware_inside_changes_nothing() -> None:
    async def dispatch(request: Request, call_next: Any) -> Response:
        return await call_next(request)

    async def fail(request: Request) -> Response:
        raise RuntimeError

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    registry = CollectorRegistry()
    layers = [Middleware(BaseHTTPMiddleware, dispatch=dispatch)]
    app = Starlette(routes=[Route("/x", hello), Route("/fail", fail)], middleware=layers)
    install(app, registry)
    for path in ("/x", "/fail"):
        ask(app, "GET", path)
    assert counts(registry) == {("GET", "/x", "200"): 1, ("GET", "/fail", "500"): 1}
    assert errors(registry) == {("GET", "/fail"): 1}


def test_wrapping_counts_the_same_as_installing() -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError

    registry = CollectorRegistry()
    ask(HttpMetrics(Starlette(routes=[Route("/x", fail)]), registry), "GET", "/x")
    assert counts(registry) == {("GET", "/x", "500"): 1}
    assert errors(registry) == {("GET", "/x"): 1}


def test_buckets_are_cumulative_and_their_bounds_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 10.25, 20.0, 23.0])  # start and last byte of each request
    monkeypatch.setattr("regmodel.http_metrics.perf_counter", lambda: next(clock))

    async def handle(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send(END)

    metrics, registry = by_hand(handle, buckets=(0.25, 1, 2), look_after=100)
    for _ in range(3):
        asyncio.run(Client().ask(metrics))
    exposed = Exposed(generate_latest(registry))
    name, labels = "fastapi_request_duration_seconds", {"method": "GET", "endpoint": "/x"}
    assert [exposed.value(f"{name}_bucket", **labels, le=le) for le in ("0.25", "1.0", "2.0", "+Inf")] == [1, 2, 2, 3]
    assert exposed.value(f"{name}_sum", **labels) == 4.25


def test_buckets_must_rise() -> None:
    with pytest.raises(ValueError, match="rising"):
        HttpMetrics(Starlette(), CollectorRegistry(), buckets=(1, 1))


def test_the_metrics_endpoint_negotiates() -> None:
    app = create_app(CollectorRegistry())
    plain = ask(app, "GET", "/metrics", headers={"Accept-Encoding": "identity"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert plain.headers["vary"] == "Accept, Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert Exposed(plain.text).value("fastapi_errors_total", method="GET", endpoint="/raises") == 0
    open_metrics = ask(app, "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")
    one = ask(app, "GET", "/metrics", params={"name[]": "fastapi_errors_total"})
    assert Exposed(one.text).names() == {"fastapi_errors_total"}
    assert ask(app, "POST", "/metrics").status_code == 405
    head = ask(app, "HEAD", "/metrics")
    assert head.status_code == 200

    async def raw() -> bytes:
        client = Client()
        await client.ask(app, "/metrics", headers=[(b"accept-encoding", b"gzip, br")])
        assert (b"content-encoding", b"gzip") in client.sent[0]["headers"]
        return b"".join(message.get("body", b"") for message in client.sent)

    assert b"fastapi_requests_total" in gzip.decompress(asyncio.run(raw()))
