"""The images that the stack pulls: the official ones where a registry is reached, else stand-ins under their names.

A stand-in is made from Debian's and PyPI's packages by `standins/NAME/Dockerfile`, on a base that debootstrap makes.
Made once, they are kept in the cache folder until a recipe changes.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from tests.stack.engine import Engine
from tests.stack.programs import debian_mirror, newer_packages

ROOT: Final = Path(__file__).resolve().parents[2]
STAND_INS: Final = Path(__file__).resolve().parent / "standins"
BASE: Final = "stand-in-debian"
BASE_PACKAGES: Final = ("ca-certificates", "busybox", "python3.11", "python3-pip", "python3-venv")
PULL_SECONDS: Final = 60
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
REMOTE_PIP_OPTIONS: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


def names() -> dict[str, str]:
    """The image of each part of the stack that is not built from this repository, by the stand-in's folder."""
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text("utf-8"))["services"]
    images = {service["image"] for service in services.values() if not service["image"].endswith(":local")}
    for file in sorted((ROOT / "docker").glob("*/Dockerfile")):
        images.update(re.findall(r"^ARG BASE=(\S+)$", file.read_text("utf-8"), re.MULTILINE))
    return {image.split(":")[0].rsplit("/", 1)[-1]: image for image in sorted(images)}


def provide(engine: Engine, cache: Path, say: Callable[[str], None], *, keep: bool) -> dict[str, str]:
    """Fill the engine with every image of `names`.

    Args:
        keep: keep stand-ins that are made in the cache.

    Returns:
        The stand-ins among them: what each is made of, by the image's name. Empty when all are official.
    """
    images = names()
    if _pulled(engine, images["pushgateway"], say):
        say("an image registry is reached: the official images are used")
        for image in images.values():
            engine.docker("pull", "--quiet", image)
        return {}
    say("no image registry is reached: stand-ins are used for all official images")
    recipe = _recipe(images)
    saved, stamp = cache / "stand-ins.tar", cache / "stand-ins.json"
    kept = saved.is_file() and stamp.is_file() and stamp.read_text("utf-8") == recipe
    if kept:
        started = time.monotonic()
        engine.docker("load", "--quiet", "--input", str(saved))
        say(f"stand-ins loaded from the cache in {time.monotonic() - started:.0f} s")
    else:
        _make_all(engine, images, cache, say)
    if keep and not kept:
        saved.unlink(missing_ok=True)
        engine.docker("save", "--output", str(saved), *images.values())
        stamp.write_text(recipe, "utf-8")
    return {image: _made_of(name) for name, image in images.items()}


def _made_of(name: str) -> str:
    """What a stand-in is made of: its recipe's first line says `# Stands in for …: …`."""
    first = (STAND_INS / name / "Dockerfile").read_text("utf-8").splitlines()[0]
    return first.partition(": ")[2]


def _pulled(engine: Engine, image: str, say: Callable[[str], None]) -> bool:
    try:
        done = engine.docker("pull", "--quiet", image, check=False, timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        say(f"docker pull {image}: no answer within {PULL_SECONDS} s")
        return False
    if done.returncode != 0:
        say(f"docker pull {image}: {done.stderr.strip().splitlines()[-1]}")
    return done.returncode == 0


def _recipe(images: dict[str, str]) -> str:
    """Everything that stand-ins depend on: a change to any of it makes them anew."""
    files = [file for file in sorted(STAND_INS.rglob("*")) if file.is_file()]
    files += [Path(__file__), _constraints()]
    digest = hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()
    return json.dumps({"images": images, "recipe": digest, "packages": BASE_PACKAGES})


def _constraints() -> Path:
    """The versions of what Airflow needs that were seen to work together."""
    return next((ROOT / "testbed").glob("airflow-3.*.txt"))


def _make_all(engine: Engine, images: dict[str, str], cache: Path, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    _make_base(engine, cache / "base")
    say(f"base of the stand-ins made in {time.monotonic() - started:.0f} s")
    for name, image in images.items():
        started = time.monotonic()
        context = cache / "context"
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(STAND_INS / name, context)
        if name in ("prometheus", "pushgateway"):
            root = newer_packages(cache / "prometheus", ("prometheus", "promtool", "prometheus-pushgateway"))
            for program in ("prometheus", "promtool", "prometheus-pushgateway"):
                shutil.copy(root / "usr/bin" / program, context)
        if name == "airflow":
            shutil.copy(_constraints(), context / "constraints.txt")
        engine.docker("build", "--quiet", "--tag", image, str(context))
        shutil.rmtree(context)
        say(f"stand-in for {image} made in {time.monotonic() - started:.0f} s")


def _make_base(engine: Engine, folder: Path) -> None:
    """Import a Debian with this machine's way to the package registries: certificates and pip's options."""
    shutil.rmtree(folder, ignore_errors=True)
    address, release = debian_mirror()
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", release, folder, address],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    for package in (folder / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    shutil.copy(CERTIFICATES, folder / "etc/ssl/certs")
    options = {**_pip_options(), "cert": str(CERTIFICATES)}
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    (folder / "etc/pip.conf").write_text(f"[global]\n{lines}", "utf-8")
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
        engine.docker("import", "-", BASE, stdin=packed.stdout)
    shutil.rmtree(folder)


def _pip_options() -> dict[str, Any]:
    """This machine's options of pip that hold in a container too: not those that name a file."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        option, value = name.rsplit(".", 1)[-1], value.strip("'\"")
        if option in REMOTE_PIP_OPTIONS and "file:" not in value:
            found[option] = value
    return found
