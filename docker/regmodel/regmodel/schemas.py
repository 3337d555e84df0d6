"""Requests and answers of the API, as pydantic validates and documents them. Times without an offset are UTC."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

LARGEST_BATCH: Final = 10_000
LONGEST_DAYS: Final = 400
"""Longest window of one request."""


def _in_utc(moment: datetime) -> datetime:
    """In UTC, and within the years in which arithmetic with weeks cannot leave what `datetime` holds."""
    if not 1970 <= moment.year <= 2200:
        raise ValueError("the year must be from 1970 to 2200")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]
Number = Annotated[float, Field(allow_inf_nan=False)]
VersionName = Annotated[str, Field(pattern=r"^v\d{4,12}$", examples=["v0001"])]


class Strict(BaseModel):
    """A request body: unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Row(Strict):
    """One hour at one counter. What is left out is unknown to the model, which can cope, but predicts worse."""

    counter: Annotated[str, Field(min_length=1, max_length=200, examples=["Central Station"])]
    timestamp: Annotated[Moment, Field(description="Beginning of the hour", examples=["2025-03-03T08:00:00Z"])]
    holiday: bool = False
    temperature: Annotated[Number, Field(ge=-90, le=70, description="°C")] | None = None
    rain: Annotated[Number, Field(ge=0, le=1000, description="mm in the hour")] | None = None
    wind: Annotated[Number, Field(ge=0, le=150, description="m/s")] | None = None
    level: (
        Annotated[Number, Field(ge=0, le=1e9, description="Mean count an hour in the 7 days before the day began")]
        | None
    ) = None
    last_week: Annotated[Number, Field(ge=0, le=1e9, description="Count in the same hour a week before")] | None = None


class Batch(Strict):
    """Many hours at once."""

    rows: Annotated[list[Row], Field(min_length=1, max_length=LARGEST_BATCH)]


def _kind(body: Any) -> str:
    return "batch" if (isinstance(body, dict) and "rows" in body) or isinstance(body, Batch) else "row"


PredictRequest = Annotated[Annotated[Row, Tag("row")] | Annotated[Batch, Tag("batch")], Discriminator(_kind)]
"""One row, or `{"rows": [...]}`; errors then speak of the one that was meant."""


class Prediction(BaseModel):
    """The answer to one row."""

    prediction: Annotated[float, Field(description="Bicycles in the hour")]
    model_version: str


class Predictions(BaseModel):
    """The answers to a batch, in its order."""

    predictions: list[float]
    model_version: str


class Window(Strict):
    """A window of the counts: `start` included, `end` excluded."""

    start: Moment
    end: Moment

    @model_validator(mode="after")
    def _in_order(self) -> "Window":
        if self.end <= self.start:
            raise ValueError("end must be after start")
        if self.end - self.start > timedelta(days=LONGEST_DAYS):
            raise ValueError(f"a window is {LONGEST_DAYS} days long at the most")
        return self


class TrainRequest(Strict):
    """Train a challenger on everything before the cut-off, except test_baseline."""

    end: Annotated[Moment | None, Field(description="Cut-off (excluded); the end of the counts if left out")] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None


class EvaluateRequest(Strict):
    """Judge champion and challenger on the same rows."""

    test_current: Window
    challenger: Annotated[VersionName | None, Field(description="None: the champion alone")] = None


class PromoteRequest(Strict):
    """Make a version champion."""

    version: VersionName
    as_of: Annotated[
        Moment | None, Field(description="Up to when the data behind this choice reach; now if left out")
    ] = None
    expected_champion: Annotated[
        VersionName | None, Field(description="Refuse (409) if another one is champion by now")
    ] = None


class ScoresOut(BaseModel):
    """R², RMSE and MAE (bicycles an hour) over so many hours."""

    r2: float
    rmse: float
    mae: float
    rows: int


class Judged(BaseModel):
    """A model on both test sets."""

    version: str
    test_current: ScoresOut
    test_baseline: ScoresOut


class Evaluation(BaseModel):
    """The double evaluation. `naive` is the same hour a week before, where it is known."""

    champion: Judged
    challenger: Judged | None
    naive: ScoresOut | None


class VersionOut(BaseModel):
    """What is known of a model; see `regmodel.registry.Version`."""

    name: str
    created_at: str
    trained_from: str
    trained_to: str
    rows: int
    r2_train: float
    r2_baseline: float
    seed: int
    libraries: dict[str, str]
    is_champion: bool


class PromotionOut(BaseModel):
    """Which version is champion, since when, and up to which moment of the data it was chosen."""

    version: str
    promoted_at: str
    as_of: str


class Models(BaseModel):
    """All versions, oldest first."""

    champion: PromotionOut | None
    models: list[VersionOut]


class BaselineOut(BaseModel):
    """The period that holds test_baseline (end excluded)."""

    start: datetime
    end: datetime


class Health(BaseModel):
    """How the service is doing. `starting`: no champion yet; `failed`: there will be none without help."""

    status: Literal["ok", "starting", "failed"]
    champion: PromotionOut | None
    counts_first: datetime | None
    counts_last: datetime | None
    counters: list[str]
    baseline: BaselineOut | None
    error: str | None


class CountRow(BaseModel):
    """One hour at one counter; null is unknown."""

    timestamp: datetime
    counter: str
    count: float | None
    temperature: float | None
    rain: float | None
    wind: float | None
    holiday: bool


class CountsOut(BaseModel):
    """The counts of a window."""

    rows: list[CountRow]


class Problem(BaseModel):
    """What went wrong."""

    detail: str
