"""The rows that the pipeline handles, as frozen values. Times are in UTC; None is unknown."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Count:
    """One hour at one counter: bicycles, °C, millimetres in the hour, metres a second."""

    timestamp: datetime
    counter: str
    count: float | None
    temperature: float | None
    rain: float | None
    wind: float | None
    holiday: bool


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model said of one hour at one counter."""

    timestamp: datetime
    counter: str
    prediction: float
    model_version: str


class PipelineError(RuntimeError):
    """A task cannot do its work; the message says what and where."""


class BadCounts(PipelineError):
    """Counts that were fetched or stored are not good enough to go on with."""
