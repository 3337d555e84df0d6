"""The HTTP routes. `/metrics` is answered from bytes on the event loop; Flask answers everything else on a few threads.
All of them read the refresher's current state, and none asks a source."""

import asyncio
import functools
import hmac
import json
import logging
import math
import secrets
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from a2wsgi import WSGIMiddleware
from flask import Flask, Response, abort, render_template, request
from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from exporter import exposition, health, page
from exporter.authentication import Authentication
from exporter.catalog import Catalog
from exporter.logs import RareWarning
from exporter.refresh import Refresher, State
from exporter.settings import Secret
from exporter.web_file import WebFile

if TYPE_CHECKING:
    from a2wsgi.asgi_typing import HTTPScope, Receive, Scope, Send
    from a2wsgi.wsgi_typing import WSGIApp

log = logging.getLogger(__name__)

METRICS_PATH: Final = "/metrics"
REFRESH_PATH: Final = "/-/refresh"
REFUSAL_SECONDS: Final = 0.5
"""How long a wrong token or password waits for its answer: two guesses a second, however many connections guess."""
MAX_ACCEPT: Final = 1000
"""Characters of an Accept or Accept-Encoding header that are looked at; Prometheus' own have 250. Of a longer one
nothing is: each thousand characters would hold up everybody else's scrapes for milliseconds."""
FLASK_THREADS: Final = 4
"""Threads for everything but scrapes. A view takes about a millisecond and waits for nobody."""
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: its own style, and nothing else from anywhere."""
PAGE_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
BodyName = Literal["text", "text_gzip", "openmetrics", "openmetrics_gzip"]
"""One of the bodies of an Exposition."""


class App:
    """The ASGI application over a refresher, which somebody else starts and stops.

    Args:
        refresh_token: what `POST /-/refresh` asks for; None for no such path.
        web: whom to answer, and with which headers; None for everybody.
    """

    def __init__(
        self, refresher: Refresher, catalog: Catalog, refresh_token: Secret | None = None, web: WebFile | None = None
    ) -> None:
        self.refresher = refresher
        self.web = web
        flask = create_flask(refresher, catalog, refresh_token, web)
        self._has_token = refresh_token is not None
        self._authentication = Authentication()
        self._refusal = asyncio.Lock()
        self._others = WSGIMiddleware(cast("WSGIApp", flask.wsgi_app), workers=FLASK_THREADS)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request, or the start and end of the server."""
        if scope["type"] != "http":
            await self._others(scope, receive, send)
            return
        if self.web is not None:
            now = self.web.current
            if now.headers:
                send = _with_headers(now.headers, send)
            # One header holds a bearer token or a password: where the token is asked for, it is enough.
            by_token = self._has_token and scope["path"] == REFRESH_PATH and scope["method"] == "POST"
            admits = self._authentication.admits
            if now.users and not by_token and not await admits(scope, now.users, send, self._slowing(send)):
                return
        if scope["path"] == METRICS_PATH and scope["method"] in ("GET", "HEAD"):
            await self._scrape(scope, send)
        else:
            # A query may hold any byte; what reads it further on knows only those of a URL.
            query = urllib.parse.quote_from_bytes(scope["query_string"], safe="%&=+?/:;,@!$'()*~-._[]")
            await self._others({**scope, "query_string": query.encode()}, receive, self._slowing(send))

    def _slowing(self, send: "Send") -> "Send":
        """Send, but refusals of a token or password one after the other and slowly, on all connections together."""

        async def slowly(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.UNAUTHORIZED:
                async with self._refusal:
                    await asyncio.sleep(REFUSAL_SECONDS)
            await send(message)

        return slowly

    async def _scrape(self, scope: "HTTPScope", send: "Send") -> None:
        accept = encoding = b""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept = accept + b"," + value if accept else value
            elif name == b"accept-encoding":
                encoding = encoding + b"," + value if encoding else value
        which, headers = body_for(*(header if len(header) <= MAX_ACCEPT else b"" for header in (accept, encoding)))
        state = self.refresher.state
        shown = state.bare if self.refresher.too_old(state) else state.exposition
        body: exposition.Body = getattr(shown, which)
        length = (b"content-length", str(body.size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
        chunks = body.chunks if scope["method"] == "GET" else ()
        for chunk in chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"".join(chunks[-1:]), "more_body": False})


def _with_headers(headers: tuple[tuple[bytes, bytes], ...], send: "Send") -> "Send":
    """Send, with these headers in each answer that does not have them already."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = list(message["headers"])
            names = {name.lower() for name, _ in own}
            message = {**message, "headers": [*own, *((name, value) for name, value in headers if name not in names)]}
        await send(message)

    return sending


@functools.lru_cache(maxsize=64)  # a Prometheus sends the same two headers with every scrape
def body_for(accept: bytes, accept_encoding: bytes) -> tuple[BodyName, tuple[tuple[bytes, bytes], ...]]:
    """Which body fits these headers, and the headers that go with it; text, plain, where they say nothing."""
    wants_openmetrics = _wants_openmetrics(parse_accept_header(accept.decode("latin-1"), MIMEAccept))
    wants_gzip = parse_accept_header(accept_encoding.decode("latin-1"), Accept).quality("gzip") > 0
    name: BodyName
    if wants_openmetrics:
        name = "openmetrics_gzip" if wants_gzip else "openmetrics"
    else:
        name = "text_gzip" if wants_gzip else "text"
    content_type = exposition.OPENMETRICS if wants_openmetrics else exposition.TEXT
    headers = ((b"content-type", content_type.encode()), (b"vary", b"Accept, Accept-Encoding"))
    return name, (*headers, (b"content-encoding", b"gzip")) if wants_gzip else headers


def _wants_openmetrics(accepted: MIMEAccept) -> bool:
    """Whether OpenMetrics is asked for by name, and not less than the text format.

    Parameters such as `version=1.0.0` are part of a media type to werkzeug's own matching, so they are cut off here.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for value, quality in accepted:
        name = value.partition(";")[0].strip().lower()
        name = "text/plain" if name in ("*/*", "text/*") else name
        if name in best:
            best[name] = max(best[name], quality)
    return 0 < best["application/openmetrics-text"] >= best["text/plain"]


def create_flask(
    refresher: Refresher, catalog: Catalog, refresh_token: Secret | None = None, web: WebFile | None = None
) -> Flask:
    """The routes beside `/metrics`; see `App`."""
    app = Flask(__name__, static_folder=None)

    @app.get(METRICS_PATH)
    def metrics() -> Response:
        abort(404)  # GET and HEAD of this very path do not come here; Flask refuses the other methods

    @app.get("/health")
    def report_health() -> Response:
        content = report_on(refresher.state)
        body = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        return Response(
            body.encode("utf-8", "backslashreplace"),  # whatever text has come in: /health is for when things are odd
            health.HTTP_STATUS[content["status"]],
            mimetype="application/json",
            headers={"Cache-Control": "no-store"},
        )

    @app.get("/-/healthy")
    def healthy() -> Response:
        if refresher.alive():
            return _plain("healthy: the refresh loop is turning", 200)
        return _plain("unhealthy: the refresh loop has stopped", 503)

    @app.get("/-/ready")
    def ready() -> Response:
        if refresher.state.snapshot.settled:
            return _plain("ready", 200)
        return _plain("not ready: the first refresh has not ended", 503)

    @app.get("/")
    def index() -> Response:
        state = refresher.state
        report, too_old, grown = report_on(state), refresher.too_old(state), refresher.state_age_seconds(state)
        nonce = secrets.token_urlsafe(16)
        rows, costs = None, dict[str, tuple[str, ...]]()
        try:
            found = page.rows(catalog, state.snapshot, report, grown=grown, too_old=too_old)
            rows, costs = found, page.costs(state.snapshot, report)
        except Exception:
            app.logger.exception("the values on the page at / cannot be made")
        text = render_template(
            "index.html",
            report=report,
            grown=grown,
            rows=rows,
            costs=costs,
            words=page,
            too_old=too_old,
            state_wanted=state.snapshot.state_wanted,
            nonce=nonce,
        )
        headers = {**PAGE_HEADERS, "Content-Security-Policy": PAGE_POLICY.format(nonce=nonce)}
        return Response(text.encode("utf-8", "backslashreplace"), mimetype="text/html", headers=headers)

    if refresh_token is not None:
        app.add_url_rule(
            REFRESH_PATH, view_func=RefreshView(refresher, refresh_token), methods=["POST"], endpoint="refresh"
        )

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        response = _plain(f"{error.code} {error.name}", error.code or 500)
        if isinstance(allow := getattr(error, "valid_methods", None), list):
            response.headers["Allow"] = ", ".join(sorted(allow))
        return response

    def report_on(state: State) -> dict[str, Any]:
        try:
            return health.report(
                catalog,
                state.snapshot,
                age_seconds=refresher.state_age_seconds(state),
                uptime_seconds=refresher.uptime_seconds(),
                interval=refresher.interval,
                too_old=refresher.too_old(state),
                web_problem=None if web is None else web.problem,
            )
        except Exception as error:
            app.logger.exception("/health cannot be made")
            return health.without_details(error, refresher.interval)

    return app


class RefreshView:
    """Answers `POST /-/refresh`: has the loop refresh, and does not wait for it."""

    def __init__(self, refresher: Refresher, token: Secret) -> None:
        self._refresher = refresher
        self._token = token
        self._warn = RareWarning(log, "POST /-/refresh: %d requests without the right token, the last from %s")

    def __call__(self) -> Response:
        """One request."""
        if not self._may():
            self._warn(request.remote_addr)
            headers = {"WWW-Authenticate": 'Bearer realm="mlops-exporter"'}
            return _json({"status": "refused", "detail": "a bearer token is needed, and this is not it"}, 401, headers)
        force = request.args.get("force", "false").lower()
        if force not in ("true", "false"):
            return _json({"status": "refused", "detail": "force: expected true or false"}, 400)
        requested = self._refresher.request_refresh(force=force == "true")
        content: dict[str, Any] = {"status": requested.outcome}
        if requested.outcome == "unavailable":
            return _json({**content, "detail": "the refresh loop has stopped"}, 503, {"Retry-After": "5"})
        if requested.backing_off:
            content["backing_off_seconds"] = {name: round(left, 1) for name, left in requested.backing_off.items()}
        if requested.retry_after > 0:
            seconds = math.ceil(requested.retry_after)
            return _json({**content, "retry_after_seconds": seconds}, 429, {"Retry-After": str(seconds)})
        return _json(content, 202)

    def _may(self) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Header values arrive as Latin-1. The comparison takes as long for a wrong token as for the right one.
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token.reveal().encode())
        return same and scheme.lower() == "bearer"


def _json(content: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content) + "\n"
    return Response(body, status, {**(headers or {}), "Cache-Control": "no-store"}, mimetype="application/json")


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, content_type="text/plain; charset=utf-8")
