"""The same nine rules and the same routing for teams that alert with Prometheus and Alertmanager.

What Grafana does without a value becomes rules of their own, under Grafana's names, so that routes and templates serve
both: `DatasourceNoData` where Grafana would report no data, `DatasourceError` for rules that cannot be evaluated. A
Prometheus that is gone cannot say so itself; docs/alerting.md says what must watch it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from grafana.generator.limits import Limits
from grafana.generator.notifications import POLICIES, RECEIVER
from grafana.generator.panels import Json
from grafana.generator.rules import GROUPS, Rule, interval, rules, with_values

DISABLED: Final = "http://127.0.0.1:9/disabled"
"""Stands where Discord's webhook goes. Nothing listens on port 9 of this machine."""

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_WINDOW: Final = re.compile(r"(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]")
"""Windows and offsets in PromQL."""


def faster(duration: str, speed: float) -> str:
    """A duration such as `5m` divided by `speed`, to the millisecond."""
    if speed == 1:
        return duration
    return f"{max(1, round(int(duration[:-1]) * _SECONDS[duration[-1]] * 1000 / speed))}ms"


def _faster_windows(query: str, speed: float) -> str:
    return _WINDOW.sub(lambda found: faster(found[0], speed), query)


def expression(rule: Rule) -> str:
    """The condition as one expression, whose value is that of the rule's first query."""
    ref, condition = rule.queries[-1]
    crossed = f"({condition}) {'>' if rule.operator == 'gt' else '<'} {rule.limit:g}"
    first, shown = rule.queries[0]
    return crossed if ref == first else f"({shown}) and ({crossed})"


def rule_groups(limits: Limits, speed: float = 1.0) -> Json:
    """The content of a rule file of Prometheus, durations divided by `speed`."""
    content: dict[str, list[Json]] = {group: [] for group in GROUPS}
    for original in rules(limits):
        queries = tuple((ref, _faster_windows(query, speed)) for ref, query in original.queries)
        rule = dataclasses.replace(original, queries=queries, hold=faster(original.hold, speed))
        content[rule.group].append(_alert(rule, limits))
        if rule.no_data.state == "NoData":
            content[rule.group].append(_no_data(rule, limits))
    content["infrastructure"].append(_error(limits, speed))
    return {
        "groups": [
            {"name": name, "interval": faster(interval(name), speed), "rules": alerts}
            for name, alerts in content.items()
        ]
    }


def prometheus_rule(groups: Json) -> Json:
    """The rules as prometheus-operator's resource."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "mlops-alerts", "labels": {"app.kubernetes.io/part-of": "mlops-monitoring"}},
        "spec": groups,
    }


def configuration(speed: float = 1.0) -> Json:
    """Alertmanager's configuration: the tree of policies.yml, waits divided by `speed`."""
    [tree] = POLICIES["policies"]
    receiver = {
        "webhook_url": DISABLED,
        "send_resolved": True,
        "title": '{{ template "mlops.title" . }}',
        "message": '{{ template "mlops.message" . }}',
    }
    return {
        "templates": ["mlops.tmpl"],
        "route": {**_route(tree, speed), "routes": [_route(route, speed) for route in tree["routes"]]},
        "receivers": [{"name": RECEIVER, "discord_configs": [receiver]}],
    }


def _route(policy: Mapping[str, Any], speed: float) -> Json:
    matchers = [f'{name}{operator}"{text}"' for name, operator, text in policy.get("object_matchers", [])]
    return {
        "receiver": policy["receiver"],
        **({"matchers": matchers} if matchers else {}),
        "group_by": policy["group_by"],
        **{key: faster(policy[key], speed) for key in ("group_wait", "group_interval", "repeat_interval")},
    }


def _alert(rule: Rule, limits: Limits) -> Json:
    queries = dict(rule.queries)
    first = rule.queries[0][0]

    def written(ref: str, function: str) -> str:
        if ref == first:
            return f"{{{{ {function} $value }}}}"
        # Prometheus hands one value to a template; any other is asked for, and is the one of the same target.
        ours = "and (eq .Labels.job $labels.job) (eq .Labels.instance $labels.instance)"
        return (
            f"{{{{ range query `{queries[ref]}` }}}}{{{{ if {ours} }}}}{{{{ {function} .Value }}}}"
            "{{ end }}{{ end }}"
        )

    return {
        "alert": rule.title,
        "expr": expression(rule),
        "for": rule.hold,
        "labels": {"severity": rule.severity, "component": rule.component},
        "annotations": {
            "summary": with_values(rule.summary, written),
            "description": with_values(rule.description, written),
            **_links(rule, limits),
        },
    }


def _no_data(rule: Rule, limits: Limits) -> Json:
    return {
        "alert": "DatasourceNoData",
        "expr": f"absent({rule.queries[-1][1]})",
        "for": rule.hold,
        "labels": {"severity": rule.severity, "component": rule.component, "rulename": rule.title},
        "annotations": {
            "summary": f"{rule.title} has no data",
            "description": "No series answers the rule's query: nobody knows whether it would fire.",
            **_links(rule, limits),
        },
    }


def _error(limits: Limits, speed: float) -> Json:
    groups = f'rule_group=~".*;({"|".join(GROUPS)})"'
    window = faster("5m", speed)
    failures = f"increase(prometheus_rule_evaluation_failures_total{{{groups}}}[{window}])"
    return {
        "alert": "DatasourceError",
        "expr": f'sum by (rulename) (label_replace({failures}, "rulename", "$1", "rule_group", ".*;(.+)")) > 0',
        "for": window,
        "labels": {"severity": "warning", "component": "infrastructure"},
        "annotations": {
            "summary": "Rules of the group {{ $labels.rulename }} cannot be evaluated",
            "description": "Prometheus' page Status, Rules shows the error.",
            "runbook_url": f"{limits.runbooks}#with-prometheus-and-alertmanager",
        },
    }


def _links(rule: Rule, limits: Limits) -> Json:
    dashboard, panel = rule.panel
    return {
        "runbook_url": f"{limits.runbooks}#{rule.uid}",
        "panel_url": f"{limits.grafana}/d/{dashboard}?viewPanel={panel}",
    }
