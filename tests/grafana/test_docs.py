"""docs/alerting.md says what the rules do; dashboards are described in docs/dashboards.md."""

import importlib.util
import re
import sys

import pytest

from grafana.generator.limits import load_limits
from tests.grafana.provisioned import DASHBOARDS, ROOT, dashboard, panels, read_yaml, rules
from tests.grafana.rule_cases import CASES

ALERTING = (ROOT / "docs" / "alerting.md").read_text("utf-8")


def section(uid):
    """The text below the heading that a rule's runbook_url points at."""
    anchor = rules()[uid]["annotations"]["runbook_url"].removeprefix(f"{load_limits().runbooks}#")
    found = re.search(rf"^### {re.escape(anchor)}\n(.*?)(?=^##)", ALERTING, re.MULTILINE | re.DOTALL)
    assert found, f"docs/alerting.md has no section {anchor}"
    return found.group(1)


@pytest.mark.parametrize("uid", rules())
def test_each_runbook_says_what_to_do(uid):
    rule, text = rules()[uid], section(uid)
    minutes = rule["for"].removesuffix("m")
    assert text.lstrip().startswith(f"**{rule['labels']['severity']}**, after {minutes} minute")
    assert "What to do:\n\n1. " in text
    assert f"Without a value: `{rule['noDataState']}`. Cannot be evaluated: `{rule['execErrState']}`." in text


@pytest.mark.parametrize("uid", rules())
def test_each_runbook_shows_the_proven_cases(uid):
    shown = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section(uid), re.MULTILINE))
    assert {k: v for k, v in shown.items() if k not in ("case", "---")} == {
        name: case.outcome for name, case in CASES[uid].items()
    }


def test_the_protocol_has_every_rule():
    """Written by the end-to-end test: python -m pytest tests/alerts --protocol docs/alerting.md."""
    table = ALERTING.partition("<!-- protocol: begin -->")[2].partition("<!-- protocol: end -->")[0]
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| (.+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert [uid for uid, *_ in rows] == list(rules())
    for uid, fired, message, _ in rows:
        assert f"1 firing: {rules()[uid]['title']} ({rules()[uid]['labels']['severity']}): " in message
        speed = float(re.search(r"divided by ([\d.]+)", table)[1])
        assert float(fired) >= int(rules()[uid]["for"].removesuffix("m")) * 60 / speed


def test_limits_in_the_text_are_the_real_ones():
    limits = load_limits()
    for uid, text in {
        "model_performance_critical": f"below {limits.r2_critical:.2f}",
        "model_performance_warning": f"at least {limits.r2_critical:.2f} and below {limits.r2_warning:.2f}",
        "model_rmse_high": f"above {limits.rmse_critical}",
        "high_drift_detected": "More than half",
        "api_error_rate_high": f"More than {limits.error_ratio * 100:g} %",
        "no_data_ingested": f"for {limits.silence_hours} hours",
    }.items():
        assert text in " ".join(section(uid).split()), uid
    assert f"fewer than {limits.minimum_requests} requests" in " ".join(section("api_error_rate_high").split())
    assert limits.drift_high == 0.5


def test_the_timing_table_is_that_of_the_policies():
    [tree] = read_yaml("alerting/policies.yml")["policies"]
    shown = re.findall(r"^\| (?:critical|warning|info).*? \| (\d+) (\w+) \| (\d+) (\w+) \|$", ALERTING, re.MULTILINE)
    timing = [(f"{a}{b}", f"{c}{d}") for a, b, c, d in shown]
    assert timing == [(r["group_wait"], r["repeat_interval"]) for r in tree["routes"][1:]]


def test_the_scenarios_are_those_of_the_script():
    path = ROOT / "scripts" / "test_grafana_alerts_and_dashboards.py"
    spec = importlib.util.spec_from_file_location("script_for_docs", path)
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    shown = re.findall(r"^\| `(\w+)` \| (.+?) \| (\d+) min \|$", ALERTING, re.MULTILINE)
    assert {name: tuple(uids.split(", ")) for name, uids, _ in shown if name != "all"} == {
        name: scenario.rules for name, scenario in script.SCENARIOS.items()
    }
    for name, uids, minutes in shown:
        if name != "all":
            assert max(int(rules()[uid]["for"].removesuffix("m")) for uid in uids.split(", ")) == int(minutes)


def test_every_panel_is_described():
    text = (ROOT / "docs" / "dashboards.md").read_text("utf-8")
    for name in DASHBOARDS:
        assert f"## {dashboard(name)['title']}" in text
        assert all(panel["title"] in text for panel in panels(name)), name
    for image in re.findall(r"!\[.*?\]\((img/[\w.-]+)\)", text):
        assert (ROOT / "docs" / image).is_file()
