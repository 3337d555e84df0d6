"""The HTTP routes. They read the refresher's current state and nothing else: no I/O, no thread, no connection."""

import functools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from flask import Flask, Response, render_template
from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from exporter import health, metrics
from exporter.catalog import Catalog
from exporter.refresh import Refresher

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

METRICS_PATH: Final = "/metrics"
Body = Literal["text", "text_gzip", "openmetrics", "openmetrics_gzip"]
"""One of the bodies of an Exposition."""


def create_app(refresher: Refresher, catalog: Catalog) -> Flask:
    """The WSGI application over a refresher, which somebody else starts and stops."""
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


class Scrapes:
    """Answers GET and HEAD of `/metrics`, and leaves the rest to Flask, whose way to a view takes longer than sending
    bytes that are there already."""

    def __init__(self, others: "WSGIApplication", refresher: Refresher) -> None:
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


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, content_type="text/plain; charset=utf-8")
