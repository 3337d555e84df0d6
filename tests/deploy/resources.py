"""The manifests of deploy/kubernetes as a real kubectl renders them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from testbed.install import engines_dir
from tests.stack.programs import Unavailable, newer_packages

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
OVERLAYS: Final = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
OLDEST: Final = (1, 27)
"""The first kubectl whose Kustomize is version 5; those of older Debians cannot read these files."""

Resource = dict[str, Any]


def kubectl() -> Path:
    """The kubectl on the PATH, or that of a newer Debian where it is missing or too old.

    Raises:
        Unavailable: there is none; the message says what to install.
    """
    found = shutil.which("kubectl")
    if found and _version(found) >= OLDEST:
        return Path(found)
    needed = f"kubectl {'.'.join(map(str, OLDEST))} or later"
    if os.environ.get("CI") != "true":
        raise Unavailable(f"{needed} is not installed")
    return newer_packages(engines_dir() / "kubectl", ("kubectl",)) / "usr" / "bin" / "kubectl"


def _version(program: str) -> tuple[int, int]:
    said = subprocess.run([program, "version", "--client"], check=False, capture_output=True, text=True).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def rendered(folder: Path) -> list[Resource]:
    """What `kubectl apply -k` would send for this folder.

    Raises:
        Unavailable: there is no kubectl.
        ValueError: it does not accept the folder, or warns of something in it.
    """
    done = subprocess.run([kubectl(), "kustomize", folder], check=False, capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise ValueError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def named(resources: list[Resource], kind: str, name: str = "") -> Resource:
    """The one resource of this kind whose name begins so."""
    [found] = [one for one in resources if one["kind"] == kind and one["metadata"]["name"].startswith(name)]
    return found


def docker_options(resources: list[Resource]) -> list[str]:
    """Options of `docker run` that give a container what the Deployment's pod has.

    That is user, privileges, environment, memory and volumes. Volumes are in memory here; they belong to root and,
    where they can be written, to the pod's group.

    What no Docker option can say is left out: Docker's own seccomp profile is what RuntimeDefault means there.
    """
    pod = named(resources, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    context, own = pod["securityContext"], container["securityContext"]
    options = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    options += [f"--memory={container['resources']['limits']['memory'].lower().removesuffix('i')}"]
    options += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    options += ["--security-opt=no-new-privileges"] if not own["allowPrivilegeEscalation"] else []
    options += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
    for mount in container["volumeMounts"]:
        access = "ro" if mount.get("readOnly") else f"gid={context['fsGroup']},mode=2770"
        options.append(f"--tmpfs={mount['mountPath']}:{access}")
    for name, value in named(resources, "ConfigMap", "mlops-exporter-settings")["data"].items():
        options.append(f"--env={name}={value}")
    return options
