"""The commands of the description that this project was made from, word for word, and what each must show."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


def _targets(printed: str) -> None:
    """A stream of JSON objects, one a target."""
    decoder, found, rest = json.JSONDecoder(), {}, printed[printed.index("{") :]
    while rest.startswith("{"):
        target, end = decoder.raw_decode(rest)
        found[target["job"]] = target["health"]
        rest = rest[end:].lstrip()
    assert found.items() >= {"regmodel-api": "up", "airflow-metrics": "up", "prometheus": "up"}.items(), printed


def _contains(*texts: str) -> Callable[[str], None]:
    def check(printed: str) -> None:
        missing = [text for text in texts if text not in printed]
        assert not missing, f"{missing} is not in: {printed}"

    return check


def _value(printed: str) -> None:
    """`[time, "value"]`, after curl's progress."""
    time, value = json.loads(printed[printed.index("[") :])
    assert time > 0, printed
    assert -10 < float(value) <= 1, printed


def _anything(_printed: str) -> None:
    """The exit code says enough."""


SERVICES: Final = ("regmodel-backend", "airflow-exporter", "prometheus", "pushgateway", "grafana", "airflow-webserver")


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed, and a check of what it prints (stdout and stderr), which raises AssertionError."""

    typed: str
    check: Callable[[str], None]


TARGETS: Final = (
    "curl http://localhost:9090/api/v1/targets | jq '.data.activeTargets[] | {job: .labels.job, health: .health}'"
)
COMMANDS: Final = (
    Command("docker compose --profile monitoring ps", _contains(*SERVICES)),
    Command(TARGETS, _targets),
    Command(
        "curl \"http://localhost:9090/api/v1/query?query=bike_model_r2_production\" | jq '.data.result[0].value'",
        _value,
    ),
    Command(
        "curl http://localhost:9101/metrics | grep bike_model_r2_production",
        _contains("# TYPE bike_model_r2_production gauge", "\nbike_model_r2_production "),
    ),
    Command("curl http://localhost:9101/health", _contains('"status"')),
    Command("docker compose --profile monitoring ps airflow-exporter", _contains("airflow-exporter", "healthy")),
    Command("docker logs airflow-exporter --tail 100", _contains("exporter")),
    Command("docker logs airflow-exporter | tail -50", _anything),
    Command("docker exec prometheus du -sh /prometheus", _contains("/prometheus")),
    Command("docker compose --profile monitoring restart prometheus", _anything),
    Command("docker compose --profile monitoring restart airflow-exporter", _anything),
    Command("docker compose --profile monitoring restart grafana", _anything),
    # Started again: the targets are asked once more.
    Command(TARGETS, _targets),
)
"""In an order that makes sense. Those that restart something come last."""

NEED_GRAFANA: Final = (
    Command(
        'curl -s "http://localhost:3000/api/v1/provisioning/alert-rules" -u "admin:$GF_SECURITY_ADMIN_PASSWORD" '
        "| jq 'length'",
        _contains("9"),
    ),
    Command(
        'curl -s "http://localhost:3000/api/alertmanager/grafana/api/v2/alerts" -u "admin:$GF_SECURITY_ADMIN_PASSWORD" '
        "| jq 'length'",
        _anything,
    ),
    Command("python scripts/test_grafana_alerts_and_dashboards.py", _contains(" 0 failed")),
)
NEED_DISCORD: Final = 'curl -X POST "$DISCORD_WEBHOOK_URL" …'
