"""The HTTP routes. They read the refresher's current state and ask no source; only `POST /-/refresh` has a word with
the refresh process, for two seconds at most."""

import functools
import hmac
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from flask import Flask, Response, render_template, request
from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from exporter import health, metrics
from exporter.catalog import Catalog
from exporter.errors import RefreshProcessError
from exporter.refresh import Asked, State
from exporter.settings import Secret

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

METRICS_PATH: Final = "/metrics"
Body = Literal["text", "text_gzip", "openmetrics", "openmetrics_gzip"]
"""One of the bodies of an Exposition."""


class Refreshing(Protocol):
    """What the routes need of the refresh: a `RefreshProcess`, or a `Refresher` in the same process."""

    @property
    def state(self) -> State:
        """The current state. Taken once per request: it is replaced, never changed."""

    @property
    def interval(self) -> float:
        """Seconds between two refreshes of a source."""

    def uptime_seconds(self) -> float:
        """Seconds since this was made."""

    def state_age_seconds(self, state: State) -> float:
        """Seconds since the state was made."""

    def alive(self) -> bool:
        """Whether the loop turns."""

    def ask_now(self, *, force: bool = False) -> Asked:
        """Have all sources asked at once; see `Refresher.ask_now`."""


def create_app(refresher: Refreshing, catalog: Catalog, refresh_token: Secret | None = None) -> Flask:
    """The WSGI application over a refresher, which somebody else starts and stops.

    Args:
        refresh_token: what `POST /-/refresh` asks for; None for no such path.
    """
    app = Flask(__name__, static_folder=None)
    app.extensions["refresher"] = refresher

    # Without a view: Scrapes answers GET and HEAD, and Flask refuses the other methods.
    app.add_url_rule(METRICS_PATH, "metrics", methods=["GET"])
    app.wsgi_app = Scrapes(app.wsgi_app, refresher)  # type: ignore[method-assign]

    @app.get("/health")
    def report_health() -> Response:
        content = current_report()
        body = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        return Response(
            body,
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
    def index() -> str:
        return render_template("index.html", report=current_report())

    if refresh_token is not None:
        app.add_url_rule(
            "/-/refresh", view_func=Refresh(refresher, refresh_token), methods=["POST"], endpoint="refresh"
        )

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        response = _plain(f"{error.code} {error.name}", error.code or 500)
        if isinstance(allow := getattr(error, "valid_methods", None), list):
            response.headers["Allow"] = ", ".join(sorted(allow))
        return response

    def current_report() -> dict[str, Any]:
        state = refresher.state
        return health.report(
            catalog,
            state.snapshot,
            age_seconds=refresher.state_age_seconds(state),
            uptime_seconds=refresher.uptime_seconds(),
            interval=refresher.interval,
        )

    return app


class Refresh:
    """Answers `POST /-/refresh`: has the loop refresh, and does not wait for it."""

    def __init__(self, refresher: Refreshing, token: Secret) -> None:
        self._refresher = refresher
        self._token = token

    def __call__(self) -> Response:
        """One request."""
        if not self._may():
            headers = {"WWW-Authenticate": 'Bearer realm="mlops-exporter"'}
            return _json({"status": "refused", "detail": "a bearer token is needed, and this is not it"}, 401, headers)
        force = request.args.get("force", "false").lower()
        if force not in ("true", "false"):
            return _json({"status": "refused", "detail": "force: expected true or false"}, 400)
        try:
            asked = self._refresher.ask_now(force=force == "true")
        except RefreshProcessError as error:
            return _json({"status": "unavailable", "detail": str(error)}, 503, {"Retry-After": "5"})
        content: dict[str, Any] = {"status": asked.outcome}
        if asked.left_alone:
            content["left_alone_seconds"] = {name: round(seconds, 1) for name, seconds in asked.left_alone.items()}
        if asked.retry_after > 0:
            seconds = math.ceil(asked.retry_after)
            return _json({**content, "retry_after_seconds": seconds}, 429, {"Retry-After": str(seconds)})
        return _json(content, 202)

    def _may(self) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Header values arrive as Latin-1. The comparison takes as long for a wrong token as for the right one.
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token.reveal().encode())
        return same and scheme.lower() == "bearer"


class Scrapes:
    """Answers GET and HEAD of `/metrics`, and leaves the rest to Flask, whose way to a view takes longer than sending
    bytes that are there already."""

    def __init__(self, others: "WSGIApplication", refresher: Refreshing) -> None:
        self._others = others
        self._refresher = refresher

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """One request."""
        method = environ["REQUEST_METHOD"]
        if environ.get("PATH_INFO") != METRICS_PATH or method not in ("GET", "HEAD"):
            return self._others(environ, start_response)
        name, headers = body_for(environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_ACCEPT_ENCODING", ""))
        body: bytes = getattr(self._refresher.state.exposition, name)
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body] if method == "GET" else []


@functools.lru_cache(maxsize=64)  # a Prometheus sends the same two headers with every scrape
def body_for(accept: str, accept_encoding: str) -> tuple[Body, tuple[tuple[str, str], ...]]:
    """Which body fits these headers, and the headers that go with it; text, plain, where they say nothing."""
    wants_openmetrics = _wants_openmetrics(parse_accept_header(accept, MIMEAccept))
    wants_gzip = parse_accept_header(accept_encoding, Accept).quality("gzip") > 0
    name: Body
    if wants_openmetrics:
        name = "openmetrics_gzip" if wants_gzip else "openmetrics"
    else:
        name = "text_gzip" if wants_gzip else "text"
    content_type = metrics.OPENMETRICS if wants_openmetrics else metrics.TEXT
    headers = (("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding"))
    return name, (*headers, ("Content-Encoding", "gzip")) if wants_gzip else headers


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


def _json(content: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content) + "\n"
    return Response(body, status, {**(headers or {}), "Cache-Control": "no-store"}, mimetype="application/json")


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, content_type="text/plain; charset=utf-8")
