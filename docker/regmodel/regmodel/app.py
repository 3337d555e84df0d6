"""The HTTP routes. `create_app` opens nothing but the models' folder; the first champion is trained in the background
when the server starts."""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.routing import Route

from regmodel.counts import BadCounts
from regmodel.http_metrics import HttpMetrics, MetricsEndpoint
from regmodel.model import NotEnoughCounts
from regmodel.registry import BrokenModel, ChampionMoved, UnknownVersion
from regmodel.schemas import (
    BaselineOut,
    Batch,
    CountsOut,
    EvaluateRequest,
    Evaluation,
    Health,
    Models,
    Prediction,
    Predictions,
    PredictRequest,
    Problem,
    PromoteRequest,
    PromotionOut,
    Row,
    TrainRequest,
    VersionOut,
    Window,
)
from regmodel.service import Busy, NoChampion, Service
from regmodel.settings import Settings

log = logging.getLogger(__name__)

MOST_PROBLEMS: Final = 50
"""How many of a request's problems are listed."""
_STATUSES: Final[dict[type[Exception], int]] = {
    NoChampion: 503,
    BrokenModel: 503,
    BadCounts: 503,
    UnknownVersion: 404,
    Busy: 409,
    ChampionMoved: 409,
}
"""What the service's exceptions are over HTTP."""
_NO_MODEL: Final[dict[int | str, dict[str, Any]]] = {503: {"model": Problem, "description": "No usable champion"}}
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"model": Problem, "description": "No such version"}}
_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {409: {"model": Problem, "description": "Not now"}}


def create_app(settings: Settings, *, service: Service | None = None) -> FastAPI:
    """The application of one service, with a metrics registry of its own."""
    service = service or Service(settings)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # On a thread: the port answers (with 503 from /predict and /health) while the first model is trained.
        starter = threading.Thread(target=service.ensure_champion, name="first-champion", daemon=True)
        starter.start()
        yield
        await asyncio.to_thread(starter.join, 1.0)

    app = FastAPI(
        title="RegModel API",
        description="Hourly bicycle traffic: prediction, training, double evaluation and promotion of models.",
        version="1.0.0",
        lifespan=lifespan,
    )
    for kind, status in _STATUSES.items():
        app.add_exception_handler(kind, _answer_with(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NotEnoughCounts, _not_enough)
    _add_routes(app, service)
    app.router.routes.append(Route("/metrics", MetricsEndpoint(registry), methods=["GET"], include_in_schema=False))
    app.add_middleware(HttpMetrics, api=app, registry=registry)
    return app


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer without the input: that may be ten thousand rows long, or NaN, which JSON cannot say."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for nothing else
    problems = error.errors()
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in problems[:MOST_PROBLEMS]]
    return JSONResponse({"detail": detail, "problems": len(problems)}, status_code=422)


def _not_enough(_: Request, error: Exception) -> JSONResponse:
    """In the form of a validation's answer: the window is valid, and there are no counts in it."""
    return JSONResponse(
        {"detail": [{"type": "not_enough_counts", "loc": ["body"], "msg": str(error)}], "problems": 1}, status_code=422
    )


def _answer_with(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def handler(_: Request, error: Exception) -> JSONResponse:
        headers = {"Retry-After": "5"} if status in (503, 409) and not isinstance(error, ChampionMoved) else None
        return JSONResponse({"detail": str(error)}, status_code=status, headers=headers)

    return handler


def _add_routes(app: FastAPI, service: Service) -> None:
    # Plain functions: FastAPI runs them on threads, so that a training does not hold up a prediction.

    @app.post("/predict", responses=_NO_MODEL, tags=["model"])
    def predict(body: PredictRequest) -> Prediction | Predictions:
        """Bicycles in an hour at a counter, or in many (`{"rows": [...]}`, answered in their order)."""
        if isinstance(body, Batch):
            values, version = service.predict(_table(body.rows))
            return Predictions(predictions=[float(value) for value in values], model_version=version)
        values, version = service.predict(_table([body]))
        return Prediction(prediction=float(values[0]), model_version=version)

    @app.post("/train", status_code=201, responses=_CONFLICT, tags=["model"])
    def train(body: TrainRequest) -> VersionOut:
        """Train a challenger. It is not champion before `/promote` says so."""
        version = service.train(body.end, body.seed)
        return VersionOut(**dataclasses.asdict(version), is_champion=False)

    @app.post("/evaluate", responses=_UNKNOWN | _NO_MODEL, tags=["model"])
    def evaluate(body: EvaluateRequest) -> Evaluation:
        """The double evaluation: champion and challenger on test_current and on test_baseline."""
        current = body.test_current
        return Evaluation.model_validate(
            service.evaluate(current.start, current.end, body.challenger), from_attributes=True
        )

    @app.post("/promote", responses=_UNKNOWN | _CONFLICT | _NO_MODEL, tags=["model"])
    def promote(body: PromoteRequest) -> PromotionOut:
        """Make a version champion, in one step."""
        promotion = service.promote(body.version, as_of=body.as_of, expected=body.expected_champion)
        return PromotionOut.model_validate(promotion, from_attributes=True)

    @app.get("/models", responses=_NO_MODEL, tags=["model"])
    def models() -> Models:
        """All versions, oldest first, and which of them is champion."""
        champion = service.registry.champion()
        return Models(
            champion=PromotionOut.model_validate(champion, from_attributes=True) if champion else None,
            models=[
                VersionOut(**dataclasses.asdict(one), is_champion=bool(champion and one.name == champion.version))
                for one in service.registry.versions()
            ],
        )

    @app.get("/counts", responses={503: {"model": Problem, "description": "The counts cannot be read"}}, tags=["data"])
    def counts(window: Annotated[Window, Query()]) -> CountsOut:
        """The counts of a window: the city's feed, from which the pipeline fetches."""
        table = service.counts_between(window.start, window.end)
        table = table.astype(object).where(table.notna(), None)
        return CountsOut.model_validate({"rows": table.to_dict("records")})

    @app.get("/health", responses={503: {"model": Health, "description": "No champion"}}, tags=["service"])
    def health() -> JSONResponse:
        """200 with a champion; 503 while the first one is trained, or when there is none."""
        body = _health(service)
        return JSONResponse(body.model_dump(mode="json"), status_code=200 if body.status == "ok" else 503)


def _table(rows: list[Row]) -> pd.DataFrame:
    """Rows as the model's table: UTC times, unknown numbers as NaN."""
    numbers = {
        name: np.array([getattr(row, name) for row in rows], dtype=np.float64)
        for name in ("temperature", "rain", "wind", "level", "last_week")
    }
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime([row.timestamp for row in rows], utc=True),
            "counter": [row.counter for row in rows],
            "holiday": [row.holiday for row in rows],
            **numbers,
        }
    )


def _health(service: Service) -> Health:
    """How the service is doing; says as much as can be said when something is broken."""
    error: str | None = service.failure
    champion = counts = baseline = None
    try:
        champion = service.registry.champion()
        if champion is not None:
            service.registry.model(champion.version)
    except (BrokenModel, UnknownVersion) as problem:
        champion, error = None, str(problem)
    try:
        counts = service.counts
        baseline = service.baseline
    except (BadCounts, NotEnoughCounts) as problem:
        error = str(problem)
    return Health(
        status="ok" if champion else ("failed" if error else "starting"),
        champion=PromotionOut.model_validate(champion, from_attributes=True) if champion else None,
        counts_first=counts.first if counts else None,
        counts_last=counts.last if counts else None,
        counters=list(counts.counters) if counts else [],
        baseline=BaselineOut(start=baseline.start, end=baseline.end) if baseline else None,
        error=error,
    )
