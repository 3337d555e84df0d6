"""The pages say what the code does: generated ones are up to date, links lead somewhere, every failure is explained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.errors import FAILURE_REASONS
from exporter.settings import VARIABLES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def prose(page: Path) -> str:
    """The page without its code blocks, in which nothing is a link or a heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """The targets of a page's links that lead to other files of the project or to headings."""
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose(page))
    defined = re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose(page), re.MULTILINE)
    return [target for target in (*inline, *defined) if not OUTSIDE.match(target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_generated_pages_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_relative_to(ROOT) or not file.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{target}: no such heading")
    assert broken == []


def test_every_page_of_the_folder_is_linked_from_the_readme():
    linked = {(README.parent / target.partition("#")[0]).resolve() for target in links(README)}
    assert {page.name for page in PAGES[1:]} - {path.name for path in linked} == set()


def test_every_failure_reason_is_explained_under_troubleshooting():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert explained == set(FAILURE_REASONS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path):
    known = {variable.name for variable in VARIABLES}
    named = set(re.findall(r"\b(?:EXPORTER|AUDIT)_[A-Z_]*[A-Z]\b", page.read_text("utf-8")))
    assert named - known == set()


NAMED_TEST = re.compile(r"`([\w/.]*\.py|…)::(test_\w+)(…?)`")
"""A test as docs/testing.md names it: `file.py::name`, `…::name` of the same file, `name…` for the start of a name."""


def test_every_test_that_the_page_on_testing_names_exists():
    missing, file = [], ""
    found = NAMED_TEST.findall((ROOT / "docs" / "testing.md").read_text("utf-8"))
    for named, name, cut in found:
        file = file if named == "…" else named
        definition = re.compile(rf"^ *def {name}{'' if cut else r'[(]'}", re.MULTILINE)
        if not any(definition.search(path.read_text("utf-8")) for path in (ROOT / "tests").rglob(file)):
            missing.append(f"{file}::{name}{cut}")
    assert missing == []
    assert len(found) > 30
