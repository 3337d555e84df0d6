"""What pyproject.toml says of the package: its dependencies, their pins, and the drivers that may be missing."""

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from exporter.errors import ConfigError
from exporter.settings import Settings
from exporter.sources import require_drivers

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def dependencies() -> Iterator[Requirement]:
    extras = itertools.chain.from_iterable(PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, (*PROJECT["dependencies"], *extras)):
        if requirement.name != PROJECT["name"]:
            yield requirement


def pins() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def imported() -> set[str]:
    """The packages that the exporter's modules import, by their top names."""
    found = set()
    for path in (ROOT / "exporter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"exporter"}


def test_requirements_txt_pins_every_dependency_within_its_range():
    outside = [str(one) for one in dependencies() if not one.specifier.contains(pins()[canonicalize_name(one.name)])]
    assert outside == []


def test_every_package_that_is_imported_is_a_dependency():
    declared = {canonicalize_name(one.name) for one in dependencies()}
    providers = packages_distributions()
    for name in imported():
        assert declared & {canonicalize_name(provider) for provider in providers[name]}, name


def test_every_extra_is_part_of_all():
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all"}


@pytest.mark.parametrize(
    ("module", "settings", "said"),
    [
        (
            "google.cloud.bigquery",
            Settings(google_project="my-project"),
            "BigQuery needs the package google-cloud-bigquery, which is not installed: "
            "pip install 'mlops-exporter[bigquery]'",
        ),
        (
            "duckdb",
            Settings(),
            "The embedded audit log needs the package duckdb, which is not installed: "
            "pip install 'mlops-exporter[duckdb]'",
        ),
    ],
)
def test_a_missing_driver_is_one_sentence_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, settings: Settings, said: str
):
    require_drivers(settings)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        require_drivers(settings)
    assert caught.value.problems == (said,)


def test_without_google_at_all_the_sentence_is_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    monkeypatch.delitem(sys.modules, "google.cloud.bigquery", raising=False)
    with pytest.raises(ConfigError, match=r"mlops-exporter\[bigquery\]"):
        require_drivers(Settings(google_project="my-project"))
