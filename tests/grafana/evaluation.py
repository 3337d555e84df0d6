"""Two of Grafana's rules that the tests of this folder share: its threshold node and its durations."""

import math


def crosses(value: float, operator: str, limit: float) -> bool:
    """The threshold node: NaN is on no side of a limit."""
    if math.isnan(value):
        return False
    return value > limit if operator == "gt" else value < limit


def seconds(text: str) -> float:
    """Grafana's short durations: 30s, 5m, 1h."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
