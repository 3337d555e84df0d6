"""What is logged: one format for people, one for machines, both in UTC and without secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from exporter.logs import BLOT, RareWarning, configure_logging

LINE_1 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA"
LINE_2 = "plantedPlantedPLANTED"
PEM = f"-----BEGIN PRIVATE KEY-----\n{LINE_1}\n{LINE_2}\n-----END PRIVATE KEY-----\n"
SECRETS = (PEM, LINE_1, LINE_2, "hunter22")
pytestmark = pytest.mark.usefixtures("loggers_are_put_back")
AT = datetime(2024, 7, 1, 12, 30, 5, 900_000, tzinfo=UTC).timestamp()


def logged(
    capsys: pytest.CaptureFixture[str],
    message: str,
    *arguments: object,
    log_format: str = "text",
    secrets: tuple[str, ...] = SECRETS,
    error: BaseException | None = None,
) -> str:
    """What one record looks like on standard error."""
    configure_logging("INFO", log_format, secrets)
    record = logging.LogRecord("exporter.test", logging.WARNING, __file__, 1, message, arguments, None)
    record.created = AT
    if error is not None:
        try:
            raise error
        except BaseException:  # noqa: BLE001 -- any error may be logged
            record.exc_info = sys.exc_info()
    logging.getLogger("exporter.test").handle(record)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def parsed(line: str) -> dict[str, Any]:
    assert line.endswith("\n")
    assert line.count("\n") == 1, "one line a record"
    content = json.loads(line)
    assert isinstance(content, dict)
    return content


def test_text_has_time_level_logger_and_message_on_one_line(capsys: pytest.CaptureFixture[str]):
    line = logged(capsys, "source %s is down", "audit")
    assert line == "2024-07-01T12:30:05Z WARNING exporter.test: source audit is down\n"


def test_json_has_the_same_as_one_object_a_line(capsys: pytest.CaptureFixture[str]):
    assert parsed(logged(capsys, "R² of\n%s", "audit", log_format="json")) == {
        "time": "2024-07-01T12:30:05Z",
        "level": "WARNING",
        "logger": "exporter.test",
        "message": "R² of\naudit",
    }


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_times_are_utc_wherever_the_machine_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, zone: str
):
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert logged(capsys, "x").startswith("2024-07-01T12:30:05Z ")
        assert parsed(logged(capsys, "x", log_format="json"))["time"] == "2024-07-01T12:30:05Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_traceback_follows_in_text_and_is_a_field_in_json(capsys: pytest.CaptureFixture[str]):
    text = logged(capsys, "failed", error=ValueError("bad row"))
    assert text.splitlines()[1] == "Traceback (most recent call last):"
    assert text.splitlines()[-1] == "ValueError: bad row"
    content = parsed(logged(capsys, "failed", log_format="json", error=ValueError("bad row")))
    assert content["traceback"].splitlines()[0] == "Traceback (most recent call last):"
    assert content["traceback"].splitlines()[-1] == "ValueError: bad row"


HOSTILE = "a\n2026-01-01T00:00:00Z ERROR exporter: forged\r\x1b[2J\x85\u2028\ud800b"


def test_a_message_from_outside_cannot_begin_a_line_in_text(capsys: pytest.CaptureFixture[str]):
    line = logged(capsys, "DAG %s is paused", HOSTILE)
    assert line.splitlines() == [line.rstrip("\n")]
    assert line.rstrip("\n").isprintable()
    assert r"a\n2026-01-01T00:00:00Z ERROR exporter: forged\r\x1b[2J\x85\u2028\ud800b" in line


def test_a_message_from_outside_is_one_valid_object_in_json(capsys: pytest.CaptureFixture[str]):
    line = logged(capsys, "DAG %s is paused", HOSTILE, log_format="json")
    assert line.rstrip("\n").isprintable()
    assert parsed(line)["message"] == f"DAG {HOSTILE} is paused"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_blotted_out_wherever_they_come_from(capsys: pytest.CaptureFixture[str], log_format: str):
    cause = ValueError("password hunter22 refused")
    cause.add_note(f"key {LINE_2} is wrong")
    line = logged(capsys, "login hunter22 with %s", {"password": "hunter22"}, log_format=log_format, error=cause)
    assert "hunter22" not in line
    assert LINE_2 not in line
    assert line.count(BLOT) == 4


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("form", ["%s", "%r"])
def test_a_key_of_many_lines_is_blotted_out_however_its_line_breaks_are_written(
    capsys: pytest.CaptureFixture[str], log_format: str, form: str
):
    line = logged(capsys, f"key: {form}", PEM, log_format=log_format, error=RuntimeError(repr(PEM)))
    assert LINE_1 not in line
    assert LINE_2 not in line
    assert BLOT in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_part_of_a_key_is_blotted_out(capsys: pytest.CaptureFixture[str], log_format: str):
    assert LINE_2 not in logged(capsys, f"cannot decode ...{LINE_2}...", log_format=log_format)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_text_that_is_no_secret_stays(capsys: pytest.CaptureFixture[str], log_format: str):
    line = logged(capsys, "hunter2 MIIE planted", log_format=log_format)
    assert "hunter2 MIIE planted" in line
    assert BLOT not in line


@pytest.mark.parametrize("secret", ['pass"word', "back\\slash", "tab\there", "pässwörd"])
def test_a_secret_that_json_escapes_is_blotted_out(capsys: pytest.CaptureFixture[str], secret: str):
    assert parsed(logged(capsys, f"[{secret}]", log_format="json", secrets=(secret,)))["message"] == f"[{BLOT}]"


def test_a_secret_with_both_an_accent_and_a_quote_is_blotted_out_of_json(capsys: pytest.CaptureFixture[str]):
    secret = 'pä"sswörd'
    assert parsed(logged(capsys, f"[{secret}]", log_format="json", secrets=(secret,)))["message"] == f"[{BLOT}]"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("INFO", ["INFO", "WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
    ],
)
def test_the_least_level_is_the_one_that_was_asked_for(
    capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
):
    configure_logging(level, "text")
    for name in ("DEBUG", "INFO", "WARNING", "ERROR"):
        logging.getLogger("exporter.test").log(logging.getLevelNamesMapping()[name], "x")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
@pytest.mark.parametrize("library", ["urllib3.connectionpool", "sqlglot", "werkzeug"])
def test_libraries_say_only_what_is_wrong(capsys: pytest.CaptureFixture[str], library: str, level: str):
    """Below WARNING they log requests and answers, tokens among them."""
    configure_logging(level, "text")
    logging.getLogger(library).debug("GET /token")
    logging.getLogger(library).info("200")
    logging.getLogger(library).warning("retrying")
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["retrying"]


def test_libraries_are_no_louder_than_the_level_that_was_asked_for(capsys: pytest.CaptureFixture[str]):
    configure_logging("ERROR", "text")
    logging.getLogger("urllib3.connectionpool").warning("retrying")
    assert capsys.readouterr().err == ""


def test_asyncio_does_not_warn_of_each_piece_of_an_answer_to_a_client_that_has_gone(capsys: pytest.CaptureFixture[str]):
    configure_logging("INFO", "text")
    logging.getLogger("asyncio").warning("socket.send() raised exception.")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "Task exception was never retrieved"
    ]


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]):
    configure_logging("INFO", "json")
    configure_logging("INFO", "text")
    logging.getLogger("exporter.test").info("x")
    assert capsys.readouterr().err.count("exporter.test") == 1


def test_a_rare_warning_is_logged_once_a_minute_with_how_often_it_was_caused(caplog: pytest.LogCaptureFixture):
    now = 1000.0
    warn = RareWarning(logging.getLogger("exporter.test"), "guesses: %d; the last from %s", lambda: now)
    for number in range(3):
        warn(f"client {number}")
    now += 61
    warn("client 3")
    assert [record.getMessage() for record in caplog.records] == [
        "guesses: 1; the last from client 0",
        "guesses: 3; the last from client 3",
    ]
