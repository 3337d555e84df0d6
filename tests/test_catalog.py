"""The catalogue: what the built-in one holds, what another team's may say, how each mistake is reported."""

import contextlib
import os
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.catalog import (
    AIRFLOW_FIGURES,
    METRIC_TYPES,
    NO_AUDIT,
    RESERVED_PREFIXES,
    AirflowFigure,
    AuditSpec,
    Catalog,
    CountRows,
    MetricSpec,
    NewestColumn,
    Place,
    XCom,
    exposed_names,
)
from exporter.catalog_parser import MAX_BYTES, load_catalog, parse_catalog
from exporter.errors import PROBLEM_CHARACTERS, ConfigError
from exporter.yaml_nodes import MAX_DEPTH, MAX_ENTRIES, MAX_PROBLEMS

PAGE = Path(__file__).parent.parent / "docs" / "catalogue.md"

# Name, type, labels, audit column or None, number of XComs or Airflow figures: the table of the design.
DESIGN = [
    ("bike_model_r2_champion_current", "gauge", (), "r2", 2),
    ("bike_model_r2_production", "gauge", (), None, 0),
    ("bike_model_r2_champion_baseline", "gauge", (), "champion_r2_baseline", 3),
    ("bike_model_r2_challenger_current", "gauge", (), "r2_current", 1),
    ("bike_model_r2_challenger_baseline", "gauge", (), "r2_baseline", 1),
    ("bike_model_rmse_production", "gauge", (), "rmse", 2),
    ("bike_model_improvement_delta", "gauge", (), "model_improvement", 1),
    ("bike_drift_detected", "gauge", (), "drift_detected", 1),
    ("bike_drift_share", "gauge", (), "drift_share", 1),
    ("bike_drifted_features_count", "untyped", (), "drifted_features_count", 1),
    ("bike_model_deployments_total", "counter", ("decision",), "deployment_decision", 0),
    ("bike_training_runs_total", "counter", ("status",), "fine_tune_success", 0),
    ("bike_records_ingested_total", "counter", (), None, 1),
    ("bike_predictions_generated_total", "counter", (), None, 1),
    ("bike_prediction_rmse", "gauge", (), None, 1),
    ("bike_prediction_mae", "gauge", (), None, 1),
    ("bike_prediction_r2", "gauge", (), None, 1),
    ("airflow_dag_run_duration_seconds", "histogram", ("dag_id", "state"), None, 1),
    ("airflow_task_duration_seconds", "histogram", ("dag_id", "task_id", "state"), None, 1),
    ("airflow_dag_runs_total", "counter", ("dag_id", "state"), None, 1),
    ("airflow_dag_run_active_seconds", "gauge", ("dag_id",), None, 1),
    ("airflow_dag_last_success_timestamp_seconds", "gauge", ("dag_id",), None, 1),
]

HEAD = "version: 1\naudit: {table: a.b, timestamp: at}\nmetrics:\n"
GAUGE = "- {name: shop_r2, type: gauge, help: R² now., from: [{audit: r2}]}\n"


def problems(text: str) -> list[str]:
    """The problems of a catalogue, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse_catalog(text, "mine.yaml")
    assert all(problem.startswith("mine.yaml:") for problem in caught.value.problems)
    return [problem.removeprefix("mine.yaml:") for problem in caught.value.problems]


def with_metrics(text: str) -> str:
    """A catalogue with these metrics, which begin in line 4."""
    return HEAD + textwrap.dedent(text).lstrip("\n")


def gauge(**changes: str) -> str:
    """A metric in one line; a change to an empty text leaves the key out."""
    entries = {"name": "shop_r2", "type": "gauge", "help": "R² now.", "from": "[{audit: r2}]"} | changes
    entries["from"] = entries.pop("origins", entries["from"])
    return "- {" + ", ".join(f"{key}: {value}" for key, value in entries.items() if value) + "}\n"


def count(**changes: str) -> str:
    """A counter of audit rows in one line."""
    origin = "[{audit: {count: verdict, values: {yes: GO, no: STOP}}}]"
    return gauge(**({"name": "shop_total", "type": "counter", "labels": "[decision]", "origins": origin} | changes))


def only(text: str) -> MetricSpec:
    (metric,) = parse_catalog(HEAD + text, "mine.yaml").metrics
    return metric


# -- the built-in catalogue --------------------------------------------------------------------------------------------


def test_the_built_in_catalogue_has_exactly_the_metrics_of_the_design():
    found = []
    for metric in load_catalog().metrics:
        columns = [origin.column for origin in metric.origins if isinstance(origin, NewestColumn | CountRows)]
        others = [origin for origin in metric.origins if isinstance(origin, XCom | AirflowFigure)]
        found.append((metric.name, metric.type, metric.labels, columns[0] if columns else None, len(others)))
        assert len(columns) <= 1
    assert found == DESIGN


def test_the_built_in_catalogue_reads_the_designs_table_and_its_sentinels():
    assert load_catalog().audit == AuditSpec(
        table="monitoring_audit.logs",
        timestamp="timestamp",
        env=Place("env"),
        missing=((("rmse", 999.0), ("r2", 0.0)),),
    )


def test_the_audit_log_comes_before_xcoms():
    for metric in load_catalog().metrics:
        kinds = [isinstance(origin, NewestColumn | CountRows) for origin in metric.origins]
        assert kinds == sorted(kinds, reverse=True), metric.name


def test_every_airflow_figure_is_exposed_once():
    figures = [
        origin.figure
        for metric in load_catalog().metrics
        for origin in metric.origins
        if isinstance(origin, AirflowFigure)
    ]
    assert sorted(figures) == sorted(AIRFLOW_FIGURES)


def test_the_deprecated_name_says_so_and_shows_the_new_ones_value():
    alias = next(metric for metric in load_catalog().metrics if metric.name == "bike_model_r2_production")
    assert alias.alias_of == "bike_model_r2_champion_current"
    assert alias.origins == ()
    assert alias.help.startswith("Deprecated: ")
    assert "bike_model_r2_champion_current" in alias.help


def test_counts_pair_label_values_with_what_the_column_holds():
    origins = {metric.name: metric.origins[0] for metric in load_catalog().metrics if metric.origins}
    assert origins["bike_model_deployments_total"] == CountRows(
        "deployment_decision", (("deploy", "deploy"), ("skip", "skip"), ("reject", "reject"))
    )
    assert origins["bike_training_runs_total"] == CountRows(
        "fine_tune_success", (("success", "true"), ("failed", "false")), where="fine_tune_triggered"
    )


def test_durations_are_covered_from_seconds_to_hours():
    buckets = {metric.name: metric.buckets for metric in load_catalog().metrics if metric.buckets}
    assert {name: (bounds[0], bounds[-1]) for name, bounds in buckets.items()} == {
        "airflow_dag_run_duration_seconds": (10, 8 * 3600),
        "airflow_task_duration_seconds": (1, 4 * 3600),
    }


def test_audit_columns_are_listed_once_the_timestamp_first():
    columns = load_catalog().audit_columns()
    assert columns[:2] == ("timestamp", "env")
    assert len(columns) == len(set(columns))
    assert set(columns) >= {"r2", "rmse", "deployment_decision", "fine_tune_success", "fine_tune_triggered"}


def test_no_two_metrics_share_a_sample_name():
    names = [name for metric in load_catalog().metrics for name in exposed_names(metric)]
    assert len(names) == len(set(names))


# -- another team's catalogue ------------------------------------------------------------------------------------------


def example_on_the_page(number: int = 0) -> str:
    blocks = re.findall(r"^```yaml\n(version:.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2, "one complete example, and one of many models"
    return blocks[number]


def test_the_example_on_the_page_loads_with_its_own_table_columns_names_dags_and_keys(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(example_on_the_page(), "utf-8")
    catalog = load_catalog(path)
    assert catalog.audit == AuditSpec("churn.monitoring_runs", "recorded_at", Place("environment"), ((("auc", -1.0),),))
    assert {metric.name: metric.origins for metric in catalog.metrics} == {
        "churn_model_auc": (NewestColumn("auc"), XCom("churn_weekly", "evaluate", "metrics", field="auc")),
        "churn_auc": (),
        "churn_drifted_features": (XCom("churn_weekly", "detect_drift", "drifted_features", take="length"),),
        "churn_model_releases_total": (CountRows("verdict", (("released", "release"), ("kept", "keep old"))),),
        "churn_trainings_total": (
            CountRows("training_ok", (("success", "true"), ("failed", "false")), "training_started"),
        ),
        "churn_customers_scored_total": (XCom("churn_daily", "score", "customers"),),
        "airflow_dag_run_duration_seconds": (AirflowFigure("dag_run_duration"),),
    }
    assert list(catalog.audit_columns()) == (
        ["recorded_at", "environment", "auc", "verdict", "training_ok", "training_started"]
    )


def test_the_example_of_many_models_labels_what_comes_from_the_audit_log():
    catalog = parse_catalog(example_on_the_page(1), "many.yaml")
    assert catalog.audit.labels == (("model", Place("model_name")), ("region", Place("region")))
    assert {metric.name: metric.labels for metric in catalog.metrics} == {
        "churn_model_auc": ("model", "region"),
        "churn_auc": ("model", "region"),
        "churn_model_releases_total": ("model", "region", "decision"),
        "churn_customers_scored_total": (),
    }
    assert {"model_name", "region"} <= set(catalog.audit_columns())


def test_the_example_on_the_page_names_nothing_of_the_built_in_pipeline():
    text = example_on_the_page(0) + example_on_the_page(1)
    assert not re.search(r"bike|monitor_and_fine_tune|daily_|monitoring_audit", text)


def test_paths_and_conditions_are_parsed_by_their_look():
    text = """
- {name: shop_r2, type: gauge, help: R2., from: [{audit: {column: Bericht (neu), path: "a[0].b c.0", where: {
    key: " R2 ", fold: 1, live: true, code: "1"}}}]}
"""
    assert only(text).origins == (
        NewestColumn(
            "Bericht (neu)", ("a", 0, "b c", "0"), (("key", "r2"), ("fold", 1.0), ("live", True), ("code", "1"))
        ),
    )
    assert only(gauge(origins='[{audit: {column: c, path: ["a.b", 0, "0"]}}]')).origins == (
        NewestColumn("c", ("a.b", 0, "0")),
    )


def test_the_page_explains_every_key_type_figure_and_reserved_name():
    page = PAGE.read_text("utf-8")
    unknown = [
        "nope: 1\n",
        HEAD.replace("at}", "at, nope: 1}") + GAUGE,
        HEAD + gauge(nope="1"),
        HEAD + gauge(origins="[{nope: 1}]"),
        HEAD + count(origins="[{audit: {nope: 1, count: c, values: {a: b}}}]"),
        HEAD + gauge(origins="[{xcom: {nope: 1, dag: d, task: t, key: k}}]"),
    ]
    words: set[str] = {*METRIC_TYPES, *AIRFLOW_FIGURES, *RESERVED_PREFIXES}
    for text in unknown:
        (message,) = [problem for problem in problems(text) if "unknown key" in problem]
        words |= set(message.split("known: ")[1].rstrip(")").split(", "))
    missing = {word for word in words if not re.search(rf"`[^`\n]*\b{word}(?![a-z])[^`\n]*`", page)}
    assert missing == set()


LABELLED = HEAD.replace("at}", "at, labels: {model: m}}")


def test_an_xcom_cannot_stand_in_for_a_metric_with_labels_from_the_audit_log():
    origins = "[{audit: r2}, {xcom: {dag: d, task: t, key: k}}]"
    assert problems(LABELLED + gauge(origins=origins)) == [
        "4: shop_r2: has the labels of audit.labels (model), which an XCom cannot give: take the xcom origin out, or "
        "make it a metric of its own"
    ]


def test_a_label_of_the_audit_log_is_not_declared_again():
    assert problems(LABELLED + count(labels="[model]")) == [
        "4: shop_total: label 'model' is in audit.labels, which adds it already"
    ]


def test_a_metric_of_xcoms_alone_stays_without_the_audit_logs_labels():
    origins = "[{xcom: {dag: d, task: t, key: k}}]"
    (metric,) = parse_catalog(LABELLED + gauge(origins=origins), "c").metrics
    assert metric.labels == ()


@pytest.mark.parametrize(
    "text",
    [
        GAUGE,
        gauge(type="untyped"),
        gauge(name="shop_features_count", type="untyped"),
        gauge(name="_r2"),
        gauge(name="R2"),
        gauge(labels="[]"),
        gauge(help='"Says: \\"hello\\" \\\\ bye"'),
        gauge(origins="[{audit: r2}, {xcom: {dag: d, task: t, key: k}}, {xcom: {dag: d, task: t, key: l}}]"),
        count(),
        count(labels="[state]"),
        count(name="shop_total", origins='[{audit: {count: verdict, values: {a: "yes", b: "no", c: 3}}}]'),
        gauge(name="shop_total", type="counter", origins="[{xcom: {dag: d, task: t, key: k}}]"),
    ],
)
def test_good_metrics_are_taken(text: str):
    assert only(text).help


def test_help_is_one_line_whatever_the_file_breaks():
    text = "- name: shop_r2\n  type: gauge\n  help: |\n    R² of the\n    champion.\n  from: [{audit: r2}]\n"
    assert only(text).help == "R² of the champion."


@pytest.mark.parametrize(("text", "value"), [("1e3", 1000.0), ("999", 999.0), ("-0.5", -0.5), ("017", 17.0)])
def test_numbers_are_read_as_people_write_them(text: str, value: float):
    catalog = parse_catalog(HEAD.replace("at}", f"at, missing: [{{rmse: {text}}}]}}") + GAUGE, "mine.yaml")
    assert catalog.audit.missing == ((("rmse", value),),)


def test_no_sentinels_may_be_written_as_an_empty_list():
    assert parse_catalog(HEAD.replace("at}", "at, missing: []}") + GAUGE, "mine.yaml").audit.missing == ()


def test_a_table_without_an_env_column_has_none():
    assert parse_catalog(HEAD + GAUGE, "mine.yaml").audit.env is None


def test_yes_and_no_may_be_label_values_but_not_flags():
    """YAML takes a bare yes for true: as a key that is harmless, as the column's value it may be either."""
    assert only(count()).origins == (CountRows("verdict", (("yes", "go"), ("no", "stop"))),)
    assert problems(HEAD + count(origins="[{audit: {count: ok, values: {good: yes, bad: false}}}]")) == [
        "4: shop_total: audit.values: good: write true or false where the column holds flags, or 'yes' in quotes where "
        "it holds that text"
    ]


def test_anchors_and_aliases_work():
    catalog = parse_catalog(
        with_metrics(
            """
            - {name: shop_r2, type: gauge, help: &help Shared., from: &from [{xcom: {dag: d, task: t, key: k}}]}
            - {name: shop_r2_again, type: gauge, help: *help, from: *from}
            """
        ),
        "mine.yaml",
    )
    assert [metric.help for metric in catalog.metrics] == ["Shared.", "Shared."]
    assert catalog.metrics[0].origins == catalog.metrics[1].origins


def test_the_fingerprint_is_that_of_the_content():
    one, same, other = (parse_catalog(HEAD + text, name) for text, name in [(GAUGE, "a"), (GAUGE, "b"), (count(), "a")])
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + GAUGE, "utf-8-sig")
    assert [metric.name for metric in load_catalog(path).metrics] == ["shop_r2"]


def test_a_merge_key_is_no_key():
    text = with_metrics(
        """
        - &base {name: shop_r2, type: gauge, help: R² now., from: [{audit: r2}]}
        - {<<: *base, name: shop_mae}
        """
    )
    assert problems(text)[0].startswith("5: shop_mae: unknown key '<<'")


# -- mistakes ----------------------------------------------------------------------------------------------------------

KEYS = "known: name, type, help, labels, buckets, from, alias_of"
NAME_RULE = "letters, digits and underscores only"
COLUMN_RULE = "(1 to 300 characters, on one line)"
NO_VALUE = "is not a metric with a value of its own"
NOT_COUNTS = "which belong to histograms' samples (where the name has to stay, declare the type as untyped)"
HISTOGRAM = {"name": "runs_seconds", "type": "histogram", "labels": "[dag_id, state]", "buckets": "[1, 2]"}
DURATION = {"origins": "[{airflow: dag_run_duration}]"}


MISTAKES = [
    # keys
    (gauge(colour="red"), f"shop_r2: unknown key 'colour' ({KEYS})"),
    ("- {name: a, name: b, type: gauge, help: h, from: [{audit: c}]}\n", "a: key 'name' appears twice"),
    ("- {[a]: b, name: a, type: gauge, help: h, from: [{audit: c}]}\n", "a: a key must be plain text"),
    (gauge(name=""), "metric: 'name' is missing"),
    (gauge(type=""), "shop_r2: 'type' is missing"),
    (gauge(help=""), "shop_r2: 'help' is missing"),
    (gauge(help='""'), "shop_r2: help: expected text"),
    (gauge(help="~"), "shop_r2: help: expected text"),
    (gauge(help="[a]"), "shop_r2: help: expected text"),
    (gauge(help='"\\ud83d"'), "shop_r2: help: half of a surrogate pair is not a character"),
    ("- shop_r2\n", "metric: expected a mapping (key: value)"),
    (gauge(origins=""), "shop_r2: needs either 'from' or 'alias_of'"),
    (GAUGE + gauge(name="a", alias_of="shop_r2"), "5: a: needs either 'from' or 'alias_of'"),
    # names
    *(
        (gauge(name=name), f"{name!r} is not a legal metric name ({NAME_RULE}; no digit first)")
        for name in ("9_r2", "shop-r2", "r²")
    ),
    (
        gauge(name='"shop:r2"'),
        "'shop:r2' is not a legal metric name (colons are reserved for recording rules; no digit first)",
    ),
    *(
        (
            gauge(name=f"{prefix}r2"),
            f"{prefix}r2: names starting with mlops_exporter_, process_, python_ are the exporter's own",
        )
        for prefix in RESERVED_PREFIXES
    ),
    *(
        (gauge(name=name), f"{name}: Prometheus writes series of this name itself")
        for name in ("up", "scrape_duration_seconds", "ALERTS")
    ),
    (count(name="shop_runs"), "shop_runs: the name of a counter must end in _total"),
    (count(name="_total"), "_total: a counter needs a name before _total"),
    (gauge(name="shop_total"), "shop_total: only a counter's name may end in _total"),
    (gauge(name="shop_total", type="untyped"), "shop_total: only a counter's name may end in _total"),
    *(
        (
            gauge(name=f"shop{suffix}"),
            f"shop{suffix}: the name of a gauge must not end in _count, _sum, _bucket, {NOT_COUNTS}",
        )
        for suffix in ("_count", "_sum", "_bucket")
    ),
    (gauge(name="shop_info"), "shop_info: names that end in _info or _created are reserved by OpenMetrics"),
    (gauge(name="shop_created"), "shop_created: names that end in _info or _created are reserved by OpenMetrics"),
    # types
    (gauge(type="summary"), "shop_r2: type 'summary' is not one of gauge, counter, histogram, untyped"),
    (gauge(type="Gauge"), "shop_r2: type 'Gauge' is not one of gauge, counter, histogram, untyped"),
    # labels
    *(
        (count(labels=f"[{label}]"), f"shop_total: label '{label}' is reserved for histograms and summaries")
        for label in ("le", "quantile")
    ),
    *(
        (count(labels=f"[{label}]"), f"shop_total: label '{label}' is set by Prometheus for the whole target")
        for label in ("job", "instance")
    ),
    *(
        (count(labels=f'["{label}"]'), f"shop_total: {label!r} is not a legal label name")
        for label in ("__x", "9a", "a-b", "é", "a:b")
    ),
    # buckets
    (gauge(buckets="[1]"), "shop_r2: only a histogram has buckets"),
    (gauge(**(HISTOGRAM | DURATION | {"buckets": ""})), "runs_seconds: a histogram needs 'buckets'"),
    (
        gauge(**(HISTOGRAM | DURATION | {"buckets": "[]"})),
        "runs_seconds: buckets: expected a list that is not empty",
    ),
    (gauge(**(HISTOGRAM | DURATION | {"buckets": "[2, 1]"})), "runs_seconds: buckets must increase"),
    (gauge(**(HISTOGRAM | DURATION | {"buckets": "[1, 1]"})), "runs_seconds: buckets must increase"),
    *(
        (gauge(**(HISTOGRAM | DURATION | {"buckets": f"[{b}]"})), "runs_seconds: bucket: expected a finite number")
        for b in ("one", ".inf", ".nan", "true", '"1"', "1e999", "~")
    ),
    # origins
    (gauge(origins="[]"), "shop_r2: from: expected a list that is not empty"),
    (gauge(origins="{audit: r2}"), "shop_r2: from: expected a list that is not empty"),
    (gauge(origins="[r2]"), "shop_r2: from: expected a mapping (key: value)"),
    (
        gauge(origins="[{audit: r2, airflow: dag_runs}]"),
        "shop_r2: each entry of 'from' has exactly one of audit, xcom, airflow",
    ),
    (gauge(origins="[{audit: r2}, {audit: r2}]"), "shop_r2: the same origin appears twice"),
    (gauge(origins='[{audit: "r2\\tDROP"}]'), f"shop_r2: audit: 'r2\\tDROP' is not a column name {COLUMN_RULE}"),
    (gauge(origins="[{audit: {path: a}}]"), "shop_r2: audit: 'column' is missing"),
    *(
        (gauge(origins=f"[{{audit: {{column: c, {given}}}}}]"), f"shop_r2: audit{problem}")
        for given, problem in [
            ("value: b", ": unknown key 'value' (known: column, path, where)"),
            ("path: .a", ".path: '.a' is not a path, such as metrics[0].drift.share"),
            ("path: 'a[x]'", ".path: 'a[x]' is not a path, such as metrics[0].drift.share"),
            ("path: [a, {}]", ".path: expected text"),
            ("path: ~", ".path: expected text"),
            ('path: [a"b]', ".path: 'a\"b' cannot be a key (no quotes, backslashes or line breaks)"),
            (f"path: {'.'.join('a' * 21)}", ".path: 21 steps, at most 20 fit"),
            ("where: key", ".where: expected a mapping (key: value)"),
            ("where: {}", ".where: expected at least one column with its value"),
            ("where: {key: ~}", ".where: key: expected text"),
            ("where: {key: [a]}", ".where: key: expected text"),
            ("where: {key: .inf}", ".where: key: expected a finite number"),
            (
                "where: {key: yes}",
                ".where: key: write true or false where the column holds flags, or 'yes' in quotes where it holds "
                "that text",
            ),
        ]
    ),
    (gauge(origins="[{airflow: dags}]"), f"shop_r2: airflow: 'dags' is not one of {', '.join(AIRFLOW_FIGURES)}"),
    (gauge(origins="[{xcom: {dag: d, task: t}}]"), "shop_r2: xcom: 'key' is missing"),
    (gauge(origins="[{xcom: {dag: d, task: t, key: ~}}]"), "shop_r2: xcom.key: expected text"),
    (
        gauge(origins="[{xcom: {dag: d, task: t, key: k, take: sum}}]"),
        "shop_r2: xcom.take: the only choice is 'length'",
    ),
    (
        gauge(origins="[{xcom: {dag: d, task: t, key: k, path: p}}]"),
        "shop_r2: xcom: unknown key 'path' (known: dag, task, key, field, take)",
    ),
    (count(origins="[{audit: {count: c}}]"), "shop_total: audit: 'values' is missing"),
    (count(origins="[{audit: {values: {a: b}}}]"), "shop_total: audit: 'count' is missing"),
    (
        count(origins="[{audit: {count: c, values: {}}}]"),
        "shop_total: audit.values: expected at least one label value",
    ),
    (
        count(origins="[{audit: {count: c, values: [a]}}]"),
        "shop_total: audit.values: expected a mapping (key: value)",
    ),
    (
        count(origins="[{audit: {count: c, values: {a: x, a: y}}}]"),
        "shop_total: audit.values: key 'a' appears twice",
    ),
    (count(origins="[{audit: {count: c, values: {a: x, b: X}}}]"), "shop_total: audit.values: 'x' appears twice"),
    (
        count(origins='[{audit: {count: c, values: {"": x}}}]'),
        "shop_total: audit.values: '' cannot be a label's value",
    ),
    (
        count(origins="[{audit: {count: c, values: {a: b}, when: d}}]"),
        "shop_total: audit: unknown key 'when' (known: count, path, values, where)",
    ),
    (
        count(origins='[{audit: {count: c, values: {a: b}, where: "d\\0e"}}]'),
        f"shop_total: audit.where: 'd\\x00e' is not a column name {COLUMN_RULE}",
    ),
    # what an origin gives
    (
        gauge(name="shop_total", type="counter"),
        "shop_total: the newest value of a column gives type gauge or untyped, not counter",
    ),
    (gauge(labels="[env]"), "shop_r2: the newest value of a column has these labels: none; not: env"),
    (count(labels=""), "shop_total: a count of audit rows has exactly one label, not 0"),
    (count(labels="[a, b]"), "shop_total: a count of audit rows has exactly one label, not 2"),
    (
        count(name="shop_rows", type="gauge"),
        "shop_rows: a count of audit rows gives type counter, not gauge",
    ),
    (
        gauge(labels="[a]", origins="[{xcom: {dag: d, task: t, key: k}}]"),
        "shop_r2: an XCom has these labels: none; not: a",
    ),
    (
        gauge(**(HISTOGRAM | {"labels": ""}), origins="[{xcom: {dag: d, task: t, key: k}}]"),
        "runs_seconds: an XCom gives type gauge or untyped or counter, not histogram",
    ),
    (
        gauge(labels="[dag_id]", type="untyped", origins="[{airflow: dag_run_active}]"),
        "shop_r2: airflow: dag_run_active gives type gauge, not untyped",
    ),
    (
        gauge(**(HISTOGRAM | DURATION | {"labels": "[state, dag_id]"})),
        "runs_seconds: airflow: dag_run_duration has these labels: dag_id, state; not: state, dag_id",
    ),
    (
        gauge(
            name="shop_total",
            type="counter",
            origins="[{xcom: {dag: d, task: t, key: k}}, {xcom: {dag: d, task: t, key: l}}]",
        ),
        "shop_total: a counter has one origin, since two would not count the same events",
    ),
    # between metrics
    (GAUGE + GAUGE, "5: shop_r2: declared twice (first in line 4)"),
    (gauge(origins="", alias_of="shop_mae"), f"shop_r2: alias_of: 'shop_mae' {NO_VALUE}"),
    (gauge(origins="", alias_of="shop_r2"), f"shop_r2: alias_of: 'shop_r2' {NO_VALUE}"),
    (
        GAUGE + gauge(name="a", origins="", alias_of="shop_r2") + gauge(name="b", origins="", alias_of="a"),
        f"6: b: alias_of: 'a' {NO_VALUE}",
    ),
    (
        GAUGE + gauge(name="a", type="untyped", origins="", alias_of="shop_r2"),
        "5: a: must have the type and labels of shop_r2, whose alias it is",
    ),
    (
        gauge(**(HISTOGRAM | DURATION))
        + gauge(**(HISTOGRAM | {"name": "a_seconds", "buckets": "[1]", "origins": "", "alias_of": "runs_seconds"})),
        "5: a_seconds: must have the type, labels and buckets of runs_seconds, whose alias it is",
    ),
]


@pytest.mark.parametrize(("text", "problem"), MISTAKES, ids=[problem for _, problem in MISTAKES])
def test_a_mistake_in_a_metric_is_one_problem_with_its_line(text: str, problem: str):
    expected = problem if re.match(r"\d+: ", problem) else f"4: {problem}"
    assert problems(HEAD + text) == [expected]


def test_labels_that_are_wrong_in_themselves_are_reported_along_with_their_number():
    assert problems(HEAD + count(labels="[a, a]")) == [
        "4: shop_total: label 'a' appears twice",
        "4: shop_total: a count of audit rows has exactly one label, not 2",
    ]
    assert problems(HEAD + count(labels="decision")) == [
        "4: shop_total: labels: expected a list",
        "4: shop_total: a count of audit rows has exactly one label, not 0",
    ]


@pytest.mark.parametrize("suffix", ["count", "sum", "bucket"])
def test_a_histograms_samples_clash_with_a_metric_of_their_name(suffix: str):
    histogram, other = gauge(**HISTOGRAM, **DURATION), gauge(name=f"runs_seconds_{suffix}", type="untyped")
    clash = f"clashes with {{}}: both would expose runs_seconds_{suffix}"
    assert problems(HEAD + histogram + other) == [f"5: runs_seconds_{suffix}: " + clash.format("runs_seconds")]
    assert problems(HEAD + other + histogram) == ["5: runs_seconds: " + clash.format(f"runs_seconds_{suffix}")]


def test_a_counter_clashes_with_a_metric_of_its_openmetrics_name():
    """In OpenMetrics the family of shop_runs_total is called shop_runs."""
    counter, other = count(name="shop_runs_total"), gauge(name="shop_runs")
    expected = "clashes with {}: both would expose shop_runs"
    assert problems(HEAD + other + counter) == ["5: shop_runs_total: " + expected.format("shop_runs")]
    assert problems(HEAD + counter + other) == ["5: shop_runs: " + expected.format("shop_runs_total")]


@pytest.mark.parametrize("other", [gauge(**HISTOGRAM, **DURATION), count(name="runs_seconds_total")])
def test_a_creation_time_clashes_with_a_counter_of_its_name(other: str):
    """OpenMetrics has a sample runs_seconds_created beside the others of a counter or histogram."""
    counter = count(name="runs_seconds_created_total")
    name = "runs_seconds_total" if "counter" in other else "runs_seconds"
    expected = "clashes with {}: both would expose runs_seconds_created"
    assert problems(HEAD + other + counter) == ["5: runs_seconds_created_total: " + expected.format(name)]
    assert problems(HEAD + counter + other) == [f"5: {name}: " + expected.format("runs_seconds_created_total")]


def test_a_metric_that_clashes_with_two_others_is_reported_for_both():
    text = gauge(name="runs_seconds_count", type="untyped") + gauge(name="runs_seconds_sum", type="untyped")
    assert problems(HEAD + text + gauge(**HISTOGRAM, **DURATION)) == [
        "6: runs_seconds: clashes with runs_seconds_count: both would expose runs_seconds_count",
        "6: runs_seconds: clashes with runs_seconds_sum: both would expose runs_seconds_sum",
    ]


TABLE_RULE = "is not dataset.table or project.dataset.table"
AUDIT = [
    (
        ["table: a.b", "timestamp: at", "color: red"],
        "5: audit: unknown key 'color' (known: table, timestamp, env, labels, missing)",
    ),
    (["table: a.b"], "3: audit: 'timestamp' is missing"),
    (["timestamp: at"], "3: audit: 'table' is missing"),
    (["table: logs", "timestamp: at"], f"3: audit.table: 'logs' {TABLE_RULE}"),
    (["table: a.b`", "timestamp: at"], f"3: audit.table: 'a.b`' {TABLE_RULE}"),
    (
        ["table: a.b", f"timestamp: {'a' * 301}"],
        f"4: audit.timestamp: '{'a' * 301}' is not a column name {COLUMN_RULE}",
    ),
    (["table: a.b", "timestamp: at", "env:"], "5: audit.env: expected text"),
    (["table: a.b", "timestamp: at", "env: [e]"], "5: audit.env: expected text"),
    (["table: a.b", "timestamp: at", "env: {path: a}"], "5: audit.env: 'column' is missing"),
    (
        ["table: a.b", "timestamp: at", "env: {column: e, where: a}"],
        "5: audit.env: unknown key 'where' (known: column, path)",
    ),
    (
        ["table: a.b", "timestamp: at", "labels: {model: {column: m, path: .a}}"],
        "5: audit.labels: model.path: '.a' is not a path, such as metrics[0].drift.share",
    ),
    (["table: a.b", "timestamp: at", "labels: [model]"], "5: audit.labels: expected a mapping (key: value)"),
    (
        ["table: a.b", "timestamp: at", 'labels: {model: "a\\tb"}'],
        f"5: audit.labels: model: 'a\\tb' is not a column name {COLUMN_RULE}",
    ),
    (["table: a.b", "timestamp: at", "labels: {a-b: c}"], "5: audit.labels: 'a-b' is not a legal label name"),
    (
        ["table: a.b", "timestamp: at", "labels: {job: c}"],
        "5: audit.labels: label 'job' is set by Prometheus for the whole target",
    ),
    (["table: a.b", "timestamp: at", "labels: {m: c, m: d}"], "5: audit.labels: key 'm' appears twice"),
    (
        ["table: a.b", "timestamp: at", f"labels: {{{', '.join(f'l{number}: c' for number in range(21))}}}"],
        "5: audit.labels: 21 labels, at most 20 fit",
    ),
    (["table: a.b", "timestamp: at", "missing: {r2: 0}"], "5: audit.missing: expected a list"),
    (["table: a.b", "timestamp: at", "missing: [r2]"], "5: audit.missing: expected a mapping (key: value)"),
    (["table: a.b", "timestamp: at", "missing: [{}]"], "5: audit.missing: expected at least one column with its value"),
    (["table: a.b", "timestamp: at", "missing: [{r2: x}]"], "5: audit.missing: r2: expected a finite number"),
    (
        ["table: a.b", "timestamp: at", 'missing: [{"r2\\n": 1}]'],
        f"5: audit.missing: 'r2\\n' is not a column name {COLUMN_RULE}",
    ),
]


@pytest.mark.parametrize(("audit", "problem"), AUDIT)
def test_a_mistake_in_the_audit_part_is_one_problem_with_its_line(audit: list[str], problem: str):
    assert problems("\n".join(["version: 1", "audit:", *(f"  {line}" for line in audit), "metrics:", GAUGE])) == [
        problem
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HEAD.replace("version: 1", "version: 2") + GAUGE, ["1: version: this exporter reads version 1"]),
        ("versoin: 1\n" + HEAD + GAUGE, ["1: catalogue: unknown key 'versoin' (known: version, audit, metrics)"]),
        (HEAD, ["3: metrics: expected a list that is not empty"]),
        (HEAD.replace("metrics:", "metrics: {}"), ["3: metrics: expected a list that is not empty"]),
        ("version: 1\nversion: 1\n" + HEAD[11:] + GAUGE, ["2: catalogue: key 'version' appears twice"]),
        ("- a\n", ["1: catalogue: expected a mapping (key: value)"]),
        ("just text", ["1: catalogue: expected a mapping (key: value)"]),
        ("{}", [f"1: catalogue: '{key}' is missing" for key in ("version", "metrics")]),
        ("", ["1: the file is empty"]),
        ("# only a comment\n", ["1: the file is empty"]),
    ],
)
def test_a_mistake_at_the_top_is_reported(text: str, found: list[str]):
    assert problems(text) == found


def test_a_catalogue_without_an_audit_log_takes_nothing_from_it():
    xcom = gauge(name="shop_mape", origins="[{xcom: {dag: d, task: t, key: k}}]")
    catalog = parse_catalog("version: 1\nmetrics:\n" + xcom, "mine.yaml")
    assert (catalog.audit, list(catalog.audit_metrics())) == (NO_AUDIT, [])
    assert problems("version: 1\nmetrics:\n" + xcom + GAUGE) == [
        "4: shop_r2: comes from the audit log, but the catalogue has no 'audit', which names its table"
    ]


def test_all_mistakes_are_reported_together_in_the_order_of_their_lines():
    text = """\
version: 3
audit:
  table: logs
  colour:
    - red
metrics:
  - name: shop_runs
    type: counter
    help: Runs.
    labels: [job]
    from:
      - audit:
          count: verdict
          values: {a: x}
  - name: shop_r2
    type: gague
    from:
      - audit: r2
  - name: shop_old
    type: gauge
    help: Old.
    alias_of: shop_gone
"""
    assert problems(text) == [
        "1: version: this exporter reads version 1",
        "3: audit: 'timestamp' is missing",
        "3: audit.table: 'logs' is not dataset.table or project.dataset.table",
        "4: audit: unknown key 'colour' (known: table, timestamp, env, labels, missing)",
        "7: shop_runs: the name of a counter must end in _total",
        "10: shop_runs: label 'job' is set by Prometheus for the whole target",
        "15: shop_r2: 'help' is missing",
        "16: shop_r2: type 'gague' is not one of gauge, counter, histogram, untyped",
        "19: shop_old: alias_of: 'shop_gone' is not a metric with a value of its own",
    ]


# -- files and YAML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\n", "2: not valid YAML: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'"),
        (
            "a: 1\n\tb: 2\n",
            "2: not valid YAML: while scanning for the next token: found character '\\t' that cannot start any token",
        ),
        ("a: 1\nb: *c\n", "2: not valid YAML: found undefined alias 'c'"),
        (
            "a: 1\n---\nb: 2\n",
            "2: not valid YAML: expected a single document in the stream: but found another document",
        ),
        ("a: 1\nb: \0\n", "2: not valid YAML: no file may hold U+0000"),
        ('a: "\\UFFFFFFFF"\n', " not valid YAML: an escape or a version number is out of range"),
        ("\n[" * 10_000, f"{MAX_DEPTH + 1}: nested too deeply: more than {MAX_DEPTH} levels"),
        ("{a: " * 10_000, f"1: nested too deeply: more than {MAX_DEPTH} levels"),
        ("- " * 10_000, f"1: nested too deeply: more than {MAX_DEPTH} levels"),
    ],
    ids=range(9),
)
def test_what_is_not_yaml_is_one_problem_with_its_line(text: str, problem: str):
    assert problems(text) == [problem]


def test_a_node_that_holds_itself_is_a_mistake_and_no_endless_loop():
    assert problems("&a [*a]") == ["1: catalogue: expected a mapping (key: value)"]
    assert problems("&a {version: 1, audit: *a, metrics: [*a]}")


def test_aliases_that_multiply_are_not_expanded():
    bomb = "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 9}]\n" for i in range(20))
    assert len(problems(bomb)) == 23


def test_aliases_that_multiply_a_catalogues_metrics_are_refused_by_their_number():
    origins = ", ".join(f"{{audit: c{number}}}" for number in range(1000))
    bomb = HEAD + f"- &m {{name: shop_r2, type: gauge, help: h, from: [{origins}]}}\n" + "- *m\n" * 1000
    assert problems(bomb) == [f"4: more than {MAX_ENTRIES} entries, where an alias counts each time"]


def test_of_very_many_mistakes_the_first_are_shown_and_the_others_counted():
    found = problems(HEAD + gauge(type="x") * (MAX_PROBLEMS + 5))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[0] == "4: shop_r2: type 'x' is not one of gauge, counter, histogram, untyped"
    assert found[-1] == f" {2 * (MAX_PROBLEMS + 5) - 1 - MAX_PROBLEMS} more problems"


@pytest.mark.parametrize("name", ["x" * 1000, '"a\\nb"', '"a\\ud800b"', '"a\\e[2J"'])
def test_what_a_problem_quotes_is_escaped_and_cut(name: str):
    (problem,) = problems(HEAD + gauge(name="shop_r2", **{name: "1"}))
    assert problem.startswith("4: shop_r2: unknown key '")
    assert problem.isprintable()
    assert len(problem) <= PROBLEM_CHARACTERS


def test_a_python_tag_is_never_run():
    found = problems("!!python/object/apply:os.system [echo planted]\n")
    assert found == ["1: catalogue: expected a mapping (key: value)"]


def test_a_catalogue_of_two_thousand_metrics_loads():
    text = HEAD + "".join(gauge(name=f"shop_{number}") for number in range(2000))
    assert len(parse_catalog(text, "mine.yaml").metrics) == 2000


def file_problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_is_named_along_with_the_variable(tmp_path: Path):
    path = tmp_path / "none.yaml"
    assert file_problem(path) == f"EXPORTER_CATALOG: cannot read {path}: No such file or directory"


def test_what_is_no_file_is_no_catalogue_and_is_refused_at_once(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # without a writer: who opens it to read waits for ever
    for path, kind in ((tmp_path, "folder"), (pipe, "named pipe"), (Path("/dev/zero"), "device")):
        assert file_problem(path) == f"EXPORTER_CATALOG: cannot read {path}: it is a {kind}, not a file"


@pytest.mark.parametrize("content", ["version: 1 # é".encode("latin-1"), "version: 1".encode("utf-16")])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert re.fullmatch(rf"EXPORTER_CATALOG: {re.escape(str(path))} is not UTF-8 text \(byte \d+\)", file_problem(path))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff" * (MAX_BYTES + 1))
    assert file_problem(path) == f"EXPORTER_CATALOG: cannot read {path}: it is larger than {MAX_BYTES} bytes"


def test_a_files_problems_name_the_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + gauge(type="x"), "utf-8")
    assert file_problem(path).startswith(f"{path}:4: shop_r2: type 'x'")


# -- any text ----------------------------------------------------------------------------------------------------------

KEYS_OF_ANY_LEVEL = (
    *(
        "version",
        "audit",
        "metrics",
        "table",
        "timestamp",
        "env",
        "missing",
        "name",
        "type",
        "help",
        "labels",
        "buckets",
    ),
    *("from", "alias_of", "count", "values", "where", "xcom", "airflow", "dag", "task", "key", "field", "take"),
)
FRAGMENTS = (
    *"[]{}:,-?|>&*!%#@`'\"\\",
    *("\n", "\n  ", "\n- ", ": ", "---", "...", "%YAML 1.", "!!", "!<", "<<", "~", "\t", "\r", '"\\U', "FFFFFFFF"),
    *("1", "-1e3", ".nan", "yes", "counter", "gauge", "histogram", "a_total", *KEYS_OF_ANY_LEVEL),
    *("\\ud800", "\ud7ff", "\x85", "\u2028", "\ufeff", "\x00"),
)
WORDS = st.sampled_from(FRAGMENTS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a.b", "r2"])
KEYS_OR_TEXT = st.sampled_from(KEYS_OF_ANY_LEVEL) | st.text(max_size=3)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS_OR_TEXT, inner, max_size=6),
    max_leaves=30,
)


def parses_or_explains(text: str) -> None:
    with contextlib.suppress(ConfigError):
        catalog = parse_catalog(text, "mine.yaml")
        assert isinstance(catalog, Catalog)


@settings(deadline=None)
@given(st.lists(WORDS | st.text(max_size=3), max_size=40).map("".join))
@example('"\\U7FFFFFFF"')
@example("%YAML 1." + "9" * 5000 + "\n---\na")
@example("!%ff a")
def test_any_text_is_a_catalogue_or_a_config_error(text: str):
    parses_or_explains(text)


@settings(deadline=None)
@given(TREES)
def test_any_tree_is_a_catalogue_or_a_config_error(tree: object):
    parses_or_explains(yaml.safe_dump(tree, allow_unicode=True))


@settings(deadline=None)
@given(st.data())
def test_a_damaged_built_in_catalogue_is_a_catalogue_or_a_config_error(data: st.DataObject):
    text = example_on_the_page()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    parses_or_explains(text[:start] + data.draw(WORDS | st.text(max_size=3)) + text[end:])
