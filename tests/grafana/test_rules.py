"""The nine rules, proven: each fires in its scenario and stays quiet in the others, in a real Prometheus."""

import re
import subprocess

import pytest
import yaml

from grafana.generator.files import KUBERNETES_JOBS, PROMETHEUS_RULE
from tests.grafana.evaluation import seconds
from tests.grafana.provisioned import PROMETHEUS, ROOT, alert, alerts, groups, queries, rules, threshold
from tests.grafana.rule_cases import CASES, GONE, NO_DATA, PROD, QUIET, Case, absent, flat, ramp

EXPECTED = {
    "model_performance_critical": ("model_performance", "5m", "critical"),
    "model_performance_warning": ("model_performance", "10m", "warning"),
    "model_rmse_high": ("model_performance", "5m", "critical"),
    "high_drift_detected": ("data_drift", "15m", "warning"),
    "critical_drift_with_performance": ("data_drift", "5m", "critical"),
    "service_down": ("infrastructure", "1m", "critical"),
    "api_error_rate_high": ("api_health", "5m", "critical"),
    "airflow_dag_too_slow": ("airflow_health", "10m", "warning"),
    "no_data_ingested": ("data_ingestion", "10m", "warning"),
}
ALL_RULES_HAVE = ("crossed", "just inside", "series missing", "exporter down", "source stale", "restart", "NaN",
                  "only test series")  # fmt: skip
EVERY_CASE = [(uid, name) for uid, cases in CASES.items() for name in cases]


def interval(uid):
    """How often the rule is evaluated."""
    return next(group["interval"] for group in groups() if rules()[uid] in group["rules"])


def failure(promtool, folder, played, every, cases, grafanas=()):
    """What promtool says when it plays the cases to rules like those of prometheus/rules/mlops.yml; None if nothing.

    Args:
        played: the rules, each of which must do what the cases say.
        every: the group's interval.
        grafanas: Grafana's queries of the same rule, which must have a value, or none, where the case says so.
    """
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": played}]}, width=10**9))
    tests = []
    for case in cases:
        expected = []
        for minute, outcome in case.expect.items():
            at = f"{round(minute * 60)}s"
            firing = [] if isinstance(outcome, str) else outcome
            for rule in played:
                names = {"alertname": rule["alert"], "alertstate": "firing", **rule["labels"]}
                series = [{"labels": "ALERTS" + labelled({**names, **labels}), "value": 1} for labels in firing]
                expr = f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}}'
                expected.append({"expr": expr, "eval_time": at, "exp_samples": series})
            for node in grafanas:
                # A query without series makes Grafana's whole rule NoData. (A count of nothing is nothing.)
                known = [] if outcome == NO_DATA else [{"labels": "{}", "value": 1}]
                expected.append({"expr": f"count({node}) > bool 0", "eval_time": at, "exp_samples": known})
        tests.append(
            {
                "interval": f"{round(case.every * 60)}s",
                "input_series": [{"series": key, "values": text} for key, text in case.series.items()],
                "promql_expr_test": expected,
            }
        )
    document = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(document, width=10**9))
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yml"], cwd=folder, check=False, capture_output=True, text=True
    )
    return None if done.returncode == 0 else done.stdout + done.stderr


def labelled(labels):
    return "{" + ", ".join(f'{name}="{text}"' for name, text in labels.items()) + "}"


def test_nine_rules_in_six_groups():
    found = {
        rule["uid"]: (group["name"], rule["for"], rule["labels"]["severity"])
        for group in groups()
        for rule in group["rules"]
    }
    assert found == EXPECTED


def test_every_rule_has_every_case():
    assert {uid: set(ALL_RULES_HAVE) - set(cases) for uid, cases in CASES.items()} == {uid: set() for uid in EXPECTED}


def test_prometheus_has_the_same_nine_rules():
    ours = {rule["title"]: uid for uid, rule in rules().items()}
    found = {
        ours[rule["alert"]]: (group, rule["for"], rule["labels"]["severity"])
        for group, every in alerts().items()
        for rule in every
        if rule["alert"] in ours
    }
    assert found == EXPECTED
    assert all(alert(uid)["labels"] == rule["labels"] for uid, rule in rules().items())
    document = yaml.safe_load((PROMETHEUS / "rules" / "mlops.yml").read_text("utf-8"))
    intervals = {group["name"]: group["interval"] for group in groups()}
    assert {group["name"]: group["interval"] for group in document["groups"]} == intervals
    # Where Grafana says by itself that there is no data, or that a rule cannot be evaluated.
    others = [rule for every in alerts().values() for rule in every if rule["alert"] not in ours]
    no_data = {rule["labels"]["rulename"] for rule in others if rule["alert"] == "DatasourceNoData"}
    assert no_data == {rule["title"] for rule in rules().values() if rule["noDataState"] == "NoData"}
    assert [rule["alert"] for rule in others].count("DatasourceError") == 1 == len(others) - len(no_data)


def test_promtool_accepts_the_rules(promtool):
    done = subprocess.run(
        [promtool, "check", "rules", PROMETHEUS / "rules" / "mlops.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 rules found" in done.stdout


def test_vmalert_accepts_the_rules(vmalert):
    """VictoriaMetrics' evaluator parses rules and templates with engines of its own."""
    done = subprocess.run(
        [vmalert, f"-rule={PROMETHEUS / 'rules' / 'mlops.yml'}", "-dryRun"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_resource_holds_the_same_rules():
    """But for the jobs that `service_down` expects: a cluster has the exporter's alone."""
    resource = yaml.safe_load((ROOT / PROMETHEUS_RULE).read_text("utf-8"))
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    theirs = (PROMETHEUS / "rules" / "mlops.yml").read_text("utf-8")
    for job in yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))["scrape_configs"]:
        if (name := job["job_name"]) not in KUBERNETES_JOBS:
            theirs = theirs.replace(f' or label_replace(vector(0), "job", "{name}", "", "")', "")
            theirs = theirs.replace(f'label_replace(vector(0), "job", "{name}", "", "") or ', "").replace(
                f"{name}|", ""
            )
    assert resource["spec"] == yaml.safe_load(theirs)


@pytest.mark.parametrize(("uid", "name"), EVERY_CASE, ids=[f"{uid}: {name}" for uid, name in EVERY_CASE])
def test_case(uid, name, promtool, tmp_path):
    """Prometheus evaluates the rule of prometheus/rules/mlops.yml over the case's series; Grafana's queries agree."""
    problem = failure(
        promtool, tmp_path, [alert(uid)], interval(uid), [CASES[uid][name]], queries(rules()[uid]).values()
    )
    assert problem is None, problem


@pytest.mark.parametrize("uid", EXPECTED)
def test_both_systems_test_the_same(uid):
    """The condition of Prometheus' rule is Grafana's last query with its threshold."""
    ref, operator, limit = threshold(rules()[uid])
    condition = f"({queries(rules()[uid])[ref]}) {'>' if operator == 'gt' else '<'} {limit:g}"
    assert alert(uid)["expr"] in (condition, f"({queries(rules()[uid])['A']}) and ({condition})")


COMPARISON = re.compile(r"(<=|>=|==|!=|<|>)( bool)? ([\d.]+)")
OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def mutants(rule):
    """The rule with one comparison turned round, one limit moved by a tenth, or another `for`."""
    for found in COMPARISON.finditer(rule["expr"]):
        sign, modifier, limit = found[1], found[2] or "", float(found[3])
        others = [(OPPOSITE[sign], limit)]
        others += [(sign, limit * 0.9), (sign, limit * 1.1)] if limit else [(sign, 1.0)]
        for other, moved in others:
            changed = f"{other}{modifier} {moved:g}"
            expr = rule["expr"][: found.start()] + changed + rule["expr"][found.end() :]
            yield f"{found[0]} at {found.start()} becomes {changed}", rule | {"expr": expr}
    yield "for halved", rule | {"for": f"{seconds(rule['for']) / 2:.0f}s"}
    yield "for doubled", rule | {"for": f"{seconds(rule['for']) * 2:.0f}s"}


@pytest.mark.parametrize("uid", EXPECTED)
def test_no_change_of_a_rule_passes_its_cases(uid, promtool, tmp_path):
    changed = {f"mutant{i}": mutant for i, mutant in enumerate(mutants(alert(uid)))}
    unnoticed = {name: change for name, (change, _) in changed.items() if change not in EQUIVALENT.get(uid, [])}
    for case in sorted(CASES[uid].values(), key=lambda case: max(case.expect)):
        # One run for all that no case has noticed yet, each under a name of its own; the shortest cases first.
        played = [changed[name][1] | {"alert": name} for name in unnoticed]
        found = failure(promtool, tmp_path, played, interval(uid), [case]) or ""
        # promtool says: expr: "ALERTS{alertname=\\"mutant0\\", …}", time: …, exp: …, got: …
        for name in set(re.findall(r'expr: "ALERTS\{alertname=\\"(mutant\d+)\\"', found)):
            del unnoticed[name]
        if not unnoticed:
            break
    assert unnoticed == {}


# The value is 0, or more seconds than the limit of 36 hours.
EQUIVALENT = {"no_data_ingested": ["> 0 at 567 becomes > 1"]}


def test_a_rule_without_data_says_so(promtool, tmp_path):
    """DatasourceNoData, under Grafana's name and with the rule's, once its `for` is over; never while there is data."""
    others = [rule for rule in alerts()["model_performance"] if rule["alert"] == "DatasourceNoData"]
    for rule, metric in zip(others, ("bike_model_r2_champion_current", "bike_model_rmse_production"), strict=True):
        wanted = [{"severity": "critical", "component": "model", "rulename": rule["labels"]["rulename"]}]
        case = Case(
            {f"{metric}{{{PROD}}}": f"{flat(1, 10)} {GONE} {absent(60)}"}, {9: QUIET, 16.5: QUIET, 18: wanted}, ""
        )
        assert failure(promtool, tmp_path, [rule], "1m", [case]) is None


def test_a_rule_that_cannot_be_evaluated_is_reported(promtool, tmp_path):
    [rule] = [rule for rule in alerts()["infrastructure"] if rule["alert"] == "DatasourceError"]
    series = 'prometheus_rule_evaluation_failures_total{rule_group="/etc/prometheus/rules/mlops.yml;%s"}'
    cases = [
        Case({series % "data_drift": ramp(0, 1, 60)}, {3: QUIET, 12: [{"rulename": "data_drift"}]}, ""),
        Case({series % "data_drift": flat(3, 60), series % "others": ramp(0, 1, 60)}, {30: QUIET}, ""),
    ]
    problem = failure(promtool, tmp_path, [rule], "30s", cases)
    assert problem is None, problem


@pytest.mark.parametrize("uid", EXPECTED)
def test_an_evaluation_that_has_no_value_or_fails_means_what_was_decided(uid):
    """Prometheus has no counterpart: there, a rule without a value is quiet."""
    rule = rules()[uid]
    no_data = {"model_performance_critical": "NoData", "model_rmse_high": "NoData", "service_down": "Alerting"}
    assert rule["noDataState"] == no_data.get(uid, "OK")
    assert rule["execErrState"] == {"service_down": "Alerting"}.get(uid, "Error")


@pytest.mark.parametrize("uid", EXPECTED)
def test_for_is_a_number_of_evaluations(uid):
    """Grafana would round it up, so that the two systems would ring at different times."""
    assert seconds(rules()[uid]["for"]) % seconds(interval(uid)) == 0
    assert seconds(interval(uid)) % 10 == 0


def test_when_prometheus_is_gone_exactly_one_rule_rings():
    assert [uid for uid, rule in rules().items() if rule["execErrState"] == "Alerting"] == ["service_down"]


def test_reasons_stand_above_every_reaction():
    from tests.grafana.provisioned import PROVISIONING

    lines = (PROVISIONING / "alerting" / "rules.yml").read_text("utf-8").splitlines()
    reactions = [i for i, line in enumerate(lines) if line.strip().startswith(("noDataState:", "execErrState:"))]
    assert len(reactions) == 18
    assert all(len(lines[i - 1].strip()) > 30 and lines[i - 1].strip().startswith("# ") for i in reactions)
