"""What the HTTP metrics count: each way in which a request can end, and each way to reach a route."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from regmodel.http_metrics import HttpMetrics, MetricsEndpoint
from testbed.exposed import Exposed

Message = dict[str, Any]
HTTP = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "headers": [], "query_string": b""}
START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b""}
DISCONNECT = {"type": "http.disconnect"}


class Features(BaseModel):
    hour: int


def an_app(registry: CollectorRegistry) -> FastAPI:
    """An application with a route for each way in which a request can end, and its metrics."""
    app = FastAPI()

    @app.post("/predict")
    def predict(features: Features) -> float:
        return 2.0 * features.hour

    @app.post("/created", status_code=201)
    async def created() -> None:
        pass

    @app.get("/models/{version}")
    async def model(version: str) -> str:
        if version == "none":
            raise HTTPException(404)
        return version

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"x"
            raise RuntimeError("amid the stream")

        return StreamingResponse(body())

    @app.get("/raises")
    async def raises() -> None:
        raise RuntimeError("planted")

    @app.get("/answers-500")
    async def answers_500() -> PlainTextResponse:
        return PlainTextResponse("no", 500)

    @app.get("/unavailable", responses={503: {}})
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.get("/either/a")
    @app.get("/either/b")
    async def either(request: Request) -> str:
        return request.url.path

    @app.websocket("/ws")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/models/{version}", model)
    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/v2")
    app.mount("/static", PlainTextResponse("static"))
    app.router.routes.append(Route("/metrics", MetricsEndpoint(registry), methods=["GET"]))
    app.add_middleware(HttpMetrics, api=app, registry=registry)
    return app


@contextmanager
def served(registry: CollectorRegistry, app: FastAPI | None = None) -> Iterator[TestClient]:
    """The application (a new one by default), started; exceptions of the server are answers, as over a socket."""
    with TestClient(app or an_app(registry), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def counts(registry: CollectorRegistry, name: str = "fastapi_requests_total") -> dict[tuple[str, ...], float]:
    """Values over 0 by the labels method, endpoint and, for requests, status code."""
    order = ("method", "endpoint", "status_code")
    return {
        tuple(s.labels[label] for label in order if label in s.labels): s.value
        for s in Exposed(generate_latest(registry)).samples
        if s.name == name and s.value
    }


def errors(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return counts(registry, "fastapi_errors_total")


def timed(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return counts(registry, "fastapi_request_duration_seconds_count")


def measured(handle: Callable[..., Awaitable[None]], **options: Any) -> tuple[HttpMetrics, CollectorRegistry]:
    """The middleware before a plain ASGI application; /x is its one route."""
    api = FastAPI(openapi_url=None)
    api.add_api_route("/x", lambda: None)
    registry = CollectorRegistry()
    return HttpMetrics(handle, api=api, registry=registry, **options), registry


def call(app: Any, *received: Message, path: str = "/x", method: str = "GET", **scope: Any) -> list[Message]:
    """The messages that the application sends when it receives these, and then that the client left."""
    waiting, sent = list(received), []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else DISCONNECT

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({**HTTP, "method": method, "path": path, "root_path": "", **scope}, receive, send))
    return sent


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "status"),
    [
        ("GET", "/models/7", "/models/{version}", 200),
        ("GET", "/models/none", "/models/{version}", 404),
        ("GET", "/outer/inner/models/7", "/outer/inner/models/{version}", 200),
        ("GET", "/v2/inner/models/7", "/v2/inner/models/{version}", 200),
        ("GET", "/either/a", "/either/a", 200),
        ("GET", "/either/b", "/either/b", 200),
        ("GET", "/static/a/b.css", "/static", 200),
        ("POST", "/predict", "/predict", 422),
        ("POST", "/created", "/created", 201),
        ("GET", "/raises", "/raises", 500),
        ("GET", "/answers-500", "/answers-500", 500),
        ("GET", "/unavailable", "/unavailable", 503),
        ("DELETE", "/predict", "/predict", 405),
        ("OPTIONS", "/predict", "/predict", 405),
        ("HEAD", "/openapi.json", "/openapi.json", 200),
        ("GET", "/models/7/", "unmatched", 307),
        ("GET", "/nothing", "unmatched", 404),
    ],
)
def test_each_request_is_counted_once_under_its_template(method: str, path: str, endpoint: str, status: int):
    registry = CollectorRegistry()
    with served(registry) as client:
        assert client.request(method, path).status_code == status
    assert counts(registry) == {(method, endpoint, str(status)): 1}
    assert errors(registry) == ({(method, endpoint): 1} if status >= 500 else {})
    assert timed(registry) == {(method, endpoint): 1}


def test_methods_that_clients_invent_share_one_value():
    registry = CollectorRegistry()
    with served(registry) as client:
        for method in ("BREW", "PROPFIND"):
            client.request(method, "/predict")
        call(client.app, path="/predict", method="get")
    assert counts(registry) == {("_OTHER", "/predict", "405"): 3}


def test_random_paths_share_one_value():
    registry = CollectorRegistry()
    with served(registry) as client:
        before = Exposed(generate_latest(registry)).series()
        for number in range(50):
            client.get(f"/{number}/{number}")
    assert counts(registry) == {("GET", "unmatched", "404"): 50}
    assert Exposed(generate_latest(registry)).series() == before


def test_health_and_metrics_are_counted_and_not_timed():
    registry = CollectorRegistry()
    with served(registry) as client:
        for path in ("/health", "/metrics"):
            assert client.get(path).status_code == 200
    assert counts(registry) == {("GET", "/health", "200"): 1, ("GET", "/metrics", "200"): 1}
    assert timed(registry) == {}


def test_series_of_known_routes_exist_before_the_first_request():
    registry = CollectorRegistry()
    with served(registry):
        exposed = Exposed(generate_latest(registry))
    for method, endpoint, statuses in (
        ("POST", "/predict", {"200", "422", "500"}),
        ("POST", "/created", {"201", "500"}),
        ("GET", "/models/{version}", {"200", "422", "500"}),
        ("GET", "/v2/inner/models/{version}", {"200", "422", "500"}),
        ("GET", "/unavailable", {"200", "500", "503"}),
        ("GET", "/health", {"200", "500"}),
        ("GET", "/metrics", {"200", "500"}),
        ("GET", "unmatched", {"404"}),
    ):
        labels = {"method": method, "endpoint": endpoint}
        found = {
            s.labels["status_code"]: s.value
            for s in exposed.samples
            if s.name == "fastapi_requests_total" and labels.items() <= s.labels.items()
        }
        assert found == dict.fromkeys(statuses, 0)
        assert exposed.value("fastapi_errors_total", **labels) == 0
        buckets = [
            s.labels["le"]
            for s in exposed.samples
            if s.name == "fastapi_request_duration_seconds_bucket" and labels.items() <= s.labels.items()
        ]
        bounds = [
            str(bound) for bound in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
        ]
        assert buckets == ([] if endpoint in ("/health", "/metrics") else [*bounds, "+Inf"])
    assert {name for name in exposed.names() if name.startswith("fastapi_")} == {
        "fastapi_requests_total",
        "fastapi_errors_total",
        *(f"fastapi_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")),
    }


def test_root_path_is_not_part_of_an_endpoint():
    registry = CollectorRegistry()
    with served(registry) as client:
        for path in ("/api/models/1", "/api/either/b", "/api/nothing"):
            call(client.app, path=path, root_path="/api")
    assert set(counts(registry)) == {
        ("GET", "/models/{version}", "200"),
        ("GET", "/either/b", "200"),
        ("GET", "unmatched", "404"),
    }


def test_what_another_middleware_answers_has_the_endpoint_of_its_path():
    async def refuse(scope: Message, receive: Any, send: Any) -> None:
        await PlainTextResponse("no", 401)(scope, receive, send)

    metrics, registry = measured(refuse)
    call(metrics)
    call(metrics, path="/nothing")
    assert counts(registry) == {("GET", "/x", "401"): 1, ("GET", "unmatched", "401"): 1}


def test_websockets_pass_uncounted():
    registry = CollectorRegistry()
    with served(registry) as client, client.websocket_connect("/ws") as socket:
        socket.send_text("hi")
        assert socket.receive_text() == "hi"
    assert counts(registry) == {}


def test_two_applications_in_one_process_do_not_clash():
    first, second = CollectorRegistry(), CollectorRegistry()
    with served(first) as one, served(second) as other:
        one.get("/health")
        other.get("/raises")
    assert counts(first) == {("GET", "/health", "200"): 1}
    assert counts(second) == {("GET", "/raises", "500"): 1}
    with pytest.raises(ValueError, match="Duplicated timeseries"), served(first):
        pass


def test_an_exception_amid_a_stream_is_one_error_and_not_a_200():
    registry = CollectorRegistry()
    with served(registry) as client:
        client.get("/broken-stream")
    assert counts(registry) == {("GET", "/broken-stream", "500"): 1}
    assert errors(registry) == {("GET", "/broken-stream"): 1}


def test_a_stream_is_timed_until_its_end_and_counted_only_then():
    seconds = 100.0
    during: list[Any] = []

    async def stream(scope: Message, receive: Any, send: Any) -> None:
        nonlocal seconds
        await send(START)
        for _ in range(3):
            seconds += 0.25
            await send(CHUNK)
        during.append(counts(registry))
        await send(END)

    metrics, registry = measured(stream, clock=lambda: seconds)
    call(metrics)
    assert during == [{}]
    exposed = Exposed(generate_latest(registry))
    name = "fastapi_request_duration_seconds"
    assert exposed.value(f"{name}_sum", method="GET", endpoint="/x") == 0.75
    assert [exposed.value(f"{name}_bucket", endpoint="/x", le=le) for le in ("0.5", "1.0", "+Inf")] == [0, 1, 1]


def test_an_aborted_upload_is_not_a_server_error():
    registry = CollectorRegistry()
    half = {"type": "http.request", "body": b'{"hour"', "more_body": True}
    with served(registry) as client:
        headers = [(b"content-type", b"application/json")]
        call(client.app, half, path="/predict", method="POST", headers=headers)
    assert counts(registry) == {("POST", "/predict", "400"): 1}
    assert errors(registry) == {}


@pytest.mark.parametrize("departure", [ClientDisconnect, asyncio.CancelledError])
@pytest.mark.parametrize(
    ("sent", "counted"), [([], {}), ([START], {("GET", "/x", "200"): 1}), ([START, CHUNK], {("GET", "/x", "200"): 1})]
)
def test_a_client_that_leaves_has_no_status_of_its_own(
    sent: list[Message], counted: dict[tuple[str, ...], float], departure: type[BaseException]
):
    async def leave(scope: Message, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)
        raise departure

    metrics, registry = measured(leave)
    with pytest.raises(departure):
        call(metrics)
    assert counts(registry) == counted
    assert errors(registry) == {}


def test_the_metrics_endpoint_negotiates():
    registry = CollectorRegistry()
    with served(registry) as client:
        plain = client.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "content-encoding" not in plain.headers
        assert Exposed(plain.text).value("fastapi_errors_total", method="GET", endpoint="/raises") == 0
        assert client.get("/metrics", headers={"Accept-Encoding": "gzip, br"}).headers["content-encoding"] == "gzip"
        open_metrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert open_metrics.text.endswith("# EOF\n")
        one = client.get("/metrics", params={"name[]": "fastapi_errors_total"})
        assert Exposed(one.text).names() == {"fastapi_errors_total"}
        assert client.post("/metrics").status_code == 405
        assert client.head("/metrics").status_code == 200
