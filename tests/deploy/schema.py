"""The fields of prometheus-operator's resources that are used here, as its CustomResourceDefinitions (v0.84) have them.

The API server drops fields that it does not know. For the notation see tests/grafana/schema.py.
"""

import re
from typing import Any

from tests.grafana.schema import filled

_DURATION = re.compile(r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$")
_LABEL = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")


def duration(value: Any) -> bool:
    return isinstance(value, str) and bool(value and _DURATION.match(value))


def label(value: Any) -> bool:
    return isinstance(value, str) and bool(_LABEL.match(value))


METADATA = {"name": filled, "namespace": filled, "labels": {"*": filled}}
TEXTS = {"*": filled}

SERVICE_MONITOR = {
    "apiVersion": {"monitoring.coreos.com/v1"},
    "kind": {"ServiceMonitor"},
    "metadata": METADATA,
    "spec": {
        "selector": {"matchLabels": {"*": filled}},
        "jobLabel?": filled,
        "namespaceSelector?": {"any?": bool, "matchNames?": [filled]},
        "endpoints": [
            {
                "port": filled,
                "path?": filled,
                "interval?": duration,
                "scrapeTimeout?": duration,
                "scheme?": {"http", "https"},
                "honorLabels?": bool,
                "relabelings?": [
                    {
                        "targetLabel?": filled,
                        "replacement?": str,
                        "sourceLabels?": [label],
                        "separator?": str,
                        "regex?": str,
                        "action?": {"replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"},
                    }
                ],
            }
        ],
    },
}
PROMETHEUS_RULE = {
    "apiVersion": {"monitoring.coreos.com/v1"},
    "kind": {"PrometheusRule"},
    "metadata": METADATA,
    "spec": {
        "groups": [
            {
                "name": filled,
                "interval?": duration,
                "rules": [{"alert": filled, "expr": filled, "for?": duration, "labels?": TEXTS, "annotations?": TEXTS}],
            }
        ]
    },
}
SCHEMAS = {"ServiceMonitor": SERVICE_MONITOR, "PrometheusRule": PROMETHEUS_RULE}
