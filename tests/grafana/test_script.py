"""scripts/test_grafana_alerts_and_dashboards.py against a real Prometheus, Pushgateway and exporter.

Grafana is a stand-in that serves the provisioned files and has Prometheus evaluate the rules.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from exporter.catalog_parser import load_catalog
from testbed.debian import program
from testbed.process import ServerProcess, free_port, http_ready
from tests.grafana.provisioned import ROOT, rules
from tests.grafana.stand_in import GrafanaStandIn

SCRIPT = ROOT / "scripts" / "test_grafana_alerts_and_dashboards.py"
SCENARIOS = ["drift", "r2", "rmse", "combined", "api", "ingestion", "service", "dag"]


class Running:
    """The stack's addresses, and the script as a process."""

    def __init__(self, folder, ports):
        self.folder = folder
        self.prometheus, self.pushgateway, self.exporter = (f"http://127.0.0.1:{port}" for port in ports)
        self.grafana = None

    def command(self, *arguments, **urls):
        places = {"grafana": self.grafana.url, "prometheus": self.prometheus, "pushgateway": self.pushgateway,
                  "exporter": self.exporter} | urls  # fmt: skip
        flags = [part for name, url in places.items() for part in (f"--{name}-url", url)]
        # -I: as on a machine that has nothing but Python, with none of this project's packages.
        return [sys.executable, "-I", str(SCRIPT), *flags, "--poll", "0.5", *arguments]

    def run(self, *arguments, env=None, **urls):
        return subprocess.run(
            self.command(*arguments, **urls), check=False, capture_output=True, text=True, timeout=120, env=env or {}
        )

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={}
        )

    def test_series(self):
        with urllib.request.urlopen(f"{self.pushgateway}/metrics", timeout=5) as response:
            return [line for line in response.read().decode().splitlines() if 'job="test-metrics"' in line]

    def wait_for_series(self, process):
        for _ in range(1200):
            if self.test_series():
                return
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        raise AssertionError("no test series were pushed")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    programs = program("prometheus"), program("pushgateway")
    folder = tmp_path_factory.mktemp("stack")
    ports = free_port(), free_port(), free_port()
    running = Running(folder, ports)
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))
    addresses = {"prometheus": ports[0], "pushgateway": ports[1], "airflow-metrics": ports[2]}
    for job in config["scrape_configs"]:
        # The project's own jobs, on other ports and faster.
        job["scrape_interval"] = "1s"
        job["static_configs"] = [{"targets": [f"127.0.0.1:{addresses.get(job['job_name'], 9)}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    processes = [
        ServerProcess(
            [programs[1], f"--web.listen-address=127.0.0.1:{ports[1]}"],
            log=folder / "pushgateway.log", ready=http_ready(f"{running.pushgateway}/-/ready"),
        ),
        ServerProcess(
            [sys.executable, "-m", "exporter", "serve"],
            log=folder / "exporter.log", ready=http_ready(f"{running.exporter}/-/ready"), cwd=folder,
            environment={"EXPORTER_PORT": str(ports[2]), "EXPORTER_HOST": "127.0.0.1", "PYTHONPATH": str(ROOT),
                         "EXPORTER_REFRESH_SECONDS": "5"},
        ),
        ServerProcess(
            [programs[0], f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{ports[0]}"],
            log=folder / "prometheus.log", ready=http_ready(f"{running.prometheus}/-/ready"),
        ),
    ]  # fmt: skip
    from contextlib import ExitStack

    with ExitStack() as stack_:
        for process in processes:
            stack_.enter_context(process)
        running.grafana = stack_.enter_context(GrafanaStandIn(running.prometheus))
        time_limit = time.monotonic() + 20
        while time.monotonic() < time_limit:
            with urllib.request.urlopen(f"{running.prometheus}/api/v1/query?query=sum(up)", timeout=5) as response:
                result = json.load(response)["data"]["result"]
            if result and result[0]["value"][1] == "3":
                break
            time.sleep(0.2)
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """Whatever a test does, the Pushgateway is empty after it."""
    yield
    if "stack" in request.fixturenames:
        assert request.getfixturevalue("stack").test_series() == []


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module
    spec.loader.exec_module(module)
    return module


def test_all_checks_pass_with_no_option(stack):
    """The command of the original description, on a stack as compose starts it: Airflow off, no RegModel API."""
    done = stack.run()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].endswith("0 failed, " + lines[-1].split(", ")[-1])
    for expected in ("Grafana is up", "datasource prometheus", "nine rules", "contact point discord-mlops",
                     "notification policies", "metric bike_model_r2_production"):  # fmt: skip
        assert any(line.startswith(f"ok    {expected}") for line in lines), expected
    for uid in ("mlops-overview", "mlops-model-performance", "mlops-drift-monitoring", "mlops-training-deployment"):
        assert any(line.startswith(f"ok    queries of {uid}") for line in lines)
    # What is absent for a reason is skipped with the reason.
    assert "skip  metric bike_records_ingested_total: airflow: not configured" in lines
    assert any(line.startswith("skip  job regmodel-api: is down") for line in lines)


def test_json_for_machines(stack):
    done = stack.run("--test-alerts", "--json")
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["interrupted"] is False
    assert {check["status"] for check in report["checks"]} == {"pass"}
    assert done.returncode == 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_crosses_its_limit(stack, name):
    done = stack.run("--inject", name, "--json", "--timeout", "40")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    [outcome] = report["scenarios"]
    assert set(outcome["rules"].values()) == {"crossed"}
    assert "test series removed" in done.stderr


def test_all_scenarios_fire(stack):
    """From pending to firing, all at once."""
    done = stack.run("--inject", "all", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "service_down after" in done.stdout
    assert "pending" in done.stderr
    assert "firing" in done.stderr


def test_the_band_below_the_warning_limit_fires(stack):
    done = stack.run("--inject", "combined", "--wait", "--json", "--timeout", "60")
    [outcome] = json.loads(done.stdout)["scenarios"]
    assert outcome["rules"] == {"critical_drift_with_performance": "firing", "model_performance_warning": "firing"}


def test_every_rule_has_a_scenario(script):
    assert (
        {uid for scenario in script.SCENARIOS.values() for uid in scenario.rules} == set(rules()) == set(script.RULES)
    )


@pytest.fixture
def never_firing(stack, monkeypatch):
    """Nothing fires, not even what the series of an earlier run had made pending: the rules look back two minutes."""
    monkeypatch.setattr(stack.grafana, "speed", 0.0)


def test_a_scenario_that_never_fires_fails_and_cleans_up(stack, never_firing):
    done = stack.run("--inject", "rmse", "--wait", "--timeout", "3")
    assert done.returncode == 1
    assert "not firing within 3 s" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_mid_injection_cleans_up(stack, number, never_firing):
    process = stack.start("--inject", "drift", "--wait")
    stack.wait_for_series(process)
    process.send_signal(number)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert "test series removed" in err
    assert stack.test_series() == []


def test_an_interrupt_is_told_to_machines_too(stack, never_firing):
    process = stack.start("--inject", "r2", "--wait", "--json")
    stack.wait_for_series(process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert json.loads(out)["interrupted"] is True
    assert json.loads(out)["ok"] is False


def test_restore_removes_what_a_killed_run_left(stack, never_firing):
    process = stack.start("--inject", "dag", "--wait")
    stack.wait_for_series(process)
    process.kill()
    process.communicate()
    assert stack.test_series()
    done = stack.run("--restore")
    assert done.returncode == 0
    assert "test series removed" in done.stdout
    assert "there were none" in stack.run("--restore").stdout


def test_a_missing_grafana_fails(stack):
    done = stack.run("--test-dashboards", "--test-alerts", grafana="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "FAIL  Grafana is up: Grafana at http://127.0.0.1:9 does not answer" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_pushgateway_fails_and_says_what_to_do(stack):
    done = stack.run("--inject", "drift", pushgateway="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Pushgateway at http://127.0.0.1:9 does not answer" in done.stdout


def test_a_wrong_password_says_so(stack):
    done = stack.run("--test-alerts", env={"GF_SECURITY_ADMIN_PASSWORD": "wrong"})
    assert done.returncode == 1
    assert "GF_SECURITY_ADMIN_PASSWORD" in done.stdout


def test_a_missing_rule_and_a_broken_query_fail(stack, monkeypatch):
    original = GrafanaStandIn.document

    def broken(self, path):
        found = original(self, path)
        if path.endswith("alert-rules"):
            return [rule for rule in found if rule["uid"] != "service_down"]
        if path.endswith("mlops-overview"):
            found["dashboard"]["panels"][1]["targets"][0]["expr"] = "sum("
        return found

    monkeypatch.setattr(GrafanaStandIn, "document", broken)
    done = stack.run("--test-dashboards", "--test-alerts")
    assert done.returncode == 1
    assert "FAIL  nine rules: missing: service_down" in done.stdout
    assert "FAIL  queries of mlops-overview: panel 'Drift detected'" in done.stdout


def test_a_metric_that_is_gone_without_a_reason_fails(stack):
    """Asked of a Prometheus without the exporter's data: the Pushgateway's own page is no exporter's health."""
    done = stack.run("--test-metrics", exporter=stack.pushgateway)
    assert done.returncode == 1
    assert "FAIL  metric bike_records_ingested_total: no series" in done.stdout


def test_wrong_arguments():
    done = subprocess.run([sys.executable, str(SCRIPT), "--inject", "nonsense"], check=False, capture_output=True)
    assert done.returncode == 2


def test_the_catalogue_is_read_right_without_a_parser(script):
    assert script.catalogue() == [(metric.name, metric.type) for metric in load_catalog().metrics]


def test_the_environment_of_compose_is_used(script, monkeypatch):
    monkeypatch.setenv("GF_SECURITY_ADMIN_PASSWORD", "from-env")
    assert script.parser().parse_args([]).grafana_password == "from-env"
    assert os.access(SCRIPT, os.X_OK)


def test_the_stacks_env_file_is_read_too(script, monkeypatch, tmp_path):
    monkeypatch.delenv("GF_SECURITY_ADMIN_PASSWORD", raising=False)
    monkeypatch.delenv("EXPORTER_PORT", raising=False)
    (tmp_path / ".env").write_text(
        "#GF_SECURITY_ADMIN_PASSWORD=no\nGF_SECURITY_ADMIN_PASSWORD='s3=cret'\nEXPORTER_PORT=9102\n"
    )
    monkeypatch.setattr(script, "ROOT", tmp_path)
    options = script.parser().parse_args([])
    assert options.grafana_password == "s3=cret"
    assert options.exporter_url == "http://localhost:9102"
    monkeypatch.setenv("GF_SECURITY_ADMIN_PASSWORD", "shell")
    assert script.parser().parse_args([]).grafana_password == "shell"
