"""The provisioned files: generated, complete, and made of keys that Grafana knows."""

import re
import subprocess

import pytest
import yaml

from grafana.generator.__main__ import main
from grafana.generator.files import PROMETHEUS_RULE, files
from grafana.generator.limits import TEST_INSTANCE, load_limits
from tests.grafana import schema
from tests.grafana.provisioned import (
    DASHBOARDS,
    PROMETHEUS,
    PROVISIONING,
    ROOT,
    alerts,
    dashboard,
    panels,
    queries,
    read_yaml,
    rules,
    targets,
)

LIMITS = load_limits()


def test_files_are_what_the_generator_writes_byte_for_byte():
    folders = (PROVISIONING, PROMETHEUS)
    found = {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*") if path.is_file()}
    expected = files(LIMITS)
    assert found | {PROMETHEUS_RULE} == set(expected)
    for name, text in expected.items():
        assert (ROOT / name).read_bytes() == text.encode(), f"{name}: run python -m grafana.generator"
    assert main(["--check"]) == 0


def test_a_trial_runs_faster_and_has_the_same_limits(tmp_path):
    assert main(["--output", str(tmp_path), "--speed", "60"]) == 0
    trial = yaml.safe_load((tmp_path / "rules" / "mlops.yml").read_text("utf-8"))["groups"]
    for group in trial:
        assert group["interval"] == ("500ms" if group["name"] == "infrastructure" else "1000ms")
        for ours, theirs in zip(alerts()[group["name"]], group["rules"], strict=True):
            assert theirs["for"] == f"{int(ours['for'].removesuffix('m')) * 1000}ms"
            windows = re.compile(r"\[\w+\]|offset \w+")
            assert windows.sub("", ours["expr"]) == windows.sub("", theirs["expr"])
            assert set(windows.findall(theirs["expr"])) <= {"[2000ms]", "[5000ms]", "[2160000ms]", "[60000ms]",
                                                            "offset 2160000ms"}  # fmt: skip
    config = yaml.safe_load((tmp_path / "alertmanager.yml").read_text("utf-8"))
    assert config["route"]["routes"][1]["repeat_interval"] == "60000ms"
    with pytest.raises(SystemExit):
        main(["--speed", "60"])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("datasources/prometheus.yml", schema.DATASOURCES),
        ("dashboards/dashboards.yml", schema.PROVIDERS),
        ("alerting/rules.yml", schema.RULES),
        ("alerting/contactpoints.yml", schema.CONTACT_POINTS),
        ("alerting/policies.yml", schema.POLICIES),
        ("alerting/templates.yml", schema.TEMPLATES),
    ],
)
def test_only_known_keys(name, known):
    assert list(schema.problems(read_yaml(name), known)) == []


def test_queries_of_panels_have_only_known_keys():
    assert [problem for _, _, target in targets() for problem in schema.problems(target, schema.TARGET)] == []


@pytest.mark.parametrize(
    "key", ["keep_firing_for", "executionErrorState", "datasourceUID", "relativetimerange", "orgID"]
)
def test_the_schema_finds_a_mistyped_key(key):
    document = read_yaml("alerting/rules.yml")
    document["groups"][0]["rules"][0][key] = "5m"
    assert any("unknown key" in problem for problem in schema.problems(document, schema.RULES))


def test_a_boolean_is_not_a_number_or_text():
    document = read_yaml("alerting/contactpoints.yml")
    document["contactPoints"][0]["receivers"][0]["settings"]["use_discord_username"] = "false"
    assert list(schema.problems(document, schema.CONTACT_POINTS))


def test_uids_and_refresh():
    assert {board["uid"]: board["refresh"] for board in map(dashboard, DASHBOARDS)} == {
        "mlops-overview": "10s",
        "mlops-model-performance": "30s",
        "mlops-drift-monitoring": "30s",
        "mlops-training-deployment": "1m",
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panel_ids_are_unique_and_panels_do_not_overlap(name):
    every = dashboard(name)["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    cells = [
        (x, y)
        for panel in every
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) <= 23


def test_links_lead_to_the_other_three():
    uids = {dashboard(name)["uid"] for name in DASHBOARDS}
    for name in DASHBOARDS:
        board = dashboard(name)
        assert {link["url"] for link in board["links"]} == {f"/d/{uid}" for uid in uids - {board["uid"]}}


def test_every_panel_says_why_it_may_be_empty():
    for name in DASHBOARDS:
        for panel in panels(name):
            assert len(panel["fieldConfig"]["defaults"]["noValue"]) > 8, (name, panel["title"])


def test_deployments_are_marked_on_every_dashboard():
    for name in DASHBOARDS:
        marks = [mark for mark in dashboard(name)["annotations"]["list"] if "expr" in mark]
        assert len(marks) == 1
        assert "bike_model_deployments_total" in marks[0]["expr"]


@pytest.mark.parametrize("uid", rules())
def test_rule_links_to_a_panel_that_shows_its_metric(uid):
    rule = rules()[uid]
    boards = {dashboard(name)["uid"]: name for name in DASHBOARDS}
    board = boards[rule["annotations"]["__dashboardUid__"]]
    panel = next(panel for panel in panels(board) if str(panel["id"]) == rule["annotations"]["__panelId__"])
    from tests.grafana.promql import selectors

    shown = {s.name for target in panel["targets"] for s in selectors(target["expr"])}
    tested = {s.name for expr in queries(rule).values() for s in selectors(expr)}
    assert shown & tested


def test_rule_nodes_refer_to_each_other():
    for uid, rule in rules().items():
        refs = [node["refId"] for node in rule["data"]]
        assert len(set(refs)) == len(refs), uid
        assert rule["condition"] == refs[-1], uid
        assert rule["data"][-1]["model"]["expression"] == refs[-2], uid
        assert all(node["model"]["refId"] == node["refId"] for node in rule["data"]), uid
        for ref in refs[:-1]:
            # A query that only feeds the message must have series exactly when the condition has.
            assert ref == refs[-2] or ref in {"A", "B"}, uid


def test_environment_is_interpolated_only_where_meant():
    """Grafana replaces `$…` in titles, labels and contact-point settings; only the webhook is meant to be."""
    for rule in rules().values():
        assert "$" not in rule["title"] + "".join(rule["labels"].values())
    [point] = read_yaml("alerting/contactpoints.yml")["contactPoints"]
    [receiver] = point["receivers"]
    dollars = {key for key, value in receiver["settings"].items() if "$" in str(value)}
    assert dollars == {"url"}
    assert "$" not in (PROVISIONING / "alerting" / "policies.yml").read_text("utf-8")


def test_alert_folder_has_another_title_than_the_dashboards():
    alerts = {group["folder"] for group in read_yaml("alerting/rules.yml")["groups"]}
    assert not alerts & {provider["folder"] for provider in read_yaml("dashboards/dashboards.yml")["providers"]}


def test_limits_are_the_same_in_rules_and_panels():
    """Each limit that a rule tests colours at least one panel of the metric."""
    steps = {
        (name, panel["id"]): {step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]}
        for name in DASHBOARDS
        for panel in panels(name)
    }
    assert {0.65, 0.7} <= steps["overview", 3] == {None, LIMITS.r2_critical, LIMITS.r2_warning}
    assert LIMITS.rmse_critical in steps["overview", 4]
    assert LIMITS.drift_high in steps["drift_monitoring", 5]
    assert LIMITS.error_ratio in steps["overview", 13]
    assert LIMITS.running_seconds in steps["training_deployment", 11]
    assert LIMITS.silence_hours * 3600 in steps["overview", 8]
    assert LIMITS.stale_seconds in steps["overview", 10]


def test_an_unknown_limit_is_an_error(tmp_path):
    (tmp_path / "grafana").mkdir()
    text = (ROOT / "grafana" / "thresholds.yml").read_text("utf-8")
    (tmp_path / "grafana" / "thresholds.yml").write_text(text.replace("rmse:", "rmse:\n  warning: 60"), "utf-8")
    (tmp_path / "prometheus.yml").write_text((ROOT / "prometheus.yml").read_text("utf-8"), "utf-8")
    with pytest.raises(ValueError, match=r"rmse\.warning"):
        load_limits(tmp_path)


def test_all_means_production_and_the_test_instance_can_be_chosen():
    for name in DASHBOARDS:
        [instance] = [v for v in dashboard(name)["templating"]["list"] if v["name"] == "instance"]
        every = re.compile(instance["allValue"])
        scraped = [t for job in yaml.safe_load((ROOT / "prometheus.yml").read_text())["scrape_configs"]
                   for static in job["static_configs"] for t in static["targets"]]  # fmt: skip
        for production in [*scraped, "10.0.0.7:9101", "push.example:80", "pushgateway-prod:9091"]:
            assert every.fullmatch(production), production
        assert not every.fullmatch(TEST_INSTANCE)
        assert instance["current"]["value"] == ["$__all"]


def test_prometheus_configuration(promtool):
    done = subprocess.run(
        [promtool, "check", "config", str(ROOT / "prometheus.yml")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_scrape_jobs():
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))
    assert config["global"]["scrape_interval"] == "15s"
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert {name: job["static_configs"][0]["targets"] for name, job in jobs.items()} == {
        "regmodel-api": ["regmodel-backend:8000"],
        "airflow-metrics": ["airflow-exporter:9101"],
        "pushgateway": ["pushgateway:9091"],
        "prometheus": ["localhost:9090"],
    }
    assert [jobs[name].get("scrape_interval") for name in jobs] == ["10s", "30s", "5s", None]
    assert jobs["pushgateway"]["honor_labels"] is True


def test_targets_have_their_own_reference_ids():
    for name in DASHBOARDS:
        for panel in panels(name):
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
    assert sum(1 for _ in targets()) > 50
