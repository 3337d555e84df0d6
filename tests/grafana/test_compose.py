"""The compose file, its variables, and the image."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exporter.settings import DEFAULT_AUDIT_FILE, VARIABLES
from testbed.install import engines_dir
from tests.grafana.evaluation import seconds
from tests.grafana.provisioned import ROOT, rules
from tests.stack.programs import Unavailable, client_config

FIXED = {"EXPORTER_HOST", "EXPORTER_PORT", "EXPORTER_STATE_DIR"}
TEXT = (ROOT / "docker-compose.yaml").read_text("utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES = {name: service for name, service in COMPOSE["services"].items() if name != "backfill"}
BACKFILL = COMPOSE["services"]["backfill"]
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")


OURS = {"airflow-exporter": "exporter", "regmodel-backend": "regmodel"}
"""Services whose image is made here, with a health check of its own, and its folder."""
AIRFLOW = {"airflow-init", "airflow-webserver", "airflow-scheduler", "airflow-dag-processor"}


def test_the_profile_has_every_service():
    monitoring = {"airflow-exporter", "prometheus", "pushgateway", "grafana"}
    assert set(SERVICES) == monitoring | {"regmodel-backend", "airflow-postgres"} | AIRFLOW
    assert all(service["profiles"] == ["monitoring"] for service in SERVICES.values())
    # `docker logs airflow-exporter`, `docker exec prometheus …` rely on these names.
    assert all(service["container_name"] == name for name, service in SERVICES.items())


def test_images_are_pinned():
    images = [service["image"] for service in SERVICES.values() if not service["image"].endswith(":local")]
    assert len(images) == 4
    assert f"COPY --from={SERVICES['prometheus']['image']} " in BACKFILL["build"]["dockerfile_inline"]
    for folder in ("exporter", "regmodel", "airflow"):
        text = (ROOT / "docker" / folder / "Dockerfile").read_text("utf-8")
        images.append(re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE).group(1))
    for image in images:
        if image.startswith("postgres:"):
            assert re.search(r":\d+\.\d+$", image)
            continue
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_ports_are_open_on_this_host_only():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    outside = {port.split(":", 1)[1].rsplit(":", 1)[0] for each in ports.values() for port in each}
    assert outside == {"${EXPORTER_PORT:-9101}", "9090", "9091", "3000", "8000", "8081"}


def test_every_service_has_a_health_check():
    for name, service in SERVICES.items():
        if name in OURS:
            text = (ROOT / "docker" / OURS[name] / "Dockerfile").read_text("utf-8")
            assert "HEALTHCHECK" in text
            assert "curl" not in text
        else:
            # airflow-init ends, and the others wait for its success.
            assert "healthcheck" in service or name == "airflow-init", name
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


def test_retention_is_fifteen_days_unless_history_is_imported():
    assert "--storage.tsdb.retention.time=${PROMETHEUS_RETENTION:-15d}" in SERVICES["prometheus"]["command"]
    assert "\n#PROMETHEUS_RETENTION=\n" in EXAMPLE
    assert "PROMETHEUS_RETENTION=" in (ROOT / "docs" / "backfill.md").read_text("utf-8")


def test_what_must_survive_has_a_volume():
    volumes = [mount for name, s in SERVICES.items() if name != "airflow-init" for mount in s.get("volumes", [])]
    mounts = {mount.split(":")[0]: mount.split(":")[1] for mount in volumes}
    assert {mounts[volume] for volume in COMPOSE["volumes"]} == {
        *("/data", "/prometheus", "/var/lib/grafana", "/models", "/audit", "/warehouse"),
        *("/shared", "/opt/airflow/logs", "/var/lib/postgresql/data"),
    }
    assert all((ROOT / source).exists() for source in mounts if source.startswith("./"))


def test_the_exporter_reads_the_file_that_the_pipeline_writes():
    """Unless GOOGLE_CLOUD_PROJECT is set: then neither names a file, and both use BigQuery."""
    exporter, scheduler = SERVICES["airflow-exporter"], SERVICES["airflow-scheduler"]
    folder = exporter["working_dir"]
    assert f"audit_log:{folder}:ro" in exporter["volumes"]
    assert f"audit_log:{folder}" in scheduler["volumes"]
    assert scheduler["environment"]["PIPELINE_AUDIT_FILE"] == f"{folder}/{DEFAULT_AUDIT_FILE}"
    assert exporter["environment"]["AUDIT_URL"] is None
    assert "AUDIT_URL" not in scheduler["environment"]
    assert exporter["environment"]["AUDIT_SAMPLE_DATA"] == "${AUDIT_SAMPLE_DATA:-false}"


def test_every_setting_of_the_model_and_the_pipeline_reaches_it():
    from regmodel.settings import _VARIABLES

    # The folder of models is fixed by the image.
    assert set(SERVICES["regmodel-backend"]["environment"]) == set(_VARIABLES) - {"REGMODEL_MODELS_DIR"}
    source = (ROOT / "docker" / "airflow" / "dags" / "bike_pipeline" / "settings.py").read_text("utf-8")
    read = set(re.findall(r"\"((?:PIPELINE|REGMODEL|AUDIT|GOOGLE|EXPORTER)_\w+)\"", source))
    assert read <= set(SERVICES["airflow-scheduler"]["environment"]) | {"AUDIT_URL"}


def test_every_setting_of_the_exporter_reaches_it():
    environment = SERVICES["airflow-exporter"]["environment"]
    missing = {variable.name for variable in VARIABLES} - set(environment)
    assert not missing, "add these to docker-compose.yaml and .env.example"
    assert {name for name in environment if name.startswith("EXPORTER_") and environment[name] is not None} == FIXED


def test_every_variable_is_explained_in_the_example():
    explained = set(re.findall(r"^#([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    for service in SERVICES.values():
        environment = service.get("environment", {})
        used |= {name for name in environment if environment[name] is None}
    assert explained == used | {"COMPOSE_FILE", "COMPOSE_PROFILES"}
    # Copied as it is, it sets nothing.
    assert not re.findall(r"^[^#\s]", EXAMPLE, re.MULTILINE)


def test_grafana_gets_a_webhook_address_even_when_none_is_set():
    assert SERVICES["grafana"]["environment"]["DISCORD_WEBHOOK_URL"] == (
        "${DISCORD_WEBHOOK_URL:-http://127.0.0.1:9/disabled}"
    )


@pytest.mark.parametrize(("name", "user"), [("airflow-exporter", 10001), ("regmodel-backend", 10002)])
def test_our_images_are_locked_down(name, user):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert BACKFILL["read_only"] is True
    assert BACKFILL["cap_drop"] == ["ALL"]
    text = (ROOT / "docker" / OURS[name] / "Dockerfile").read_text("utf-8")
    assert f"USER {user}:{user}" in text
    assert text.count("\nFROM ") == 2


def test_what_is_built_here_is_never_pulled():
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            assert service["pull_policy"] == "build", name
        elif service["image"].endswith(":local"):
            assert service["pull_policy"] == "never", name
            assert SERVICES["airflow-init"]["image"] == service["image"]


def test_every_container_has_a_memory_limit_and_a_bounded_log():
    for name, service in {**COMPOSE["services"], "alertmanager": SWITCHED["alertmanager"]}.items():
        assert "mem_limit" in service, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name


def test_init_looks_at_everything_that_is_mounted_from_the_checkout():
    """The only message about an unreadable file comes from there."""
    mounted = {mount.split(":")[0] for s in SERVICES.values() for mount in s.get("volumes", []) if mount[0] == "."}
    checked = [mount.split(":") for mount in SERVICES["airflow-init"]["volumes"] if ":/checkout/" in mount]
    assert {source for source, _, _ in checked} == mounted
    assert all(target == source.replace("./", "/checkout/") for source, target, _ in checked)
    script = (ROOT / "docker" / "airflow" / "init.sh").read_text("utf-8")
    (command,) = re.findall(r"chmod -R go\+rX (.*)\" >&2", script)
    assert {f"./{path}" for path in command.split()} == mounted


def test_postgres_is_healthy_when_it_answers_over_tcp():
    """Its first start has a server that listens on the socket only."""
    assert {"-h", "127.0.0.1"} <= set(SERVICES["airflow-postgres"]["healthcheck"]["test"])


def test_both_names_of_the_airflow_user_work_with_one_precedence():
    exporter, init = SERVICES["airflow-exporter"]["environment"], SERVICES["airflow-init"]["environment"]
    for ours, theirs in (("AIRFLOW_USERNAME", "AIRFLOW_USER"), ("AIRFLOW_PASSWORD", "AIRFLOW_USER_PASSWORD")):
        other = f"_AIRFLOW_WWW_USER_{ours.removeprefix('AIRFLOW_')}"
        assert exporter[ours] == init[theirs] == f"${{{ours}:-${{{other}:-admin}}}}"
    admins = SERVICES["airflow-webserver"]["environment"]["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"]
    assert admins == exporter["AIRFLOW_USERNAME"] + ":admin"


def test_a_checkout_under_umask_077_can_be_built():
    """Files that are copied into an image get a mode of their own, or are copied by root in a stage that is left."""
    text = (ROOT / "docker" / "airflow" / "Dockerfile").read_text("utf-8")
    assert all("--chmod=" in line for line in text.splitlines() if line.startswith("COPY"))
    for folder in ("exporter", "regmodel"):
        last = (ROOT / "docker" / folder / "Dockerfile").read_text("utf-8").rsplit("\nFROM ", 1)[1]
        assert all("--from=build" in line for line in last.splitlines() if line.startswith("COPY"))


def test_bigquery_is_asked_without_grpc():
    """The exporter's image leaves it out."""
    program = (
        "import sys; sys.modules['grpc'] = None; from google.auth.credentials import AnonymousCredentials; "
        "from google.cloud import bigquery; import exporter.sources.audit.bigquery; "
        "bigquery.Client('p', credentials=AnonymousCredentials())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


FILES = ("docker-compose.yaml", "docker-compose.gcp.yaml", "docker-compose.alertmanager.yaml")


def compose(folder, *arguments):
    """Run Compose 2 in a folder, with no environment but what it needs; skips where there is none (CI fetches it)."""
    in_ci = os.environ.get("CI") == "true"
    try:
        plugins = client_config(engines_dir() / "stack" / "client", fetch=in_ci) / "cli-plugins"
    except Unavailable as reason:
        (pytest.fail if in_ci else pytest.skip)(f"{reason}; make test-stack fetches them")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [plugins / "docker-compose", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("extra", [{}, {"COMPOSE_FILE": ":".join(FILES),
                                        "COMPOSE_PROFILES": "monitoring,backfill", "AIRFLOW_USERNAME": "me",
                                        "GOOGLE_CLOUD_PROJECT": "my-project", "DISCORD_WEBHOOK_URL": ""}])  # fmt: skip
def test_compose_accepts_the_file(extra, tmp_path):
    """With no .env, and with one."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in extra.items()), "utf-8")
    profile = [] if "COMPOSE_PROFILES" in extra else ["--profile", "monitoring"]
    done = compose(tmp_path, *profile, "config")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    config = yaml.safe_load(done.stdout)
    exporter, grafana = config["services"]["airflow-exporter"], config["services"]["grafana"]
    assert grafana["environment"]["DISCORD_WEBHOOK_URL"] == "http://127.0.0.1:9/disabled"
    assert exporter["environment"].get("GOOGLE_CLOUD_PROJECT") == extra.get("GOOGLE_CLOUD_PROJECT")
    assert exporter["environment"]["AIRFLOW_USERNAME"] == extra.get("AIRFLOW_USERNAME", "admin")
    services = config["services"].items()
    mounts = ((name, mount) for name, service in services for mount in service.get("volumes", []))
    keys = {name: mount for name, mount in mounts if "gcp.json" in str(mount)}
    # Everything that asks BigQuery.
    assert set(keys) == ({"airflow-exporter", "airflow-init", "airflow-scheduler", "backfill"} if extra else set())
    # Docker makes a folder in the place of a file that is missing, unless it is told not to.
    assert all(not mount["bind"].get("create_host_path") for mount in keys.values())
    assert ("alertmanager" in config["services"]) == bool(extra)


# -- alerts by Prometheus and Alertmanager -----------------------------------------------------------------------------

SWITCHED = yaml.safe_load((ROOT / "docker-compose.alertmanager.yaml").read_text("utf-8"))["services"]


def test_either_grafana_or_alertmanager_tells(tmp_path):
    """The second file adds Alertmanager, gives Prometheus the rules and has Grafana evaluate none; nothing else."""
    assert set(SWITCHED) == {"prometheus", "alertmanager", "grafana"}
    base, command = SERVICES["prometheus"]["command"], SWITCHED["prometheus"]["command"]
    assert command == [*base, "--rules.alert.for-grace-period=30s"]
    assert all(seconds(rule["for"]) > 30 for rule in rules().values())
    assert SWITCHED["grafana"] == {"environment": {"GF_UNIFIED_ALERTING_EXECUTE_ALERTS": "false"}}
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))
    [files], [manager] = config["rule_files"], config["alerting"]["alertmanagers"]
    folders = {Path(files).parent, Path(manager["file_sd_configs"][0]["files"][0]).parent}
    mounted = {mount.split(":")[1] for mount in SWITCHED["prometheus"]["volumes"]}
    assert mounted == {f"/etc/prometheus/{folder}" for folder in folders}
    # Without the second file neither is there, wherever Prometheus is started.
    assert not any((ROOT / folder).exists() for folder in folders)
    assert not any("/etc/prometheus/" + str(folder) in str(SERVICES["prometheus"]) for folder in folders)
    [group] = yaml.safe_load((ROOT / "prometheus" / "alertmanagers" / "compose.yml").read_text("utf-8"))
    assert group == {"targets": [f"{SWITCHED['alertmanager']['container_name']}:9093"]}
    for service in SWITCHED.values():
        for mount in service.get("volumes", []):
            assert not mount.startswith("./") or (ROOT / mount.split(":")[0]).exists()


def test_alertmanagers_container_is_locked_down_and_pinned():
    service = SWITCHED["alertmanager"]
    assert re.search(r":v\d+\.\d+\.\d+$", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "healthcheck" in service


@pytest.mark.parametrize(
    "webhook", ["http://127.0.0.1:9/disabled", "https://discord.com/api/webhooks/1/a-b_c?wait=1&x=|\\"]
)
def test_the_webhook_reaches_alertmanagers_configuration(webhook, amtool, tmp_path):
    """The container's own script, with its folders moved and Alertmanager replaced by amtool's check."""
    script = SWITCHED["alertmanager"]["entrypoint"][-1].replace("$$", "$")
    (tmp_path / "tmp").mkdir()
    script = script.replace("/tmp/", f"{tmp_path}/tmp/").replace("/etc/alertmanager/", f"{ROOT}/prometheus/")
    ends = script.index("exec ")
    script = f"{script[:ends]}exec {amtool} check-config {tmp_path}/tmp/alertmanager.yml"
    done = subprocess.run(
        [*SWITCHED["alertmanager"]["entrypoint"][:-1], script], env={"PATH": os.environ["PATH"],
        "DISCORD_WEBHOOK_URL": webhook}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = tmp_path / "tmp" / "alertmanager.yml"
    [receiver] = yaml.safe_load(written.read_text("utf-8"))["receivers"]
    assert receiver["discord_configs"][0]["webhook_url"] == webhook
    assert written.stat().st_mode & 0o077 == 0
