"""What the API does, without HTTP: counts, models, and the rules between them."""

import dataclasses
import logging
import platform
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version as library_version

import pandas as pd

from regmodel.counts import Counts, CountTable, read_csv
from regmodel.features import Matrix
from regmodel.generator import simulate
from regmodel.model import Baseline, NotEnoughCounts, Scores, baseline_rows, judge, judge_naive, train, window
from regmodel.registry import Promotion, Registry, Version
from regmodel.settings import Settings

log = logging.getLogger(__name__)


class NoChampion(RuntimeError):
    """There is no champion yet."""


class Busy(RuntimeError):
    """A training is under way; there is one at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class JudgedModel:
    """A model's scores on both test sets."""

    version: str
    test_current: Scores
    test_baseline: Scores


@dataclasses.dataclass(frozen=True, slots=True)
class DoubleEvaluation:
    """Champion and challenger (if one was named) on the same rows, and the naive forecast where it is possible."""

    champion: JudgedModel
    challenger: JudgedModel | None
    naive: Scores | None


class Service:
    """Counts and models of one process.

    Args:
        now: the present moment (UTC); simulated counts end with yesterday.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._training = threading.Lock()
        self._simulating = threading.Lock()
        self._counts: CountTable | None = None
        self._counts_day: date | None = None
        self._test_baseline: pd.DataFrame | None = None
        self.registry = Registry(settings.models_dir, keep=settings.keep_models)
        self.failure: str | None = None
        """Why there will be no champion, in words; None while there is one or may be one soon."""

    # -- counts ----------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """The counts: the file's, or the simulation's up to this morning's midnight.

        Raises:
            BadCounts: the file cannot be used.
        """
        today = self._now().date()
        counts = self._counts
        if counts is not None and (self._settings.counts_csv or self._counts_day == today):
            return counts
        with self._simulating:
            if self._counts is None and self._settings.counts_csv:
                self._counts = read_csv(self._settings.counts_csv)
            elif self._counts_day != today and not self._settings.counts_csv:
                end = max(today, self._settings.data_start + timedelta(days=1))
                self._counts = simulate(
                    self._settings.data_start, end, seed=self._settings.seed, shifts=self._settings.shifts
                )
                self._counts_day = today
            assert self._counts is not None  # noqa: S101 -- one of the branches made it
            return self._counts

    @property
    def baseline(self) -> Baseline:
        """The fixed period that holds test_baseline.

        Raises:
            NotEnoughCounts: the counts do not reach that far.
        """
        return Baseline.of(self.counts, self._settings.baseline_weeks)

    def counts_between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """The table of counts of a window."""
        return self.counts.between(start, end)

    # -- models ----------------------------------------------------------------------------------------------------

    def ensure_champion(self) -> None:
        """Train and promote the first champion, on the baseline alone, unless there is one. For a start-up."""
        try:
            champion = self.registry.champion()
            if champion is not None:
                self.registry.model(champion.version)
                log.info("champion is %s", champion.version)
            else:
                log.info("no champion yet: training the first one on the baseline")
                first = self.train(cut_off=self.baseline.end)
                self.promote(first.name, as_of=self.baseline.end)
                log.info("trained and promoted %s (R2 on test_baseline %.3f)", first.name, first.r2_baseline)
        except Exception as error:
            self.failure = str(error)
            log.error("no champion: %s", error)
            if not isinstance(error, ValueError | RuntimeError | LookupError | OSError):
                raise
        else:
            self.failure = None

    def champion(self) -> Promotion:
        """Who is champion.

        Raises:
            NoChampion, BrokenModel: nobody yet, or the file that says so is damaged.
        """
        champion = self.registry.champion()
        if champion is None:
            raise NoChampion("there is no champion yet; see /health")
        return champion

    def predict(self, rows: pd.DataFrame) -> tuple[Matrix, str]:
        """Bicycles in each hour of `rows`, and the version that says so.

        Raises:
            NoChampion, BrokenModel: there is no model to predict with.
        """
        version = self.champion().version
        return self.registry.model(version).predict(rows), version

    def train(self, cut_off: datetime | None = None, seed: int | None = None) -> Version:
        """Train a challenger on everything before the cut-off (the end of the counts if None).

        Raises:
            Busy: another training is under way.
            NotEnoughCounts: too few counts before the cut-off.
        """
        if not self._training.acquire(blocking=False):
            raise Busy("a training is under way; try again in a minute")
        try:
            counts, baseline = self.counts, self.baseline
            end = min(cut_off or counts.last, counts.last)
            used_seed = self._settings.seed if seed is None else seed
            model, rows, scores = train(counts, baseline, end, seed=used_seed)
            version = self.registry.add(
                model,
                created_at=_text(self._now()),
                window=(_text(baseline.start), _text(end)),
                rows=rows,
                train=scores,
                baseline=judge(model, self._baseline_rows()),
                seed=used_seed,
                libraries={
                    "python": platform.python_version(),
                    **{name: library_version(name) for name in ("scikit-learn", "numpy")},
                },
            )
            self.registry.prune()
            return version
        finally:
            self._training.release()

    def evaluate(self, start: datetime, end: datetime, challenger: str | None) -> DoubleEvaluation:
        """Judge the champion, and a challenger if one is named, on test_current (the window) and on test_baseline.

        Raises:
            NoChampion, UnknownVersion, BrokenModel: a model is missing.
            NotEnoughCounts: too few counts in the window.
        """
        current, baseline = window(self.counts, start, end), self._baseline_rows()

        def judged(name: str) -> JudgedModel:
            model = self.registry.model(name)
            return JudgedModel(name, judge(model, current), judge(model, baseline))

        champion = judged(self.champion().version)
        try:
            naive = judge_naive(current)
        except NotEnoughCounts:
            naive = None
        return DoubleEvaluation(champion, judged(challenger) if challenger else None, naive)

    def promote(self, name: str, *, as_of: datetime | None = None, expected: str | None = None) -> Promotion:
        """Make a version champion.

        Raises:
            UnknownVersion, BrokenModel, ChampionMoved: nothing was changed.
        """
        now = self._now()
        promotion = self.registry.promote(name, promoted_at=_text(now), as_of=_text(as_of or now), expected=expected)
        self.failure = None
        return promotion

    def _baseline_rows(self) -> pd.DataFrame:
        """test_baseline's rows; they never change, so they are computed once."""
        if self._test_baseline is None:
            self._test_baseline = baseline_rows(self.counts, self.baseline)
        return self._test_baseline


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
