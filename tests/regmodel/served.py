"""A FastAPI application with a route for each way in which a request can end, measured by HttpMetrics."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Gauge
from pydantic import BaseModel

from regmodel.http_metrics import HttpMetrics, install, metrics_endpoint


class Features(BaseModel):
    hour: int
    temperature: float


class Custom(Exception):
    pass


def create_app(registry: CollectorRegistry | None = None) -> FastAPI:
    """The application; its HttpMetrics is `app.state.http_metrics`."""
    registry = registry or CollectorRegistry()
    app = FastAPI()

    @app.post("/predict")
    async def predict(features: Features) -> dict[str, float]:
        return {"bikes": features.hour * features.temperature}

    @app.post("/created", status_code=201)
    def created() -> dict[str, str]:
        return {}

    @app.get("/models/{version}")
    async def model(version: str) -> dict[str, str]:
        if version == "none":
            raise HTTPException(404)
        return {"version": version}

    @app.get("/stream/{chunks}")
    async def stream(chunks: int) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(chunks):
                yield b"x" * 1000
                await asyncio.sleep(0.01)

        return StreamingResponse(body())

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"x"
            raise Custom

        return StreamingResponse(body())

    @app.get("/raises")
    async def raises() -> None:
        raise Custom

    @app.get("/answers-500")
    async def answers_500() -> PlainTextResponse:
        return PlainTextResponse("no", 500)

    @app.get("/unavailable", responses={503: {}})
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        await asyncio.sleep(0.5)
        return {}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/either/a")
    @app.get("/either/b")
    async def either(request: Request) -> str:
        return request.url.path

    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/models/{version}", model)
    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/v2")

    sub = FastAPI(openapi_url=None)

    @sub.get("/items/{id}")
    async def item(id: int) -> dict[str, int]:
        if id == 13:
            raise Custom
        return {"id": id}

    app.mount("/sub", sub)
    app.mount("/tenants/{id}", sub)
    app.mount("/static", PlainTextResponse("static"))
    app.add_route("/metrics", metrics_endpoint(registry))
    metrics: HttpMetrics = install(app, registry)
    app.state.http_metrics = metrics
    Gauge("test_in_flight", "Requests in flight", registry=registry).set_function(lambda: metrics.in_flight)
    return app
