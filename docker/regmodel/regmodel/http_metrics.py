"""HTTP metrics of the API, counted by prometheus-client in a pure ASGI middleware, and the `/metrics` endpoint.

| metric | labels | what it counts |
|---|---|---|
| `fastapi_requests_total` | method, endpoint, status_code | requests, by the status of the response |
| `fastapi_request_duration_seconds` | method, endpoint | seconds until the application is done with the request |
| `fastapi_errors_total` | method, endpoint | requests with a status of 500 or more |

A client cannot make a new series. `endpoint` is the path of the route as it was declared, with the prefixes of its
routers: `/models/{version}`. A mounted application is one endpoint, the mount's path. A request that no route matches
is `unmatched`. Methods other than those of RFC 9110 and RFC 5789 are `_OTHER`, as in OpenTelemetry's conventions.

An exception that escapes from the application counts as 500, also when it ends a response that had begun. A client
that leaves has no status of its own: the request counts with the status that was sent, and not at all when there was
no response.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, make_asgi_app
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED: Final = "unmatched"
"""The endpoint of a request that no route matches. Paths of routes start with a slash, so that it cannot be one."""

OTHER_METHOD: Final = "_OTHER"
"""The method of a request with a method that is not in METHODS."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""Methods that may be label values: those of RFC 9110, section 9.3, and PATCH of RFC 5789."""

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram in seconds: a prediction takes milliseconds, a client waits for a few seconds."""

UNTIMED: Final = frozenset({"/metrics", "/health"})
"""Endpoints without a latency: machines ask them all the time, and they would hide what users wait for."""


class HttpMetrics:
    """ASGI middleware that counts and times the requests of `api`: `api.add_middleware(HttpMetrics, api=api, ...)`.

    FastAPI makes it when it begins to serve, so it knows every route. The series of each route exist from then on, at
    0, so that `increase()` sees the first request. Websockets and lifespan pass through uncounted.

    Args:
        app: the next ASGI application.
        api: the application whose routes are the endpoints.
        registry: where the metrics are registered.
        clock: seconds since any moment.

    Raises:
        ValueError: the registry already has such metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api: FastAPI,
        registry: CollectorRegistry,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        # Without this each counter and histogram would have a series `_created` as well; it holds for the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._app = app
        self._clock = clock
        self._routes = [(route.path or UNMATCHED, route.matches) for route in iter_route_contexts(api.routes)]
        self._requests = Counter(
            "fastapi_requests_total",
            "Requests by the status of the response; an exception that escapes is 500.",
            ("method", "endpoint", "status_code"),
            registry=registry,
        )
        self._duration = Histogram(
            "fastapi_request_duration_seconds",
            "Seconds from the request until the application is done with it.",
            ("method", "endpoint"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "fastapi_errors_total",
            "Requests that ended in a 5xx response or in an exception.",
            ("method", "endpoint"),
            registry=registry,
        )
        self._declare(api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on; see the ASGI specification for the arguments."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        endpoint = self._endpoint(scope)  # now, because mounts and middleware change the scope
        status: int | None = None
        began = self._clock()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            raise
        except Exception:
            status = 500
            raise
        finally:
            if status is not None:
                self._count(method, endpoint, status, self._clock() - began)

    def _count(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(method, endpoint, status).inc()
        errors = self._errors.labels(method, endpoint)
        if status >= 500:
            errors.inc()
        if endpoint not in UNTIMED:
            self._duration.labels(method, endpoint).observe(seconds)

    def _endpoint(self, scope: Scope) -> str:
        """The path of the route that will be chosen, by the rule of Starlette's router: the first that fits."""
        other_method: str | None = None
        for path, matches in self._routes:
            match, _ = matches(scope)
            if match is Match.FULL:
                return path
            if match is Match.PARTIAL:
                other_method = other_method or path
        return other_method or UNMATCHED

    def _declare(self, api: FastAPI) -> None:
        """Make the series of every route exist, with the statuses that its OpenAPI operation declares, and 500."""
        operations: dict[str, Any] = api.openapi()["paths"]
        self._declare_one("GET", UNMATCHED, {"404"})
        for route in iter_route_contexts(api.routes):
            # Starlette adds HEAD to each route that has GET: it would double the series, and nobody watches it.
            for method in (route.methods or set()) - {"HEAD"}:
                declared = operations.get(route.path_format or "", {}).get(method.lower(), {}).get("responses", {"200"})
                self._declare_one(method, route.path or UNMATCHED, {*declared, "500"})

    def _declare_one(self, method: str, endpoint: str, statuses: set[str]) -> None:
        for status in statuses:
            self._requests.labels(method, endpoint, status)
        self._errors.labels(method, endpoint)
        if endpoint not in UNTIMED:
            self._duration.labels(method, endpoint)


class MetricsEndpoint:
    """Serves a registry to Prometheus, by prometheus-client's ASGI application; an endpoint for a Starlette `Route`.

    An object, because Starlette would call a function with a request. It runs on the event loop on purpose: in the
    thread pool a scrape would wait behind the requests that it should tell about.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._app = make_asgi_app(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scrape; see the ASGI specification for the arguments."""
        await self._app(scope, receive, send)
