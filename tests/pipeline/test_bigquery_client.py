"""What the pipeline says when Google's credentials cannot be used."""

from pathlib import Path

import pytest

from bike_pipeline.audit import main
from bike_pipeline.bigquery_client import BigQueryTrouble, make_client

ADVICE = "or unset GOOGLE_CLOUD_PROJECT to keep everything in files"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "GOOGLE_APPLICATION_CREDENTIALS names {key}, which does not exist: put a service account's key there"),
        ("folder", "GOOGLE_APPLICATION_CREDENTIALS names {key}, which is not a file that this user can read"),
        ("{planted", "GOOGLE_APPLICATION_CREDENTIALS names {key}, which Google does not accept: make a new key"),
        ('{"planted": 1}', "GOOGLE_APPLICATION_CREDENTIALS names {key}, which Google does not accept: make a new key"),
    ],
)
def test_a_key_file_that_cannot_be_used(
    content: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The variable, the file and what to do; nothing of what is in the file."""
    key = tmp_path / "gcp.json"
    if content == "folder":
        key.mkdir()
    elif content is not None:
        key.write_text(content, "utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    with pytest.raises(BigQueryTrouble) as caught:
        make_client("my-project")
    assert said.format(key=key) in str(caught.value)
    assert ADVICE in str(caught.value)
    assert "planted" not in str(caught.value)


def test_no_key_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Said in one line by what makes the table before Airflow starts, which is no traceback."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("AUDIT_URL", raising=False)
    # Neither gcloud's own credentials nor a metadata server.
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == (
        "BigQuery, the client: no Google credentials were found: "
        f"set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, {ADVICE}"
    )
