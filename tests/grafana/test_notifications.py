"""Where alerts go, and what their messages say: checked with Alertmanager's own amtool."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from grafana.generator.notifications import MESSAGE_LIMIT, TITLE_LIMIT
from tests.grafana.provisioned import PROMETHEUS, read_yaml, rules

CRITICAL_INFRASTRUCTURE = ("10s", "1h")
CRITICAL_MODEL = ("10s", "2h")
WARNING = ("30s", "4h")
INFO = ("1m", "12h")

ROUTED = {
    "model_performance_critical": CRITICAL_MODEL,
    "model_performance_warning": WARNING,
    "model_rmse_high": CRITICAL_MODEL,
    "high_drift_detected": WARNING,
    "critical_drift_with_performance": CRITICAL_MODEL,
    "service_down": CRITICAL_INFRASTRUCTURE,
    "api_error_rate_high": CRITICAL_INFRASTRUCTURE,
    "airflow_dag_too_slow": WARNING,
    "no_data_ingested": WARNING,
}


@pytest.fixture(scope="module")
def route(amtool, tmp_path_factory):
    """Asks amtool which route of prometheus/alertmanager.yml some labels take, and gives that route."""
    folder = tmp_path_factory.mktemp("amtool")

    def ask(changed=None, **labels):
        config = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text("utf-8"))
        routes = [config["route"], *config["route"]["routes"]]
        if changed:
            changed(routes)
        # amtool names the receiver: one for each route tells them apart.
        [receiver] = config["receivers"]
        config["receivers"] = [{"name": f"route-{index}"} for index in range(len(routes))]
        for index, node in enumerate(routes):
            assert node["receiver"] == receiver["name"]
            node["receiver"] = f"route-{index}"
        del config["templates"]
        path = folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        done = subprocess.run(
            [amtool, "config", "routes", "test", f"--config.file={path}", *[f"{k}={v}" for k, v in labels.items()]],
            capture_output=True,
            text=True,
            check=True,
        )
        return routes[int(done.stdout.strip().removeprefix("route-"))]

    return ask


def test_amtool_accepts_the_configuration(amtool):
    done = subprocess.run(
        [amtool, "check-config", PROMETHEUS / "alertmanager.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


def test_grafana_and_alertmanager_route_alike():
    [tree] = read_yaml("alerting/policies.yml")["policies"]
    config = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text("utf-8"))

    def grafanas(node):
        matchers = [f'{name}{operator}"{text}"' for name, operator, text in node.get("object_matchers", [])]
        return {key: node[key] for key in TIMING} | ({"matchers": matchers} if matchers else {})

    assert {key: config["route"][key] for key in TIMING} == grafanas(tree)
    assert config["route"]["routes"] == [grafanas(node) for node in tree["routes"]]


TIMING = ("receiver", "group_by", "group_wait", "group_interval", "repeat_interval")


@pytest.mark.parametrize("uid", ROUTED)
def test_an_alert_with_other_labels_takes_another_route(uid, route):
    """A severity or component that is changed by mistake would be noticed by those who wait for the message."""
    rule = rules()[uid]
    ours = route(alertname=rule["title"], **rule["labels"])
    other = {"critical": "warning", "warning": "critical"}[rule["labels"]["severity"]]
    changed = [{**rule["labels"], "severity": other}]
    if rule["labels"]["severity"] == "critical":
        elsewhere = {"model": "api", "drift": "api", "infrastructure": "model", "api": "drift"}
        changed.append({**rule["labels"], "component": elsewhere[rule["labels"]["component"]]})
    for labels in changed:
        assert route(alertname=rule["title"], **labels).get("matchers") != ours["matchers"]


@pytest.mark.parametrize("uid", ROUTED)
def test_an_alert_loses_its_way_without_its_route(uid, route):
    rule = rules()[uid]
    ours = route(alertname=rule["title"], **rule["labels"])["matchers"]

    def closed(routes):
        for node in routes:
            if node.get("matchers") == ours:
                node["matchers"] = ['severity="never"']

    assert "matchers" not in route(closed, alertname=rule["title"], **rule["labels"])


def timing(node):
    return node["group_wait"], node["repeat_interval"]


@pytest.mark.parametrize("uid", ROUTED)
def test_every_rule_takes_its_route(uid, route):
    rule = rules()[uid]
    assert set(ROUTED) == set(rules())
    node = route(alertname=rule["title"], **rule["labels"])
    assert timing(node) == ROUTED[uid]
    assert f'severity="{rule["labels"]["severity"]}"' in node["matchers"]
    assert node["group_by"] == ["alertname", "severity", "component"]


def test_info_takes_its_route(route):
    assert timing(route(alertname="x", severity="info", component="model")) == INFO


@pytest.mark.parametrize("name", ["DatasourceNoData", "DatasourceError"])
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_rules_that_cannot_be_judged_are_one_quiet_message(name, severity, route):
    node = route(alertname=name, severity=severity, component="model", rulename="Model performance critical")
    assert timing(node) == INFO
    assert node["group_by"] == ["alertname"]


def test_an_unknown_severity_still_arrives(route):
    assert timing(route(alertname="x", severity="fatal", component="new")) == ("30s", "4h")


def test_every_policy_uses_the_contact_point():
    [point] = read_yaml("alerting/contactpoints.yml")["contactPoints"]
    [tree] = read_yaml("alerting/policies.yml")["policies"]
    assert {node["receiver"] for node in [tree, *tree["routes"]]} == {point["name"]} == {"discord-mlops"}


# -- messages --------------------------------------------------------------------------------------------------------


def alert(uid="model_performance_critical", *, status="firing", job="airflow-metrics", **more):
    rule = rules()[uid]
    labels = {"alertname": rule["title"], **rule["labels"], "job": job, "instance": "airflow-exporter:9101"}
    labels.update(more.pop("labels", {}))
    return {
        "status": status,
        "labels": labels,
        "annotations": {
            "summary": "Champion R² is 0.612, below 0.65",
            "description": "The newest monitoring run measured R² 0.612 on test_current.",
            "runbook_url": rule["annotations"]["runbook_url"],
            "panel_url": "http://localhost:3000/d/mlops-overview?viewPanel=3",
        }
        | more.pop("annotations", {}),
        "startsAt": "2026-01-01T03:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "f",
    }


@pytest.fixture
def render(amtool, tmp_path):
    shutil.copy(PROMETHEUS / "mlops.tmpl", tmp_path)

    def run(name, alerts):
        keys = set.intersection(*[set(a["labels"]) for a in alerts])
        common = {k: alerts[0]["labels"][k] for k in keys if len({a["labels"][k] for a in alerts}) == 1}
        data = {
            "receiver": "discord-mlops",
            "status": "firing" if any(a["status"] == "firing" for a in alerts) else "resolved",
            "alerts": alerts,
            "groupLabels": {},
            "commonLabels": common,
            "commonAnnotations": {},
            "externalURL": "http://localhost:3000",
        }
        (tmp_path / "data.json").write_text(json.dumps(data), "utf-8")
        done = subprocess.run(
            [amtool, "template", "render", f"--template.glob={tmp_path}/*.tmpl",
             f'--template.text={{{{ template "{name}" . }}}}', f"--template.data={tmp_path}/data.json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    return run


def test_both_systems_write_the_same_messages():
    """But for the field that holds the link: Alertmanager's data has none of Grafana's PanelURL."""
    [template] = read_yaml("alerting/templates.yml")["templates"]
    ours = (PROMETHEUS / "mlops.tmpl").read_text("utf-8")
    assert template["template"].replace(".PanelURL", ".Annotations.panel_url") == ours


def test_a_firing_alert_says_what_why_and_what_to_do(render):
    alerts = [alert()]
    assert render("mlops.title", alerts) == "🔴 1 firing: Model performance critical (critical)"
    assert render("mlops.message", alerts).splitlines() == [
        "**Model performance critical**",
        "Champion R² is 0.612, below 0.65",
        "The newest monitoring run measured R² 0.612 on test_current.",
        "Panel: http://localhost:3000/d/mlops-overview?viewPanel=3",
        "What to do: docs/alerting.md#model_performance_critical",
    ]


def test_a_test_is_marked_as_a_test(render):
    alerts = [alert(job="test-metrics")]
    assert render("mlops.title", alerts).startswith("[TEST] ")
    assert render("mlops.message", alerts).startswith("**[TEST]** ")
    resolved = [alert(job="test-metrics", status="resolved")]
    assert render("mlops.title", resolved) == "[TEST] ✅ resolved: Model performance critical (critical)"
    assert "[TEST]" in render("mlops.message", resolved)


def test_a_test_among_real_alerts_marks_only_itself(render):
    alerts = [alert(), alert(job="test-metrics")]
    assert not render("mlops.title", alerts).startswith("[TEST]")
    assert render("mlops.message", alerts).count("[TEST]") == 1


def test_resolved_alerts_are_told(render):
    alerts = [alert(status="resolved")]
    assert render("mlops.title", alerts) == "✅ resolved: Model performance critical (critical)"
    assert render("mlops.message", alerts) == "✅ Model performance critical resolved"


def test_no_data_names_the_rule(render):
    alerts = [alert(labels={"alertname": "DatasourceNoData", "rulename": "Model performance critical"})]
    assert render("mlops.title", alerts).endswith("Model performance critical (DatasourceNoData) (critical)")


def test_messages_stay_within_discords_limits(render):
    long = "ä" * 700
    alerts = [
        alert(
            status="firing" if index % 2 else "resolved",
            job="test-metrics",
            labels={"alertname": long, "rulename": long, "severity": long},
            annotations={"summary": long, "description": long, "runbook_url": long, "panel_url": long},
        )
        for index in range(40)
    ]
    assert len(render("mlops.title", alerts)) <= TITLE_LIMIT == 256
    message = render("mlops.message", alerts)
    assert len(message) <= MESSAGE_LIMIT == 2000
    assert "20 are firing, 3 are shown" in message
    assert "20 are resolved" in message


SHOWN = {
    "model_performance_critical": "Champion R² is 42.000, below 0.65",
    "model_performance_warning": "Champion R² is 42.000, below 0.7",
    "model_rmse_high": "Production RMSE is 42.0, above 70",
    "high_drift_detected": "42.00 of the features drifted",
    "critical_drift_with_performance": "Drift share 42.00 and R² 42.000",
    "service_down": "(down: 42).",
    "api_error_rate_high": "4200% of the API's answers are errors",
    "airflow_dag_too_slow": "monitor_and_fine_tune has been running for 42s",
    "no_data_ingested": "No new records for 42s",
}
"""What each rule says of the value 42."""


@pytest.mark.parametrize("uid", rules())
def test_annotations_are_templates_that_prometheus_renders(uid, promtool, tmp_path):
    """With values and without: the same Go templates, in Prometheus' engine; `$values.X.Value` becomes `$value`."""
    rule = rules()[uid]
    texts = {}
    for key in ("summary", "description"):
        text = re.sub(r"\$values\.\w\.Value", "$value", rule["annotations"][key])
        texts[key] = text.replace("{{ if $values }}", "{{ if $value }}")
    expected = {}
    for present, metric in ((True, "42"), (False, "0")):
        labels = {"job": "airflow-metrics", "instance": "airflow-exporter:9101", "dag_id": "monitor_and_fine_tune"}
        series = "m{" + ", ".join(f'{k}="{v}"' for k, v in labels.items()) + "}"
        document = {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "m >= 0", "annotations": texts}]}]}
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(document, width=10**9), "utf-8")
        # promtool has no way to print what it renders, other than to complain about what was expected instead.
        test = {
            "rule_files": ["rules.yml"],
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [{"series": series, "values": metric}],
                    "alert_rule_test": [{"eval_time": "0m", "alertname": "A", "exp_alerts": [{"exp_labels": labels}]}],
                }
            ],
        }
        (tmp_path / "tests.yml").write_text(yaml.safe_dump(test), "utf-8")
        done = subprocess.run(
            [promtool, "test", "rules", "tests.yml"], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        got = (done.stdout + done.stderr).split("got:")[1]
        expected[present] = got
        assert "error" not in got.lower().replace("errors", ""), got
        assert "<no value>" not in got
        assert "{{" not in got
    assert SHOWN[uid] in expected[True]
    assert "not known" in expected[False]
