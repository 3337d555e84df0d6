"""The real application, with one bug planted: an evaluation of 1971 divides by zero. For the load test."""

import os
from datetime import date, datetime
from pathlib import Path

from fastapi import FastAPI

from regmodel.app import create_app as create_real_app
from regmodel.service import DoubleEvaluation, Service
from regmodel.settings import Settings


class Buggy(Service):
    def evaluate(self, start: datetime, end: datetime, challenger: str | None) -> DoubleEvaluation:
        if start.year == 1971:
            raise ZeroDivisionError("a planted bug")
        return super().evaluate(start, end, challenger)


def create_app() -> FastAPI:
    """The application; models are kept in the folder that REGMODEL_MODELS_DIR names. Its champion is soon trained."""
    settings = Settings(Path(os.environ["REGMODEL_MODELS_DIR"]), data_start=date(2025, 3, 3), baseline_weeks=6)
    return create_real_app(settings, service=Buggy(settings))
