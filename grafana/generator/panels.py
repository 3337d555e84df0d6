"""The pieces that dashboards are made of: selectors, queries and panels, in Grafana's classic JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from grafana.generator.limits import Limits

Json = dict[str, Any]
Steps = Sequence[tuple[float | None, str]]

DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES: Final = 'job=~"$job", instance=~"$instance"'
"""Matchers that every selector of every panel carries."""

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"
NEUTRAL: Final[Steps] = ((None, BLUE),)
PLAIN: Final[Steps] = ((None, GREY),)

AIRFLOW_OFF: Final = "none: Airflow is off, or no run yet"
NOT_MEASURED: Final = "not measured yet"
"""Shown instead of a bare "No data": why a panel can rightly be empty."""


def select(name: str, *matchers: str) -> str:
    """A selector with the dashboard's variables: `name{matchers, job=~"$job", instance=~"$instance"}`."""
    return f"{name}{{{', '.join([*matchers, VARIABLES])}}}"


def traffic(limits: Limits) -> str:
    """The matcher that leaves out what is asked by machines that only look."""
    return f'endpoint!~"{"|".join(limits.ignored_endpoints)}"'


def r2_steps(limits: Limits) -> Steps:
    """Colours of an R²."""
    return ((None, RED), (limits.r2_critical, ORANGE), (limits.r2_warning, GREEN))


def above(limit: float) -> Steps:
    """Green, and red from a limit on."""
    return ((None, GREEN), (limit, RED))


UP: Final[Json] = {"0": {"text": "down", "color": RED, "index": 0}, "1": {"text": "up", "color": GREEN, "index": 1}}
DRIFT: Final[Json] = {
    "0": {"text": "no drift", "color": GREEN, "index": 0},
    "1": {"text": "drift", "color": RED, "index": 1},
}
KEPT: Final[Json] = {
    "0": {"text": "not kept", "color": RED, "index": 0},
    "1": {"text": "kept", "color": GREEN, "index": 1},
}
STILL: Final[Json] = {"0": {"text": "stands still", "color": ORANGE, "index": 0}}
RUNNING: Final[Json] = {
    "0": {"text": "idle", "color": GREY, "index": 0},
    "1": {"text": "running", "color": BLUE, "index": 1},
}


def query(expr: str, legend: str, *, instant: bool = False, table: bool = False, heatmap: bool = False) -> Json:
    """One target of a panel; its refId is set by the panel."""
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "format": "table" if table else "heatmap" if heatmap else "time_series",
        "instant": instant,
        "legendFormat": legend,
        "range": not instant,
    }


def _panel(
    kind: str,
    panel_id: int,
    title: str,
    description: str,
    queries: Iterable[Json],
    *,
    width: int,
    options: Json,
    unit: str,
    steps: Steps,
    custom: Json | None = None,
    mapping: Mapping[str, Json] | None = None,
    decimals: int | None = None,
    low: float | None = None,
    high: float | None = None,
    empty: str = NOT_MEASURED,
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
) -> Json:
    defaults: Json = {
        "color": {"mode": "thresholds" if kind in ("stat", "gauge", "state-timeline", "table") else "palette-classic"},
        "custom": custom or {},
        "mappings": [{"type": "value", "options": dict(mapping)}] if mapping else [],
        "noValue": empty,
        "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]},
        "unit": unit,
    }
    for key, value in (("decimals", decimals), ("min", low), ("max", high)):
        if value is not None:
            defaults[key] = value
    panel: Json = {
        "id": panel_id,
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "gridPos": {"w": width},
        "options": options,
        "targets": [{"refId": chr(ord("A") + index), **target} for index, target in enumerate(queries)],
    }
    if transformations:
        panel["transformations"] = list(transformations)
    return panel


def stat(
    panel_id: int, title: str, description: str, queries: Iterable[Json], *,
    width: int, unit: str, steps: Steps = PLAIN, text: str = "auto", graph: bool = False, **more: Any,
) -> Json:  # fmt: skip
    """One number, or one for each series."""
    options = {
        "colorMode": "value" if steps is PLAIN or steps is NEUTRAL else "background",
        "graphMode": "area" if graph else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
    }
    return _panel(
        "stat", panel_id, title, description, queries, width=width, options=options, unit=unit, steps=steps, **more
    )


def gauge(
    panel_id: int, title: str, description: str, queries: Iterable[Json], *,
    width: int, unit: str, steps: Steps, **more: Any,
) -> Json:  # fmt: skip
    """A number on a dial that shows where the limits are."""
    options = {
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showThresholdLabels": True,
        "showThresholdMarkers": True,
    }
    return _panel(
        "gauge", panel_id, title, description, queries, width=width, options=options, unit=unit, steps=steps, **more
    )


def timeseries(
    panel_id: int, title: str, description: str, queries: Iterable[Json], *,
    width: int, unit: str, steps: Steps = NEUTRAL, bars: bool = False, stack: bool = False, **more: Any,
) -> Json:  # fmt: skip
    """Lines over time; limits other than the colour of the base are drawn as dashed lines."""
    custom = {
        "axisPlacement": "auto",
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if bars else 8,
        "lineInterpolation": "stepAfter" if not bars else "linear",
        "lineWidth": 1 if bars else 2,
        "showPoints": "never",
        # A weekly value stays a line; a gap longer than an hour is shown as a gap.
        "spanNulls": 3_600_000,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
        "thresholdsStyle": {"mode": "dashed" if len(steps) > 1 else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel(
        "timeseries", panel_id, title, description, queries,
        width=width, options=options, unit=unit, steps=steps, custom=custom, **more,
    )  # fmt: skip


def state_timeline(
    panel_id: int, title: str, description: str, queries: Iterable[Json], *, width: int, **more: Any
) -> Json:
    """Coloured bands over time, one for each series."""
    options = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 80, "lineWidth": 0}
    return _panel(
        "state-timeline", panel_id, title, description, queries,
        width=width, options=options, unit="none", steps=PLAIN, custom=custom, **more,
    )  # fmt: skip


def heatmap(panel_id: int, title: str, description: str, queries: Iterable[Json], *, width: int, **more: Any) -> Json:
    """A histogram's buckets over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "fill": "dark-orange",
            "reverse": False,
        },
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return _panel(
        "heatmap", panel_id, title, description, queries,
        width=width, options=options, unit="short", steps=PLAIN, **more,
    )  # fmt: skip


def table(
    panel_id: int, title: str, description: str, columns: Sequence[tuple[str, str, str, Steps]], *,
    width: int, key: Mapping[str, str], decimals: int | None = None, empty: str = NOT_MEASURED,
) -> Json:  # fmt: skip
    """One row for each set of labels.

    Args:
        columns: title, expression, unit and colours of each column of values.
        key: the labels that stay, with their column titles.
    """
    queries = [query(expr, heading, instant=True, table=True) for heading, expr, _, _ in columns]
    names = {f"Value #{chr(ord('A') + index)}": column[0] for index, column in enumerate(columns)}
    if len(columns) == 1:
        names = {"Value": columns[0][0]}
    overrides = []
    for heading, _, unit, steps in columns:
        properties: list[Json] = [{"id": "unit", "value": unit}]
        if steps is not PLAIN:
            colours = [{"color": color, "value": value} for value, color in steps]
            properties.append({"id": "thresholds", "value": {"mode": "absolute", "steps": colours}})
            properties.append({"id": "custom.displayMode", "value": "color-text"})
        overrides.append({"matcher": {"id": "byName", "options": heading}, "properties": properties})
    transformations: list[Json] = [{"id": "merge", "options": {}}]
    transformations.append(
        {
            "id": "organize",
            "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {**key, **names}},
        }
    )
    return _panel(
        "table", panel_id, title, description, queries,
        width=width, options={"cellHeight": "sm", "showHeader": True}, unit="short", steps=PLAIN,
        decimals=decimals, overrides=overrides, transformations=transformations, empty=empty,
        custom={"align": "auto", "filterable": False},
    )  # fmt: skip


def right_axis(name: str, unit: str, label: str) -> Json:
    """An override that draws one series against an axis of its own."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": "custom.axisPlacement", "value": "right"},
            {"id": "custom.axisLabel", "value": label},
            {"id": "unit", "value": unit},
        ],
    }


def layout(rows: Sequence[tuple[str, int, Sequence[Json]]], first_row_id: int = 100) -> list[Json]:
    """Panels with their places: each row has a title, a height, and panels whose widths add up to 24 or less."""
    placed: list[Json] = []
    y = 0
    for index, (title, height, panels) in enumerate(rows):
        placed.append(
            {
                "id": first_row_id + index,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = 0
        for panel in panels:
            width = panel["gridPos"]["w"]
            if x + width > 24:
                x, y = 0, y + height
            placed.append({**panel, "gridPos": {"h": height, "w": width, "x": x, "y": y}})
            x += width
        y += height
    return placed
