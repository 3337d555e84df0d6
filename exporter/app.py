"""The HTTP routes. They read the refresher's current state and nothing else: no I/O, no thread, no connection."""

import json
from typing import Any

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException

from exporter import health, metrics
from exporter.catalog import Catalog
from exporter.refresh import Refresher


def create_app(refresher: Refresher, catalog: Catalog) -> Flask:
    """The WSGI application over a refresher, which somebody else starts and stops."""
    app = Flask(__name__, static_folder=None)
    app.extensions["refresher"] = refresher

    @app.get("/metrics")
    def scrape() -> Response:
        return exposition_response(refresher.state.exposition)

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


def exposition_response(exposition: metrics.Exposition) -> Response:
    """The body that fits the request's Accept and Accept-Encoding; text, plain, where they say nothing."""
    wants_openmetrics = _wants_openmetrics()
    wants_gzip = request.accept_encodings.quality("gzip") > 0
    if wants_openmetrics:
        body = exposition.openmetrics_gzip if wants_gzip else exposition.openmetrics
    else:
        body = exposition.text_gzip if wants_gzip else exposition.text
    headers = {"Vary": "Accept, Accept-Encoding"}
    if wants_gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(body, content_type=metrics.OPENMETRICS if wants_openmetrics else metrics.TEXT, headers=headers)


def _wants_openmetrics() -> bool:
    """Whether OpenMetrics is asked for by name, and not less than the text format.

    Parameters such as `version=1.0.0` are part of a media type to werkzeug's own matching, so they are cut off here.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for value, quality in request.accept_mimetypes:
        name = value.partition(";")[0].strip().lower()
        name = "text/plain" if name in ("*/*", "text/*") else name
        if name in best:
            best[name] = max(best[name], quality)
    return 0 < best["application/openmetrics-text"] >= best["text/plain"]


def _plain(text: str, status: int) -> Response:
    return Response(text + "\n", status, content_type="text/plain; charset=utf-8")
