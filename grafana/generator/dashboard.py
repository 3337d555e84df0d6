"""The frame around the panels: variables, links between the dashboards, marks for deployments."""

from collections.abc import Sequence
from typing import Final

from grafana.generator.limits import TEST_INSTANCE
from grafana.generator.panels import DATASOURCE, Json, layout, select

FOLDER: Final = "MLOps"
TITLES: Final = {
    "mlops-overview": "MLOps overview",
    "mlops-model-performance": "Model performance",
    "mlops-drift-monitoring": "Drift monitoring",
    "mlops-training-deployment": "Training and deployment",
}
SERIES: Final = "up|bike_.+|airflow_.+|fastapi_.+|mlops_exporter_.+"
"""Names whose labels fill the variables: naming them spares Prometheus a walk through everything it has."""


def all_but(text: str) -> str:
    """A regular expression for every label value that does not start with `text`.

    RE2, and so Prometheus, has no negative lookahead: one alternative for each character at which a value can differ.
    """
    return "|".join(f"{text[:index]}[^{character}].*" for index, character in enumerate(text))


def dashboard(
    uid: str,
    description: str,
    rows: Sequence[tuple[str, int, Sequence[Json]]],
    *,
    refresh: str,
    since: str,
) -> Json:
    """A whole dashboard, as Grafana's file provisioning reads it."""
    return {
        "uid": uid,
        "title": TITLES[uid],
        "description": description,
        "tags": ["mlops"],
        "editable": False,
        "graphTooltip": 1,
        "liveNow": False,
        "refresh": refresh,
        "schemaVersion": 37,
        "style": "dark",
        "time": {"from": since, "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "version": 1,
        "weekStart": "",
        "annotations": {"list": [_grafana_annotations(), _deployments()]},
        "links": [_link(other, title) for other, title in TITLES.items() if other != uid],
        "templating": {"list": [_datasource(), _job(), _instance()]},
        "panels": layout(rows),
    }


def _grafana_annotations() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _deployments() -> Json:
    deployed = select("bike_model_deployments_total", 'decision="deploy"')
    expr = f"sum by (instance) (increase({deployed}[$__rate_interval])) > 0"
    return {
        "datasource": DATASOURCE,
        "enable": True,
        # Grafana 9 reads the query here, later versions in target.
        "expr": expr,
        "target": {"expr": expr, "refId": "Deployments"},
        "iconColor": "purple",
        "name": "Deployments",
        "step": "60s",
        "tagKeys": "instance",
        "textFormat": "A challenger became champion",
        "titleFormat": "Deployment",
    }


def _link(uid: str, title: str) -> Json:
    return {
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": True,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
        "title": title,
        "tooltip": "",
        "type": "link",
        "url": f"/d/{uid}",
    }


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"selected": False, "text": "Prometheus", "value": "prometheus"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def _values(name: str, label: str, text: str, every: str, selector: str) -> Json:
    expression = f"label_values({selector}, {name})"
    return {
        "name": name,
        "label": label,
        "description": text,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": expression,
        "query": {"query": expression, "refId": name},
        "allValue": every,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
    }


def _job() -> Json:
    return _values("job", "Job", "Scrape jobs; All takes every one.", ".+", f'{{__name__=~"{SERIES}"}}')


def _instance() -> Json:
    return _values(
        "instance",
        "Instance",
        f"All is everything in production. Choose {TEST_INSTANCE} to see injected test series.",
        all_but(TEST_INSTANCE),
        f'{{__name__=~"{SERIES}", job=~"$job"}}',
    )
