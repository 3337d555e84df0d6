"""The keys and types that Grafana's file provisioning knows (9.4 to 13). It ignores every other key in silence.

A schema is a type, a set of allowed values, a list with one schema for all items, or a dict by key; a key that ends in
`?` may be missing, and the key `*` stands for any. `problems` walks a document beside its schema.
"""

import re
from collections.abc import Iterator
from typing import Any

Schema = Any

NUMBER = (int, float)
DURATION = re.compile(r"^\d+[smhd]$")


def duration(value: Any) -> bool:
    return isinstance(value, str) and bool(DURATION.match(value))


def filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def problems(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Every place where the value is not what the schema allows."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{path}: not a mapping"
            return
        named = {key.rstrip("?"): part for key, part in schema.items() if key != "*"}
        for key in value:
            if key not in named and "*" not in schema:
                yield f"{path}.{key}: unknown key"
        for key in schema:
            if not key.endswith("?") and key != "*" and key not in value:
                yield f"{path}.{key}: missing"
        for key, part in value.items():
            yield from problems(part, named.get(key, schema.get("*", object)), f"{path}.{key}")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{path}: not a list"
            return
        for index, item in enumerate(value):
            yield from problems(item, schema[0], f"{path}[{index}]")
    elif isinstance(schema, set):
        if value not in schema:
            yield f"{path}: {value!r} is none of {sorted(map(str, schema))}"
    elif isinstance(schema, type | tuple):
        # bool is an int to Python, not to Grafana.
        allowed = schema if isinstance(schema, tuple) else (schema,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and not {bool, object} & set(allowed)):
            yield f"{path}: {value!r} is not {schema}"
    elif not schema(value):
        yield f"{path}: {value!r} is not a {getattr(schema, '__name__', schema)}"


ANY = object

DATASOURCES = {
    "apiVersion": {1},
    "datasources": [
        {
            "name": filled,
            "uid": {"prometheus"},
            "type": {"prometheus"},
            "access": {"proxy"},
            "orgId": int,
            "url": filled,
            "isDefault": bool,
            "editable": bool,
            "jsonData": {"httpMethod": {"POST", "GET"}, "timeInterval": duration},
        }
    ],
}
PROVIDERS = {
    "apiVersion": {1},
    "providers": [
        {
            "name": filled,
            "orgId": int,
            "folder": filled,
            "type": {"file"},
            "disableDeletion": bool,
            "allowUiUpdates": bool,
            "updateIntervalSeconds": int,
            "options": {"path": filled, "foldersFromFilesStructure": bool},
        }
    ],
}
CONTACT_POINTS = {
    "apiVersion": {1},
    "contactPoints": [
        {
            "orgId": int,
            "name": filled,
            "receivers": [
                {
                    "uid": re.compile(r"^[a-zA-Z0-9_-]{1,40}$").match,
                    "type": {"discord"},
                    "disableResolveMessage": bool,
                    "settings": {"url": filled, "title": filled, "message": filled, "use_discord_username": bool},
                }
            ],
        }
    ],
}
_TIMING = {"group_by": [filled], "group_wait": duration, "group_interval": duration, "repeat_interval": duration}
POLICIES = {
    "apiVersion": {1},
    "policies": [
        {
            "orgId": int,
            "receiver": filled,
            **_TIMING,
            "routes": [{"receiver": filled, "object_matchers": [[filled]], "continue?": bool, **_TIMING}],
        }
    ],
}
TEMPLATES = {"apiVersion": {1}, "templates": [{"orgId": int, "name": filled, "template": filled}]}

_PROMETHEUS_NODE = {
    "refId": filled,
    "relativeTimeRange": {"from": int, "to": int},
    "datasourceUid": {"prometheus"},
    "model": {
        "refId": filled,
        "datasource": {"type": {"prometheus"}, "uid": {"prometheus"}},
        "editorMode": {"code"},
        "expr": filled,
        "instant": {True},
        "range": {False},
        "intervalMs": int,
        "maxDataPoints": int,
    },
}
_THRESHOLD_NODE = {
    "refId": filled,
    "relativeTimeRange": {"from": int, "to": int},
    "datasourceUid": {"__expr__"},
    "model": {
        "refId": filled,
        "datasource": {"type": {"__expr__"}, "uid": {"__expr__"}},
        "type": {"threshold"},
        "expression": filled,
        "conditions": [{"evaluator": {"type": {"gt", "lt"}, "params": [NUMBER]}}],
    },
}


def _node(value: Any) -> bool:
    schema = _THRESHOLD_NODE if value.get("datasourceUid") == "__expr__" else _PROMETHEUS_NODE
    found = list(problems(value, schema))
    assert not found, found
    return True


RULES = {
    "apiVersion": {1},
    "groups": [
        {
            "orgId": int,
            "name": filled,
            "folder": filled,
            "interval": duration,
            "rules": [
                {
                    "uid": re.compile(r"^[a-zA-Z0-9_-]{1,40}$").match,
                    "title": filled,
                    "condition": filled,
                    "data": [_node],
                    "for": duration,
                    # KeepLast is not known before 10.3, and an unknown state keeps Grafana from starting.
                    "noDataState": {"NoData", "OK", "Alerting"},
                    "execErrState": {"Error", "OK", "Alerting"},
                    "labels": {"severity": {"critical", "warning", "info"}, "component": filled},
                    "annotations": {
                        "summary": filled,
                        "description": filled,
                        "runbook_url": filled,
                        "__dashboardUid__": filled,
                        "__panelId__": filled,
                    },
                }
            ],
        }
    ],
}

_DATASOURCE = {"type": {"prometheus"}, "uid": {"${datasource}"}}
_STEPS = [{"color": filled, "value": (int, float, type(None))}]
_THRESHOLDS = {"mode": {"absolute"}, "steps": _STEPS}
_LEGEND = {"calcs?": [filled], "displayMode": {"list", "table"}, "placement": {"bottom", "right"}, "showLegend": bool}
_REDUCE = {"calcs": [filled], "fields": str, "values": bool}
OPTIONS: dict[str, Schema] = {
    "stat": {
        "colorMode": {"value", "background"},
        "graphMode": {"none", "area"},
        "justifyMode": {"auto", "center"},
        "orientation": {"auto", "horizontal", "vertical"},
        "reduceOptions": _REDUCE,
        "textMode": {"auto", "value", "value_and_name", "name", "none"},
    },
    "gauge": {
        "orientation": {"auto"},
        "reduceOptions": _REDUCE,
        "showThresholdLabels": bool,
        "showThresholdMarkers": bool,
    },
    "timeseries": {
        "legend": _LEGEND,
        "tooltip": {"mode": {"single", "multi", "none"}, "sort": {"none", "asc", "desc"}},
    },
    "state-timeline": {
        "alignValue": {"left", "center", "right"},
        "legend": _LEGEND,
        "mergeValues": bool,
        "rowHeight": NUMBER,
        "showValue": {"auto", "always", "never"},
        "tooltip": {"mode": {"single", "multi", "none"}, "sort": {"none", "asc", "desc"}},
    },
    "heatmap": {
        "calculate": bool,
        "cellGap": int,
        "color": {"mode": {"scheme"}, "scheme": filled, "steps": int, "exponent": NUMBER, "fill": filled},
        "filterValues": {"le": NUMBER},
        "legend": {"show": bool},
        "rowsFrame": {"layout": {"auto"}},
        "tooltip": {"show": bool, "yHistogram": bool},
        "yAxis": {"axisPlacement": {"left"}, "reverse": bool, "unit": filled},
    },
    "table": {"cellHeight": {"sm", "md", "lg"}, "showHeader": bool},
}
CUSTOM: dict[str, Schema] = {
    "timeseries": {
        "axisPlacement": {"auto", "left", "right"},
        "drawStyle": {"line", "bars", "points"},
        "fillOpacity": int,
        "lineInterpolation": {"linear", "stepAfter"},
        "lineWidth": int,
        "showPoints": {"never", "auto", "always"},
        "spanNulls": (bool, int),
        "stacking": {"group": filled, "mode": {"none", "normal"}},
        "thresholdsStyle": {"mode": {"off", "line", "dashed", "area"}},
    },
    "state-timeline": {"fillOpacity": int, "lineWidth": int},
    "table": {"align": {"auto"}, "filterable": bool},
    "stat": {},
    "gauge": {},
    "heatmap": {},
}
OVERRIDES = {"unit", "thresholds", "custom.axisPlacement", "custom.axisLabel", "custom.displayMode"}


def panel(kind: str) -> Schema:
    """The schema of one type of panel."""
    return {
        "id": int,
        "type": {kind},
        "title": filled,
        "description": filled,
        "datasource": _DATASOURCE,
        "gridPos": {"h": int, "w": int, "x": int, "y": int},
        "options": OPTIONS[kind],
        "transformations?": [
            {
                "id": {"merge", "organize"},
                "options": {
                    "excludeByName?": {"*": bool},
                    "indexByName?": {"*": int},
                    "renameByName?": {"*": filled},
                },
            }
        ],
        "fieldConfig": {
            "defaults": {
                "color": {"mode": {"thresholds", "palette-classic"}},
                "custom": CUSTOM[kind],
                "decimals?": int,
                "mappings": [{"type": {"value"}, "options": {"*": {"text": filled, "color": filled, "index": int}}}],
                "max?": NUMBER,
                "min?": NUMBER,
                "noValue": filled,
                "thresholds": _THRESHOLDS,
                "unit": filled,
            },
            "overrides": [
                {
                    "matcher": {"id": {"byName"}, "options": filled},
                    "properties": [{"id": OVERRIDES, "value": ANY}],
                }
            ],
        },
        "targets": [
            {
                "datasource": _DATASOURCE,
                "editorMode": {"code"},
                "expr": filled,
                "format": {"time_series", "table", "heatmap"},
                "instant": bool,
                "legendFormat": filled,
                "range": bool,
                "refId": filled,
            }
        ],
    }


ROW = {
    "id": int,
    "type": {"row"},
    "title": filled,
    "collapsed": {False},
    "gridPos": {"h": int, "w": int, "x": int, "y": int},
    "panels": [ANY],
}
_VARIABLE = {
    "name": filled,
    "label": filled,
    "type": filled,
    "current": {"selected": bool, "text": (str, list), "value": (str, list)},
    "hide": {0},
    "includeAll": bool,
    "multi": bool,
    "options": [ANY],
    "refresh": int,
    "regex": str,
    "skipUrlSync": bool,
}
QUERY_VARIABLE = {
    **_VARIABLE,
    "description": filled,
    "datasource": _DATASOURCE,
    "definition": filled,
    "query": {"query": filled, "refId": filled},
    "allValue": filled,
    "sort": int,
}
DATASOURCE_VARIABLE = {**_VARIABLE, "query": {"prometheus"}}
DASHBOARD = {
    "uid": filled,
    "title": filled,
    "description": filled,
    "tags": [filled],
    "editable": bool,
    "graphTooltip": {0, 1, 2},
    "liveNow": bool,
    "refresh": duration,
    "schemaVersion": int,
    "style": {"dark"},
    "time": {"from": filled, "to": filled},
    "timepicker": {},
    "timezone": {"browser"},
    "version": int,
    "weekStart": str,
    "annotations": {
        "list": [
            {
                "builtIn?": {1},
                "datasource": {"type": filled, "uid": filled},
                "enable": bool,
                "expr?": filled,
                "hide?": bool,
                "iconColor": filled,
                "name": filled,
                "step?": duration,
                "tagKeys?": filled,
                "textFormat?": filled,
                "titleFormat?": filled,
                "type?": {"dashboard"},
            }
        ]
    },
    "links": [
        {
            "asDropdown": bool,
            "icon": filled,
            "includeVars": bool,
            "keepTime": bool,
            "tags": [str],
            "targetBlank": bool,
            "title": filled,
            "tooltip": str,
            "type": {"link"},
            "url": filled,
        }
    ],
    "templating": {"list": [ANY]},
    "panels": [ANY],
}
