"""Where alerts go and what their messages say."""

from typing import Final

from grafana.generator.limits import TEST_JOB
from grafana.generator.panels import Json

RECEIVER: Final = "discord-mlops"
TITLE_LIMIT, MESSAGE_LIMIT = 256, 2000
"""Discord answers 400 to anything longer, and the alert is lost."""
FIRING_SHOWN, RESOLVED_SHOWN = 3, 2

CONTACT_POINTS: Final[Json] = {
    "apiVersion": 1,
    "contactPoints": [
        {
            "orgId": 1,
            "name": RECEIVER,
            "receivers": [
                {
                    "uid": RECEIVER,
                    "type": "discord",
                    "disableResolveMessage": False,
                    "settings": {
                        "url": "$DISCORD_WEBHOOK_URL",
                        "title": '{{ template "mlops.title" . }}',
                        "message": '{{ template "mlops.message" . }}',
                        "use_discord_username": False,
                    },
                }
            ],
        }
    ],
}

_GROUP_BY: Final = ["alertname", "severity", "component"]


def _route(matchers: list[list[str]], wait: str, interval: str, repeat: str, group_by: list[str] | None = None) -> Json:
    return {
        "receiver": RECEIVER,
        "group_by": group_by or _GROUP_BY,
        "object_matchers": matchers,
        "group_wait": wait,
        "group_interval": interval,
        "repeat_interval": repeat,
    }


POLICIES: Final[Json] = {
    "apiVersion": 1,
    "policies": [
        {
            "orgId": 1,
            "receiver": RECEIVER,
            "group_by": _GROUP_BY,
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "4h",
            "routes": [
                # All rules that cannot be judged make one message, whatever their severity is.
                _route([["alertname", "=~", "DatasourceNoData|DatasourceError"]], "1m", "5m", "12h", ["alertname"]),
                _route([["severity", "=", "critical"], ["component", "=~", "infrastructure|api"]], "10s", "1m", "1h"),
                _route([["severity", "=", "critical"], ["component", "=~", "model|drift"]], "10s", "1m", "2h"),
                _route([["severity", "=", "warning"]], "30s", "5m", "4h"),
                _route([["severity", "=", "info"]], "1m", "5m", "12h"),
            ],
        }
    ],
}


def template(panel: str) -> str:
    """The definitions of `mlops.title` and `mlops.message`, for Grafana and for Alertmanager.

    Every piece of a message is cut to a length (`%.110s` counts characters), and so many alerts are shown that the
    whole stays within Discord's limits whatever the alerts say: a template cannot measure what it has written.

    Args:
        panel: the field of an alert that holds the link to its panel.
    """
    return _TEMPLATE.replace(".PanelURL", panel)


_TEMPLATE: Final = f"""\
{{{{ define "mlops.name" }}}}{{{{ if .rulename }}}}{{{{ printf "%.40s" .rulename }}}} \
({{{{ printf "%.20s" .alertname }}}})\
{{{{ else }}}}{{{{ printf "%.40s" .alertname }}}}{{{{ end }}}}{{{{ end }}}}

{{{{ define "mlops.title" }}}}{{{{ if eq .CommonLabels.job "{TEST_JOB}" }}}}[TEST] {{{{ end }}}}\
{{{{ if gt (len .Alerts.Firing) 0 }}}}\
{{{{ if eq .CommonLabels.severity "critical" }}}}🔴{{{{ else }}}}🟠{{{{ end }}}} {{{{ len .Alerts.Firing }}}} firing: \
{{{{ else }}}}✅ resolved: {{{{ end }}}}{{{{ template "mlops.name" .CommonLabels }}}}\
{{{{ if .CommonLabels.severity }}}} ({{{{ printf "%.20s" .CommonLabels.severity }}}}){{{{ end }}}}{{{{ end }}}}

{{{{ define "mlops.firing" }}}}\
{{{{ if eq .Labels.job "{TEST_JOB}" }}}}**[TEST]** {{{{ end }}}}**{{{{ template "mlops.name" .Labels }}}}**
{{{{ printf "%.110s" .Annotations.summary }}}}
{{{{ printf "%.160s" .Annotations.description }}}}
{{{{ if .PanelURL }}}}Panel: {{{{ printf "%.120s" .PanelURL }}}}
{{{{ end }}}}{{{{ if .Annotations.runbook_url }}}}What to do: {{{{ printf "%.90s" .Annotations.runbook_url }}}}
{{{{ end }}}}{{{{ end }}}}

{{{{ define "mlops.resolved" }}}}✅ {{{{ if eq .Labels.job "{TEST_JOB}" }}}}[TEST] {{{{ end }}}}\
{{{{ template "mlops.name" .Labels }}}} resolved
{{{{ end }}}}

{{{{ define "mlops.message" }}}}\
{{{{ range $i, $alert := .Alerts.Firing }}}}{{{{ if lt $i {FIRING_SHOWN} }}}}{{{{ template "mlops.firing" $alert }}}}\
{{{{ end }}}}{{{{ end }}}}\
{{{{ if gt (len .Alerts.Firing) {FIRING_SHOWN} }}}}… {{{{ len .Alerts.Firing }}}} are firing, {FIRING_SHOWN} are shown.
{{{{ end }}}}\
{{{{ range $i, $alert := .Alerts.Resolved }}}}{{{{ if lt $i {RESOLVED_SHOWN} }}}}\
{{{{ template "mlops.resolved" $alert }}}}{{{{ end }}}}{{{{ end }}}}\
{{{{ if gt (len .Alerts.Resolved) {RESOLVED_SHOWN} }}}}… {{{{ len .Alerts.Resolved }}}} are resolved.
{{{{ end }}}}{{{{ end }}}}
"""
