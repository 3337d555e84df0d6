"""The programs that a run needs: on the PATH, installed on request, or unpacked from a newer Debian's packages."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "curl": "curl",
    "jq": "jq",
}
"""Debian's package of each program."""
NEWER: Final = ("trixie", "sid")
"""Debian's releases that have Compose 2 and the newest Prometheus."""
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Unavailable(Exception):
    """No engine can be started here; the message says what is missing."""


def need(*, install: bool, say: Callable[[str], None]) -> None:
    """Make sure that every program of PACKAGES is there.

    Args:
        install: install missing packages with apt-get.

    Raises:
        Unavailable: something is missing, or this is not root.
    """
    if os.geteuid() != 0:
        raise Unavailable("a Docker engine of its own needs root")
    missing = sorted({package for name, package in PACKAGES.items() if shutil.which(name) is None})
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *missing]
    if not install or shutil.which("apt-get") is None:
        raise Unavailable(f"missing: apt-get install {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment, stdout=subprocess.DEVNULL)
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(error.cmd)} failed") from error


def debian_mirror() -> tuple[str, str]:
    """Address and release of the Debian that this machine installs from.

    Raises:
        Unavailable: it is not a Debian, or apt has no lists yet.
    """
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(ORIGIN)"]
    try:
        lines = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable("apt-get, which says where Debian's packages are, does not work here") from error
    for line in lines:
        address, release, origin = (*line.split(), "", "")[:3]
        if origin == "Debian" and "-" not in release:
            return address, release
    raise Unavailable("apt knows no Debian archive: apt-get update")


def newer_packages(folder: Path, names: tuple[str, ...], *, fetch: bool = True) -> Path:
    """Unpack packages of NEWER below `folder`, without installing them. They need nothing but a C library.

    Args:
        fetch: get them from Debian unless they are there already.

    Returns:
        The folder that stands for their root.

    Raises:
        Unavailable: they cannot or must not be fetched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        # Tests that run side by side may want it at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _unpacked(folder, names, fetch)


def _unpacked(folder: Path, names: tuple[str, ...], fetch: bool) -> Path:
    root, apt = folder / "root", folder / "apt"
    stamp = folder / "unpacked"
    if stamp.is_file() and stamp.read_text("utf-8").split() == list(names):
        return root
    if not fetch:
        raise Unavailable(f"not installed: {' and '.join(names)}")
    shutil.rmtree(folder, ignore_errors=True)
    address, _ = debian_mirror()
    for part in ("lists/partial", "cache/archives/partial", "parts", "packages"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources").write_text(
        "".join(f"deb [signed-by={KEYRING}] {address} {release} main\n" for release in NEWER), "utf-8"
    )
    (apt / "config").write_text(
        f'Dir::Etc::SourceList "{apt}/sources";\nDir::Etc::SourceParts "{apt}/parts";\n'
        f'Dir::State "{apt}";\nDir::State::status "{apt}/status";\nDir::Cache "{apt}/cache";\n'
        'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
        # A mirror may lag behind; what it has is signed all the same.
        'Acquire::Check-Valid-Until "false";\n',
        "utf-8",
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "config")}
    try:
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        subprocess.run(["apt-get", "download", "-qq", *names], check=True, env=environment, cwd=apt / "packages")
        for package in sorted((apt / "packages").glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, root], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"packages of Debian {' or '.join(NEWER)} could not be fetched: {error}") from error
    shutil.rmtree(apt)
    stamp.write_text("\n".join(names), "utf-8")
    return root


def client_config(folder: Path, *, fetch: bool = True) -> Path:
    """A folder for DOCKER_CONFIG whose command-line plugins are Compose 2 and buildx.

    Args:
        fetch: get them from Debian where this machine has none.

    Raises:
        Unavailable: they are neither here nor to be had.
    """
    plugins = folder / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    places = [Path(place) for place in ("/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker")]
    found = {
        name: next((place / "cli-plugins" / name for place in places if (place / "cli-plugins" / name).is_file()), None)
        for name in ("docker-compose", "docker-buildx")
    }
    if not all(found.values()):
        root = newer_packages(folder / "packages", tuple(found), fetch=fetch)
        found = {name: root / "usr/libexec/docker/cli-plugins" / name for name in found}
    for name, path in found.items():
        link = plugins / name
        link.unlink(missing_ok=True)
        link.symlink_to(str(path))
    return folder
