"""A file that a setting names is read only if it is a regular one of bounded size; nothing else is waited for."""

import os
import socket
from pathlib import Path

import pytest

from exporter.regular_file import read_regular_file


def refusal(path: Path, max_bytes: int = 100) -> str | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- what it says is compared
        read_regular_file(path, max_bytes)
    return caught.value.strerror


def test_a_regular_file_is_read_up_to_its_bound_also_through_a_link(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to(path)
    assert read_regular_file(path, 100) == read_regular_file(tmp_path / "link", 100) == b"x" * 100
    assert refusal(path, 99) == "it is larger than 99 bytes"


@pytest.mark.parametrize("kind", ["folder", "named pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    path = Path("there")
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as address:
            address.bind("there")
    else:
        path.symlink_to("/dev/zero")
    assert refusal(path) == f"it is a {kind}, not a file"


def test_what_is_not_there_or_cannot_be_a_path_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "none") == "No such file or directory"
    assert refusal(Path("a\0b")) == "it is no path"
    assert refusal(Path("a" * 5000)) == "File name too long"
