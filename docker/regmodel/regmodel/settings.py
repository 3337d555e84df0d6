"""Settings of the RegModel API, from the environment; every problem is reported at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from regmodel.generator import BadShift, Shift, parse_shifts

FEWEST_BASELINE_WEEKS: Final = 6
"""A shorter baseline might hold no week of test_baseline."""
_VARIABLES: Final = (
    *("REGMODEL_MODELS_DIR", "REGMODEL_COUNTS_CSV", "REGMODEL_DATA_START", "REGMODEL_SHIFTS"),
    *("REGMODEL_SEED", "REGMODEL_BASELINE_WEEKS", "REGMODEL_KEEP_MODELS"),
)


class BadSettings(ValueError):
    """The environment cannot be used; the message lists every problem, a line each."""


@dataclass(frozen=True)
class Settings:
    """What the service runs with.

    Attributes:
        models_dir: where models are kept (REGMODEL_MODELS_DIR).
        counts_csv: a file of real counts; None to simulate a city (REGMODEL_COUNTS_CSV).
        data_start: first day of the simulated counts (REGMODEL_DATA_START). They go on to the present day.
        shifts: changes of the simulated world, as JSON (REGMODEL_SHIFTS); see `regmodel.generator.Shift`.
        seed: of the simulation and of the training (REGMODEL_SEED).
        baseline_weeks: length of the baseline (REGMODEL_BASELINE_WEEKS).
        keep_models: how many versions to keep (REGMODEL_KEEP_MODELS).
    """

    models_dir: Path = Path("regmodel-models")
    counts_csv: Path | None = None
    data_start: date = date(2024, 1, 1)
    shifts: tuple[Shift, ...] = ()
    seed: int = 20
    baseline_weeks: int = 52
    keep_models: int = 30

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables; an empty one counts as not set.

        Raises:
            BadSettings: with every problem.
        """
        problems: list[str] = []
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        unknown = sorted(name for name in given if name.startswith("REGMODEL_") and name not in _VARIABLES)
        problems += [f"{name}: there is no such setting (there are {', '.join(_VARIABLES)})" for name in unknown]

        def whole(name: str, default: int, low: int, high: int) -> int:
            text = given.get(name)
            if text is None:
                return default
            try:
                number = int(text)
            except ValueError:
                number = low - 1
            if not low <= number <= high:
                problems.append(f"{name}: must be a whole number from {low} to {high}, not {text!r}")
                return default
            return number

        start = cls.data_start
        if text := given.get("REGMODEL_DATA_START"):
            try:
                start = date.fromisoformat(text)
            except ValueError:
                problems.append(f"REGMODEL_DATA_START: not a date YYYY-MM-DD: {text!r}")
        shifts: tuple[Shift, ...] = ()
        if text := given.get("REGMODEL_SHIFTS"):
            try:
                shifts = parse_shifts(json.loads(text))
            except BadShift as error:
                problems.append(f"REGMODEL_SHIFTS: {error}")
            except ValueError as error:
                problems.append(f"REGMODEL_SHIFTS: not JSON: {error}")
        csv = given.get("REGMODEL_COUNTS_CSV")
        if csv and shifts:
            problems.append("REGMODEL_SHIFTS: shifts change simulated counts only; unset it, or REGMODEL_COUNTS_CSV")
        settings = cls(
            models_dir=Path(given.get("REGMODEL_MODELS_DIR", cls.models_dir)),
            counts_csv=Path(csv) if csv else None,
            data_start=start,
            shifts=shifts,
            seed=whole("REGMODEL_SEED", cls.seed, 0, 2**32 - 1),
            baseline_weeks=whole("REGMODEL_BASELINE_WEEKS", cls.baseline_weeks, FEWEST_BASELINE_WEEKS, 520),
            keep_models=whole("REGMODEL_KEEP_MODELS", cls.keep_models, 2, 10_000),
        )
        if problems:
            raise BadSettings("\n".join(problems))
        return settings
