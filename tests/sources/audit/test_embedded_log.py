"""The files that hold the embedded log, found without an engine: which they are, and whether one was written."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import SourceError, SourceUnavailable
from exporter.settings import Settings
from exporter.sources.audit import pattern
from exporter.sources.audit.files import EmbeddedLog, denied, file_errors, unreadable
from exporter.sources.audit.query import audit_identity
from tests.sources.audit.duckdb_log import CATALOG, settings_for


def log(path: Path | str, **env: str) -> EmbeddedLog:
    return EmbeddedLog.of(settings_for(str(path), **env), CATALOG)


def refused(path: Path | str, **env: str) -> SourceError:
    with pytest.raises(SourceUnavailable) as caught:
        log(path, **env).look()
    return caught.value


def test_the_settings_by_which_it_is_read():
    env = {"AUDIT_TABLE": "p.shop.runs", "AUDIT_ENV": "prod", "EXPORTER_MAX_SERIES": "7", "AUDIT_TIMEOUT_SECONDS": "9"}
    settings = settings_for("a.duckdb", AUDIT_SAMPLE_DATA="true", **env)
    found = EmbeddedLog.of(settings, CATALOG)
    assert (found.catalog, found.location) == (CATALOG, settings.embedded)
    assert (found.schema, found.table, found.env) == ("shop", "runs", "prod")
    assert (found.max_series, found.timeout_seconds, found.makes_sample) == (7, 9.0, True)
    assert found.identity == audit_identity(settings, CATALOG)
    assert not EmbeddedLog.of(Settings.from_env({"AUDIT_URL": "a.duckdb"}), CATALOG).makes_sample


def write(path: Path, text: str, at: int = 1_000_000) -> None:
    path.write_text(text)
    os.utime(path, ns=(at, at))


@pytest.mark.parametrize("name", ["a.duckdb", "*.csv"])
def test_the_revision_moves_when_a_file_is_written_replaced_or_joined(tmp_path: Path, name: str):
    here = log(tmp_path / name)
    path = tmp_path / name.replace("*", "a")
    write(path, "one")
    first = here.look()
    assert first.paths == (path,)
    assert here.look() == first
    seen = {first.revision}

    def moved() -> bool:
        found = here.look().revision
        fresh = found not in seen
        seen.add(found)
        return fresh

    write(path, "two", at=1_000_001)  # a nanosecond later
    assert moved()
    write(path, "four", at=1_000_001)
    assert moved()
    write(tmp_path / "other", "four", at=1_000_001)
    (tmp_path / "other").replace(path)  # another inode with the same size and time
    assert moved()
    write(path.with_name(path.name + ".wal"), "x")
    assert moved()
    write(path.with_name(path.name + ".wal"), "xx")
    assert moved()
    write(tmp_path / "b.csv", "one")
    assert moved() is (name == "*.csv")
    assert len(here.look().paths) == (2 if name == "*.csv" else 1)


def test_the_revision_is_of_the_path_and_of_how_many_series_are_asked_for(tmp_path: Path):
    for name in ("a.duckdb", "b.duckdb"):
        os.link(tmp_path / "a.duckdb", tmp_path / name) if name[0] == "b" else write(tmp_path / name, "one")
    first = log(tmp_path / "a.duckdb").look().revision
    assert len(first) == 24
    assert log(tmp_path / "b.duckdb").look().revision != first
    assert log(tmp_path / "a.duckdb", EXPORTER_MAX_SERIES="7").look().revision != first


def test_what_is_not_there_says_what_to_do(tmp_path: Path):
    for name, why in (
        ("a.duckdb", "There is no file {}. Create it with `python -m exporter init-audit`, or set "
                     "AUDIT_SAMPLE_DATA=true to have it made with sample history."),
        ("a.csv", "No file matches {}: check AUDIT_URL."),
        ("*.csv", "No file matches {}: check AUDIT_URL."),
    ):  # fmt: skip
        error = refused(tmp_path / name)
        assert (str(error), error.reason) == (why.format(tmp_path / name), "not_found")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Path.mkdir, "a folder"), (os.mkfifo, "a named pipe"), (bound_socket, "a socket"),
     (lambda path: path.symlink_to("/dev/null"), "a device")],
)  # fmt: skip
def test_what_is_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str
):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path("a.csv"))
    error = refused(tmp_path / "a.csv")
    assert str(error) == (
        f"{tmp_path}/a.csv is {kind}, not a file. Let AUDIT_URL name the log's file, or a pattern such as /data/*.csv."
    )
    assert error.reason == "unavailable"


def test_a_path_that_leads_through_a_file_is_named(tmp_path: Path):
    write(tmp_path / "a", "one")
    assert str(refused(tmp_path / "a" / "b.duckdb")) == f"{tmp_path}/a/b.duckdb: Not a directory"


def test_a_pattern_that_matches_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern, "MAX_FILES", 0)
    write(tmp_path / "a.csv", "one")
    assert str(refused(tmp_path / "*.csv")) == f"AUDIT_URL {tmp_path}/*.csv matches more than 0 files."


def test_the_sample_is_awaited_only_where_it_is_wanted_and_missing(tmp_path: Path):
    path = tmp_path / "a.duckdb"
    assert log(path, AUDIT_SAMPLE_DATA="true").awaits_sample
    assert not log(path).awaits_sample
    write(path, "one")
    assert not log(path, AUDIT_SAMPLE_DATA="true").awaits_sample


@pytest.mark.parametrize(
    ("error", "why", "reason"),
    [
        (PermissionError(13, "no"), " cannot be read or written: permission denied.", "permission"),
        (FileNotFoundError(2, "no"), " does not exist: check AUDIT_URL.", "not_found"),
        (OSError(5, "Input/output error"), ": Input/output error", "unavailable"),
        (OSError("odd"), ": odd", "unavailable"),
    ],
)
def test_the_file_systems_errors_in_words(tmp_path: Path, error: OSError, why: str, reason: str):
    location = settings_for(str(tmp_path / "a.duckdb")).embedded
    with pytest.raises(SourceUnavailable) as caught, file_errors(location):
        raise error
    assert (str(caught.value), caught.value.reason) == (f"{tmp_path}/a.duckdb{why}", reason)
    assert caught.value.__cause__ is error
    assert str(unreadable(location, error)) == str(caught.value)
    assert (str(denied(location)), denied(location).reason) == (
        f"{tmp_path}/a.duckdb cannot be read or written: permission denied.",
        "permission",
    )
