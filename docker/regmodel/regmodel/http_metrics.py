"""HTTP metrics for a Starlette or FastAPI application: a pure ASGI middleware and a `/metrics` endpoint.

| metric | labels | what it counts |
|---|---|---|
| `fastapi_requests_total` | method, endpoint, status_code | requests, by how they ended |
| `fastapi_request_duration_seconds` | method, endpoint | seconds from a request until the last byte is sent |
| `fastapi_errors_total` | method, endpoint | 5xx responses and unhandled exceptions, each request once |

`endpoint` is the template of the route as it was declared, with the prefixes of its routers and mounts and without
`root_path`: `/models/{version}`. An application mounted without routes of its own (static files) is one endpoint, the
mount's path. What no route matches is `unmatched`. Methods other than those of RFC 9110 and RFC 5789 are `_OTHER`, as
in OpenTelemetry's semantic conventions. So a client cannot make a new series.

`status_code` is how the request ended, which is not always what was sent:

| what happened | status_code | error |
|---|---|---|
| a complete response | as sent | if 5xx |
| an exception before the response, or in its midst | 500 | yes |
| the application returned without a complete response | 500 (the server sends that, or cuts the connection) | yes |
| an exception after the last byte (a background task) | as sent | yes |
| the client left before the last byte, and that was noticed | 499, as in nginx | no |
| the client left, and then came an exception of another kind or a complete 5xx response | 500, or as sent | yes |
| cancelled from outside (some servers do so when the client leaves, others when they must stop) | 499 | no |

A departure is noticed when the application receives `http.disconnect` (a streaming response and whoever reads the body
do), when the server's `send` raises OSError (as it should since version 2.4 of the ASGI HTTP specification), and by one
look when a response ends more than `look_after` seconds after the request. Below that nobody looks: it would cost every
request more than everything else here.
"""

import gzip
import itertools
import math
import re
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Final

import anyio
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.utils import floatToGoString
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import PARAM_REGEX, BaseRoute, Host, Mount, Route, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

iter_route_contexts: Callable[[Sequence[Any]], Iterable[Any]] | None
try:
    # FastAPI 0.137 and later keep an included router as one object in `routes`; this public function (0.137.2) tells
    # which routes, under which prefixes, it stands for.
    from fastapi.routing import iter_route_contexts
except ImportError:  # Starlette alone, or an older FastAPI, whose list of routes is flat
    iter_route_contexts = None

UNMATCHED: Final = "unmatched"
"""The endpoint of a request that no route matches. Templates start with a slash, so that it cannot be one."""

OTHER_METHOD: Final = "_OTHER"
"""The method of a request with a method that is not in METHODS."""

CLIENT_CLOSED_REQUEST: Final = 499
"""The status of a request whose client left before the last byte: nginx's own code, not one that is ever sent."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""Methods that may be label values: those of RFC 9110, section 9.3, and PATCH of RFC 5789."""

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram in seconds: a prediction takes milliseconds, a client waits for a few seconds."""

UNTIMED: Final = frozenset({"/metrics", "/health"})
"""Endpoints without a latency: machines ask them all the time, and they would hide what users wait for."""

_BODY_EXTENSIONS: Final = frozenset({"http.response.zerocopysend", "http.response.pathsend"})
"""Messages that carry a body, beside the usual one: two extensions of the ASGI specification."""

_BATCH: Final = 256
_MAX_STRANGERS: Final = 64


class _Series:
    """What was counted for one method of one endpoint."""

    __slots__ = ("bounds", "buckets", "by_status", "errors", "seconds")

    def __init__(self, bounds: Sequence[float] | None) -> None:
        self.by_status: dict[int, int] = {}
        self.errors = 0
        self.bounds = bounds  # None: not timed
        self.buckets = [0] * (len(bounds) + 1 if bounds is not None else 0)  # each without those below it
        self.seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        self.by_status[status] = self.by_status.get(status, 0) + 1
        if status >= 500:
            self.errors += 1
        if self.bounds is not None:
            self.buckets[bisect_left(self.bounds, seconds)] += 1
            self.seconds += seconds


class _Endpoint:
    """One value of the label `endpoint`."""

    __slots__ = ("_bounds", "by_method", "template")

    def __init__(self, template: str, bounds: Sequence[float] | None) -> None:
        self.template = template
        self._bounds = bounds
        self.by_method: dict[str, _Series] = {}

    def series(self, method: str) -> _Series:
        """The series of this method. Only label values become keys: the methods that clients invent are not kept."""
        label = method if method in METHODS else OTHER_METHOD
        if (found := self.by_method.get(label)) is None:
            found = self.by_method.setdefault(label, _Series(self._bounds))
        return found

    def declare(self, method: str, statuses: Iterable[int]) -> None:
        """Make the series of this method exist, at 0."""
        by_status = self.series(method).by_status
        for status in statuses:
            by_status.setdefault(status, 0)


class _Exchange:
    """One request and its response: stands between the server and the application, and counts how it ends.

    A request costs this one object: nested functions would need a cell for each variable, and an `__init__` in Python
    costs more than the assignments, which HttpMetrics does.
    """

    __slots__ = (
        "counted", "ending", "gone", "metrics", "receive_next", "receiving", "root_path", "scope", "send_on", "start",
        "status",
    )  # fmt: skip

    metrics: "HttpMetrics"
    scope: Scope
    root_path: str  # before routing: mounts change it
    receive_next: Receive
    send_on: Send
    start: float
    status: int  # of the response that was started
    ending: bool  # the last byte is being handed to the server
    gone: bool | OSError  # the client left before that, and perhaps how the server said so
    receiving: bool
    counted: int  # the status with which the request was counted

    async def receive(self) -> Message:
        self.receiving = True
        try:
            message = await self.receive_next()
        finally:
            self.receiving = False
        # After the last byte it only means that all is over.
        if message["type"] == "http.disconnect" and not self.ending:
            self.gone = self.gone or True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body", False) and (kind == "http.response.body" or kind in _BODY_EXTENSIONS):
            # The one look at the clock: servers buffer the last chunk, and do not wait until it is on its way.
            seconds = perf_counter() - self.start
            # An application that is receiving is told by itself.
            if seconds > self.metrics.look_after and not (self.gone or self.receiving):
                await self._look()
            self.ending = True
            try:
                await self.send_on(message)
            except OSError as error:
                self.gone = error
                raise
            if not self.counted:
                if not self.gone:
                    self.counted = self.status
                elif self.status < 500:
                    self.counted = CLIENT_CLOSED_REQUEST
                else:
                    return  # its cause, perhaps the departure itself, shows when the application returns
                metrics = self.metrics
                scope = self.scope
                # As HttpMetrics.count does it, without the call.
                endpoint = metrics.by_handler.get(id(scope.get("endpoint"))) or metrics.find(scope, self.root_path)
                pending = metrics.pending
                pending.append((endpoint, scope["method"], self.counted, seconds))
                if len(pending) >= _BATCH:
                    metrics.add_up()
            return
        try:
            await self.send_on(message)
        except OSError as error:
            self.gone = error
            raise

    def returned(self) -> None:
        """The application returned, and nothing was counted yet."""
        self._count(self.status if self.ending else CLIENT_CLOSED_REQUEST if self.gone else 500)

    def raised(self, error: BaseException) -> None:
        """The application raised this."""
        # An OSError of its own is a failure, wherever the client is.
        left = _is_departure(error) or error is self.gone
        if not self.counted:
            self._count(CLIENT_CLOSED_REQUEST if left else 500)
        elif self.counted < 500 and not left:
            self.metrics.count(self.scope, self.root_path, 0, 0.0)

    def _count(self, status: int) -> None:
        self.counted = status
        self.metrics.count(self.scope, self.root_path, status, perf_counter() - self.start)

    async def _look(self) -> None:
        """See whether the client is still there, as Request.is_disconnected of Starlette does it."""
        receive = self.receive_next
        message: Message | None = None
        with anyio.CancelScope() as instant:
            instant.cancel()
            message = await receive()
        if message is None:
            return
        if message["type"] == "http.disconnect":
            self.gone = True
        received = message

        async def receive_again() -> Message:
            self.receive_next = receive
            return received

        self.receive_next = receive_again  # it was meant for the application


class _Place:
    """A route in one of the places where it can be reached."""

    __slots__ = ("handler", "methods", "pattern", "route", "template")

    def __init__(self, handler: object, template: str, path: str, methods: frozenset[str], route: Any) -> None:
        self.handler = handler  # what routing writes to scope["endpoint"] when it chooses this route
        self.template = template
        self.pattern = _compiled(path)
        self.methods = methods  # empty: all
        self.route = route


class HttpMetrics:
    """ASGI middleware that counts and times the requests of an application.

    It must be the outermost layer: outside of Starlette's ServerErrorMiddleware, which turns an unhandled exception
    into the final 500 and raises it again. `Starlette.add_middleware` places a middleware inside of that one (see
    Starlette's documentation of middleware), where the exception is seen and the 500 is not. So use `install`, or
    serve the wrapped application: `HttpMetrics(app, registry)`.

    Websockets and lifespan pass through unmeasured.

    Args:
        app: the ASGI application.
        registry: where the metrics are registered. One for each application of a process.
        routes: tells the application's routes; by default the attribute `routes` of `app`. It is asked now, when the
            lifespan has started, and when a request reached a route that was not among them.
        buckets: upper bounds of the histogram, in seconds.
        untimed: endpoints that are counted and not timed.
        look_after: seconds after which the end of a response first looks whether the client is still there.

    Raises:
        ValueError: the registry already has such metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        registry: CollectorRegistry,
        *,
        routes: Callable[[], Sequence[BaseRoute]] | None = None,
        buckets: Sequence[float] = BUCKETS,
        untimed: frozenset[str] = UNTIMED,
        look_after: float = 0.1,
    ) -> None:
        self.app = app
        self.in_flight = 0
        """Requests that the application has not returned from; background tasks of a response belong to it."""
        self.look_after = look_after
        self._routes = routes or (lambda: getattr(app, "routes", ()))
        # FastAPI writes this to each scope, over what the server said.
        self._root_path: str = getattr(app, "root_path", "")
        self._bounds = tuple(float(bound) for bound in buckets)
        if not self._bounds or list(self._bounds) != sorted(set(self._bounds)):
            raise ValueError(f"buckets must be rising bounds: {buckets}")
        self._untimed = untimed
        self.pending: deque[tuple[_Endpoint, str, int, float]] = deque()
        self._lock = threading.Lock()  # of all that is added up
        self._endpoints: dict[str, _Endpoint] = {}
        self._unmatched = self._endpoint(UNMATCHED)
        self._unmatched.declare("GET", [404])
        self._places: list[_Place] = []
        # By identity of scope["endpoint"], the only word about the chosen route that all versions of both frameworks
        # leave in the scope. Handlers in one place only, which is nearly all, need no second look.
        self.by_handler: dict[int, _Endpoint] = {}
        self._shared: dict[int, list[_Place]] = {}
        self._strangers: dict[int, object] = {}
        self.learn()
        registry.register(self)

    def describe(self) -> list[Metric]:
        """The metrics without samples, by which the registry finds clashes; part of prometheus_client's protocol."""
        return list(_families())

    def collect(self) -> list[Metric]:
        """The metrics as they are now, built anew at each call; part of prometheus_client's protocol."""
        requests, duration, errors = families = _families()
        self.add_up()
        with self._lock:
            for endpoint in list(self._endpoints.values()):
                for method, series in list(endpoint.by_method.items()):
                    labels = [method, endpoint.template]
                    for status, number in series.by_status.items():
                        requests.add_metric([*labels, str(status)], number)
                    errors.add_metric(labels, series.errors)
                    if series.bounds is not None:
                        bounds = map(floatToGoString, (*series.bounds, math.inf))
                        duration.add_metric(
                            labels, list(zip(bounds, itertools.accumulate(series.buckets), strict=True)), series.seconds
                        )
        return list(families)

    def learn(self) -> None:
        """Read the routes, and make the series of each exist at 0, so that `increase()` sees the first event."""
        branches: list[object] = []
        places = list(_places(self._routes(), "", branches))
        by_handler: dict[int, list[_Place]] = {id(branch): places for branch in branches}
        for place in places:
            by_handler.setdefault(id(place.handler), []).append(place)
            self._declare(place)
        # Ids stay valid as long as their objects live, and the places hold those.
        self._places = places
        self.by_handler = {
            one: self._endpoint(found[0].template)
            for one, found in by_handler.items()
            if found is not places and len({place.template for place in found}) == 1
        }
        self._shared = {one: found for one, found in by_handler.items() if one not in self.by_handler}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on; see the ASGI specification for the arguments."""
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        exchange = _Exchange()
        exchange.metrics = self
        exchange.scope = scope
        exchange.root_path = scope.get("root_path", "")
        exchange.receive_next = receive
        exchange.send_on = send
        exchange.status = exchange.counted = 0
        exchange.ending = exchange.gone = exchange.receiving = False
        exchange.start = perf_counter()
        self.in_flight += 1
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.raised(error)
            raise
        else:
            if not exchange.counted:
                exchange.returned()
        finally:
            self.in_flight -= 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def learning_send(message: Message) -> None:
            # Routes may have been added since the installation, by the lifespan too.
            if message["type"] == "lifespan.startup.complete":
                self.learn()
            await send(message)

        await self.app(scope, receive, learning_send)

    def count(self, scope: Scope, root_path: str, status: int, seconds: float) -> None:
        """Count one request, by its scope after routing and its root_path before; status 0 is one more error only."""
        endpoint = self.by_handler.get(id(scope.get("endpoint"))) or self.find(scope, root_path)
        # Adding up is left for later: between two requests, the processor's caches have forgotten how it is done, and
        # a thousand additions in a row take a fraction of the time. Appending needs no lock, in whatever thread.
        self.pending.append((endpoint, scope["method"], status, seconds))
        if len(self.pending) >= _BATCH:
            self.add_up()

    def add_up(self) -> None:
        """Add the requests that were appended to what is exposed."""
        with self._lock:
            while self.pending:
                endpoint, method, status, seconds = self.pending.popleft()
                series = endpoint.by_method.get(method) or endpoint.series(method)
                if status:
                    series.count(status, seconds)
                else:
                    series.errors += 1

    def find(self, scope: Scope, root_path: str) -> _Endpoint:
        """The endpoint of a request the slow way, by its path.

        For handlers with several places, and for requests without a handler: those that no route matches, those that
        a middleware answered before routing, and those whose scope a middleware copied before it passed it on.
        """
        handler = scope.get("endpoint")
        known = handler is None or id(handler) in self._shared or id(handler) in self._strangers
        if not known and len(self._strangers) < _MAX_STRANGERS:
            self.learn()
            if found := self.by_handler.get(id(handler)):
                return found
            if id(handler) not in self._shared:
                # Some other framework's. Held, so that its id stays its own.
                self._strangers[id(handler)] = handler
        path = _below(self._root_path or root_path, scope["path"])
        method = scope["method"]
        partial: _Place | None = None
        for place in self._shared.get(id(handler), self._places):
            if place.pattern.match(path):
                if not place.methods or method in place.methods:
                    return self._endpoint(place.template)
                partial = partial or place
        return self._endpoint(partial.template) if partial else self._unmatched

    def _endpoint(self, template: str) -> _Endpoint:
        if (found := self._endpoints.get(template)) is None:
            bounds = None if template in self._untimed else self._bounds
            found = self._endpoints.setdefault(template, _Endpoint(template, bounds))
        return found

    def _declare(self, place: _Place) -> None:
        # Starlette adds HEAD to each route that has GET; nobody watches it, and it would double the series.
        methods = place.methods - {"HEAD"} if "GET" in place.methods else place.methods
        for method in methods or {"GET"}:
            self._endpoint(place.template).declare(method, _statuses(place.route))


def install(
    app: Starlette,
    registry: CollectorRegistry,
    *,
    buckets: Sequence[float] = BUCKETS,
    untimed: frozenset[str] = UNTIMED,
    look_after: float = 0.1,
) -> HttpMetrics:
    """Measure an application's requests in place, from outside of all its middleware.

    The application stays what it is, so that tests, `app.state` and command lines that name it go on working. Its
    middleware stack, which is built at the first connection, becomes the inside of an HttpMetrics. Call it when the
    routes are there, so that their series exist from then on; routes that come later are seen too.

    Args:
        app: a Starlette or FastAPI application that has not served yet.
        registry: as for HttpMetrics; so are the other arguments.

    Returns:
        The middleware.

    Raises:
        RuntimeError: the application has served already: its stack is built.
        ValueError: the registry already has such metrics.
    """
    if app.middleware_stack is not None:
        raise RuntimeError("HTTP metrics cannot be installed after an application has started")
    build = app.build_middleware_stack
    metrics = HttpMetrics(app, registry, buckets=buckets, untimed=untimed, look_after=look_after)

    def build_measured() -> ASGIApp:
        metrics.app = build()
        return metrics

    app.build_middleware_stack = build_measured  # type: ignore[method-assign]
    return metrics


def metrics_endpoint(registry: CollectorRegistry) -> Callable[[Request], Awaitable[Response]]:
    """A handler that serves a registry to Prometheus; for example `app.add_route("/metrics", metrics_endpoint(r))`.

    The format (text or OpenMetrics) follows `Accept`, gzip follows `Accept-Encoding`, and `name[]` restricts the
    answer to some metrics, all as in prometheus_client's own applications.
    """

    # On the event loop on purpose: in the thread pool, a scrape would wait behind the requests it should tell about.
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(",".join(request.headers.getlist("accept")))
        names = request.query_params.getlist("name[]")
        body = encode(registry.restricted_registry(names) if names else registry)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(",".join(request.headers.getlist("accept-encoding"))):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=6, mtime=0)
        return Response(body, headers=headers)

    return metrics


def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, CounterMetricFamily]:
    return (
        CounterMetricFamily(
            "fastapi_requests_total",
            "Requests by how they ended; 499 is a client that left before the last byte.",
            labels=("method", "endpoint", "status_code"),
        ),
        HistogramMetricFamily(
            "fastapi_request_duration_seconds",
            "Seconds from the request to the last byte of its response.",
            labels=("method", "endpoint"),
        ),
        CounterMetricFamily(
            "fastapi_errors_total",
            "Requests that ended in a 5xx response or in an unhandled exception.",
            labels=("method", "endpoint"),
        ),
    )


def _is_departure(error: BaseException) -> bool:
    """Whether an exception only says that the client left or that the request was cancelled from outside."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_departure(one) for one in error.exceptions)
    # What is neither an Exception nor a wish to end the process is a cancellation, of asyncio or of trio.
    return isinstance(error, ClientDisconnect) or not isinstance(error, Exception | KeyboardInterrupt | SystemExit)


def _places(routes: Sequence[BaseRoute], prefix: str, branches: list[object]) -> Iterator[_Place]:
    """The routes for HTTP, those of mounted applications included, in the order in which they are tried."""
    one_by_one: Iterable[Any] = iter_route_contexts(routes) if iter_route_contexts else routes
    for route in one_by_one:
        original = getattr(route, "original_route", route)
        if isinstance(original, Host | Mount):
            path = prefix + (getattr(route, "path", None) or "")  # a host has none
            if inner := route.routes:
                branches.append(route.app)
                yield from _places(inner, path, branches)
            else:
                yield _Place(route.app, path or "/", path + "/{path:path}", frozenset(), route)
        elif isinstance(original, Route):
            path = prefix + route.path
            yield _Place(route.endpoint, path, path, frozenset(route.methods or ()), route)


def _statuses(route: Any) -> set[int]:
    """The status codes that a route declares or is most likely to answer with."""
    found = {getattr(route, "status_code", None) or 200, 500}
    found.update(int(code) for code in getattr(route, "responses", None) or () if str(code).isdecimal())
    # FastAPI's own condition for declaring a 422 in the OpenAPI document.
    if getattr(route, "body_field", None) is not None or _takes_parameters(getattr(route, "dependant", None)):
        found.add(422)
    return found


def _takes_parameters(dependant: Any) -> bool:
    kinds = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
    if dependant is None:
        return False
    return any(getattr(dependant, kind, None) for kind in kinds) or any(map(_takes_parameters, dependant.dependencies))


def _compiled(path: str) -> re.Pattern[str]:
    # Starlette refuses a name that comes twice, but a mount and a route below it may both have {id}.
    numbers = itertools.count()
    return compile_path(PARAM_REGEX.sub(lambda found: f"{{p{next(numbers)}{found[2] or ''}}}", path))[0]


def _below(root_path: str, path: str) -> str:
    """The path that routing looks at, as Starlette determines it."""
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        return path[len(root_path) :]
    return path
