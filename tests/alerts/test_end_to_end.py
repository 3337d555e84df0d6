"""Each of the nine alerts, from its origin to the message in Discord and back, with nothing between that is not real.

Most rules wait for their `for` at the same time, so that it is soon over. Every cause is made at its origin: a
row of the audit log, a run in Airflow, requests, a service that goes away.
"""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from testbed.fake_airflow import DAGS
from tests.alerts.protocol import Line, write
from tests.alerts.stack import HOUR, STALE_SECONDS, Stack, running, wait_until
from tests.grafana.provisioned import rules

SPEED = 20.0
SLOW = 8.0
"""For what includes restarts, which take as long as they take."""
WITHIN = 120.0
"""Seconds that any message may take on a busy machine: the slowest takes about 50 on a quiet one."""


@dataclass(frozen=True)
class Expected:
    """What a message must say: the route it took, its sign, and its first line (a regular expression)."""

    channel: str
    sign: str
    summary: str


EXPECTED = {
    "model_performance_critical": Expected("model", "🔴", r"Champion R² is 0\.612, below 0\.65"),
    "model_performance_warning": Expected("warning", "🟠", r"Champion R² is 0\.680, below 0\.7"),
    "model_rmse_high": Expected("model", "🔴", r"Production RMSE is 85\.5, above 70"),
    "high_drift_detected": Expected("warning", "🟠", r"0\.80 of the features drifted"),
    "critical_drift_with_performance": Expected("model", "🔴", r"Drift share 0\.80 and R² 0\.612"),
    "service_down": Expected("infrastructure", "🔴", r"pushgateway is down"),
    "api_error_rate_high": Expected("infrastructure", "🔴", r"(1\d|2\d)\.?\d*% of the API's answers are errors"),
    "airflow_dag_too_slow": Expected("warning", "🟠", r"monitor_and_fine_tune has been running for 2h \d+m \d+s"),
    "no_data_ingested": Expected("warning", "🟠", r"No new records for 1d 16h \d+m \d+s"),
}


@dataclass
class Watched:
    """The story so far of each rule."""

    stack: Stack
    began: dict[str, float] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)

    def cause(self, *uids: str) -> None:
        """The condition of these rules is made true now."""
        self.began |= dict.fromkeys(uids, time.monotonic())

    def fires(self, uid: str) -> None:
        """The message came by the rule's route and says what it must."""
        rule, expected = rules()[uid], EXPECTED[uid]
        title = f"{expected.sign} 1 firing: {rule['title']} ({rule['labels']['severity']})"
        message = self.stack.discord.wait_for(lambda m: m.title == title, WITHIN, self.began[uid])
        lines = message.text.splitlines()
        assert message.channel == expected.channel, message
        assert lines[0] == f"**{rule['title']}**"
        assert re.fullmatch(expected.summary, lines[1]), message
        notes = rule["annotations"]
        # Whatever is resolved in the same group at that moment may follow.
        assert lines[3:5] == [
            f"Panel: http://localhost:3000/d/{notes['__dashboardUid__']}?viewPanel={notes['__panelId__']}",
            f"What to do: {notes['runbook_url']}",
        ]
        self.lines[uid] = Line(uid, message.at - self.began[uid], f"{title}: {lines[1]}")

    def end(self, *uids: str) -> None:
        """The condition of these rules ends now."""
        self.cause(*uids)

    def resolves(self, uid: str) -> None:
        """The end was told, by the same route."""
        rule, expected = rules()[uid], EXPECTED[uid]
        title = f"✅ resolved: {rule['title']} ({rule['labels']['severity']})"
        message = self.stack.discord.wait_for(lambda m: m.title == title, WITHIN, self.began[uid])
        assert message.channel == expected.channel, message
        assert message.text.startswith(f"✅ {rule['title']} resolved"), message
        self.lines[uid].resolved = message.at - self.began[uid]

    def told(self, uid: str) -> list[str]:
        """Titles of all messages about a rule."""
        return [message.title for message in self.stack.discord.messages if rules()[uid]["title"] in message.title]


def test_every_alert_from_its_origin_to_discord_and_back(tmp_path, request):
    """Three stories at the same time, each with engines of its own."""
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        stories = [pool.submit(story, tmp_path / story.__name__) for story in (all_nine, restarts, audit_log_gone)]
        lines, *_ = [story.result() for story in stories]
    assert set(lines) == set(EXPECTED) == set(rules())
    write(request.config, [lines[uid] for uid in rules()], time.monotonic() - began, SPEED)


def all_nine(folder: Path) -> dict[str, Line]:
    with running(folder, SPEED, airflow_answers=False) as stack:
        watched = Watched(stack)
        quiet_at_first(stack)
        eight_at_once(stack, watched)
        refused_by_discord(stack, watched)
        assert stack.discord.refused == []
    return watched.lines


def restarts(folder: Path) -> None:
    """The exporter and Prometheus are restarted while an alert fires: nobody is told that it ended, or began again."""
    with running(folder, SLOW) as stack:
        watched, uid = Watched(stack), "model_performance_critical"
        quiet_at_first(stack)
        watched.cause(uid)
        stack.row(r2=0.612, rmse=50.0, drift_share=0.1)
        watched.fires(uid)
        stack.restart(stack.exporter)
        stack.restart(stack.prometheus)
        # Alertmanager takes an alert for resolved that is not sent again within four times the resend delay.
        sent_before = time.time() + 4 * 60 / stack.speed
        title = rules()[uid]["title"]
        wait_until("Alertmanager was told again", lambda: stack.expires(title) > sent_before + 2)
        assert len(watched.told(uid)) == 1, watched.told(uid)
        watched.end(uid)
        stack.row(r2=0.80, rmse=50.0, drift_share=0.1)
        watched.resolves(uid)
        assert len(watched.told(uid)) == 2, watched.told(uid)


def audit_log_gone(folder: Path) -> None:
    """Values are shown up to the stale limit. Then they are gone: one rule rings, two say that they have no data."""
    with running(folder, SPEED) as stack:
        quiet_at_first(stack)
        since = time.monotonic()
        stack.lose_audit_log()
        wait_until("the exporter sees it", lambda: stack.value('mlops_exporter_source_up{source="audit"}') == 0)
        assert stack.value("bike_model_r2_champion_current") == 0.8
        down = stack.discord.wait_for(lambda m: "1 firing: Service down" in m.title, WITHIN, since)
        assert down.at - since > STALE_SECONDS
        assert down.channel == "infrastructure"
        assert down.text.splitlines()[1] == "The exporter's source audit is stale"
        no_data = stack.discord.wait_for(
            lambda m: "DatasourceNoData" in m.title or "2 firing" in m.title, WITHIN, since
        )
        assert no_data.channel == "nodata"
        for title in ("Model performance critical", "Model RMSE high"):
            assert f"**{title} (DatasourceNoData)**" in no_data.text
        since = time.monotonic()
        stack.restore_audit_log()
        for title in ("Service down", "DatasourceNoData"):
            stack.discord.wait_for(lambda m, title=title: m.resolved and title in m.title + m.text, WITHIN, since)
        wait_until("R² is back", lambda: stack.value("bike_model_r2_champion_current") == 0.8)


def quiet_at_first(stack: Stack) -> None:
    """All is well: every rule is evaluated twice, and nobody is told anything."""
    wait_until("R² is scraped", lambda: stack.value("bike_model_r2_champion_current") == 0.8)
    before = stack.evaluations()
    wait_until("each group was evaluated twice", lambda: stack.evaluations() >= before + 2)
    assert stack.query('ALERTS{alertstate="firing"}') == []
    assert stack.discord.messages == []


def eight_at_once(stack: Stack, watched: Watched) -> None:
    """One row makes four rules true; at the same time the API fails, a DAG hangs, another is silent, a service goes."""
    now = time.time()
    watched.cause("airflow_dag_too_slow", "no_data_ingested")
    stack.airflow.run("monitor_and_fine_tune", "slow", "running", start=now - 2 * HOUR)
    for dag in DAGS:
        ended = now - (40 * HOUR if dag == "daily_fetch_bike_data" else HOUR)
        stack.airflow.run(dag, "earlier", start=ended - 60, end=ended)
    stack.airflow_proxy.listen()
    watched.cause("service_down")
    stack.pushgateway.refuse()
    row_rules = ("model_performance_critical", "model_rmse_high", "high_drift_detected",
                 "critical_drift_with_performance")  # fmt: skip
    watched.cause(*row_rules)
    stack.row(r2=0.612, rmse=85.5, drift_share=0.8)
    watched.cause("api_error_rate_high")
    stack.api.failing = 0.2
    with stack.traffic():
        for uid in ("service_down", "api_error_rate_high", *row_rules, "airflow_dag_too_slow", "no_data_ingested"):
            watched.fires(uid)
        # Told again while it goes on.
        first = stack.discord.wait_for(lambda m: "firing: Service down" in m.title, WITHIN)
        stack.discord.wait_for(lambda m: m.title == first.title, WITHIN, first.at)
        watched.end("api_error_rate_high")
        stack.api.failing = 0.0
        watched.end("service_down")
        stack.pushgateway.listen()
        watched.end(*row_rules)
        stack.row(r2=0.80, rmse=50.0, drift_share=0.1)
        watched.end("airflow_dag_too_slow", "no_data_ingested")
        now = time.time()
        next(run for run in stack.airflow.runs if run["dag_run_id"] == "slow").update(state="success", end=now)
        stack.airflow.run("daily_fetch_bike_data", "late", start=now - 60, end=now)
        for uid in ("service_down", "api_error_rate_high", *row_rules, "airflow_dag_too_slow", "no_data_ingested"):
            watched.resolves(uid)
    # The rule for an R² that is not that bad stayed out of it.
    assert watched.told("model_performance_warning") == []


def refused_by_discord(stack: Stack, watched: Watched) -> None:
    """Discord answers 429 to the first attempt; the message is not lost."""
    uid = "model_performance_warning"
    stack.discord.limit_rate(1.0)
    watched.cause(uid)
    stack.row(r2=0.68, rmse=50.0, drift_share=0.1)
    watched.fires(uid)
    assert stack.discord.proxy.count("POST") == len(stack.discord.messages) + 1
    watched.end(uid)
    stack.row(r2=0.80, rmse=50.0, drift_share=0.1)
    watched.resolves(uid)
    assert len(watched.told(uid)) == 2, watched.told(uid)
