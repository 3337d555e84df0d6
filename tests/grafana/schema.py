"""The keys and types that Grafana's file provisioning knows (9.4 to 13), and those of a panel's query. It ignores every
other key in silence.

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

TARGET = {
    "datasource": {"type": {"prometheus"}, "uid": {"${datasource}"}},
    "editorMode": {"code"},
    "expr": filled,
    "format": {"time_series", "table", "heatmap"},
    "instant": bool,
    "legendFormat": filled,
    "range": bool,
    "refId": filled,
}
"""A panel's query: Grafana's types leave it open (all else about dashboards: test_schema.py)."""
