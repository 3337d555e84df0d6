"""What `python -m exporter check` says of Airflow."""

from exporter.catalog_parser import load_catalog
from exporter.check import OK, PROBLEM, WARNING, Finding, check
from exporter.settings import Settings
from testbed.fake_airflow import DAGS, NOW, PASSWORD, USERNAME, FakeAirflow
from testbed.faults import FaultProxy


def findings(tmp_path, **env: str) -> list[Finding]:
    """What is said of Airflow, after the lines on everything else."""
    base = {"AUDIT_URL": f"duckdb:{tmp_path}/none.duckdb", "EXPORTER_STATE_DIR": "none"}
    found = list(check(Settings.from_env({**base, **env}), load_catalog()))
    names = [finding.subject for finding in found]
    return found[names.index("airflow") :]


def credentials(url: str) -> dict[str, str]:
    return {"AIRFLOW_BASE_URL": url, "AIRFLOW_USERNAME": USERNAME, "AIRFLOW_PASSWORD": PASSWORD}


def test_without_an_airflow(tmp_path):
    (only,) = findings(tmp_path)
    assert only.state == OK
    assert "AIRFLOW_BASE_URL is not set" in only.detail


def test_everything_that_a_refresh_needs(fake: FakeAirflow, proxy: FaultProxy, tmp_path):
    fake.run(DAGS[0], "r", start=NOW - 90, end=NOW - 80, fetch_to_bigquery__records_count=4)
    fake.run(DAGS[2], "r", start=NOW - 90, end=NOW - 80, monitor_drift__drift_detected=True)
    fake.paused.add(DAGS[0])
    found = findings(tmp_path, **credentials(proxy.url))
    text = {(finding.subject, finding.state): finding.detail for finding in found}
    assert "Airflow 3.3.2, API v2" in text["airflow", OK]
    assert text["dags", OK] == ", ".join(DAGS)
    assert text["dags", WARNING] == f"paused: {DAGS[0]}"
    assert "fetch_to_bigquery/records_count, monitor_drift/drift_detected" in text["xcoms", OK]
    assert "2 a refresh" in text["requests", OK]
    warnings = [finding.detail for finding in found if (finding.subject, finding.state) == ("xcoms", WARNING)]
    assert f"{DAGS[1]}: no successful run in the last 30 days" in warnings
    assert f"{DAGS[2]}/monitor_drift/drift_summary of the newest successful run was not pushed" in warnings


def test_problems(fake: FakeAirflow, proxy: FaultProxy, tmp_path):
    fake.dags.remove(DAGS[1])
    problems = [one for one in findings(tmp_path, **credentials(proxy.url)) if one.state == PROBLEM]
    assert [problem.subject for problem in problems] == ["dags"]
    assert DAGS[1] in problems[0].detail
    (only,) = findings(tmp_path, **{**credentials(proxy.url), "AIRFLOW_PASSWORD": "planted-wrong"})
    assert only.state == PROBLEM
    assert only.detail.startswith("auth: ")
    assert "planted" not in only.detail
    proxy.refuse()
    (only,) = findings(tmp_path, **credentials(proxy.url))
    assert "Connection refused" in only.detail
