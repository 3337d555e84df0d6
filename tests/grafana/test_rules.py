"""The nine rules, proven: each fires in its scenario and stays quiet in the others, in a real Prometheus."""

import subprocess

import pytest
import yaml

from tests.grafana.evaluation import crosses, seconds, states
from tests.grafana.provisioned import groups, queries, rules, threshold
from tests.grafana.rule_cases import CASES, NO_DATA, QUIET

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


def test_nine_rules_in_six_groups():
    found = {
        rule["uid"]: (group["name"], rule["for"], rule["labels"]["severity"])
        for group in groups()
        for rule in group["rules"]
    }
    assert found == EXPECTED


def test_every_rule_has_every_case():
    assert {uid: set(ALL_RULES_HAVE) - set(cases) for uid, cases in CASES.items()} == {uid: set() for uid in EXPECTED}


@pytest.mark.parametrize(("uid", "name"), EVERY_CASE, ids=[f"{uid}: {name}" for uid, name in EVERY_CASE])
def test_case(uid, name, promtool, tmp_path):
    """Prometheus itself evaluates the rule's expression and its `for` over the case's series."""
    rule, case = rules()[uid], CASES[uid][name]
    interval = next(group["interval"] for group in groups() if rule in group["rules"])
    ref, operator, limit = threshold(rule)
    expr = queries(rule)[ref]
    sign = {"gt": ">", "lt": "<"}[operator]
    alerting = {"alert": uid, "expr": f"({expr}) {sign} {limit}", "for": rule["for"]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [alerting]}]}))
    alerts, expressions = [], []
    for minute, expected in case.expect.items():
        at = f"{round(minute * 60)}s"
        firing = [] if isinstance(expected, str) else [{"exp_labels": dict(labels)} for labels in expected]
        alerts.append({"eval_time": at, "alertname": uid, "exp_alerts": firing})
        nodes = queries(rule).values()
        if expected == NO_DATA:
            # A query without series makes the whole rule NoData. (A sum of nothing is nothing.)
            expressions += [{"expr": f"count({node}) * 0", "eval_time": at, "exp_samples": []} for node in nodes]
        else:
            one = [{"labels": "{}", "value": 1}]
            expressions += [{"expr": f"count({node}) > bool 0", "eval_time": at, "exp_samples": one} for node in nodes]
            # Beyond the limit or not is decided by Grafana's threshold node, which must agree with Prometheus.
            if expected == QUIET and name == "NaN":
                assert not crosses(float("nan"), operator, limit)
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": interval,
                "tests": [
                    {
                        "interval": f"{round(case.every * 60)}s",
                        "input_series": [{"series": key, "values": text} for key, text in case.series.items()],
                        "alert_rule_test": alerts,
                        "promql_expr_test": expressions,
                    }
                ],
            },
            width=10**9,
        )
    )
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yml"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("uid", EXPECTED)
class TestStates:
    """What follows from an evaluation that has no value, with the rule's own settings."""

    def run(self, uid, *observations):
        rule = rules()[uid]
        _, operator, limit = threshold(rule)
        interval = next(seconds(group["interval"]) for group in groups() if rule in group["rules"])
        return states(
            observations,
            operator=operator,
            limit=limit,
            interval=interval,
            hold=seconds(rule["for"]),
            no_data=rule["noDataState"],
            error=rule["execErrState"],
        )

    def beyond(self, uid):
        _, operator, limit = threshold(rules()[uid])
        return limit + 1 if operator == "gt" else limit - 1

    def steps(self, uid):
        rule = rules()[uid]
        interval = next(seconds(group["interval"]) for group in groups() if rule in group["rules"])
        assert seconds(rule["for"]) % interval == 0
        assert interval % 10 == 0
        return int(seconds(rule["for"]) / interval)

    def test_fires_after_for_and_resolves(self, uid):
        n = self.steps(uid)
        seen = self.run(uid, *[self.beyond(uid)] * (n + 1), threshold(rules()[uid])[2])
        assert seen == ["Pending"] * n + ["Alerting", "Normal"]

    def test_on_the_limit_is_quiet(self, uid):
        assert set(self.run(uid, *[threshold(rules()[uid])[2]] * 50)) == {"Normal"}

    def test_a_calm_evaluation_starts_for_again(self, uid):
        n, bad, calm = self.steps(uid), self.beyond(uid), threshold(rules()[uid])[2]
        assert "Alerting" not in self.run(uid, *[bad] * n, calm, *[bad] * n)

    def test_no_data(self, uid):
        wanted = {"model_performance_critical": "NoData", "model_rmse_high": "NoData", "service_down": "Alerting"}
        assert self.run(uid, *["no data"] * 50)[-1] == wanted.get(uid, "Normal")

    def test_error(self, uid):
        wanted = {"service_down": "Alerting"}
        assert self.run(uid, *["error"] * 50)[-1] == wanted.get(uid, "Error")


def test_when_prometheus_is_gone_exactly_one_rule_rings():
    assert [uid for uid, rule in rules().items() if rule["execErrState"] == "Alerting"] == ["service_down"]


def test_reasons_stand_above_every_reaction():
    from tests.grafana.provisioned import PROVISIONING

    lines = (PROVISIONING / "alerting" / "rules.yml").read_text("utf-8").splitlines()
    reactions = [i for i, line in enumerate(lines) if line.strip().startswith(("noDataState:", "execErrState:"))]
    assert len(reactions) == 18
    assert all(len(lines[i - 1].strip()) > 30 and lines[i - 1].strip().startswith("# ") for i in reactions)
