"""Settings: what every variable takes, what it refuses and how it says so, and that no secret is ever shown."""

import copy
import dataclasses
import json
import os
import pickle
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import ConfigError
from exporter.setting_values import audit_location
from exporter.settings import MAX_KEY_FILE_BYTES, VARIABLES, AuditLocation, Secret, Settings, secrets_of
from exporter.showable import QUOTED_CHARACTERS

DEFAULTS = {
    "EXPORTER_HOST": "0.0.0.0",
    "EXPORTER_PORT": 9101,
    "EXPORTER_MAX_CONNECTIONS": 512,
    "EXPORTER_REFRESH_SECONDS": 60.0,
    "EXPORTER_STALE_AFTER_SECONDS": 3600.0,
    "EXPORTER_STATE_DIR": Path("exporter-state"),
    "EXPORTER_CATALOG": None,
    "EXPORTER_WEB_CONFIG_FILE": None,
    "EXPORTER_MAX_SERIES": 200_000,
    "EXPORTER_REFRESH_TOKEN": None,
    "EXPORTER_LOG_LEVEL": "INFO",
    "EXPORTER_LOG_FORMAT": "text",
    "GOOGLE_CLOUD_PROJECT": None,
    "GOOGLE_APPLICATION_CREDENTIALS": None,
    "BIGQUERY_EMULATOR_HOST": None,
    "AUDIT_TABLE": None,
    "AUDIT_URL": None,
    "AUDIT_SAMPLE_DATA": "auto",
    "AUDIT_ENV": None,
    "AUDIT_PROBE_SECONDS": 10.0,
    "AUDIT_TIMEOUT_SECONDS": 30.0,
    "AUDIT_CONNECT_TIMEOUT_SECONDS": 5.0,
    "AUDIT_MAX_QUERY_AGE_SECONDS": 21600.0,
    "AUDIT_MAX_BYTES_BILLED": 1073741824,
    "AIRFLOW_BASE_URL": None,
    "AIRFLOW_USERNAME": None,
    "AIRFLOW_PASSWORD": None,
    "AIRFLOW_TOKEN": None,
    "AIRFLOW_API": "auto",
    "AIRFLOW_DAG_IDS": (),
    "AIRFLOW_MAX_DAGS": 100,
    "AIRFLOW_LOOKBACK_DAYS": 30.0,
    "AIRFLOW_TIMEOUT_SECONDS": 30.0,
    "AIRFLOW_CONNECT_TIMEOUT_SECONDS": 5.0,
    "AIRFLOW_VERIFY_TLS": True,
    "AIRFLOW_CA_FILE": None,
}

GOOD = [
    ("EXPORTER_HOST", "127.0.0.1", "127.0.0.1"),
    ("EXPORTER_HOST", "[::1]", "[::1]"),
    ("EXPORTER_HOST", "localhost", "localhost"),
    ("EXPORTER_HOST", "::", "::"),
    ("EXPORTER_HOST", "airflow_exporter.internal.", "airflow_exporter.internal."),
    ("EXPORTER_PORT", "1", 1),
    ("EXPORTER_PORT", " 65535 ", 65535),
    ("EXPORTER_MAX_CONNECTIONS", "16", 16),
    ("EXPORTER_MAX_CONNECTIONS", "10000", 10_000),
    ("EXPORTER_REFRESH_SECONDS", "1", 1.0),
    ("EXPORTER_REFRESH_SECONDS", "0.25e1", 2.5),
    ("EXPORTER_STALE_AFTER_SECONDS", "2592000", 2592000.0),
    ("EXPORTER_STATE_DIR", "/var/lib/exporter", Path("/var/lib/exporter")),
    ("EXPORTER_STATE_DIR", "none", None),
    ("EXPORTER_CATALOG", "mine.yaml", Path("mine.yaml")),
    ("EXPORTER_WEB_CONFIG_FILE", "web.yml", Path("web.yml")),
    ("EXPORTER_MAX_SERIES", "1", 1),
    ("EXPORTER_REFRESH_TOKEN", "0123456789abcdef", Secret("0123456789abcdef")),
    ("AUDIT_PROBE_SECONDS", "2", 2.0),
    ("AUDIT_PROBE_SECONDS", "0", None),
    ("EXPORTER_LOG_LEVEL", "debug", "DEBUG"),
    ("EXPORTER_LOG_LEVEL", "Error", "ERROR"),
    ("EXPORTER_LOG_FORMAT", "JSON", "json"),
    ("GOOGLE_CLOUD_PROJECT", "my-project-1", "my-project-1"),
    ("GOOGLE_CLOUD_PROJECT", "example.com:my-project", "example.com:my-project"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "/keys/key.json", Path("/keys/key.json")),
    ("BIGQUERY_EMULATOR_HOST", "localhost:9050", "http://localhost:9050"),
    ("BIGQUERY_EMULATOR_HOST", "http://emulator:9050/", "http://emulator:9050"),
    ("AUDIT_TABLE", "monitoring_audit.logs", "monitoring_audit.logs"),
    ("AUDIT_TABLE", "my-project.audit.logs-2024", "my-project.audit.logs-2024"),
    ("AUDIT_URL", "duckdb:audit.duckdb", AuditLocation("duckdb", "audit.duckdb")),
    ("AUDIT_SAMPLE_DATA", "TRUE", "true"),
    ("AUDIT_SAMPLE_DATA", "false", "false"),
    ("AUDIT_ENV", "prod", "prod"),
    ("AUDIT_TIMEOUT_SECONDS", "600", 600.0),
    ("AUDIT_CONNECT_TIMEOUT_SECONDS", "0.1", 0.1),
    ("AUDIT_MAX_QUERY_AGE_SECONDS", "0", 0.0),
    ("AUDIT_MAX_BYTES_BILLED", "10485760", 10485760),
    ("AIRFLOW_BASE_URL", "http://airflow-webserver:8080", "http://airflow-webserver:8080"),
    ("AIRFLOW_BASE_URL", "https://host/airflow/", "https://host/airflow"),
    ("AIRFLOW_BASE_URL", "http://host:8080/api/v1", "http://host:8080"),
    ("AIRFLOW_BASE_URL", "http://[::1]:8080", "http://[::1]:8080"),
    ("AIRFLOW_API", "V2", "v2"),
    ("AIRFLOW_DAG_IDS", "a, b,a,", ("a", "b")),
    ("AIRFLOW_DAG_IDS", "*", ("*",)),
    ("AIRFLOW_MAX_DAGS", "2000", 2000),
    ("AIRFLOW_LOOKBACK_DAYS", "0", 0.0),
    ("AIRFLOW_TIMEOUT_SECONDS", "600", 600.0),
    ("AIRFLOW_CONNECT_TIMEOUT_SECONDS", "0.1", 0.1),
    ("AIRFLOW_VERIFY_TLS", "True", True),
    ("AIRFLOW_CA_FILE", "/etc/ssl/ca.pem", Path("/etc/ssl/ca.pem")),
    ("AIRFLOW_TOKEN", "a.b-c", Secret("a.b-c")),
]

PROJECT = "a Google Cloud project id: 6 to 30 lower-case letters, digits and hyphens"
TABLE = "dataset.table or project.dataset.table"
BAD = [
    ("EXPORTER_HOST", "http://localhost", "a host name or an address"),
    *(
        ("EXPORTER_HOST", text, "a host name or an address")
        for text in (
            "a b",
            "999.1.1.1",
            "1.2.3",
            "[127.0.0.1]",
            "[::1",
            "::::",
            "host:9101",
            "-a",
            "a..b",
            "a" * 64,
            ".",
        )
    ),
    ("EXPORTER_PORT", "0", "a port from 1 to 65535"),
    ("EXPORTER_PORT", "65536", "a port from 1 to 65535"),
    ("EXPORTER_PORT", "9101.0", "a port from 1 to 65535"),
    ("EXPORTER_PORT", "http", "a port from 1 to 65535"),
    ("EXPORTER_MAX_CONNECTIONS", "15", "a whole number from 16 to 10000"),
    ("EXPORTER_MAX_CONNECTIONS", "10001", "a whole number from 16 to 10000"),
    ("EXPORTER_REFRESH_SECONDS", "0", "a number of seconds from 1 to 86400"),
    ("EXPORTER_REFRESH_SECONDS", "60s", "a number of seconds from 1 to 86400"),
    ("EXPORTER_REFRESH_SECONDS", "nan", "a number of seconds from 1 to 86400"),
    ("EXPORTER_STALE_AFTER_SECONDS", "inf", "a number of seconds from 1 to 2592000"),
    ("EXPORTER_STALE_AFTER_SECONDS", "-1", "a number of seconds from 1 to 2592000"),
    ("EXPORTER_MAX_SERIES", "0", "a whole number from 1 to 10000000"),
    ("EXPORTER_MAX_SERIES", "10k", "a whole number from 1 to 10000000"),
    ("EXPORTER_LOG_LEVEL", "verbose", "one of DEBUG, INFO, WARNING, ERROR"),
    ("EXPORTER_LOG_FORMAT", "xml", "one of text, json"),
    ("GOOGLE_CLOUD_PROJECT", "My Project", PROJECT),
    ("GOOGLE_CLOUD_PROJECT", "short", PROJECT),
    ("BIGQUERY_EMULATOR_HOST", "ftp://emulator", "host:port or http://host:port"),
    ("BIGQUERY_EMULATOR_HOST", "http://emulator/path", "host:port or http://host:port"),
    ("AUDIT_TABLE", "logs", TABLE),
    ("AUDIT_TABLE", "audit.logs; DROP TABLE audit.logs", TABLE),
    ("AUDIT_TABLE", "audit.`logs`", TABLE),
    ("AUDIT_SAMPLE_DATA", "maybe", "one of auto, true, false"),
    ("AUDIT_PROBE_SECONDS", "0.5", "0, or a number of seconds from 1 to 86400"),
    ("AUDIT_PROBE_SECONDS", "off", "0, or a number of seconds from 1 to 86400"),
    ("AUDIT_TIMEOUT_SECONDS", "601", "a number of seconds from 1 to 600"),
    ("AUDIT_CONNECT_TIMEOUT_SECONDS", "0", "a number of seconds from 0.1 to 600"),
    ("AUDIT_MAX_QUERY_AGE_SECONDS", "-1", "a number of seconds from 0 to 2592000"),
    ("AUDIT_MAX_BYTES_BILLED", "10485759", "a number of bytes from 10485760 to 1125899906842624"),
    ("AUDIT_MAX_BYTES_BILLED", "1GB", "a number of bytes from 10485760 to 1125899906842624"),
    ("AIRFLOW_BASE_URL", "airflow:8080", "http://host:port or https://host/path"),
    ("AIRFLOW_BASE_URL", "http://host:port", "http://host:port or https://host/path"),
    ("AIRFLOW_BASE_URL", "http://host/#a=b", "http://host:port or https://host/path"),
    ("AIRFLOW_BASE_URL", "http://[::1", "http://host:port or https://host/path"),
    ("AIRFLOW_API", "v3", "one of auto, v1, v2"),
    ("AIRFLOW_DAG_IDS", "a b", "DAG ids separated by commas, or * alone"),
    ("AIRFLOW_DAG_IDS", "a,*", "DAG ids separated by commas, or * alone"),
    ("AIRFLOW_MAX_DAGS", "0", "a whole number from 1 to 2000"),
    ("AIRFLOW_LOOKBACK_DAYS", "-1", "a number of days from 0 to 3650"),
    ("AIRFLOW_TIMEOUT_SECONDS", "0", "a number of seconds from 1 to 600"),
    ("AIRFLOW_CONNECT_TIMEOUT_SECONDS", "0", "a number of seconds from 0.1 to 600"),
    ("AIRFLOW_VERIFY_TLS", "maybe", "one of true, false"),
]
TAKES_ANY_TEXT = {
    "EXPORTER_STATE_DIR",
    "EXPORTER_CATALOG",
    "EXPORTER_WEB_CONFIG_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AUDIT_ENV",
    "AIRFLOW_CA_FILE",
}
SECRETS = {"AIRFLOW_USERNAME", "AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "EXPORTER_REFRESH_TOKEN"}
"""These have tests of their own: they go together, or are never shown."""


def field_of(name: str) -> str:
    """The field whose declaration names this variable."""
    fields = dataclasses.fields(Settings)
    (found,) = [field.name for field in fields if field.metadata and field.metadata["variable"].name == name]
    return found


def problems(env: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(env)
    return caught.value.problems


# -- every variable ----------------------------------------------------------------------------------------------------


def test_every_variable_has_its_default_and_a_test_of_a_good_and_a_bad_value():
    names = {variable.name for variable in VARIABLES}
    assert names == DEFAULTS.keys()
    assert names - {name for name, _, _ in GOOD} - SECRETS == set()
    assert names - {name for name, _, _ in BAD} - SECRETS == TAKES_ANY_TEXT | {"AUDIT_URL"}, (
        "AUDIT_URL has its own tests"
    )


def test_a_refresh_token_is_long_enough_not_to_be_guessed():
    for token in ("short", "with spaces in between", "0123456789abcde"):
        assert problems({"EXPORTER_REFRESH_TOKEN": token}) == (
            "EXPORTER_REFRESH_TOKEN: expected a token: at least 16 printable characters without spaces",
        )


def test_a_refresh_token_is_shown_nowhere():
    env = {"EXPORTER_REFRESH_TOKEN": "planted-0123456789"}
    assert "planted" not in repr(Settings.from_env(env))
    assert secrets_of(env) == ("planted-0123456789",)


def test_a_secret_in_a_variable_that_cannot_be_used_is_not_quoted():
    for env in ({"AIRFLOW_TOKEN": "planted token"}, {"AIRFLOW_BASE_URL": "http://user:planted@host"}):
        (problem,) = problems(env)
        assert "planted" not in problem


@pytest.mark.parametrize("name", ["GOOGLE_APPLICATION_CREDENTIALS", "EXPORTER_WEB_CONFIG_FILE", "AIRFLOW_CA_FILE"])
@pytest.mark.parametrize(
    "content",
    [
        '{"type": "service_account", "private_key": "planted"}',
        '{\n  "type": "service_account",\n  "private_key": "planted"\n}',
        "eyJwcml2YXRlX2tleSI6ICJwbGFudGVkIn0=",
        "-----BEGIN PRIVATE KEY-----planted",
        "basic_auth_users:\n  anna: planted\n",
    ],
)
def test_the_content_of_a_file_in_place_of_its_path_is_refused_and_not_repeated(name: str, content: str):
    """A path is named in messages, on `/health` too."""
    (problem,) = problems({name: content})
    assert problem.startswith(f"{name}: expected ")
    assert "planted" not in problem
    assert "eyJ" not in problem


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_a_variable_that_is_unset_or_empty_has_its_default(name: str, value: object):
    assert getattr(Settings.from_env({}), field_of(name)) == value
    assert getattr(Settings.from_env({name: ""}), field_of(name)) == value
    assert getattr(Settings.from_env({name: "  "}), field_of(name)) == value


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_good_values_are_taken(name: str, text: str, value: object):
    settings = Settings.from_env({name: text})
    assert getattr(settings, field_of(name)) == value
    assert settings.warnings == ()


@pytest.mark.parametrize(("name", "text", "expected"), BAD, ids=[f"{name}-{text[:12]}" for name, text, _ in BAD])
def test_bad_values_are_refused_with_the_variables_name_and_what_was_expected(name: str, text: str, expected: str):
    assert problems({name: text}) == (f"{name}: expected {expected}, not {text!r}",)


def test_airflows_user_and_password_go_together():
    both = {"AIRFLOW_USERNAME": "monitor", "AIRFLOW_PASSWORD": "planted"}
    settings = Settings.from_env({**both, "AIRFLOW_BASE_URL": "http://a"})
    assert settings.airflow_username == "monitor"
    assert settings.airflow_password == Secret("planted")
    assert settings.warnings == ()
    assert "planted" not in repr(settings)
    assert problems({"AIRFLOW_USERNAME": "monitor"}) == (
        "AIRFLOW_PASSWORD: expected a value, because AIRFLOW_USERNAME is set",
    )
    assert problems({"AIRFLOW_PASSWORD": "planted"}) == (
        "AIRFLOW_USERNAME: expected a value, because AIRFLOW_PASSWORD is set",
    )


@pytest.mark.parametrize("given", [("USERNAME", "PASSWORD"), ("USERNAME",), ("PASSWORD",)], ids="-".join)
def test_airflows_token_wins_over_user_and_password_without_a_word(given: tuple[str, ...]):
    """Compose always sets a user and a password."""
    settings = Settings.from_env({f"AIRFLOW_{name}": "x" for name in given} | {"AIRFLOW_TOKEN": "a.b.c"})
    assert settings.airflow_token == Secret("a.b.c")
    assert settings.warnings == ()


def test_airflow_without_a_checked_certificate_is_a_warning():
    (warning,) = Settings.from_env({"AIRFLOW_VERIFY_TLS": "false"}).warnings
    assert warning.startswith("AIRFLOW_VERIFY_TLS is false: ")


@pytest.mark.parametrize(
    "url",
    ["https://monitor:planted@host/airflow", "https://monitor:plan/ted@host", "https://monitor:planted@h\u2100st"],
)
def test_a_password_in_airflows_url_is_refused_and_not_repeated(url: str):
    (problem,) = problems({"AIRFLOW_BASE_URL": url})
    assert problem.startswith("AIRFLOW_BASE_URL: expected ")
    assert "plan" not in problem


def test_a_token_that_no_header_can_hold_is_refused_and_not_repeated():
    assert problems({"AIRFLOW_TOKEN": "plan ted"}) == (
        "AIRFLOW_TOKEN: expected a token: printable characters without spaces",
    )


def test_settings_cannot_be_changed():
    settings: Any = Settings.from_env({})
    with pytest.raises(AttributeError):
        settings.port = 1


def test_two_settings_never_share_a_variable():
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_every_field_but_the_warnings_is_declared_with_its_variable():
    assert [field.name for field in dataclasses.fields(Settings) if not field.metadata] == ["warnings"]


def test_without_any_variable_the_settings_are_the_declared_defaults():
    assert Settings() == Settings.from_env({})


# -- problems and warnings ---------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_in_the_order_of_the_documentation():
    found = problems({name: text for name, text, _ in BAD})
    assert [problem.split(":")[0] for problem in found] == list(dict.fromkeys(name for name, _, _ in BAD))


def test_the_error_shows_one_problem_a_line():
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"EXPORTER_PORT": "x", "EXPORTER_MAX_CONNECTIONS": "y"})
    assert str(caught.value) == (
        "EXPORTER_PORT: expected a port from 1 to 65535, not 'x'\n"
        "EXPORTER_MAX_CONNECTIONS: expected a whole number from 16 to 10000, not 'y'"
    )


def test_a_reading_is_shown_for_at_least_one_refresh():
    env = {"EXPORTER_REFRESH_SECONDS": "120", "EXPORTER_STALE_AFTER_SECONDS": "119"}
    assert problems(env) == ("EXPORTER_STALE_AFTER_SECONDS: expected at least EXPORTER_REFRESH_SECONDS (120), not 119",)
    assert Settings.from_env(env | {"EXPORTER_STALE_AFTER_SECONDS": "120"}).stale_after_seconds == 120


def test_connecting_may_not_take_longer_than_the_whole_refresh():
    env = {"AUDIT_TIMEOUT_SECONDS": "4", "AUDIT_CONNECT_TIMEOUT_SECONDS": "5"}
    assert problems(env) == ("AUDIT_TIMEOUT_SECONDS: expected at least AUDIT_CONNECT_TIMEOUT_SECONDS (5), not 4",)
    assert Settings.from_env(env | {"AUDIT_CONNECT_TIMEOUT_SECONDS": "4"}).audit_connect_timeout_seconds == 4


def test_a_default_gives_way_to_a_value_that_was_set():
    assert Settings.from_env({"AUDIT_TIMEOUT_SECONDS": "3"}).audit_connect_timeout_seconds == 3
    assert Settings.from_env({"AUDIT_CONNECT_TIMEOUT_SECONDS": "40"}).audit_timeout_seconds == 40
    assert Settings.from_env({"EXPORTER_REFRESH_SECONDS": "7200"}).stale_after_seconds == 7200
    assert Settings.from_env({"EXPORTER_STALE_AFTER_SECONDS": "10"}).refresh_seconds == 10


def test_variables_that_do_not_fit_together_are_reported_along_with_bad_ones():
    found = problems(
        {
            "EXPORTER_PORT": "x",
            "EXPORTER_REFRESH_SECONDS": "120",
            "EXPORTER_STALE_AFTER_SECONDS": "60",
            "AUDIT_TIMEOUT_SECONDS": "soon",
        }
    )
    assert [problem.split(":")[0] for problem in found] == [
        "EXPORTER_PORT",
        "AUDIT_TIMEOUT_SECONDS",
        "EXPORTER_STALE_AFTER_SECONDS",
    ]


def test_a_misspelt_variable_is_a_warning_that_suggests_the_right_one():
    settings = Settings.from_env({"EXPORTER_PROT": "9102", "AUDIT_TABEL": "a.b"})
    assert settings.warnings == (
        "AUDIT_TABEL is not a setting of this exporter and is ignored (did you mean AUDIT_TABLE?)",
        "EXPORTER_PROT is not a setting of this exporter and is ignored (did you mean EXPORTER_PORT?)",
    )
    assert settings.port == 9101


def test_an_unknown_variable_like_no_other_is_a_warning_without_a_suggestion():
    assert Settings.from_env({"EXPORTER_QQQQQQ": "1"}).warnings == (
        "EXPORTER_QQQQQQ is not a setting of this exporter and is ignored",
    )


def test_a_variable_of_an_older_version_is_a_warning_that_says_what_took_its_place():
    (warning,) = Settings.from_env({"EXPORTER_THREADS": "8"}).warnings
    assert warning == (
        "EXPORTER_THREADS has no effect any more: the server needs no threads for requests; "
        "EXPORTER_MAX_CONNECTIONS bounds its connections"
    )
    assert Settings.from_env({"EXPORTER_THREADS": " "}).warnings == ()


def test_a_retired_variable_is_never_suggested():
    assert "did you mean" not in "".join(Settings.from_env({"EXPORTER_THREAD": "8"}).warnings)


def test_a_warning_never_shows_the_unknown_variables_value():
    assert "hunter22" not in repr(Settings.from_env({"AUDIT_PASSWORD": "hunter22"}))


def test_other_programs_variables_are_left_alone():
    env = {"PATH": "/bin", "EXPORTER": "x", "MY_EXPORTER_PORT": "x", "GOOGLE_CLOUD_REGION": "eu", "AUDIT": "y"}
    assert Settings.from_env(env).warnings == ()


ANY_TEXT = st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Cc", "Lu", "Po"]), max_size=300)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([variable.name for variable in VARIABLES]), ANY_TEXT))
def test_any_text_gives_settings_or_problems_that_can_be_shown(env: dict[str, str]):
    try:
        found = Settings.from_env(env)
    except ConfigError as error:
        for problem in error.problems:
            assert problem.encode()
            assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in problem)
            assert len(problem) < QUOTED_CHARACTERS + 250
    else:
        assert repr(found).encode()


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Jb", "a\ud800b", "a\x00b"], ids=ascii)
def test_no_setting_takes_text_that_nothing_could_send_or_show(name: str, text: str):
    found = problems({name: text})
    expected = f"{name}: expected text without control characters, in UTF-8"
    assert found[0] == expected + ("" if name in SECRETS - {"AIRFLOW_USERNAME"} else f", not {text!r}")


def test_a_long_bad_value_is_cut():
    (problem,) = problems({"EXPORTER_PORT": "9" * 5000})
    assert problem == "EXPORTER_PORT: expected a port from 1 to 65535, not '" + "9" * (QUOTED_CHARACTERS - 2) + "…"


# -- which audit log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("duckdb:///data/audit.duckdb", "duckdb", "/data/audit.duckdb"),
        ("duckdb:////data/audit.duckdb", "duckdb", "/data/audit.duckdb"),
        ("duckdb:data/audit.duckdb", "duckdb", "data/audit.duckdb"),
        ("DuckDB:audit", "duckdb", "audit"),
        ("audit.duckdb", "duckdb", "audit.duckdb"),
        ("/data/audit.db", "duckdb", "/data/audit.db"),
        ("file:///data/audit.duckdb", "duckdb", "/data/audit.duckdb"),
        ("file:logs.csv", "csv", "logs.csv"),
        ("logs/*.parquet", "parquet", "logs/*.parquet"),
        ("LOGS.CSV", "csv", "LOGS.CSV"),
        ("logs/2024-[01]?.jsonl", "jsonl", "logs/2024-[01]?.jsonl"),
        ("logs.ndjson", "jsonl", "logs.ndjson"),
        ("logs.CSV.gz", "csv", "logs.CSV.gz"),
        ("logs/*.jsonl.gz", "jsonl", "logs/*.jsonl.gz"),
        ("csv:exports/audit.txt", "csv", "exports/audit.txt"),
        ("parquet:///lake/audit/*", "parquet", "/lake/audit/*"),
        ("jsonl:logs", "jsonl", "logs"),
        (r"C:\data\audit.duckdb", "duckdb", r"C:\data\audit.duckdb"),
    ],
)
def test_audit_url_names_a_database_or_files(text: str, kind: str, path: str):
    location = audit_location(text)
    assert location == AuditLocation(kind, path)
    assert str(location) == f"{kind}:{path}"


@pytest.mark.parametrize(
    "text",
    ["audit", "audit.sqlite", "s3:logs.csv", "log.parquet.gz", "log.gz", "duckdb:", "duckdb:///", "file:logs"],
)
def test_audit_url_says_what_it_takes(text: str):
    (problem,) = problems({"AUDIT_URL": text})
    assert problem == (
        "AUDIT_URL: expected duckdb:///absolute/path.duckdb, duckdb:relative/path.duckdb, or a path or glob that ends "
        f"in .duckdb, .db, .parquet, .csv, .jsonl, .ndjson (text files also with .gz), not {text!r}"
    )


@pytest.mark.parametrize("scheme", ["s3", "gs", "https", "abfss", "postgresql"])
def test_an_audit_url_on_another_machine_says_that_it_is_not_read_and_shows_no_signature(scheme: str):
    (problem,) = problems({"AUDIT_URL": f"{scheme}://user:secret@bucket/log.csv?X-Amz-Signature=secret"})
    assert problem == (
        f"AUDIT_URL: expected a path on this machine ({scheme}:// is not read: copy or mount the files here, or make "
        f"an external table of them in BigQuery), not '{scheme}://…@bucket/log.csv?…'"
    )


def test_the_query_of_a_refused_url_is_not_shown():
    (problem,) = problems({"AIRFLOW_BASE_URL": "http://host/?token=secret"})
    assert problem == "AIRFLOW_BASE_URL: expected http://host:port or https://host/path, not 'http://host/?…'"


def test_a_tilde_in_audit_url_is_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    for text, location in {
        "~/logs/*.csv.gz": AuditLocation("csv", "/home/me/logs/*.csv.gz"),
        "duckdb:~/audit.duckdb": AuditLocation("duckdb", "/home/me/audit.duckdb"),
        "file:~/a.jsonl": AuditLocation("jsonl", "/home/me/a.jsonl"),
        "logs/~/a.csv": AuditLocation("csv", "logs/~/a.csv"),
    }.items():
        assert audit_location(text) == location


def test_audit_url_with_two_slashes_is_refused_since_a_folder_would_be_taken_for_a_host():
    (problem,) = problems({"AUDIT_URL": "duckdb://data/audit.duckdb"})
    assert "(two slashes would name a host)" in problem


def test_no_audit_url_is_no_location():
    assert audit_location("") is None


@pytest.mark.parametrize(
    ("text", "is_glob"),
    [("logs/*.csv", True), ("logs/?.csv", True), ("logs/[ab].csv", True), ("a.csv", False), ("duckdb:a*.db", False)],
)
def test_only_a_path_of_files_is_a_pattern(text: str, is_glob: bool):
    location = audit_location(text)
    assert location is not None
    assert location.is_glob is is_glob


def test_a_file_that_is_called_like_a_pattern_is_that_file(tmp_path: Path):
    (tmp_path / "a.csv").touch()
    location = audit_location(f"{tmp_path}/*.csv")
    assert location is not None
    assert location.is_glob
    (tmp_path / "*.csv").touch()
    assert not location.is_glob


def test_without_a_project_the_audit_log_is_the_embedded_default():
    settings = Settings.from_env({})
    assert not settings.uses_bigquery
    assert str(settings.embedded) == "duckdb:audit.duckdb"


def test_with_a_project_the_audit_log_is_in_bigquery():
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "my-project"})
    assert settings.uses_bigquery
    assert settings.warnings == ()


def test_audit_url_wins_over_the_project_and_a_warning_says_so():
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "my-project", "AUDIT_URL": "logs.csv"})
    assert not settings.uses_bigquery
    assert settings.embedded == AuditLocation("csv", "logs.csv")
    assert settings.warnings == (
        "GOOGLE_CLOUD_PROJECT and AUDIT_URL are both set: AUDIT_URL wins, BigQuery is not read",
    )


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, True),
        ({"AUDIT_URL": "duckdb:mine.duckdb"}, False),
        ({"AUDIT_SAMPLE_DATA": "false"}, False),
        ({"AUDIT_SAMPLE_DATA": "true"}, True),
        ({"AUDIT_URL": "duckdb:mine.duckdb", "AUDIT_SAMPLE_DATA": "true"}, True),
        ({"AUDIT_URL": "mine.csv", "AUDIT_SAMPLE_DATA": "true"}, False),
    ],
)
def test_sample_data_is_made_for_the_default_file_or_a_database_that_asks_for_it(env: dict[str, str], wanted: bool):
    assert Settings.from_env(env).wants_sample_data is wanted


# -- secrets -----------------------------------------------------------------------------------------------------------

LINE_1 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA"
LINE_2 = "plantedPlantedPLANTED+/=="
PEM = f"-----BEGIN PRIVATE KEY-----\n{LINE_1}\n{LINE_2}\n-----END PRIVATE KEY-----\n"


def test_a_secret_shows_its_value_only_when_asked():
    secret = Secret("hunter22")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}", "%s" % secret, repr({"k": secret})]  # noqa: UP031
    assert not any("hunter22" in text for text in shown)
    assert secret.reveal() == "hunter22"


def test_a_secret_compares_by_value_and_never_equals_plain_text():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_secret_survives_a_copy_and_is_refused_by_json():
    secret = Secret("hunter22")
    assert copy.deepcopy(secret) == secret
    assert pickle.loads(pickle.dumps(secret)) == secret
    with pytest.raises(TypeError) as caught:
        json.dumps({"password": secret})
    assert "hunter22" not in str(caught.value)


def key_file(tmp_path: Path, content: object) -> dict[str, str]:
    path = tmp_path / "key.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def test_the_private_parts_of_a_key_file_are_secrets_whole_and_line_by_line(tmp_path: Path):
    env = key_file(
        tmp_path,
        {
            "type": "service_account",
            "project_id": "my-project",
            "client_email": "exporter@my-project.iam.gserviceaccount.com",
            "private_key_id": "0123456789abcdef",
            "private_key": PEM,
        },
    )
    assert set(secrets_of(env)) == {PEM, LINE_1, LINE_2, "0123456789abcdef"}


def test_the_longest_secret_comes_first_so_that_no_part_of_it_is_left(tmp_path: Path):
    found = secrets_of(key_file(tmp_path, {"client_secret": "abcdef", "refresh_token": "abcdefgh"}))
    assert found == ("abcdefgh", "abcdef")


def test_a_private_key_whose_line_breaks_were_mangled_is_still_a_secret(tmp_path: Path):
    mangled = PEM.replace("\n", r"\n")
    assert mangled in secrets_of(key_file(tmp_path, {"private_key": mangled}))


def test_the_secrets_of_an_impersonating_key_file_are_found(tmp_path: Path):
    content = {
        "type": "impersonated_service_account",
        "source_credentials": {"type": "authorized_user", "client_secret": "GOCSPX-planted", "refresh_token": "1//pl"},
    }
    assert set(secrets_of(key_file(tmp_path, content))) == {"GOCSPX-planted", "1//pl"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "null",
        '{"private_key": 7}',
        '{"private_key": ""}',
        '{"source_credentials": 3}',
        pytest.param("[" * 100_000, id="deeply nested"),
    ],
)
def test_a_broken_key_file_gives_no_secret_and_no_error(tmp_path: Path, content: str):
    assert secrets_of(key_file(tmp_path, content)) == ()


def test_a_key_file_that_is_missing_or_no_file_or_not_text_gives_no_secret_and_no_error(tmp_path: Path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    huge = tmp_path / "huge"
    huge.write_text(json.dumps({"private_key": "p" * MAX_KEY_FILE_BYTES}), "utf-8")
    os.mkfifo(tmp_path / "pipe")  # without a writer: who opens it to read waits for ever
    for path in (tmp_path / "none.json", tmp_path, binary, huge, tmp_path / "pipe", Path("/dev/zero"), "a\0b"):
        assert secrets_of({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}) == ()
    assert secrets_of({}) == ()


def test_settings_show_the_key_files_name_and_nothing_of_its_content(tmp_path: Path):
    env = key_file(tmp_path, {"private_key": PEM, "private_key_id": "0123456789abcdef"})
    settings = Settings.from_env(env)
    bad = "\n".join(problems(env | {"EXPORTER_PORT": "x", "AUDIT_URL": "y", "AUDIT_TABLE": "z"}))
    for secret in secrets_of(env):
        assert secret not in repr(settings)
        assert secret not in str(settings)
        assert secret not in bad
    assert "key.json" in repr(settings)
