"""The RegModel API as the pipeline uses it. Every call has a connect timeout, a read timeout and a deadline.

A server that drips its headers is stopped by the task's own time limit.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests
import urllib3

from bike_pipeline.records import Count, PipelineError

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0
TRAIN_SECONDS: Final = 600.0
"""How long a training may take until it answers."""
LARGEST_ANSWER: Final = 64 * 1024 * 1024
FETCH_DAYS: Final = 31
BATCH_ROWS: Final = 5000


class RegModelError(PipelineError):
    """The API did not do what it was asked; the message has its answer's first words."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How good a model is on a set of hours: R², RMSE and MAE in bicycles an hour."""

    r2: float
    rmse: float
    mae: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A model on both test sets."""

    version: str
    test_current: Scores
    test_baseline: Scores


@dataclass(frozen=True, slots=True)
class Champion:
    """The model in use, and up to which moment of the data it was chosen."""

    version: str
    as_of: datetime


@dataclass(frozen=True, slots=True)
class Trained:
    """A challenger."""

    version: str
    r2_train: float


@dataclass(frozen=True, slots=True)
class Known:
    """What the service knows of: the first hour, the end of the last, the counters, the end of the baseline."""

    first: datetime
    last: datetime
    counters: tuple[str, ...]
    baseline_end: datetime


class RegModel:
    """A client of the API at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def known(self) -> Known:
        """What counts there are.

        Raises:
            RegModelError: as every method here.
        """
        answer = self._ask("GET", "/health")
        try:
            return Known(
                _moment(answer["counts_first"]),
                _moment(answer["counts_last"]),
                tuple(answer["counters"]),
                _moment(answer["baseline"]["end"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RegModelError(f"GET /health: not the expected answer ({error!r})") from error

    def counts(self, start: datetime, end: datetime) -> list[Count]:
        """The counts from `start` (included) to `end` (excluded), asked for a month at a time."""
        found: list[Count] = []
        while start < end:
            until = min(end, start + timedelta(days=FETCH_DAYS))
            answer = self._ask("GET", "/counts", params={"start": _text(start), "end": _text(until)})
            try:
                found += [
                    Count(
                        timestamp=_moment(row["timestamp"]),
                        counter=row["counter"],
                        count=row["count"],
                        temperature=row["temperature"],
                        rain=row["rain"],
                        wind=row["wind"],
                        holiday=row["holiday"],
                    )
                    for row in answer["rows"]
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise RegModelError(f"GET /counts: not the expected answer ({error!r})") from error
            start = until
        return found

    def predict(self, rows: Sequence[Mapping[str, object]]) -> tuple[list[float], str]:
        """Predictions for rows as `/predict` takes them, in their order, and the version that made them."""
        values: list[float] = []
        version = ""
        for first in range(0, len(rows), BATCH_ROWS):
            batch = list(rows[first : first + BATCH_ROWS])
            answer = self._ask("POST", "/predict", body={"rows": batch})
            try:
                values += [float(value) for value in answer["predictions"]]
                version = str(answer["model_version"])
            except (KeyError, TypeError, ValueError) as error:
                raise RegModelError(f"POST /predict: not the expected answer ({error!r})") from error
        if len(values) != len(rows):
            raise RegModelError(f"POST /predict: {len(values)} predictions for {len(rows)} rows")
        return values, version

    def champion(self) -> Champion:
        """The model in use."""
        answer = self._ask("GET", "/models")
        try:
            champion = answer["champion"]
            if champion is None:
                raise RegModelError("GET /models: there is no champion yet")
            return Champion(champion["version"], _moment(champion["as_of"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RegModelError(f"GET /models: not the expected answer ({error!r})") from error

    def train(self, cut_off: datetime) -> Trained:
        """Train a challenger on everything before the cut-off."""
        answer = self._ask("POST", "/train", body={"end": _text(cut_off)}, read_seconds=TRAIN_SECONDS)
        try:
            return Trained(str(answer["name"]), float(answer["r2_train"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RegModelError(f"POST /train: not the expected answer ({error!r})") from error

    def evaluate(self, start: datetime, end: datetime, challenger: str | None = None) -> tuple[Judged, Judged | None]:
        """The double evaluation: champion, and challenger if one is named, on both test sets."""
        body: dict[str, object] = {"test_current": {"start": _text(start), "end": _text(end)}}
        if challenger is not None:
            body["challenger"] = challenger
        answer = self._ask("POST", "/evaluate", body=body)
        try:
            other = answer["challenger"]
            return _judged(answer["champion"]), _judged(other) if other else None
        except (KeyError, TypeError, ValueError) as error:
            raise RegModelError(f"POST /evaluate: not the expected answer ({error!r})") from error

    def promote(self, version: str, *, as_of: datetime, expected_champion: str) -> None:
        """Make a version champion, unless another one than expected is champion by now.

        Doing it twice is harmless: when the version is champion already, nothing happens.
        """
        if self.champion().version != version:
            self._ask(
                "POST",
                "/promote",
                body={"version": version, "as_of": _text(as_of), "expected_champion": expected_champion},
            )

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> Any:
        what = f"{method} {path}"
        # The read timeout is for each wait; an answer that trickles in is cut off by the deadline.
        deadline = time.monotonic() + CONNECT_SECONDS + read_seconds * 1.5
        try:
            with self._session.request(
                method, self._url + path, params=params, json=body, timeout=(CONNECT_SECONDS, read_seconds), stream=True
            ) as answer:
                content = bytearray()
                # As much as has come: requests' own iteration waits for whole parts, past any deadline.
                while part := answer.raw.read1(64 * 1024, decode_content=True):
                    content += part
                    if time.monotonic() > deadline:
                        raise RegModelError(f"{what}: the answer was not complete after {read_seconds * 1.5:.0f} s")
                    if len(content) > LARGEST_ANSWER:
                        raise RegModelError(f"{what}: the answer is larger than {LARGEST_ANSWER} bytes")
                if not answer.ok:
                    raise RegModelError(f"{what}: HTTP {answer.status_code}: {bytes(content[:500])!r}")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise RegModelError(f"{what} at {self._url}: {type(error).__name__}: {error}") from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise RegModelError(f"{what}: the answer is not JSON: {bytes(content[:200])!r}") from error


def _judged(answer: Mapping[str, Any]) -> Judged:
    def scores(one: Mapping[str, Any]) -> Scores:
        return Scores(float(one["r2"]), float(one["rmse"]), float(one["mae"]))

    return Judged(str(answer["version"]), scores(answer["test_current"]), scores(answer["test_baseline"]))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
