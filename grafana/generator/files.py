"""All generated files as text, by their path: what Grafana is provisioned with, and the same alerts for Prometheus."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

import yaml

from grafana.generator import alertmanager, drift_monitoring, model_performance, overview, training_deployment
from grafana.generator.dashboard import FOLDER as DASHBOARD_FOLDER
from grafana.generator.limits import Limits
from grafana.generator.notifications import CONTACT_POINTS, POLICIES, template
from grafana.generator.panels import Json
from grafana.generator.rules import FOLDER, GROUPS, Rule, interval, rule_json, rules

HEADER: Final = (
    "# Written by `python -m grafana.generator`: edit grafana/thresholds.yml or grafana/generator, not this file.\n"
)

PROMETHEUS_RULE: Final = "deploy/kubernetes/monitoring/prometheusrule.yaml"
KUBERNETES_JOBS: Final = ("airflow-metrics",)
"""What deploy/kubernetes has scraped. A cluster's own jobs have other names than those in prometheus.yml."""

DATASOURCES: Final[Json] = {
    "apiVersion": 1,
    "datasources": [
        {
            "name": "Prometheus",
            "uid": "prometheus",
            "type": "prometheus",
            "access": "proxy",
            "orgId": 1,
            "url": "http://prometheus:9090",
            "isDefault": True,
            "editable": False,
            # timeInterval is the longest scrape interval: $__rate_interval is four times that at least.
            "jsonData": {"httpMethod": "POST", "timeInterval": "30s"},
        }
    ],
}
PROVIDERS: Final[Json] = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "mlops",
            "orgId": 1,
            "folder": DASHBOARD_FOLDER,
            "type": "file",
            "disableDeletion": True,
            "allowUiUpdates": False,
            "updateIntervalSeconds": 30,
            "options": {"path": "/etc/grafana/provisioning/dashboards", "foldersFromFilesStructure": False},
        }
    ],
}


class _Dumper(yaml.SafeDumper):
    """Long texts on one line, several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def files(limits: Limits) -> Mapping[str, str]:
    """Every file's text, by its path below the repository's root."""
    provisioned = {f"grafana/provisioning/{name}": text for name, text in provisioning(limits).items()}
    cluster = alertmanager.rule_groups(dataclasses.replace(limits, jobs=KUBERNETES_JOBS))
    rule = {PROMETHEUS_RULE: HEADER + dump(alertmanager.prometheus_rule(cluster))}
    return provisioned | {f"prometheus/{name}": text for name, text in prometheus(limits).items()} | rule


def prometheus(limits: Limits, speed: float = 1.0) -> Mapping[str, str]:
    """Rules for Prometheus and Alertmanager's configuration, by their path below `prometheus/`.

    Args:
        speed: divides every duration in them, so that a trial shows in seconds what takes minutes: `for`, intervals,
            the windows of queries, and the waits of the routing. Limits stay as they are.
    """
    rules = alertmanager.rule_groups(limits, speed)
    return {
        "rules/mlops.yml": HEADER + dump(rules),
        "alertmanager.yml": HEADER
        + "# webhook_url is where Discord's goes; docker-compose.alertmanager.yaml puts DISCORD_WEBHOOK_URL there.\n"
        + dump(alertmanager.configuration(speed)),
        "mlops.tmpl": template(".Annotations.panel_url"),
        "alertmanagers/compose.yml": HEADER + dump([{"targets": ["alertmanager:9093"]}]),
    }


def provisioning(limits: Limits) -> Mapping[str, str]:
    """What Grafana is provisioned with, by its path below `grafana/provisioning/`."""
    return {
        "datasources/prometheus.yml": HEADER
        + "# The uid is for ever: dashboards, rules and links rely on it.\n"
        + dump(DATASOURCES),
        "dashboards/dashboards.yml": HEADER + dump(PROVIDERS),
        "dashboards/overview.json": dump_json(overview.build(limits)),
        "dashboards/model_performance.json": dump_json(model_performance.build(limits)),
        "dashboards/drift_monitoring.json": dump_json(drift_monitoring.build(limits)),
        "dashboards/training_deployment.json": dump_json(training_deployment.build(limits)),
        "alerting/rules.yml": HEADER + rules_yaml(limits),
        "alerting/contactpoints.yml": HEADER
        + "# An empty DISCORD_WEBHOOK_URL keeps Grafana from starting: docker-compose.yaml gives a harmless default.\n"
        + dump(CONTACT_POINTS),
        "alerting/policies.yml": HEADER
        + "# This is the whole tree of the organisation: it replaces any other.\n"
        + dump(POLICIES),
        "alerting/templates.yml": HEADER
        + dump({"apiVersion": 1, "templates": [{"orgId": 1, "name": "mlops", "template": template(".PanelURL")}]}),
    }  # fmt: skip


def rules_yaml(limits: Limits) -> str:
    """The rules, with the reason for each noDataState and execErrState above it."""
    every = rules(limits)
    document = {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group,
                "folder": FOLDER,
                "interval": interval(group),
                "rules": [rule_json(rule, limits.runbooks) for rule in every if rule.group == group],
            }
            for group in GROUPS
        ],
    }
    return _with_reasons(dump(document), {rule.uid: rule for rule in every})


def _with_reasons(text: str, by_uid: Mapping[str, Rule]) -> str:
    lines: list[str] = []
    rule: Rule | None = None
    for line in text.splitlines():
        key, _, rest = line.strip().removeprefix("- ").partition(": ")
        if key == "uid" and rest in by_uid:
            rule = by_uid[rest]
        if rule is not None and key in ("noDataState", "execErrState"):
            reaction = rule.no_data if key == "noDataState" else rule.error
            lines.append(f"{line[: len(line) - len(line.lstrip())]}# {reaction.reason}")
        lines.append(line)
    return "\n".join(lines) + "\n"


def dump(document: Any) -> str:
    """YAML in the order that it was written in."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def dump_json(document: Json) -> str:
    """JSON in the order that it was written in."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
