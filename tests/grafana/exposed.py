"""Every metric that can be queried, with its labels: the exporter's, the RegModel API's, and what Prometheus adds."""

from exporter.catalog import load_catalog
from exporter.metrics import OWN_FAMILIES

TARGET = {"job", "instance"}

REGMODEL = {
    "fastapi_requests_total": {"method", "endpoint", "status_code"},
    "fastapi_request_duration_seconds_bucket": {"method", "endpoint", "le"},
    "fastapi_request_duration_seconds_sum": {"method", "endpoint"},
    "fastapi_request_duration_seconds_count": {"method", "endpoint"},
    "fastapi_errors_total": {"method", "endpoint"},
}
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
