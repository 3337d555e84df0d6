"""With what the exporter presents itself to Google, and what is said of a key file that cannot be used."""

import json
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from google.auth.exceptions import DefaultCredentialsError

from exporter.errors import SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.sources.audit.bigquery import BigQueryAudit
from exporter.sources.audit.bigquery_client import SCOPES
from testbed.faults import Exchange, FaultProxy, google_error
from tests.sources.audit.duckdb_log import CATALOG


def test_credentials_are_asked_for_bigquery_alone(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def default(scopes: Any = None) -> None:
        asked.append(scopes)
        raise DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(SourceError) as caught:
        BigQueryAudit(Settings.from_env({"GOOGLE_CLOUD_PROJECT": "project-one"}), CATALOG).read(None)
    assert (caught.value.reason, asked) == ("auth", [SCOPES])


@pytest.fixture
def tokens() -> Iterator[FaultProxy]:
    """In the place of Google's token endpoint."""
    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def account(tokens: FaultProxy, tmp_path: Path) -> BigQueryAudit:
    """A source that has the key of a service account. It can be tried as far as a token: the rest is with Google."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account",
        "client_email": "exporter@p.example",
        "private_key": key.decode(),
        "token_uri": f"{tokens.url}/token",
    }
    path = tmp_path / "gcp.json"
    path.write_text(json.dumps(content))
    env = {"GOOGLE_CLOUD_PROJECT": "project-one", "GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    return BigQueryAudit(Settings.from_env(env), CATALOG)


def test_a_key_file_is_used_for_tokens_of_bigquery_alone(account: BigQueryAudit, tokens: FaultProxy, tmp_path: Path):
    tokens.add(google_error(400, "invalid_grant"))
    with pytest.raises(SourceError, match="Google refused the credentials") as caught:
        account.read(None)
    assert (caught.value.reason, str(tmp_path / "gcp.json") in str(caught.value)) == ("auth", True)
    (asked,) = tokens.requests
    (assertion,) = urllib.parse.parse_qs(asked.body.decode())["assertion"]
    assert jwt.decode(assertion, verify=False)["scope"] == " ".join(SCOPES)  # type: ignore[no-untyped-call]


def test_a_token_is_asked_for_under_the_deadline_too(account: BigQueryAudit, tokens: FaultProxy):
    def refused(exchange: Exchange) -> None:
        account.interrupt()
        google_error(400, "invalid_grant")(exchange)

    tokens.add(refused)
    with pytest.raises(SourceTimeout):
        account.read(None)
    assert len(tokens.requests) == 1


def key_error(path: Path) -> SourceUnavailable:
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "project-one", "GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    with pytest.raises(SourceUnavailable, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        BigQueryAudit(settings, CATALOG).read(None)
    assert caught.value.reason == "auth"
    return caught.value


def test_a_key_file_that_is_no_file_says_what_it_is(tmp_path: Path):
    path = tmp_path / "gcp.json"
    assert "does not exist" in str(key_error(path))
    path.mkdir()
    assert "is a folder. Docker makes one" in str(key_error(path))
    path.rmdir()
    os.mkfifo(path)
    assert "it is a named pipe, not a file" in str(key_error(path))
    path.unlink()
    path.write_bytes(b" " * 1_000_001)
    assert "larger than" in str(key_error(path))
    path.write_bytes(b"[" * 100_000)
    assert "not a usable Google key file" in str(key_error(path))


def test_a_key_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "gcp.json"
    path.write_text("{}")

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "project-one", "GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    monkeypatch.setattr("exporter.sources.audit.bigquery_client.read_regular_file", refuse)
    with pytest.raises(SourceUnavailable, match="may not read: change its owner or mode") as caught:
        BigQueryAudit(settings, CATALOG).read(None)
    assert caught.value.reason == "auth"
