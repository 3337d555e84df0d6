#!/usr/bin/env python3
"""Draw the four dashboards to docs/img, without Grafana: Prometheus answers the panels' own queries, matplotlib draws.

  pip install matplotlib pyyaml
  python scripts/draw_dashboards.py                      all four, to docs/img

Needs `prometheus` and `promtool` on the PATH. The history is generated: four weeks of the exporter's sample audit log,
and beside it a made-up Airflow and RegModel API (fixed seed). The pictures show what the queries return and where the
limits lie; layout and colours are close to Grafana's, not the same.
"""

import argparse
import bisect
import csv
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib as mpl  # noqa: E402 -- the project's root comes first on the path
import yaml  # noqa: E402

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

DAYS: Final = 30
STEP: Final = 240
"""Seconds between generated samples: shorter than the five minutes that Prometheus looks back."""
PROD: Final = {"job": "airflow-metrics", "instance": "airflow-exporter:9101"}
API: Final = {"job": "regmodel-api", "instance": "regmodel-backend:8000"}
COLOURS: Final = {"green": "#56a64b", "orange": "#ff9830", "red": "#e02f44", "blue": "#3274d9", "text": "#777777"}
LINES: Final = ("#3274d9", "#e0752d", "#56a64b", "#8f3bb8", "#b8860b", "#1f9ea8", "#c4162a", "#666666")

Point = tuple[float, float]


# -- history -----------------------------------------------------------------------------------------------------------


class History:
    """Series as functions of time, written as OpenMetrics text."""

    def __init__(self, end: int) -> None:
        self.times = range(end - DAYS * 86400, end, STEP)
        self.families: dict[str, list[tuple[str, Callable[[int], float | None]]]] = {}

    def add(self, name: str, labels: dict[str, str], value: Callable[[int], float | None]) -> None:
        """One series."""
        text = ",".join(f'{key}="{part}"' for key, part in labels.items())
        self.families.setdefault(name, []).append((f"{name}{{{text}}}", value))

    def write(self, path: Path) -> None:
        """The whole history. Everything is called a gauge: backfilling asks for no types, and queries know none."""
        with path.open("w") as file:
            for name, series in self.families.items():
                file.write(f"# TYPE {name} gauge\n")
                for key, value in series:
                    file.writelines(
                        f"{key} {number:.10g} {at}\n" for at in self.times if (number := value(at)) is not None
                    )
            file.write("# EOF\n")


def audit(history: History, end: int) -> None:
    """The sample audit log as the exporter shows it at each moment."""
    with (ROOT / "exporter" / "sample" / "audit_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    when = [datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows]
    catalogue = yaml.safe_load((ROOT / "exporter" / "catalog.yaml").read_text("utf-8"))
    truth = {"true": 1.0, "false": 0.0}

    def newest(column: str) -> Callable[[int], float | None]:
        # Sentinels of old rows count as missing, as the catalogue says.
        known = [
            (at, row[column])
            for at, row in zip(when, rows, strict=True)
            if row[column] and not (column in ("r2", "rmse") and float(row["rmse"]) == 999)
        ]
        stamps_ = [at for at, _ in known]

        def value(at: int) -> float | None:
            index = bisect.bisect_right(stamps_, at) - 1
            return None if index < 0 else float(truth.get(known[index][1], known[index][1]))

        return value

    def count(wanted: Callable[[dict[str, str]], bool]) -> Callable[[int], float]:
        hits = [at for at, row in zip(when, rows, strict=True) if wanted(row)]
        return lambda at: float(bisect.bisect_right(hits, at))

    for metric in catalogue["metrics"]:
        for origin in metric.get("from", []):
            column = origin.get("audit")
            if isinstance(column, str):
                history.add(metric["name"], PROD, newest(column))
            elif isinstance(column, dict):
                for label, match in column["values"].items():
                    text = str(match).lower()

                    def wanted(row: dict[str, str], column: dict[str, Any] = column, text: str = text) -> bool:
                        return row[column["count"]] == text and row.get(column.get("where", ""), "true") == "true"

                    history.add(metric["name"], {**PROD, metric["labels"][0]: label}, count(wanted))
    history.add(
        "mlops_exporter_audit_last_record_timestamp_seconds", PROD, lambda at: when[bisect.bisect_right(when, at) - 1]
    )
    # Read every minute, but for two hours of an outage.
    outage = (end - 9 * 3600, end - 7 * 3600)

    def down(at: int) -> bool:
        return outage[0] <= at < outage[1]

    for source in ("audit", "airflow"):
        broken = down if source == "audit" else lambda _: False
        history.add("mlops_exporter_source_up", {**PROD, "source": source}, lambda at, b=broken: float(not b(at)))
        history.add(
            "mlops_exporter_source_last_success_timestamp_seconds",
            {**PROD, "source": source},
            lambda at, b=broken: float(outage[0] if b(at) else at - 30),
        )
    for name, own in (("state_persistent", 1.0), ("series_dropped", 0.0), ("loop_errors_total", 0.0)):
        history.add(f"mlops_exporter_{name}", PROD, lambda _, own=own: own)
    for metric in catalogue["metrics"]:
        kinds = [next(iter(origin)) for origin in metric.get("from", [])]
        if kinds:
            source = "audit" if kinds[0] == "audit" else "airflow"
            history.add(
                "mlops_exporter_metric_source_info", {**PROD, "metric": metric["name"], "source": source}, lambda _: 1.0
            )


def airflow(history: History, end: int) -> None:
    """Made-up runs of the three DAGs, every run a little different."""
    chance = random.Random(4)
    start = end - DAYS * 86400
    dags = {
        "daily_fetch_bike_data": (86400, 6 * 3600, 240, {"fetch_to_bigquery": 0.8, "validate": 0.2}),
        "daily_prediction": (86400, 7 * 3600, 150, {"predict_daily_data": 0.9, "store": 0.1}),
        "monitor_and_fine_tune": (7 * 86400, 9 * 3600, 2100, {"monitor_drift": 0.2, "fine_tune_model": 0.8}),
    }
    bounds = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
    records: list[Point] = []
    predictions: list[Point] = []
    errors: list[tuple[float, float, float, float]] = []
    for dag, (every, offset, usual, tasks) in dags.items():
        runs = []
        first = start - start % 86400 + offset - 86400
        for begun in range(first, end, every):
            seconds = usual * chance.lognormvariate(0, 0.35)
            if begun + seconds > end:
                continue
            state = "failed" if chance.random() < 0.06 else "success"
            runs.append((begun, begun + seconds, state))
            if state == "success" and dag == "daily_fetch_bike_data":
                records.append((begun + seconds, chance.randint(900, 1600)))
            if state == "success" and dag == "daily_prediction":
                predictions.append((begun + seconds, chance.randint(860, 1500)))
                noise = chance.gauss(0, 1)
                errors.append((begun + seconds, 52 + 4 * noise, 37 + 3 * noise, 0.78 - 0.02 * noise))

        def active(at: int, runs: list[Any] = runs) -> float:
            return float(max((at - begun for begun, ended, _ in runs if begun <= at < ended), default=0))

        def success(at: int, runs: list[Any] = runs) -> float | None:
            return max((ended for _, ended, state in runs if state == "success" and ended <= at), default=None)

        history.add("airflow_dag_run_active_seconds", {**PROD, "dag_id": dag}, active)
        history.add("airflow_dag_last_success_timestamp_seconds", {**PROD, "dag_id": dag}, success)
        for state in ("success", "failed"):
            ends = sorted(ended for _, ended, s in runs if s == state)
            labels = {**PROD, "dag_id": dag, "state": state}
            history.add("airflow_dag_runs_total", labels, lambda at, ends=ends: float(bisect.bisect_right(ends, at)))
            parts: list[tuple[str, float, dict[str, str]]] = [("dag_run", 1.0, {})]
            parts += [("task", part, {"task_id": task}) for task, part in tasks.items()]
            for prefix, share, more in parts:
                took = [(ended, (ended - begun) * share) for begun, ended, s in runs if s == state]
                for bound in (*bounds, float("inf")):
                    inside = sorted(ended for ended, seconds in took if seconds <= bound)
                    le = "+Inf" if bound == float("inf") else f"{bound:.1f}"
                    history.add(
                        f"airflow_{prefix}_duration_seconds_bucket",
                        {**labels, **more, "le": le},
                        lambda at, inside=inside: float(bisect.bisect_right(inside, at)),
                    )

    def total(points: list[Point]) -> Callable[[int], float]:
        return lambda at: float(sum(amount for when, amount in points if when <= at))

    history.add("bike_records_ingested_total", PROD, total(records))
    history.add("bike_predictions_generated_total", PROD, total(predictions))
    for index, name in enumerate(("bike_prediction_rmse", "bike_prediction_mae", "bike_prediction_r2"), 1):

        def latest(at: int, index: int = index) -> float | None:
            return next((error[index] for error in reversed(errors) if error[0] <= at), None)

        history.add(name, PROD, latest)


def api(history: History, end: int) -> None:
    """Made-up traffic with a daily rhythm and half an hour of errors."""
    chance = random.Random(7)
    counts: dict[str, list[float]] = {"200": [0.0], "422": [0.0], "500": [0.0]}
    for at in history.times:
        busy = 0.3 + 1.2 * max(0.0, 1 - abs((at % 86400) / 3600 - 14) / 8)
        bad = 0.09 if end - 5 * 3600 <= at < end - 4.5 * 3600 else 0.002
        for code, share in (("200", 1 - bad - 0.01), ("422", 0.01), ("500", bad)):
            counts[code].append(counts[code][-1] + busy * share * STEP * chance.uniform(0.85, 1.15))
    for code, values in counts.items():
        labels = {**API, "method": "POST", "endpoint": "/predict", "status_code": code}
        history.add("fastapi_requests_total", labels, lambda at, v=values: v[(at - history.times[0]) // STEP])
    shares = {
        "0.005": 0.02,
        "0.01": 0.2,
        "0.025": 0.62,
        "0.05": 0.86,
        "0.1": 0.95,
        "0.25": 0.985,
        "0.5": 0.996,
        "+Inf": 1,
    }
    for le, share in shares.items():
        history.add(
            "fastapi_request_duration_seconds_bucket",
            {**API, "method": "POST", "endpoint": "/predict", "le": le},
            lambda at, share=share: counts["200"][(at - history.times[0]) // STEP] * share,
        )
    for job, instance in (
        ("regmodel-api", "regmodel-backend:8000"),
        ("airflow-metrics", "airflow-exporter:9101"),
        ("pushgateway", "pushgateway:9091"),
        ("prometheus", "localhost:9090"),
    ):
        history.add("up", {"job": job, "instance": instance}, lambda _: 1.0)


# -- Prometheus --------------------------------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, history: History) -> Iterator[str]:
    """A Prometheus with this history; gives its address."""
    program = shutil.which("prometheus")
    promtool = shutil.which("promtool")
    if not program or not promtool:
        sys.exit("error: prometheus and promtool are needed (Debian: apt install prometheus)")
    history.write(folder / "history.txt")
    # The text is read once for every block: large blocks, or it takes an hour.
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "--max-block-duration=162h", "openmetrics", "-q",
         folder / "history.txt", folder / "data"],
        check=True,
    )  # fmt: skip
    (folder / "prometheus.yml").write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         "--storage.tsdb.retention.time=60d", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


class Source:
    """Answers a dashboard's queries, over the time that the dashboard shows."""

    def __init__(self, url: str, end: int, span: int) -> None:
        self.url, self.end, self.span = url, end, span
        self.step = max(STEP, span // 300)

    def expression(self, text: str, variables: dict[str, str]) -> str:
        """The panel's expression with its variables filled in."""
        rate = f"{max(4 * STEP, self.step + STEP)}s"
        for variable, value in {"$__rate_interval": rate, "$__range": f"{self.span}s", **variables}.items():
            text = text.replace(variable, value)
        return text

    def ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """The result of one query."""
        body = urllib.parse.urlencode(parameters).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data=body, timeout=60) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def instant(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series now."""
        return [(s["metric"], float(s["value"][1])) for s in self.ask("query", query=expr, time=self.end)]

    def range(self, expr: str) -> list[tuple[dict[str, str], list[Point]]]:
        """Labels and points of each series."""
        found = self.ask("query_range", query=expr, start=self.end - self.span, end=self.end, step=self.step)
        return [(s["metric"], [(float(at), float(value)) for at, value in s["values"]]) for s in found]


# -- drawing -----------------------------------------------------------------------------------------------------------


def legend(text: str, labels: dict[str, str]) -> str:
    """The legend of one series."""
    for key, value in labels.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def formatted(value: float, unit: str, decimals: int | None, mappings: Sequence[dict[str, Any]] = ()) -> str:
    """A value as Grafana would write it, nearly."""
    for mapping in mappings:
        if (named := mapping["options"].get(f"{value:g}")) is not None:
            return str(named["text"])
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{value * 100:.{decimals or 0}f} %"
    if unit in ("s", "dtdurations"):
        for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}"
        return f"{value:.3g} s"
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}"


def colour(value: float, steps: Sequence[dict[str, Any]]) -> str:
    """The colour of a value between the limits."""
    name = "text"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            name = step["color"]
    return COLOURS[name]


class Drawing:
    """One dashboard."""

    def __init__(self, board: dict[str, Any], source: Source) -> None:
        self.board, self.source = board, source
        every = next(v["allValue"] for v in board["templating"]["list"] if v["name"] == "instance")
        self.variables = {"$job": ".+", "$instance": every}

    def save(self, path: Path) -> None:
        """Draw all panels where the dashboard has them."""
        panels = self.board["panels"]
        height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
        figure = plt.figure(figsize=(18, height * 0.42 + 0.8), dpi=75, facecolor="#f4f5f5")
        unit_y = 0.42 / (height * 0.42 + 0.8)
        for panel in panels:
            place = panel["gridPos"]
            top = 1 - 0.6 / (height * 0.42 + 0.8) - place["y"] * unit_y
            if panel["type"] == "row":
                figure.text(0.012, top - unit_y * 0.6, panel["title"], fontsize=12, weight="bold", color="#333333")
                continue
            inner = (
                place["x"] / 24 + 0.032, top - place["h"] * unit_y + unit_y * 0.95,
                place["w"] / 24 - 0.042, place["h"] * unit_y - unit_y * 1.9,
            )  # fmt: skip
            axes = figure.add_axes(inner)
            axes.set_title(panel["title"], fontsize=9.5, loc="left", color="#333333")
            self.panel(axes, panel)
        figure.text(0.012, 1 - 0.35 / (height * 0.42 + 0.8), self.board["title"], fontsize=15, weight="bold")
        figure.savefig(path)
        plt.close(figure)

    def panel(self, axes: Any, panel: dict[str, Any]) -> None:
        """One panel."""
        kind = panel["type"]
        drawn = {
            "timeseries": self.lines, "state-timeline": self.bands, "heatmap": self.heatmap, "table": self.table,
        }.get(kind, self.numbers)(axes, panel)  # fmt: skip
        if not drawn:
            axes.clear()
            axes.set_axis_off()
            axes.set_title(panel["title"], fontsize=9.5, loc="left", color="#333333")
            axes.text(0.5, 0.5, panel["fieldConfig"]["defaults"]["noValue"], ha="center", va="center", color="#888888")

    def results(self, panel: dict[str, Any], *, instant: bool) -> list[tuple[str, dict[str, str], Any]]:
        """Legend, labels and values of every series of a panel."""
        found: list[tuple[str, dict[str, str], Any]] = []
        for target in panel["targets"]:
            expr = self.source.expression(target["expr"], self.variables)
            ask: Callable[[str], Sequence[Any]] = self.source.instant if instant else self.source.range
            found += [(legend(target["legendFormat"], labels), labels, values) for labels, values in ask(expr)]
        return found

    def lines(self, axes: Any, panel: dict[str, Any]) -> bool:
        """Lines, and the limits dashed."""
        defaults = panel["fieldConfig"]["defaults"]
        right = {
            override["matcher"]["options"]
            for override in panel["fieldConfig"]["overrides"]
            if any(p["id"] == "custom.axisPlacement" for p in override["properties"])
        }
        found = self.results(panel, instant=False)
        other = axes.twinx() if right else None
        low, high = [], []
        for index, (name, _, points) in enumerate(found):
            target = other if name in right and other is not None else axes
            x, y = [self.day(at) for at, _ in points], [value for _, value in points]
            target.step(x, y, where="post", color=LINES[index % len(LINES)], label=name, linewidth=1.4)
            if target is axes:
                low.append(min(y))
                high.append(max(y))
        limits = [s for s in defaults["thresholds"]["steps"] if s["value"] is not None]
        if panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "dashed":
            for step in limits:
                axes.axhline(step["value"], color=COLOURS["red"], linestyle="--", linewidth=0.9)
        if other is not None:
            other.set_ylim(0, 1)
            other.tick_params(labelsize=7.5)
        axes.yaxis.set_major_formatter(lambda value, _: formatted(value, defaults["unit"], None))
        self.frame(axes)
        handles, names = axes.get_legend_handles_labels()
        if other is not None:
            more = other.get_legend_handles_labels()
            handles, names = handles + more[0], names + more[1]
        axes.legend(handles, names, fontsize=7, loc="upper left", framealpha=0.6)
        if "min" in defaults:
            axes.set_ylim(bottom=defaults["min"])
        if "max" in defaults:
            axes.set_ylim(top=defaults["max"])
        return bool(found)

    def bands(self, axes: Any, panel: dict[str, Any]) -> bool:
        """Coloured bands."""
        options = {k: v for m in panel["fieldConfig"]["defaults"]["mappings"] for k, v in m["options"].items()}
        found = self.results(panel, instant=False)
        step = self.source.step / 86400
        for row, (_, _, points) in enumerate(found):
            for at, value in points:
                named = options.get(f"{value:g}", {"color": "text"})
                axes.barh(row, step, left=self.day(at), height=0.7, color=COLOURS[named["color"]], linewidth=0)
        axes.set_yticks([])
        for row, (name, _, _) in enumerate(found):
            place = -self.source.span / 86400 * 0.01
            axes.text(place, row, name, ha="right", va="center", fontsize=8, color="white", weight="bold")
        self.frame(axes)
        handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[named["color"]]) for named in options.values()]
        axes.legend(handles, [named["text"] for named in options.values()], fontsize=7, loc="upper left")
        return bool(found)

    def heatmap(self, axes: Any, panel: dict[str, Any]) -> bool:
        """Buckets over time, brought to one column for each day so that single runs can be seen."""
        found = {labels["le"]: dict(points) for _, labels, points in self.results(panel, instant=False)}
        bounds = sorted((le for le in found if le != "+Inf"), key=float)
        if not bounds:
            return False
        grid = [[0.0] * (self.source.span // 86400 + 1) for _ in bounds]
        start = self.source.end - self.source.span
        for row, le in enumerate(bounds):
            below = found[bounds[row - 1]] if row else {}
            for at, value in found[le].items():
                grid[row][int(at - start) // 86400] += max(0.0, value - below.get(at, 0.0))
        days = [day - self.source.span / 86400 for day in range(len(grid[0]))]
        axes.pcolormesh(days, range(len(bounds)), grid, cmap="Oranges", shading="nearest")
        names = [formatted(float(le), "s", None) for le in bounds]
        axes.set_yticks(range(len(bounds)), names, fontsize=7)
        self.frame(axes)
        return any(any(row) for row in grid)

    def numbers(self, axes: Any, panel: dict[str, Any]) -> bool:
        """One large number, or several smaller ones."""
        axes.set_axis_off()
        defaults = panel["fieldConfig"]["defaults"]
        found = self.results(panel, instant=True)
        shown = panel["options"].get("textMode", "value")
        size = 24 if len(found) == 1 else 15 if len(found) < 4 else 9.5
        for row, (name, _, value) in enumerate(found):
            text = formatted(value, defaults["unit"], defaults.get("decimals"), defaults["mappings"])
            if len(found) > 1 or shown == "value_and_name":
                text = f"{name}   {text}"
            steps = defaults["thresholds"]["steps"]
            axes.text(
                0.5, 1 - (row + 0.5) / len(found), text, ha="center", va="center", fontsize=size, weight="bold",
                color=colour(value, steps),
            )  # fmt: skip
        return bool(found)

    def table(self, axes: Any, panel: dict[str, Any]) -> bool:
        """Rows by labels, a column for each query."""
        axes.set_axis_off()
        units = {o["matcher"]["options"]: o["properties"][0]["value"] for o in panel["fieldConfig"]["overrides"]}
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        for target in panel["targets"]:
            column = target["legendFormat"]
            for labels, value in self.source.instant(self.source.expression(target["expr"], self.variables)):
                rows.setdefault(tuple(labels.values()), {})[column] = formatted(value, units[column], None)
        columns = [target["legendFormat"] for target in panel["targets"]]
        content = [[*key, *(row.get(column, "") for column in columns)] for key, row in rows.items()]
        if not content:
            return False
        renamed = panel["transformations"][1]["options"]["renameByName"]
        head = [name for key, name in renamed.items() if not key.startswith("Value")] + columns
        content = content[:9] + ([["…"] * len(head)] if len(content) > 9 else [])
        drawn = axes.table(content, colLabels=head, loc="upper center", cellLoc="left", edges="horizontal")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(7.5)
        return True

    def day(self, at: float) -> float:
        """Days before now."""
        return (at - self.source.end) / 86400

    def frame(self, axes: Any) -> None:
        """Axes alike on every panel."""
        axes.set_xlim(-self.source.span / 86400, 0)
        hours = self.source.span <= 86400
        axes.xaxis.set_major_formatter(lambda x, _: f"{x * 24:.0f} h" if hours else f"{x:.0f} d")
        axes.tick_params(labelsize=7.5)
        axes.grid(True, color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)


def main() -> int:
    """Draw all four."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "img", help="folder for the pictures")
    target = parser.parse_args().to
    target.mkdir(parents=True, exist_ok=True)
    # A fixed moment of the sample: four weeks with drift, a failed training and a deployment, the same at every run.
    end = int(datetime.fromisoformat("2025-05-19T15:00:00+00:00").timestamp())
    history = History(end)
    for part in (audit, airflow, api):
        part(history, end)
    with tempfile.TemporaryDirectory() as folder, prometheus(Path(folder), history) as url:
        for path in sorted((ROOT / "grafana" / "provisioning" / "dashboards").glob("*.json")):
            board = json.loads(path.read_text("utf-8"))
            span = {"now-24h": 86400, "now-30d": DAYS * 86400}[board["time"]["from"]]
            picture = target / f"{path.stem}.png"
            Drawing(board, Source(url, end - STEP, span)).save(picture)
            print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
