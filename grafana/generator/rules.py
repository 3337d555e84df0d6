"""The nine alert rules, and how Grafana's file provisioning writes them; alertmanager.py writes Prometheus'.

Every rule is one to three instant queries and a threshold on the last of them. No query filters by its limit: calm
gives a value on the quiet side, so that "no value" means just that. Series are grouped by job and instance, so that
injected test series make alerts of their own and never hide or raise production's.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from grafana.generator.limits import TEST_JOB, Limits
from grafana.generator.panels import Json

FOLDER: Final = "MLOps alerts"
"""Not the dashboards' folder: Grafana finds an alert folder by title and would mix the two up."""
GROUPS: Final = (
    "model_performance",
    "data_drift",
    "infrastructure",
    "api_health",
    "airflow_health",
    "data_ingestion",
)
HOLD: Final = "2m"
"""How long a value outlives a failed scrape. Without it, a restart of the exporter would resolve a firing alert."""

Op = Literal["gt", "lt"]


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a rule does when it has no data or cannot be evaluated, and why."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule. The threshold tests the last query; the others are there for the message.

    `summary` and `description` are templates with markers for values (`value`), which each system writes in its way.
    `panel` is the dashboard and the panel that show what the rule looks at.
    """

    uid: str
    title: str
    group: str
    queries: Sequence[tuple[str, str]]
    operator: Op
    limit: float
    hold: str
    severity: str
    component: str
    no_data: Reaction
    error: Reaction
    summary: str
    description: str
    panel: tuple[str, int]


ERROR: Final = Reaction(
    "Error",
    "Says DatasourceError by itself, so a rule that can no longer be evaluated is noticed; routed as information, "
    "because service_down is what rings when Prometheus is gone.",
)
REPORTED: Final = "what took the series away is service_down's to report"


_MARKER: Final = re.compile(r"\[\[(\w) (.+?)\]\]")


def value(ref: str, function: str) -> str:
    """The marker for a query's value in a message, formatted by a function of Go's templates."""
    return f"[[{ref} {function}]]"


def with_values(text: str, written: Callable[[str, str], str]) -> str:
    """A message in which each marker is replaced by what `written` makes of its query and its function."""
    return _MARKER.sub(lambda marker: written(marker[1], marker[2]), text)


def grafana_value(ref: str, function: str) -> str:
    """A value in Grafana's templates. `$values` is empty when there is no data or an error."""
    return f"{{{{ if $values }}}}{{{{ {function} $values.{ref}.Value }}}}{{{{ else }}}}not known{{{{ end }}}}"


def newest(aggregate: str, name: str, *matchers: str, by: str = "job, instance") -> str:
    """The newest value of a gauge, held over a failed scrape, without labels that would split the alert."""
    selector = f"{name}{{{', '.join(matchers)}}}" if matchers else name
    return f"{aggregate} by ({by}) (last_over_time({selector}[{HOLD}]))"


def service_down(limits: Limits) -> str:
    """1 for a job that is down or gone; the age in seconds for a source that is stale; 0 for all that is well."""
    every = "|".join((*limits.jobs, TEST_JOB))
    gone = [f'label_replace(vector(0), "job", "{job}", "", "")' for job in limits.jobs]
    up = " or ".join([f'min by (job) (up{{job=~"{every}"}})', *gone])
    # A source that never succeeded has no such timestamp: it is as old as the exporter's process.
    never = "0 * mlops_exporter_source_up + on (job, instance) group_left () process_start_time_seconds"
    success = f"mlops_exporter_source_last_success_timestamp_seconds or on (job, instance, source) ({never})"
    age = f"time() - max by (job, instance, source) ({success})"
    return f"(1 - ({up})) or (({age}) * (({age}) > bool {limits.stale_seconds}))"


def error_ratio(limits: Limits) -> str:
    """The share of 5xx; 0 without enough traffic to judge; nothing when the API shows no requests at all."""
    traffic = f'endpoint!~"{"|".join(limits.ignored_endpoints)}"'
    requests = f"sum by (job) (increase(fastapi_requests_total{{{traffic}}}[5m]))"
    errors = f'sum by (job) (increase(fastapi_requests_total{{status_code=~"5..", {traffic}}}[5m]))'
    return f"({errors} / ({requests} >= {limits.minimum_requests})) or 0 * {requests}"


def silence(limits: Limits) -> str:
    """Seconds without new records where there are too many of them, else 0.

    Two signs: the ingestion DAG's last success is too long ago, or it succeeds and its counter stands still. The second
    counts only where Prometheus knows the counter for that long, or a fresh Prometheus would ring.
    """
    seconds = limits.silence_hours * 3600
    window = f"{limits.silence_hours}h"
    dag = f'dag_id="{limits.ingestion_dag}"'
    age = f"time() - {newest('max', 'airflow_dag_last_success_timestamp_seconds', dag)}"
    late = f"({age}) * (({age}) > bool {seconds})"
    still = f"sum by (job, instance) (increase(bike_records_ingested_total[{window}])) == bool 0"
    known = f"sum by (job, instance) (last_over_time(bike_records_ingested_total[1h] offset {window}))"
    flat = f"{seconds} * (({still}) and {known})"
    return (
        f'max by (job, instance) (label_replace({late}, "sign", "late", "", "")'
        f' or label_replace({flat}, "sign", "flat", "", ""))'
    )


def rules(limits: Limits) -> tuple[Rule, ...]:
    """All nine, in the order of their groups."""
    r2 = newest("min", "bike_model_r2_champion_current")
    rmse = newest("max", "bike_model_rmse_production")
    drift = newest("max", "bike_drift_share")
    active = newest(
        "max", "airflow_dag_run_active_seconds", f'dag_id="{limits.monitored_dag}"', by="job, instance, dag_id"
    )
    no_drift_share = Reaction("OK", f"Older audit tables have no drift_share: that is normal; {REPORTED}.")
    airflow_off = Reaction("OK", f"Airflow is off unless it is configured: no series is normal; {REPORTED}.")
    a0, a1, a2, a3 = (value("A", f'printf "%.{digits}f"') for digits in range(4))
    b3, duration, percent = (
        value("B", 'printf "%.3f"'),
        value("A", "humanizeDuration"),
        value("A", "humanizePercentage"),
    )
    at = "{{ $labels.job }} at {{ $labels.instance }}"
    return (
        Rule(
            "model_performance_critical", "Model performance critical", "model_performance",
            [("A", r2)], "lt", limits.r2_critical, "5m", "critical", "model",
            Reaction("NoData", "A model that nobody measures is not a good model: said once, here, as information. "
                     "OK would send 'resolved' when the value merely vanished."),
            ERROR,
            f"Champion R² is {a3}, below {limits.r2_critical:g}",
            f"The newest monitoring run measured R² {a3} on test_current ({at}). "
            f"The critical limit is {limits.r2_critical:g}.",
            ("mlops-overview", 3),
        ),
        Rule(
            "model_performance_warning", "Model performance warning", "model_performance",
            [("A", r2), ("B", f"({r2} >= bool {limits.r2_critical:g}) * ({r2} < bool {limits.r2_warning:g})")],
            "gt", 0, "10m", "warning", "model",
            Reaction("OK", "model_performance_critical looks at the same series and says that it is missing."),
            ERROR,
            f"Champion R² is {a3}, below {limits.r2_warning:g}",
            f"The newest monitoring run measured R² {a3} on test_current ({at}): "
            f"between the limits {limits.r2_critical:g} and {limits.r2_warning:g}.",
            ("mlops-model-performance", 5),
        ),
        Rule(
            "model_rmse_high", "Model RMSE high", "model_performance",
            [("A", rmse)], "gt", limits.rmse_critical, "5m", "critical", "model",
            Reaction("NoData", "As model_performance_critical, with which it shares one message."),
            ERROR,
            f"Production RMSE is {a1}, above {limits.rmse_critical:g}",
            f"The newest monitoring run measured RMSE {a1} bikes an hour on test_current "
            f"({at}). The limit is {limits.rmse_critical:g}.",
            ("mlops-overview", 4),
        ),
        Rule(
            "high_drift_detected", "High drift detected", "data_drift",
            [("A", drift)], "gt", limits.drift_high, "15m", "warning", "drift",
            no_drift_share, ERROR,
            f"{a2} of the features drifted",
            f"The newest monitoring run found a drift share of {a2} ({at}). "
            f"The limit is {limits.drift_high:g}.",
            ("mlops-drift-monitoring", 5),
        ),
        Rule(
            "critical_drift_with_performance", "Critical drift with poor performance", "data_drift",
            [("A", drift), ("B", r2),
             ("C", f"({drift} > bool {limits.drift_high:g}) * on (job, instance) ({r2} < bool {limits.r2_warning:g})")],
            "gt", 0, "5m", "critical", "drift",
            no_drift_share, ERROR,
            f"Drift share {a2} and R² {b3}",
            f"The data drifted (share {a2}, limit {limits.drift_high:g}) and the "
            f"champion suffers (R² {b3}, limit {limits.r2_warning:g}) ({at}).",
            ("mlops-drift-monitoring", 8),
        ),
        Rule(
            "service_down", "Service down", "infrastructure",
            [("A", service_down(limits))], "gt", 0, "1m", "critical", "infrastructure",
            Reaction("Alerting", "The query has a value for every job, scraped or not: no data means that the rule "
                     "itself is broken."),
            Reaction("Alerting", "Prometheus does not answer: nothing is watched any more, which is what this rule is "
                     "for."),
            "{{ if $labels.source }}The exporter's source {{ $labels.source }} is stale"
            "{{ else if $labels.job }}{{ $labels.job }} is down{{ else }}Prometheus does not answer{{ end }}",
            "{{ if $labels.source }}The exporter last read {{ $labels.source }} "
            f"{duration} ago; its values are old or gone."
            "{{ else if $labels.job }}Prometheus cannot scrape {{ $labels.job }}, or no longer has it as a target "
            f"(down: {a0}).{{{{ else }}}}No rule can be evaluated.{{{{ end }}}}",
            ("mlops-overview", 6),
        ),
        Rule(
            "api_error_rate_high", "API error rate high", "api_health",
            [("A", error_ratio(limits))], "gt", limits.error_ratio, "5m", "critical", "api",
            Reaction("OK", f"An API that nobody has called yet shows no requests; {REPORTED}."), ERROR,
            f"{percent} of the API's answers are errors",
            f"{percent} of the requests to {{{{ $labels.job }}}} in the last 5 minutes "
            f"ended in a 5xx. The limit is {limits.error_ratio * 100:g} %, from {limits.minimum_requests} requests on.",
            ("mlops-overview", 13),
        ),
        Rule(
            "airflow_dag_too_slow", "Airflow DAG too slow", "airflow_health",
            [("A", active)], "gt", limits.running_seconds, "10m", "warning", "airflow",
            airflow_off, ERROR,
            "{{ if $labels.dag_id }}{{ $labels.dag_id }}{{ else }}A DAG{{ end }} has been running for "
            f"{duration}",
            f"A run of {{{{ $labels.dag_id }}}} is still going after {duration} ({at}). "
            f"The limit is {limits.running_seconds // 60} minutes.",
            ("mlops-training-deployment", 11),
        ),
        Rule(
            "no_data_ingested", "No data ingested", "data_ingestion",
            [("A", silence(limits))], "gt", 0, "10m", "warning", "ingestion",
            airflow_off, ERROR,
            f"No new records for {duration}",
            f"{limits.ingestion_dag} brought no new records for at least {duration} "
            f"({at}). The limit is {limits.silence_hours} hours.",
            ("mlops-overview", 8),
        ),
    )  # fmt: skip


def interval(group: str) -> str:
    """How often a group is evaluated: a divisor of every `for` in it."""
    return "30s" if group == "infrastructure" else "1m"


def rule_json(rule: Rule, runbooks: str) -> Json:
    """A rule as Grafana's file provisioning reads it."""
    condition = "T"
    data: list[Json] = [
        {
            "refId": ref,
            "relativeTimeRange": {"from": 600, "to": 0},
            "datasourceUid": "prometheus",
            "model": {
                "refId": ref,
                "datasource": {"type": "prometheus", "uid": "prometheus"},
                "editorMode": "code",
                "expr": expr,
                "instant": True,
                "range": False,
                "intervalMs": 1000,
                "maxDataPoints": 43200,
            },
        }
        for ref, expr in rule.queries
    ]
    data.append(
        {
            "refId": condition,
            "relativeTimeRange": {"from": 0, "to": 0},
            "datasourceUid": "__expr__",
            "model": {
                "refId": condition,
                "datasource": {"type": "__expr__", "uid": "__expr__"},
                "type": "threshold",
                "expression": rule.queries[-1][0],
                "conditions": [{"evaluator": {"type": rule.operator, "params": [rule.limit]}}],
            },
        }
    )
    dashboard, panel = rule.panel
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": condition,
        "data": data,
        "for": rule.hold,
        "noDataState": rule.no_data.state,
        "execErrState": rule.error.state,
        "labels": {"severity": rule.severity, "component": rule.component},
        "annotations": {
            "summary": with_values(rule.summary, grafana_value),
            "description": with_values(rule.description, grafana_value),
            "runbook_url": f"{runbooks}#{rule.uid}",
            "__dashboardUid__": dashboard,
            "__panelId__": str(panel),
        },
    }
