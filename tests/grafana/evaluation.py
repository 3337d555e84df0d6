"""How Grafana turns evaluations of a rule into alert states: threshold node, `for`, no data, errors.

A model of one alert instance, written from Grafana's documentation; it is what the cases in rule_cases.py are judged by
where Prometheus has no counterpart (no data and errors).
"""

import math
from collections.abc import Sequence
from typing import Literal

Observation = float | Literal["no data", "error"]


def crosses(value: float, operator: str, limit: float) -> bool:
    """The threshold node: NaN is on no side of a limit."""
    if math.isnan(value):
        return False
    return value > limit if operator == "gt" else value < limit


def states(
    observations: Sequence[Observation],
    *,
    operator: str,
    limit: float,
    interval: float,
    hold: float,
    no_data: str,
    error: str,
) -> list[str]:
    """The state after each evaluation: Normal, Pending, Alerting, NoData or Error.

    NoData and Error wait for `hold` as an alert does (Grafana 13; older ones show them at once).
    """
    result: list[str] = []
    wanted_since: tuple[str, float] | None = None
    for index, observation in enumerate(observations):
        now = index * interval
        if observation == "no data":
            wanted = {"OK": "Normal"}.get(no_data, no_data)
        elif observation == "error":
            wanted = {"OK": "Normal"}.get(error, error)
        else:
            wanted = "Alerting" if crosses(observation, operator, limit) else "Normal"
        if wanted == "Normal":
            wanted_since = None
            result.append("Normal")
            continue
        if wanted_since is None or wanted_since[0] != wanted:
            wanted_since = (wanted, now)
        result.append(wanted if now - wanted_since[1] >= hold else "Pending")
    return result


def seconds(text: str) -> float:
    """Grafana's short durations: 30s, 5m, 1h."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
