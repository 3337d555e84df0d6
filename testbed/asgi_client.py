"""Requests to an ASGI application without a server."""

import asyncio
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, TestResponse


class AsgiClient:
    """Sends requests to an ASGI application, one at a time, and gives what it answers as werkzeug's client would."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.open("GET", path, **options)

    def head(self, path: str, **options: Any) -> TestResponse:
        return self.open("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.open("POST", path, **options)

    def put(self, path: str, **options: Any) -> TestResponse:
        return self.open("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.open("DELETE", path, **options)

    def open(self, method: str, path: str, **options: Any) -> TestResponse:
        """One request; options as `werkzeug.test.EnvironBuilder` takes them."""
        request = EnvironBuilder(path=path, method=method, **options).get_request()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": request.path,
            "query_string": request.query_string,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers],
            "server": ("127.0.0.1", 9101),
            "client": ("127.0.0.1", 50000),
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": request.get_data(), "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        headers = Headers([(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]])
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return TestResponse([body], str(sent[0]["status"]), headers, request)
