"""Deploy, skip or reject; and when to train at all."""

import pytest

from bike_pipeline.decision import decide, should_fine_tune
from bike_pipeline.regmodel import Judged, Scores


def judged(current: float, baseline: float) -> Judged:
    return Judged("v1", Scores(current, 50, 30), Scores(baseline, 50, 30))


@pytest.mark.parametrize(
    ("champion", "challenger", "baseline", "verdict"),
    [
        (0.60, 0.62, 0.60, "deploy"),
        # A little less than 0.02 in floating point.
        (0.80, 0.82, 0.90, "deploy"),
        (0.80, 0.81999, 0.90, "skip"),
        (0.60, 0.62 - 4e-10, 0.90, "deploy"),
        (0.60, 0.62 - 6e-10, 0.90, "skip"),
        (0.97, 1.0, 0.90, "deploy"),
        (0.60, 0.625, 0.90, "deploy"),
        (0.60, 0.61, 0.90, "skip"),
        (0.60, 0.50, 0.90, "skip"),
        (0.60, 0.90, 0.599, "reject"),
        (0.60, 0.10, 0.10, "reject"),
        (-0.50, 0.10, 0.70, "deploy"),
    ],
)
def test_the_rules_of_the_double_evaluation(champion: float, challenger: float, baseline: float, verdict: str):
    decision = decide(judged(champion, 0.95), judged(challenger, baseline))
    assert decision.verdict == verdict
    assert decision.improvement == pytest.approx(challenger - champion)
    assert decision.baseline_regression == (baseline < 0.60)
    assert f"{challenger:.3f}" in decision.reason
    past = f"R2 on test_baseline {baseline:.3f} is below 0.6; "
    assert decision.reason.startswith(past) == (verdict == "reject")


@pytest.mark.parametrize(
    ("drifted", "r2", "wanted"), [(False, 0.70, False), (True, 0.95, True), (False, 0.699, True), (True, -1.0, True)]
)
def test_when_a_challenger_is_trained(drifted: bool, r2: float, wanted: bool):
    assert should_fine_tune(drift_detected=drifted, r2=r2) is wanted
