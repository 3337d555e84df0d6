"""Which files a pattern matches: every file once, within bounds."""

import contextlib
import os
from pathlib import Path

import pytest

from exporter.sources.audit import pattern
from exporter.sources.audit.pattern import TooMuchToSearch, matching

FILES = ("a.csv", "b.txt", "x.csv", "[x].csv", ".h.csv", "one/a.csv", "one/two/b.csv", "one/.h/c.csv", "[y]/d.csv")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, a folder called like one, links to a file, a folder above, nothing and themselves, and a named pipe."""
    root = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "folder.csv").mkdir()
    (root / "z.csv").symlink_to("a.csv")
    (root / "one" / "up").symlink_to("..")
    (root / "gone.csv").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    os.mkfifo(root / "pipe.csv")
    return root


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("a.csv", ["a.csv"]),
        ("z.csv", ["z.csv"]),
        ("missing.csv", []),
        ("folder.csv", []),
        ("*.csv", ["[x].csv", "a.csv", "x.csv"]),
        ("*.CSV", []),
        ("A.csv", []),
        ("?.csv", ["a.csv", "x.csv"]),
        ("[ax].csv", ["a.csv", "x.csv"]),
        ("[x].csv", ["[x].csv"]),
        ("[!a].csv", ["x.csv", "z.csv"]),
        ("[y]/*.csv", ["[y]/d.csv"]),
        (".*.csv", [".h.csv"]),
        ("*h.csv", []),
        ("**", ["[x].csv", "[y]/d.csv", "a.csv", "b.txt", "one/a.csv", "one/two/b.csv", "x.csv"]),
        ("**/*.csv", ["[x].csv", "[y]/d.csv", "a.csv", "one/a.csv", "one/two/b.csv", "x.csv"]),
        ("**/a.csv", ["a.csv", "one/a.csv"]),
        ("one/**/b.csv", ["one/two/b.csv"]),
        ("**/two/*", ["one/two/b.csv"]),
        ("**/**/b.csv", ["one/two/b.csv"]),
        ("one/*/b.csv", ["one/two/b.csv"]),
        ("one/up/b.txt", ["one/up/b.txt"]),
        ("one/.h/*", ["one/.h/c.csv"]),
        ("one/.*/c.csv", ["one/.h/c.csv"]),
        ("**/c.csv", []),
        ("a.csv/*", []),
        ("a.csv/**", []),
        ("missing/*", []),
        ("missing/**", []),
    ],
)
def test_the_files_that_a_pattern_matches(tree: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, names: list[str]):
    found = list(matching(tree / wanted))
    assert [str(path.relative_to(tree)) for path, _ in found] == names
    assert [about.st_size for _, about in found] == [(tree / name).stat().st_size for name in names]
    monkeypatch.chdir(tree)
    assert [str(path) for path, _ in matching(Path(wanted))] == names, "as it is for a relative one"


def test_as_many_files_as_the_bound_allows(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern, "MAX_FILES", 3)
    assert len(list(matching(tree / "*.csv"))) == 3
    monkeypatch.setattr(pattern, "MAX_FILES", 2)
    with pytest.raises(TooMuchToSearch) as caught:
        list(matching(tree / "*.csv"))
    assert str(caught.value) == "matches more than 2 files"


def test_a_name_without_a_mark_costs_no_look_into_its_folder(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern, "MAX_ENTRIES", 0)
    assert [path.name for path, _ in matching(tree / "one" / "a.csv")] == ["a.csv"]
    assert list(matching(tree / "one" / "X.csv")) == []


def test_folders_are_gone_through_once_whatever_links_to_them_as_far_as_the_bound_allows(
    tree: Path, monkeypatch: pytest.MonkeyPatch
):
    folders = (tree, tree / "one", tree / "one" / "two", tree / "[y]", tree / "folder.csv")
    seen = sum(len(list(folder.iterdir())) for folder in folders)
    monkeypatch.setattr(pattern, "MAX_ENTRIES", seen)
    assert list(matching(tree / "**" / "b.txt"))
    monkeypatch.setattr(pattern, "MAX_ENTRIES", seen - 1)
    with pytest.raises(TooMuchToSearch) as caught:
        list(matching(tree / "**" / "b.txt"))
    assert str(caught.value) == f"goes through more than {seen - 1} entries of folders: narrow it"


def test_a_folder_that_goes_away_meanwhile_is_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch):
    wanted = list(matching(tree / "**" / "b.csv"))
    scandir, gone = os.scandir, tree / "~"
    gone.mkdir()

    def listed(folder: Path) -> contextlib.nullcontext[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if gone.exists():
            gone.rmdir()
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", listed)
    assert list(matching(tree / "**" / "b.csv")) == wanted
    assert wanted
    assert not gone.exists()
