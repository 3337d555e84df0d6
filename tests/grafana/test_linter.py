"""The rules of grafana/dashboard-linter, checked here because the linter itself is a Go program.

EXCEPTIONS lists what deviates, and why; an exception that is no longer needed fails too.
"""

import promql_parser as promql
import pytest

from tests.grafana.promql import parse, walk
from tests.grafana.provisioned import DASHBOARDS, dashboard, panels

UNITS = {"none", "short", "percentunit", "s", "dtdurations", "reqps", "bool_yes_no"}
"""Those of the linter's list that are used here."""
WITH_UNITS = ("stat", "table", "timeseries", "gauge")

TOTALS = "a total since the audit log began is what the panel shows"
EXCEPTIONS = {
    ("template-instance-rule", name, "instance"): "All leaves out injected test series, so it cannot be .+"
    for name in DASHBOARDS
} | {
    ("target-counter-agg-rule", "training_deployment", "Training runs in total"): TOTALS,
    ("target-counter-agg-rule", "training_deployment", "Decisions in total"): TOTALS,
    ("target-counter-agg-rule", "training_deployment", "Decisions over time"): TOTALS,
    ("target-counter-agg-rule", "training_deployment", "Training runs over time"): TOTALS,
}


def variables(name):
    return {variable["name"]: variable for variable in dashboard(name)["templating"]["list"]}


def violations(name):
    """Pairs of rule and place."""
    board = dashboard(name)
    own = variables(name)
    source = own.get("datasource", {})
    if (source.get("type"), source.get("query"), source.get("label")) != ("datasource", "prometheus", "Data source"):
        yield "template-datasource-rule", "datasource"
    for label in ("job", "instance"):
        variable = own.get(label, {})
        right = (
            variable.get("type") == "query"
            and variable.get("datasource", {}).get("uid") == "${datasource}"
            and variable.get("label") == label.title()
            and variable.get("multi") is True
            and variable.get("includeAll") is True
            and variable.get("allValue") == ".+"
        )
        if not right:
            yield f"template-{label}-rule", label
        if variable.get("refresh") != 2:
            yield "template-on-time-change-reload-rule", label
        selector = variable["definition"].removeprefix("label_values(").rsplit(",", 1)[0]
        try:
            parse(selector)
        except ValueError:
            yield "template-label-promql-rule", label
    if board["editable"]:
        yield "uneditable-dashboard", board["title"]
    for panel in panels(name):
        title = panel["title"]
        if panel["datasource"]["uid"] != "${datasource}":
            yield "panel-datasource-rule", title
        if not panel["title"] or not panel["description"]:
            yield "panel-title-description-rule", title
        if panel["type"] in WITH_UNITS and panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield "panel-units-rule", title
        if not panel["targets"]:
            yield "panel-no-targets-rule", title
        for target in panel["targets"]:
            for rule in target_violations(target["expr"]):
                yield rule, title


def target_violations(expr):
    try:
        tree = parse(expr)
    except ValueError:
        yield "target-promql-rule"
        return
    # Grafana's own variables, told apart from the same text written out.
    raw = promql.parse(expr.replace("$__rate_interval", "7m7s").replace("$__range", "30d").replace("$__interval", "1m"))
    for node, parents in walk(raw):
        if isinstance(node, promql.VectorSelector):
            matchers = {m.name: (str(m.op), m.value) for m in node.matchers.matchers}
            for label in ("job", "instance"):
                if matchers.get(label) != (str(promql.MatchOp.Re), f"${label}"):
                    yield f"target-{label}-rule"
            if node.name.endswith("_total"):
                ranged = len(parents) >= 2 and isinstance(parents[-1], promql.MatrixSelector)
                if not ranged or parents[-2].func.name not in ("rate", "irate", "increase"):
                    yield "target-counter-agg-rule"
        if isinstance(node, promql.MatrixSelector):
            rated = parents and isinstance(parents[-1], promql.Call) and parents[-1].func.name in ("rate", "irate")
            if rated and node.range.total_seconds() != 427:
                yield "target-rate-interval-rule"
    assert tree


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_follows_the_linters_rules(name):
    found = {(rule, name, place) for rule, place in violations(name)}
    assert found == {key for key in EXCEPTIONS if key[1] == name}


@pytest.mark.parametrize(
    ("expr", "rule"),
    [
        ("up", "target-job-rule"),
        ('up{job=~"$job"}', "target-instance-rule"),
        ('rate(a{job=~"$job", instance=~"$instance"}[5m])', "target-rate-interval-rule"),
        ('sum(a_total{job=~"$job", instance=~"$instance"})', "target-counter-agg-rule"),
        ("sum(", "target-promql-rule"),
    ],
)
def test_the_check_finds_what_it_should(expr, rule):
    assert rule in set(target_violations(expr))
