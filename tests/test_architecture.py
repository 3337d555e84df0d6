"""The rooms of the package: which module imports which, also inside functions and for types only."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def modules(package: Path) -> dict[str, Path]:
    """The package's modules by their full names."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that this one imports anywhere in its text.

    Python's own import of the packages above a module does not count: `import a.b` needs no name of `a`.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                if submodule in known:
                    yield submodule
                elif origin in known:
                    yield origin


def imports(package: Path) -> dict[str, set[str]]:
    """By module of the package, those that it imports."""
    known = modules(package)
    return {name: set(imported(name, path, known)) for name, path in known.items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports, its first module repeated at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in reversed(error.args[1])]
    return []


def test_no_module_of_the_exporter_imports_itself_by_any_way():
    assert circle(imports(ROOT / "exporter")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import shop.b",
        "from shop import b",
        "from shop.b import name",
        "from . import b",
        "from .b import name",
        "def later():\n    from shop.b import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop.b import name",
    ],
)
def test_a_circle_is_found_however_it_is_written(tmp_path: Path, text: str):
    shop = tmp_path / "shop"
    shop.mkdir()
    for name, content in (("__init__", ""), ("a", text), ("b", "import json\nfrom shop.c import x"), ("c", "")):
        (shop / f"{name}.py").write_text(content, "utf-8")
    assert circle(imports(shop)) == []
    (shop / "c.py").write_text("import shop.a", "utf-8")
    found = circle(imports(shop))
    assert found[0] == found[-1]
    assert set(found) == {"shop.a", "shop.b", "shop.c"}
