"""Every query of every panel, rule, variable and annotation: it parses, and what it names exists."""

import re

import promql_parser
import pytest
import yaml

from tests.grafana.exposed import TARGET, exposed
from tests.grafana.promql import labels, named_labels, parse, selectors, walk
from tests.grafana.provisioned import DASHBOARDS, ROOT, dashboard, queries, rules, targets

EXPOSED = exposed()
PANEL_QUERIES = [(f"{name}: {panel['title']} {target['refId']}", target["expr"]) for name, panel, target in targets()]
RULE_QUERIES = [(f"{uid} {ref}", expr) for uid, rule in rules().items() for ref, expr in queries(rule).items()]
ANNOTATIONS = [
    (f"{name}: {mark['name']}", mark["expr"])
    for name in DASHBOARDS
    for mark in dashboard(name)["annotations"]["list"]
    if "expr" in mark
]
EVERY = PANEL_QUERIES + RULE_QUERIES + ANNOTATIONS


@pytest.mark.parametrize("expr", [expr for _, expr in EVERY], ids=[name for name, _ in EVERY])
def test_every_metric_and_label_exists(expr):
    seen: set[str] = set()
    for selector in selectors(expr):
        assert selector.name in EXPOSED, f"nothing exposes {selector.name}"
        assert labels(selector) <= EXPOSED[selector.name], selector.name
        seen |= EXPOSED[selector.name]
    assert named_labels(expr) <= seen


def test_a_histograms_bare_name_does_not_exist():
    assert "airflow_dag_run_duration_seconds" not in EXPOSED
    assert "fastapi_request_duration_seconds" not in EXPOSED


@pytest.mark.parametrize(("name", "expr"), RULE_QUERIES, ids=[name for name, _ in RULE_QUERIES])
def test_rules_use_fixed_windows_and_no_dashboard_variables(name, expr):
    assert "$" not in expr
    assert parse(expr)


@pytest.mark.parametrize(("name", "panel", "target"), list(targets()))
def test_legends_name_labels_that_the_result_has(name, panel, target):
    wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    kept = {
        label
        for node, _ in walk(parse(target["expr"]))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
        for label in node.modifier.labels
    }
    assert wanted <= kept, f"{name}: {panel['title']}"


def test_jobs_that_rules_name_are_scraped():
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    [expr] = queries(rules()["service_down"]).values()
    up = next(s for s in selectors(expr) if s.name == "up")
    [matcher] = [m for m in up.matchers.matchers if m.name == "job"]
    assert set(matcher.value.split("|")) == jobs | {"test-metrics"}


def test_the_exporters_real_output_has_what_the_reference_says(tmp_path, monkeypatch):
    """With the embedded audit log: each sample's labels are the reference's, and no audit metric is missing."""
    import os
    import subprocess
    import sys

    from prometheus_client.parser import text_string_to_metric_families

    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EXPORTER_STATE_DIR": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "once"],
        cwd=tmp_path,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    samples = [s for family in text_string_to_metric_families(done.stdout) for s in family.samples]
    seen = {sample.name for sample in samples}
    for sample in samples:
        if not sample.name.startswith(("process_", "python_")):
            assert set(sample.labels) == EXPOSED[sample.name] - TARGET, sample.name
    named = {s.name for _, expr in EVERY for s in selectors(expr)}
    from exporter.catalog_parser import load_catalog

    from_audit = {metric.name for metric, _ in load_catalog().audit_metrics()}
    own = {"mlops_exporter_source_up", "mlops_exporter_source_last_success_timestamp_seconds",
           "mlops_exporter_audit_last_record_timestamp_seconds", "mlops_exporter_metric_source_info"}  # fmt: skip
    assert (named & from_audit) | own <= seen
