"""HTTP metrics for a Starlette or FastAPI application: a pure ASGI middleware and a `/metrics` endpoint.

| metric | labels | what it counts |
|---|---|---|
| `fastapi_requests_total` | method, endpoint, status_code | requests, by how they ended |
| `fastapi_request_duration_seconds` | method, endpoint | seconds from the request to the last byte of its response |
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
do), when the server's `send` raises OSError (allowed since version 2.4 of the ASGI HTTP specification), and by one look
when a response starts more than `look_after` seconds after the request. Below that nobody looks: it would cost every
request more than everything else here.
"""

import gzip
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Final

import anyio
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder, gzip_accepted
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
"""Upper bounds of the histogram, in seconds: a prediction takes milliseconds, a client waits for some seconds at most."""

UNTIMED: Final = frozenset({"/metrics", "/health"})
"""Endpoints without a latency: machines ask them all the time, and they would hide what users wait for."""

_MAX_STRANGERS: Final = 64


class _Series:
    """The children of one method of one endpoint, looked up once instead of at each request."""

    __slots__ = ("_by_status", "_labels", "_requests", "error", "observe")

    def __init__(self, families: "_Families", method: str, endpoint: str) -> None:
        self._labels = (method, endpoint)
        self._requests = families.requests
        self._by_status: dict[int, Callable[[], None]] = {}
        self.error: Callable[[], None] = families.errors.labels(method, endpoint).inc
        self.observe: Callable[[float], None] | None = None
        if endpoint not in families.untimed:
            self.observe = families.duration.labels(method, endpoint).observe

    def declare(self, status: int) -> Callable[[], None]:
        """Make the counter of this status exist, at 0."""
        if (inc := self._by_status.get(status)) is None:
            inc = self._by_status[status] = self._requests.labels(*self._labels, str(status)).inc
        return inc

    def count(self, status: int, seconds: float) -> None:
        inc = self._by_status.get(status) or self.declare(status)
        inc()
        if status >= 500:
            self.error()
        if self.observe is not None:
            self.observe(seconds)


class _Families:
    """The three metrics in one registry."""

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float], untimed: frozenset[str]) -> None:
        self.untimed = untimed
        self.requests = Counter(
            "fastapi_requests_total",
            "Requests by how they ended; 499 is a client that left before the last byte.",
            ("method", "endpoint", "status_code"),
            registry=registry,
        )
        self.duration = Histogram(
            "fastapi_request_duration_seconds",
            "Seconds from the request to the last byte of its response.",
            ("method", "endpoint"),
            buckets=buckets,
            registry=registry,
        )
        self.errors = Counter(
            "fastapi_errors_total",
            "Requests that ended in a 5xx response or in an unhandled exception.",
            ("method", "endpoint"),
            registry=registry,
        )


class _Endpoint:
    """One value of the label `endpoint`."""

    __slots__ = ("_families", "by_method", "template")

    def __init__(self, families: _Families, template: str) -> None:
        self._families = families
        self.template = template
        self.by_method: dict[str, _Series] = {}

    def series(self, method: str) -> _Series:
        """The series of this method. Only label values become keys: the methods that clients invent are not kept."""
        label = method if method in METHODS else OTHER_METHOD
        if (found := self.by_method.get(label)) is None:
            found = self.by_method[label] = _Series(self._families, label, self.template)
        return found


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
        look_after: seconds after which the start of a response looks whether the client is still there.

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
        self._routes = routes or (lambda: getattr(app, "routes", ()))
        # FastAPI writes this to each scope, over what the server said.
        self._root_path: str = getattr(app, "root_path", "")
        self._look_after = look_after
        self._families = _Families(registry, buckets, untimed)
        self._endpoints: dict[str, _Endpoint] = {}
        self._unmatched = self._endpoint(UNMATCHED)
        self._unmatched.series("GET").declare(404)
        self._places: list[_Place] = []
        # By identity of scope["endpoint"], the only word about the chosen route that all versions of both frameworks
        # leave in the scope. Handlers in one place only, which is nearly all, need no second look.
        self._by_handler: dict[int, _Endpoint] = {}
        self._shared: dict[int, list[_Place]] = {}
        self._strangers: dict[int, object] = {}
        self.learn()

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
        self._by_handler = {
            one: self._endpoint(found[0].template)
            for one, found in by_handler.items()
            if found is not places and len({place.template for place in found}) == 1
        }
        self._shared = {one: found for one, found in by_handler.items() if one not in self._by_handler}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on; see the ASGI specification for the arguments."""
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        # Mounts change it in the scope.
        root_path: str = scope.get("root_path", "")
        look_after = self._look_after
        sent = 0  # status of the response that was started
        counted = 0  # status the request was counted with
        ending = trailers = gone = receiving = False
        held: Message | None = None
        lost: OSError | None = None

        async def watched_receive() -> Message:
            nonlocal gone, held, receiving
            if held is not None:
                message, held = held, None
                return message
            receiving = True
            try:
                message = await receive()
            finally:
                receiving = False
            # After the last byte it only means that all is over.
            if message["type"] == "http.disconnect" and not ending:
                gone = True
            return message

        async def look() -> None:
            # As Request.is_disconnected of Starlette does it. What was received is handed on to the application.
            nonlocal gone, held
            with anyio.CancelScope() as instant:
                instant.cancel()
                held = await receive()
            if held is not None and held["type"] == "http.disconnect":
                gone = True

        async def watched_send(message: Message) -> None:
            nonlocal sent, counted, ending, trailers, gone, lost
            kind = message["type"]
            if kind == "http.response.start":
                sent = message["status"]
                trailers = message.get("trailers", False)
                # An application that is receiving will be told by itself.
                if perf_counter() - start > look_after and not (gone or receiving or held):
                    await look()
            elif kind == "http.response.body":
                ending = not (trailers or message.get("more_body", False))
            else:
                ending = ending or _ends(message, trailers)
            try:
                await send(message)
            except OSError as error:
                gone, lost = True, error
                raise
            if ending and not counted:
                if gone:
                    if sent >= 500:
                        return  # its cause, perhaps the departure itself, shows when the application returns
                    counted = CLIENT_CLOSED_REQUEST
                else:
                    counted = sent
                self._series(scope, root_path).count(counted, perf_counter() - start)

        self.in_flight += 1
        start = perf_counter()
        try:
            await self.app(scope, watched_receive, watched_send)
        except BaseException as error:
            if counted:
                if counted < 500 and not _is_departure(error):
                    self._series(scope, root_path).error()
            else:
                # An OSError of the application's own is a failure, wherever the client is.
                left = _is_departure(error) or error is lost
                self._series(scope, root_path).count(CLIENT_CLOSED_REQUEST if left else 500, perf_counter() - start)
            raise
        else:
            if not counted:
                status = sent if ending else CLIENT_CLOSED_REQUEST if gone else 500
                self._series(scope, root_path).count(status, perf_counter() - start)
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

    def _series(self, scope: Scope, root_path: str) -> _Series:
        endpoint = self._by_handler.get(id(scope.get("endpoint"))) or self._find(scope, root_path)
        method: str = scope["method"]
        return endpoint.by_method.get(method) or endpoint.series(method)

    def _find(self, scope: Scope, root_path: str) -> _Endpoint:
        """The slow way, by path.

        For handlers with several places, and for requests without a handler: those that no route matches, those that
        a middleware answered before routing, and those whose scope a middleware copied before it passed it on.
        """
        handler = scope.get("endpoint")
        known = handler is None or id(handler) in self._shared or id(handler) in self._strangers
        if not known and len(self._strangers) < _MAX_STRANGERS:
            self.learn()
            if found := self._by_handler.get(id(handler)):
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
            found = self._endpoints[template] = _Endpoint(self._families, template)
        return found

    def _declare(self, place: _Place) -> None:
        # Starlette adds HEAD to each route that has GET; nobody watches it, and it would double the series.
        methods = place.methods - {"HEAD"} if "GET" in place.methods else place.methods
        for method in methods or {"GET"}:
            series = self._endpoint(place.template).series(method)
            for status in _statuses(place.route):
                series.declare(status)


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


def _ends(message: Message, trailers: bool) -> bool:
    """Whether a message other than start and body ends the response: see the extensions in the ASGI specification."""
    kind = message["type"]
    if kind == "http.response.trailers":
        return not message.get("more_trailers", False)
    if kind == "http.response.zerocopysend":
        return not (trailers or message.get("more_body", False))
    return bool(kind == "http.response.pathsend" and not trailers)


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
            path = prefix + getattr(route, "path", "")  # a host has none
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
