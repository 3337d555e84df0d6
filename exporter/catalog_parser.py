"""Parses a catalogue's YAML, `catalog.yaml` or the file that EXPORTER_CATALOG names, into the model of `catalog`.

The whole file is checked before anything is reported, and every problem names its line. Rules for names and labels
are those of Prometheus (https://prometheus.io/docs/concepts/data_model/) and OpenMetrics.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

import yaml

from exporter.catalog import (
    AIRFLOW_FIGURES,
    DERIVED_SUFFIXES,
    METRIC_TYPES,
    NO_AUDIT,
    RESERVED_PREFIXES,
    AirflowFigure,
    AuditSpec,
    Catalog,
    CountRows,
    Equal,
    MetricSpec,
    NewestColumn,
    Origin,
    TimeSpec,
    XCom,
    exposed_names,
)
from exporter.catalog_columns import COLUMN_RULE, ColumnReader, is_column
from exporter.errors import ConfigError
from exporter.regular_file import read_regular_file
from exporter.setting_values import is_table_name
from exporter.yaml_nodes import compose, is_unicode, line_of

MAX_BYTES: Final = 1_000_000
"""Of a catalogue's file: room for 7,000 metrics, where the built-in one takes 8 KB."""
MAX_AUDIT_LABELS: Final = 20
"""Labels that every metric of the audit log gets; Prometheus' own advice is fewer than 10."""
PROMETHEUS_NAMES: Final = re.compile(r"up|scrape_.*|ALERTS(_FOR_STATE)?")
"""Series that Prometheus itself writes for every target and alert."""
TARGET_LABELS: Final = frozenset({"job", "instance"})
"""Labels that Prometheus gives to every target; a metric's own would be renamed `exported_job`."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""The name of a metric, without the colons of recording rules, or of a label."""


def load_catalog(path: Path | None = None) -> Catalog:
    """Read the catalogue at `path`, or the built-in one.

    Raises:
        ConfigError: with every problem, each as `file:line: sentence`.
    """
    if path is None:
        text = resources.files("exporter").joinpath("catalog.yaml").read_text("utf-8")
        return parse_catalog(text, "catalog.yaml")
    try:
        text = read_regular_file(path, MAX_BYTES).decode()
    except OSError as error:
        raise ConfigError([f"EXPORTER_CATALOG: cannot read {path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"EXPORTER_CATALOG: {path} is not UTF-8 text (byte {error.start})"]) from error
    return parse_catalog(text, str(path))


def parse_catalog(text: str, name: str) -> Catalog:
    """Validate a catalogue's text; `name` is the file name that the problems show.

    Raises:
        ConfigError: with every problem, each as `name:line: sentence`.
    """
    root = compose(text, name)
    parser = _CatalogParser(name)
    audit, metrics = parser.document(root)
    parser.require_none()
    return Catalog(audit, metrics, hashlib.sha256(text.encode()).hexdigest()[:16])


class _CatalogParser(ColumnReader):
    """Reads the document's nodes from the top, and then holds the metrics against each other."""

    # -- the document ----------------------------------------------------------------------------------------------

    def document(self, root: yaml.Node | None) -> tuple[AuditSpec, tuple[MetricSpec, ...]]:
        if root is None:
            self.note(None, "the file is empty")
            return NO_AUDIT, ()
        top = self.mapping(root, "catalogue", ("version", "audit", "metrics"), ("version", "metrics"))
        if "version" in top and self.text(top["version"], "version") != "1":
            self.note(top["version"], "version: this exporter reads version 1")
        audit = self.audit(top["audit"]) if "audit" in top else NO_AUDIT
        metrics: list[MetricSpec] = []
        lines: dict[str, yaml.Node] = {}
        exposed: dict[str, str] = {}
        if "metrics" in top:
            for node in self.items(top["metrics"], "metrics"):
                metric = self.metric(node)
                if metric is not None:
                    self.clashes(metric, node, lines, exposed)
                    metrics.append(metric)
                    lines.setdefault(metric.name, node)
        self.aliases(metrics, lines)
        if audit is NO_AUDIT:
            self.without_audit(metrics, lines)
        if audit.labels:
            metrics = self.labelled(metrics, audit, lines)
        return audit, tuple(metrics)

    def without_audit(self, metrics: list[MetricSpec], lines: Mapping[str, yaml.Node]) -> None:
        """Note the metrics that a catalogue without an audit log cannot have."""
        for metric in metrics:
            if any(isinstance(origin, NewestColumn | CountRows) for origin in metric.origins):
                self.note(
                    lines[metric.name],
                    f"{metric.name}: comes from the audit log, but the catalogue has no 'audit', which names its table",
                )

    def labelled(self, metrics: list[MetricSpec], audit: AuditSpec, lines: Mapping[str, yaml.Node]) -> list[MetricSpec]:
        """The metrics with the labels that the audit log's columns give, before their own."""
        given = tuple(label for label, _ in audit.labels)
        shown = ", ".join(given)
        from_audit = set()
        for metric in metrics:
            if not any(isinstance(origin, NewestColumn | CountRows) for origin in metric.origins):
                continue
            from_audit.add(metric.name)
            node = lines[metric.name]
            for label in set(given) & set(metric.labels):
                self.note(node, f"{metric.name}: label {label!r} is in audit.labels, which adds it already")
            if not all(isinstance(origin, NewestColumn | CountRows) for origin in metric.origins):
                self.note(
                    node,
                    f"{metric.name}: has the labels of audit.labels ({shown}), which an XCom cannot give: take the "
                    "xcom origin out, or make it a metric of its own",
                )
        return [
            dataclasses.replace(metric, labels=(*given, *metric.labels))
            if metric.name in from_audit or metric.alias_of in from_audit
            else metric
            for metric in metrics
        ]

    def audit(self, node: yaml.Node) -> AuditSpec:
        known = ("table", "timestamp", "env", "labels", "missing")
        entries = self.mapping(node, "audit", known, ("table", "timestamp"))
        table = self.text(entries["table"], "audit.table") if "table" in entries else ""
        if table and not is_table_name(table):
            self.note(entries["table"], f"audit.table: {table!r} is not dataset.table or project.dataset.table")
        timestamp, time = self.time(entries["timestamp"]) if "timestamp" in entries else ("", TimeSpec())
        env = self.place(entries["env"], "audit.env") if "env" in entries else None
        missing = []
        if "missing" in entries:
            for item in self.items(entries["missing"], "audit.missing", may_be_empty=True):
                pairs = []
                for column, value in self.entries(item, "audit.missing").items():
                    if not is_column(column):
                        self.note(value, f"audit.missing: {column!r} is not a column name ({COLUMN_RULE})")
                    pairs.append((column, self.number(value, f"audit.missing: {column}")))
                if not pairs and isinstance(item, yaml.MappingNode):
                    self.note(item, "audit.missing: expected at least one column with its value")
                missing.append(tuple(pairs))
        labels = []
        if "labels" in entries:
            for label, column_node in self.entries(entries["labels"], "audit.labels").items():
                self.label(label, column_node, "audit.labels")
                labels.append((label, self.place(column_node, f"audit.labels: {label}")))
            if len(labels) > MAX_AUDIT_LABELS:
                self.note(entries["labels"], f"audit.labels: {len(labels)} labels, at most {MAX_AUDIT_LABELS} fit")
        return AuditSpec(table, timestamp, env, tuple(missing), tuple(labels[:MAX_AUDIT_LABELS]), time)

    def metric(self, node: yaml.Node) -> MetricSpec | None:
        known = ("name", "type", "help", "labels", "buckets", "from", "alias_of")
        entries = self.mapping(node, self.called(node), known, ("name", "type", "help"))
        if "name" not in entries:
            return None
        name = self.metric_name(entries["name"])
        if not name:
            return None
        kind = self.text(entries["type"], f"{name}: type") if "type" in entries else ""
        if kind and kind not in METRIC_TYPES:
            self.note(entries["type"], f"{name}: type {kind!r} is not one of {', '.join(METRIC_TYPES)}")
        else:
            self.suffix(name, kind, entries["name"])
        help_text = " ".join(self.text(entries["help"], f"{name}: help").split()) if "help" in entries else ""
        labels = self.labels(entries["labels"], name) if "labels" in entries else ()
        buckets = self.buckets(entries["buckets"], name, kind) if "buckets" in entries else ()
        if kind == "histogram" and "buckets" not in entries:
            self.note(node, f"{name}: a histogram needs 'buckets'")
        alias_of = self.text(entries["alias_of"], f"{name}: alias_of") if "alias_of" in entries else None
        origins: tuple[Origin, ...] = ()
        if ("from" in entries) == (alias_of is not None):
            self.note(node, f"{name}: needs either 'from' or 'alias_of'")
        elif "from" in entries:
            origins = self.origins(entries["from"], name, kind, labels)
        return MetricSpec(name, kind, help_text, labels, origins, alias_of, buckets)

    @staticmethod
    def called(node: yaml.Node) -> str:
        """What a problem calls a metric: its name if it has one."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        names = [str(value.value) for key, value in pairs if key.value == "name" and isinstance(value, yaml.ScalarNode)]
        return names[0] if names and names[0] else "metric"

    def metric_name(self, node: yaml.Node) -> str:
        name = self.text(node, "metric name")
        if not name:
            return ""
        if not _NAME.fullmatch(name):
            why = "colons are reserved for recording rules" if ":" in name else "letters, digits and underscores only"
            self.note(node, f"{name!r} is not a legal metric name ({why}; no digit first)")
        elif name.startswith(RESERVED_PREFIXES):
            self.note(node, f"{name}: names starting with {', '.join(RESERVED_PREFIXES)} are the exporter's own")
        elif PROMETHEUS_NAMES.fullmatch(name):
            self.note(node, f"{name}: Prometheus writes series of this name itself")
        return name

    def suffix(self, name: str, kind: str, node: yaml.Node) -> None:
        if kind == "counter" and not name.endswith("_total"):
            self.note(node, f"{name}: the name of a counter must end in _total")
        if kind == "counter" and name == "_total":
            self.note(node, f"{name}: a counter needs a name before _total")
        if kind in ("gauge", "histogram", "untyped") and name.endswith("_total"):
            self.note(node, f"{name}: only a counter's name may end in _total")
        if kind in ("gauge", "histogram") and name.endswith(DERIVED_SUFFIXES):
            self.note(
                node,
                f"{name}: the name of a {kind} must not end in {', '.join(DERIVED_SUFFIXES)}, which belong to "
                "histograms' samples (where the name has to stay, declare the type as untyped)",
            )
        if kind in ("gauge", "histogram", "untyped") and name.endswith(("_info", "_created")):
            self.note(node, f"{name}: names that end in _info or _created are reserved by OpenMetrics")

    def labels(self, node: yaml.Node, name: str) -> tuple[str, ...]:
        found: list[str] = []
        seen: set[str] = set()
        for item in self.items(node, f"{name}: labels", may_be_empty=True):
            label = self.text(item, f"{name}: label")
            if not label:
                continue
            if label in seen:
                self.note(item, f"{name}: label {label!r} appears twice")
            else:
                self.label(label, item, name)
            found.append(label)
            seen.add(label)
        return tuple(found)

    def label(self, label: str, node: yaml.Node, name: str) -> None:
        """Note what keeps a text from being a label's name."""
        if not _NAME.fullmatch(label) or label.startswith("__"):
            self.note(node, f"{name}: {label!r} is not a legal label name")
        elif label in TARGET_LABELS:
            self.note(node, f"{name}: label {label!r} is set by Prometheus for the whole target")
        elif label in ("le", "quantile"):
            self.note(node, f"{name}: label {label!r} is reserved for histograms and summaries")

    def buckets(self, node: yaml.Node, name: str, kind: str) -> tuple[float, ...]:
        if kind != "histogram":
            self.note(node, f"{name}: only a histogram has buckets")
        bounds = tuple(self.number(item, f"{name}: bucket") for item in self.items(node, f"{name}: buckets"))
        if all(math.isfinite(bound) for bound in bounds) and list(bounds) != sorted(set(bounds)):
            self.note(node, f"{name}: buckets must increase")
        return bounds

    def origins(self, node: yaml.Node, name: str, kind: str, labels: tuple[str, ...]) -> tuple[Origin, ...]:
        found: dict[Origin, None] = {}
        for item in self.items(node, f"{name}: from"):
            entries = self.mapping(item, f"{name}: from", ("audit", "xcom", "airflow"))
            if len(entries) != 1:
                if isinstance(item, yaml.MappingNode):
                    self.note(item, f"{name}: each entry of 'from' has exactly one of audit, xcom, airflow")
                continue
            ((source, value),) = entries.items()
            before = len(self.problems)
            origin = {"audit": self.audit_origin, "xcom": self.xcom, "airflow": self.figure}[source](value, name)
            if len(self.problems) == before:
                self.fits(item, name, kind, labels, origin)
                if origin in found:
                    self.note(item, f"{name}: the same origin appears twice")
                found[origin] = None
        if kind == "counter" and len(found) > 1:
            self.note(node, f"{name}: a counter has one origin, since two would not count the same events")
        return tuple(found)

    def audit_origin(self, node: yaml.Node, name: str) -> Origin:
        if isinstance(node, yaml.ScalarNode):
            return NewestColumn(self.column(node, f"{name}: audit"))
        if isinstance(node, yaml.MappingNode) and not any(key.value in ("count", "values") for key, _ in node.value):
            return self.newest_column(node, name)
        known = ("count", "path", "values", "where")
        entries = self.mapping(node, f"{name}: audit", known, ("count", "values"))
        column = self.column(entries["count"], f"{name}: audit.count") if "count" in entries else ""
        path = self.path(entries["path"], f"{name}: audit.path") if "path" in entries else ()
        where: str | None = None
        only: tuple[Equal, ...] = ()
        if isinstance(entries.get("where"), yaml.MappingNode):
            only = self.only(entries["where"], f"{name}: audit.where")
        elif "where" in entries:
            where = self.column(entries["where"], f"{name}: audit.where")
        values: dict[str, str] = {}
        if "values" in entries:
            given = self.entries(entries["values"], f"{name}: audit.values")
            if not given and isinstance(entries["values"], yaml.MappingNode):
                self.note(entries["values"], f"{name}: audit.values: expected at least one label value")
            for label_value, raw in given.items():
                if not label_value or not is_unicode(label_value):
                    self.note(raw, f"{name}: audit.values: {label_value!r} cannot be a label's value")
                text = self.text(raw, f"{name}: audit.values: {label_value}").lower()
                if raw.tag.endswith(":bool"):
                    self.flag(raw, text, f"{name}: audit.values: {label_value}")
                if text in values:
                    self.note(raw, f"{name}: audit.values: {text!r} appears twice")
                values.setdefault(text, label_value)
        pairs = tuple((label_value, text) for text, label_value in values.items())
        return CountRows(column, pairs, where, path, only)

    def newest_column(self, node: yaml.Node, name: str) -> Origin:
        entries = self.mapping(node, f"{name}: audit", ("column", "path", "where"), ("column",))
        column = self.column(entries["column"], f"{name}: audit.column") if "column" in entries else ""
        path = self.path(entries["path"], f"{name}: audit.path") if "path" in entries else ()
        only = self.only(entries["where"], f"{name}: audit.where") if "where" in entries else ()
        return NewestColumn(column, path, only)

    def xcom(self, node: yaml.Node, name: str) -> Origin:
        entries = self.mapping(node, f"{name}: xcom", ("dag", "task", "key", "field", "take"), ("dag", "task", "key"))
        values = {key: self.text(value, f"{name}: xcom.{key}") for key, value in entries.items()}
        take = values.get("take")
        if take is not None and take != "length":
            self.note(entries["take"], f"{name}: xcom.take: the only choice is 'length'")
        return XCom(values.get("dag", ""), values.get("task", ""), values.get("key", ""), values.get("field"), take)

    def figure(self, node: yaml.Node, name: str) -> Origin:
        figure = self.text(node, f"{name}: airflow")
        if figure and figure not in AIRFLOW_FIGURES:
            self.note(node, f"{name}: airflow: {figure!r} is not one of {', '.join(AIRFLOW_FIGURES)}")
        return AirflowFigure(figure)

    def fits(self, node: yaml.Node, name: str, kind: str, labels: tuple[str, ...], origin: Origin) -> None:
        """Note where the metric's type or labels are not those that the origin gives."""
        types: tuple[str, ...]
        wanted: tuple[str, ...] | None
        match origin:
            case NewestColumn():
                types, wanted, what = ("gauge", "untyped"), (), "the newest value of a column"
            case CountRows():
                types, wanted, what = ("counter",), None, "a count of audit rows"
                if len(labels) != 1:
                    self.note(node, f"{name}: {what} has exactly one label, not {len(labels)}")
            case XCom():
                types, wanted, what = ("gauge", "untyped", "counter"), (), "an XCom"
            case AirflowFigure(figure):
                figure_type, wanted = AIRFLOW_FIGURES[figure]
                types, what = (figure_type,), f"airflow: {figure}"
        if kind in METRIC_TYPES and kind not in types:
            self.note(node, f"{name}: {what} gives type {' or '.join(types)}, not {kind}")
        if wanted is not None and labels != wanted:
            shown = ", ".join(wanted) or "none"
            self.note(node, f"{name}: {what} has these labels: {shown}; not: {', '.join(labels) or 'none'}")

    # -- between metrics -------------------------------------------------------------------------------------------

    def clashes(
        self, metric: MetricSpec, node: yaml.Node, lines: Mapping[str, yaml.Node], exposed: dict[str, str]
    ) -> None:
        """Note a name that is taken; `exposed` holds, by exposed name, the metric that took it."""
        if metric.name in lines:
            self.note(node, f"{metric.name}: declared twice (first in line {line_of(lines[metric.name])})")
            return
        others: dict[str, str] = {}
        for name in exposed_names(metric):
            other = exposed.setdefault(name, metric.name)
            if other != metric.name:
                others.setdefault(other, name)
        for other, name in others.items():
            self.note(node, f"{metric.name}: clashes with {other}: both would expose {name}")

    def aliases(self, metrics: list[MetricSpec], lines: Mapping[str, yaml.Node]) -> None:
        by_name = {metric.name: metric for metric in metrics}
        for metric in metrics:
            if metric.alias_of is None:
                continue
            target = by_name.get(metric.alias_of)
            node = lines[metric.name]
            if target is None or target.alias_of is not None:
                self.note(node, f"{metric.name}: alias_of: {metric.alias_of!r} is not a metric with a value of its own")
            elif (target.type, target.labels, target.buckets) != (metric.type, metric.labels, metric.buckets):
                same = "type, labels and buckets" if target.type == "histogram" else "type and labels"
                self.note(node, f"{metric.name}: must have the {same} of {target.name}, whose alias it is")
