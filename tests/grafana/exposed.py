"""Every metric that can be queried, with its labels: the exporter's, the RegModel API's, and what Prometheus adds."""

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from exporter.catalog_parser import load_catalog
from exporter.families import OWN_FAMILIES
from regmodel.http_metrics import HttpMetrics

TARGET = {"job", "instance"}


def regmodel() -> dict[str, set[str]]:
    """The RegModel API's own metrics, as its middleware describes them."""
    middleware = HttpMetrics(FastAPI(), CollectorRegistry())
    found: dict[str, set[str]] = {}
    for family in middleware.describe():
        labels = set(family._labelnames)
        if family.type == "histogram":
            found |= {
                f"{family.name}_bucket": {*labels, "le"},
                f"{family.name}_sum": labels,
                f"{family.name}_count": labels,
            }
        else:
            found[f"{family.name}_total"] = labels
    return found


REGMODEL = regmodel()
PROMETHEUS = {"up": set(), "process_start_time_seconds": set()}


def exposed() -> dict[str, set[str]]:
    """Labels by series name; a histogram has no series of its bare name."""
    found: dict[str, set[str]] = {}
    for metric in load_catalog().metrics:
        if metric.type == "histogram":
            found[f"{metric.name}_bucket"] = {*metric.labels, "le"}
            found[f"{metric.name}_sum"] = set(metric.labels)
            found[f"{metric.name}_count"] = set(metric.labels)
        else:
            found[metric.name] = set(metric.labels)
    for family in OWN_FAMILIES:
        found[family.name] = set(family.labels)
    found |= REGMODEL | PROMETHEUS
    return {name: names | TARGET for name, names in found.items()}
