"""The generated files as Grafana, Prometheus and Alertmanager would read them."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "grafana" / "provisioning"
PROMETHEUS = ROOT / "prometheus"
DASHBOARDS = ("overview", "model_performance", "drift_monitoring", "training_deployment")
VARIABLES = {
    "$__rate_interval": "2m",
    "$__range": "30d",
    "$job": ".+",
    "$instance": ".+",
}


@functools.cache
def read_yaml(name: str) -> Any:
    """The file as it is parsed, once: nobody changes it."""
    return yaml.safe_load((PROVISIONING / name).read_text("utf-8"))


def dashboard(name: str) -> dict[str, Any]:
    return json.loads((PROVISIONING / "dashboards" / f"{name}.json").read_text("utf-8"))


def panels(name: str) -> list[dict[str, Any]]:
    """The panels that draw something: no rows."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name in DASHBOARDS:
        for panel in panels(name):
            for target in panel["targets"]:
                yield name, panel, target


def interpolated(expr: str) -> str:
    """A panel's expression with its variables filled in, as Grafana sends it."""
    for variable, text in VARIABLES.items():
        expr = expr.replace(variable, text)
    return expr


def groups() -> list[dict[str, Any]]:
    return read_yaml("alerting/rules.yml")["groups"]


def rules() -> dict[str, dict[str, Any]]:
    return {rule["uid"]: rule for group in groups() for rule in group["rules"]}


def queries(rule: dict[str, Any]) -> dict[str, str]:
    """The rule's PromQL by refId."""
    return {node["refId"]: node["model"]["expr"] for node in rule["data"] if node["datasourceUid"] == "prometheus"}


def threshold(rule: dict[str, Any]) -> tuple[str, str, float]:
    """What the condition tests: refId, operator and limit."""
    node = next(node for node in rule["data"] if node["refId"] == rule["condition"])
    evaluator = node["model"]["conditions"][0]["evaluator"]
    return node["model"]["expression"], evaluator["type"], evaluator["params"][0]


@functools.cache
def alerts() -> dict[str, list[dict[str, Any]]]:
    """Prometheus' rules by group."""
    document = yaml.safe_load((PROMETHEUS / "rules" / "mlops.yml").read_text("utf-8"))
    return {group["name"]: group["rules"] for group in document["groups"]}


def alert(uid: str) -> dict[str, Any]:
    """Prometheus' rule of the same title."""
    title = rules()[uid]["title"]
    [found] = [rule for group in alerts().values() for rule in group if rule["alert"] == title]
    return found
