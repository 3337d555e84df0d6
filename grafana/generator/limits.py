"""What is read rather than written here: the limits in thresholds.yml and the jobs in prometheus.yml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]

TEST_JOB: Final = "test-metrics"
TEST_INSTANCE: Final = "pushgateway-test:9091"
"""Labels of series that scripts/test_grafana_alerts_and_dashboards.py injects."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of grafana/thresholds.yml, and the names of the scraped jobs."""

    runbooks: str
    grafana: str
    r2_critical: float
    r2_warning: float
    rmse_critical: float
    drift_high: float
    error_ratio: float
    minimum_requests: int
    ignored_endpoints: tuple[str, ...]
    latency_seconds: float
    monitored_dag: str
    running_seconds: int
    ingestion_dag: str
    silence_hours: int
    stale_seconds: int
    jobs: tuple[str, ...]


def load_limits(root: Path = ROOT) -> Limits:
    """Read both files. A missing key is a KeyError and an unknown one a ValueError: no limit is lost in silence."""
    content = yaml.safe_load((root / "grafana" / "thresholds.yml").read_text("utf-8"))
    scrape = yaml.safe_load((root / "prometheus.yml").read_text("utf-8"))

    def take(*path: str) -> Any:
        node = content
        for key in path[:-1]:
            node = node[key]
        return node.pop(path[-1])

    limits = Limits(
        runbooks=take("runbooks"),
        grafana=take("grafana").rstrip("/"),
        r2_critical=take("r2", "critical"),
        r2_warning=take("r2", "warning"),
        rmse_critical=take("rmse", "critical"),
        drift_high=take("drift_share", "high"),
        error_ratio=take("api", "error_ratio"),
        minimum_requests=take("api", "minimum_requests"),
        ignored_endpoints=tuple(take("api", "ignored_endpoints")),
        latency_seconds=take("api", "latency_seconds"),
        monitored_dag=take("airflow", "monitored_dag"),
        running_seconds=take("airflow", "running_seconds"),
        ingestion_dag=take("ingestion", "dag"),
        silence_hours=take("ingestion", "silence_hours"),
        stale_seconds=take("source", "stale_seconds"),
        jobs=tuple(job["job_name"] for job in scrape["scrape_configs"]),
    )
    unknown = [f"{section}.{key}" for section, keys in content.items() for key in keys]
    if unknown:
        raise ValueError(f"grafana/thresholds.yml: unknown {', '.join(unknown)}")
    return limits
