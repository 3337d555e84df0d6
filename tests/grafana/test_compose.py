"""The compose file, its variables, and the image."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from exporter.settings import VARIABLES
from tests.engines.debian import program
from tests.grafana.provisioned import ROOT

FIXED = {"EXPORTER_HOST", "EXPORTER_PORT", "EXPORTER_STATE_DIR"}
TEXT = (ROOT / "docker-compose.yaml").read_text("utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
DOCKERFILE = (ROOT / "docker" / "exporter" / "Dockerfile").read_text("utf-8")


def test_the_profile_has_the_four_services():
    assert set(SERVICES) == {"airflow-exporter", "prometheus", "pushgateway", "grafana"}
    assert all(service["profiles"] == ["monitoring"] for service in SERVICES.values())
    # `docker logs airflow-exporter`, `docker exec prometheus …` rely on these names.
    assert all(service["container_name"] == name for name, service in SERVICES.items())


def test_images_are_pinned():
    images = [service["image"] for name, service in SERVICES.items() if name != "airflow-exporter"]
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    for image in [*images, base.group(1)]:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_ports_are_open_on_this_host_only():
    ports = {name: service["ports"] for name, service in SERVICES.items()}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    assert {port.rsplit(":", 1)[1] for each in ports.values() for port in each} == {"9101", "9090", "9091", "3000"}


def test_every_service_has_a_health_check():
    assert all("healthcheck" in service for name, service in SERVICES.items() if name != "airflow-exporter")
    assert "HEALTHCHECK" in DOCKERFILE
    assert "curl" not in DOCKERFILE
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


def test_retention_is_fifteen_days():
    assert "--storage.tsdb.retention.time=15d" in SERVICES["prometheus"]["command"]


def test_what_must_survive_has_a_volume():
    mounts = {mount.split(":")[0]: mount.split(":")[1] for s in SERVICES.values() for mount in s.get("volumes", [])}
    assert {mounts[volume] for volume in COMPOSE["volumes"]} == {"/data", "/prometheus", "/var/lib/grafana"}
    assert all((ROOT / source).exists() for source in mounts if source.startswith("./"))


def test_every_setting_of_the_exporter_reaches_it():
    environment = SERVICES["airflow-exporter"]["environment"]
    missing = {variable.name for variable in VARIABLES} - set(environment)
    assert not missing, "add these to docker-compose.yaml and .env.example"
    assert {name for name in environment if name.startswith("EXPORTER_") and environment[name] is not None} == FIXED


def test_every_variable_is_explained_in_the_example():
    explained = set(re.findall(r"^#([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    environment = SERVICES["airflow-exporter"]["environment"]
    used = set(re.findall(r"\$\{(\w+)", TEXT)) | {name for name in environment if environment[name] is None}
    assert explained == used | {"COMPOSE_FILE"}
    # Copied as it is, it sets nothing.
    assert not re.findall(r"^[^#\s]", EXAMPLE, re.MULTILINE)


def test_grafana_gets_a_webhook_address_even_when_none_is_set():
    assert SERVICES["grafana"]["environment"]["DISCORD_WEBHOOK_URL"] == (
        "${DISCORD_WEBHOOK_URL:-http://127.0.0.1:9/disabled}"
    )


def test_the_exporter_is_locked_down():
    exporter = SERVICES["airflow-exporter"]
    assert exporter["read_only"] is True
    assert exporter["cap_drop"] == ["ALL"]
    assert "USER 10001:10001" in DOCKERFILE
    assert DOCKERFILE.count("\nFROM ") == 2


def compose_command():
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], check=False, capture_output=True)
        if found.returncode == 0:
            return ["docker", "compose"]
    return [program("docker-compose")]


@pytest.mark.parametrize("extra", [{}, {"COMPOSE_FILE": "docker-compose.yaml:docker-compose.gcp.yaml",
                                        "GOOGLE_CLOUD_PROJECT": "my-project", "DISCORD_WEBHOOK_URL": ""}])  # fmt: skip
def test_compose_accepts_the_file(extra, tmp_path):
    """With no .env, and with one."""
    command = compose_command()
    for name in ("docker-compose.yaml", "docker-compose.gcp.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in extra.items()), "utf-8")
    done = subprocess.run(
        [*command, "--profile", "monitoring", "config"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    exporter, grafana = config["services"]["airflow-exporter"], config["services"]["grafana"]
    assert grafana["environment"]["DISCORD_WEBHOOK_URL"] == "http://127.0.0.1:9/disabled"
    assert exporter["environment"].get("GOOGLE_CLOUD_PROJECT") == extra.get("GOOGLE_CLOUD_PROJECT")
    assert ("gcp.json" in str(exporter["volumes"])) == bool(extra)
