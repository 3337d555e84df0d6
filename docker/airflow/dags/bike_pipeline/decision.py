"""The double evaluation's verdict: deploy, skip or reject a challenger; and whether to train one at all."""

from dataclasses import dataclass
from typing import Final, Literal

from bike_pipeline.regmodel import Judged

LEAST_IMPROVEMENT: Final = 0.02
"""How much better than the champion's R² on test_current a challenger's must be."""
LEAST_BASELINE_R2: Final = 0.60
"""Below this R² on test_baseline a challenger has forgotten the past."""
RETRAIN_BELOW_R2: Final = 0.70
"""A champion below this R² on test_current is challenged even without drift."""

Verdict = Literal["deploy", "skip", "reject"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a challenger.

    Attributes:
        improvement: challenger's minus champion's R² on test_current.
        baseline_regression: the challenger is below LEAST_BASELINE_R2 on test_baseline.
        reason: one sentence.
    """

    verdict: Verdict
    improvement: float
    baseline_regression: bool
    reason: str


def decide(champion: Judged, challenger: Judged) -> Decision:
    """Judge a challenger that was evaluated on the same rows as the champion."""
    improvement = challenger.test_current.r2 - champion.test_current.r2
    gain = f"R2 on test_current {champion.test_current.r2:.3f} -> {challenger.test_current.r2:.3f} ({improvement:+.3f})"
    if challenger.test_baseline.r2 < LEAST_BASELINE_R2:
        past = f"R2 on test_baseline {challenger.test_baseline.r2:.3f} is below {LEAST_BASELINE_R2}"
        return Decision("reject", improvement, True, f"{past}; {gain}")
    # To the ninth digit: 0.82 - 0.80 is a little less than 0.02 in floating point.
    if round(improvement, 9) < LEAST_IMPROVEMENT:
        return Decision("skip", improvement, False, f"{gain} is less than +{LEAST_IMPROVEMENT}")
    return Decision("deploy", improvement, False, gain)


def should_fine_tune(*, drift_detected: bool, r2: float) -> bool:
    """Whether a challenger is worth training: the world has drifted, or the champion has become poor."""
    return drift_detected or r2 < RETRAIN_BELOW_R2
