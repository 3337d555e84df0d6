"""Every metric that can be queried, with its labels: the exporter's, the RegModel API's, and what Prometheus adds."""

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from exporter.catalog_parser import load_catalog
from exporter.families import OWN_FAMILIES
from regmodel.http_metrics import HttpMetrics

TARGET = {"job", "instance"}


def regmodel() -> dict[str, set[str]]:
    """The RegModel API's own metrics, from the series that exist before its first request."""
    api, registry = FastAPI(), CollectorRegistry()
    HttpMetrics(api, api=api, registry=registry)
    return {sample.name: set(sample.labels) for family in registry.collect() for sample in family.samples}


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
