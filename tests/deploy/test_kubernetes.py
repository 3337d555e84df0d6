"""deploy/kubernetes: rendered by kubectl, valid by Kubernetes' own schemas, and in step with the rest of the project.

None of it has been applied to a cluster.
"""

import json
import os
import re
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from exporter.catalog_parser import load_catalog
from exporter.settings import VARIABLES, Settings
from grafana.generator.alertmanager import rule_groups
from grafana.generator.files import KUBERNETES_JOBS
from grafana.generator.limits import load_limits
from tests.deploy.resources import KUBERNETES, OVERLAYS, ROOT, Resource, docker_options, named, rendered
from tests.deploy.schema import SCHEMAS
from tests.grafana import schema
from tests.grafana.provisioned import PROVISIONING
from tests.stack.programs import Unavailable

VERSIONS = ("1.27", "1.37")
"""Of Kubernetes: the oldest whose kubectl renders the files, and the newest."""
APPLY_LIMIT = 262_144
"""`kubectl apply` keeps a copy of each object in an annotation, and annotations have no more bytes."""
PAGE = ROOT / "docs" / "deploy.md"


def render(folder: Path) -> list[Resource]:
    try:
        return rendered(folder)
    except Unavailable as reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(reason))


def check(resources: list[Resource]) -> None:
    """Every field is known, every reference leads somewhere, and all of it can be applied."""
    for resource in resources:
        if resource["kind"] in SCHEMAS:
            assert list(schema.problems(resource, SCHEMAS[resource["kind"]])) == []
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(resource, version, strict=True)
        assert len(json.dumps(resource)) < APPLY_LIMIT, resource["metadata"]["name"]
        if resource["kind"] != "Namespace":
            assert resource["metadata"]["namespace"] == "mlops-monitoring"
    there = {(one["kind"], one["metadata"]["name"]) for one in resources}
    pod = named(resources, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    wanted = [("ServiceAccount", pod["serviceAccountName"], False)]
    for source in container["envFrom"]:
        [(key, reference)] = source.items()
        kind = {"configMapRef": "ConfigMap", "secretRef": "Secret"}[key]
        wanted.append((kind, reference["name"], reference.get("optional", False)))
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], False))
        if "configMap" in volume:
            wanted.append(("ConfigMap", volume["configMap"]["name"], volume["configMap"].get("optional", False)))
        if "secret" in volume:
            wanted.append(("Secret", volume["secret"]["secretName"], volume["secret"].get("optional", False)))
    secrets = {("Secret", "mlops-exporter-key"), ("PersistentVolumeClaim", "audit-log")}
    missing = {(kind, name) for kind, name, optional in wanted if not optional} - there - secrets
    assert not missing
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.fixture(scope="session")
def overlays() -> dict[str, list[Resource]]:
    return {name: render(KUBERNETES / "overlays" / name) for name in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_can_be_applied(overlay, overlays):
    check(overlays[overlay])


def test_a_mistyped_field_is_found(overlays):
    """By Kubernetes' schemas, and by the table of custom resources."""
    deployment = json.loads(json.dumps(named(overlays["embedded"], "Deployment")))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
    monitor = json.loads(json.dumps(named(overlays["embedded"], "ServiceMonitor")))
    monitor["spec"]["endpoints"][0]["relabelConfigs"] = []
    assert list(schema.problems(monitor, SCHEMAS["ServiceMonitor"]))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_may_do_nothing_but_serve(overlay, overlays):
    """The restricted profile of Kubernetes' pod security standards, and a root file system that is read-only."""
    namespace = named(overlays[overlay], "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = named(overlays[overlay], "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    [user] = set(re.findall(r"^USER (\d+):(\d+)$", (ROOT / "docker/exporter/Dockerfile").read_text(), re.MULTILINE))
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == tuple(map(int, user))
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False


def test_the_stack_trial_runs_the_image_with_the_deployments_settings(overlays):
    assert docker_options(overlays["embedded"]) == [
        *("--user=10001:10001", "--memory=512m", "--read-only", "--security-opt=no-new-privileges", "--cap-drop=ALL"),
        *("--tmpfs=/data:gid=10001,mode=2770", "--tmpfs=/tmp:gid=10001,mode=2770", "--tmpfs=/etc/mlops-exporter:ro"),
        "--env=EXPORTER_LOG_FORMAT=json",
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_the_exporters(overlay, overlays):
    data = named(overlays[overlay], "ConfigMap", "mlops-exporter-settings")["data"]
    assert set(data) <= {variable.name for variable in VARIABLES if not variable.secret}
    settings = Settings.from_env(data)
    assert settings.uses_bigquery is (overlay == "bigquery")
    assert settings.warnings == ()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_and_probes_are_the_exporters(overlay, overlays):
    [container] = named(overlays[overlay], "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": Settings().port}]
    assert {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")} == {
        "startup": {"path": "/-/healthy", "port": "http"},
        "liveness": {"path": "/-/healthy", "port": "http"},
        "readiness": {"path": "/-/ready", "port": "http"},
    }
    service = named(overlays[overlay], "Service")
    labels = named(overlays[overlay], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"] == [{"name": "http", "port": Settings().port, "targetPort": "http"}]
    monitor = named(overlays[overlay], "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == "http"


def test_the_image_is_composes():
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text("utf-8"))["services"]["airflow-exporter"]
    deployment = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text("utf-8"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == compose["image"]


def test_prometheus_gets_the_rules_and_the_job_that_they_know(overlays):
    resources = overlays["embedded"]
    limits = load_limits()
    assert set(KUBERNETES_JOBS) < set(limits.jobs)
    relabelings = named(resources, "ServiceMonitor")["spec"]["endpoints"][0]["relabelings"]
    assert [one["replacement"] for one in relabelings if one["targetLabel"] == "job"] == list(KUBERNETES_JOBS)
    groups = named(resources, "PrometheusRule")["spec"]["groups"]
    everywhere = {group["name"]: group["rules"] for group in rule_groups(limits)["groups"]}
    assert {group["name"] for group in groups} == set(everywhere)
    for group in groups:
        for ours, theirs in zip(group["rules"], everywhere[group["name"]], strict=True):
            assert ours == theirs or ours["alert"] == "Service down"


def test_grafanas_sidecar_gets_every_dashboard_byte_for_byte(overlays):
    dashboards = named(overlays["embedded"], "ConfigMap", "mlops-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {path.name: path.read_text("utf-8") for path in (PROVISIONING / "dashboards").glob("*.json")}
    assert dashboards["data"] == files


def snippets() -> dict[str, str]:
    """The page's kustomizations, by the comment on their first line."""
    blocks = re.findall(r"```yaml\n# ([^\n]+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return {title: text for title, text in blocks if "kind: Kustomization" in text}


@pytest.mark.parametrize("title", snippets())
def test_a_kustomization_of_the_page_can_be_applied(title, tmp_path):
    """In a folder beside a checkout, as the page says, with the files that it names."""
    checkout = tmp_path / "mlops-exporter"
    for name in ("deploy", "grafana"):
        shutil.copytree(ROOT / name, checkout / name)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(snippets()[title], "utf-8")
    shutil.copy(ROOT / "docs" / "examples" / "churn" / "catalogue.yaml", mine)
    resources = render(mine)
    check(resources)
    data = named(resources, "ConfigMap", "mlops-exporter-settings")["data"]
    settings = Settings.from_env(data)
    [container] = named(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    if settings.catalog_path:
        catalogue = named(resources, "ConfigMap", "mlops-exporter-catalogue")
        assert str(settings.catalog_path.parent) in mounts
        (mine / "read.yaml").write_text(catalogue["data"][settings.catalog_path.name], "utf-8")
        load_catalog(mine / "read.yaml")
    for file in (settings.google_credentials, settings.audit_url and Path(settings.audit_url.path)):
        assert file is None or str(file.parent) in mounts
