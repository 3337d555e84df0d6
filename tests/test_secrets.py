"""No secret is shown anywhere: keys, passwords and tokens are planted, and sources fail in every way that could quote
them. In the test's process; `integration/test_serve.py` does one case of each with the real one."""

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from exporter.app import App
from exporter.catalog import Catalog
from exporter.logs import configure_logging
from exporter.server import build_refresher
from exporter.settings import Settings, secrets_of
from testbed import faults
from testbed.asgi_client import AsgiClient
from testbed.exposed import Exposed
from testbed.planted import SECRET, TOKEN_PATH, private_key, service_account

pytestmark = pytest.mark.usefixtures("loggers_are_put_back")
UP = "mlops_exporter_source_up"


def everything_shown(folder: Path, catalog: Catalog, source: str, **env: str) -> tuple[str, dict[str, Any]]:
    """All that an exporter with these settings shows, logs and keeps once its source has failed, and /health's part on
    that source."""
    folder.mkdir()
    env |= {"EXPORTER_STATE_DIR": str(folder / "state"), "EXPORTER_LOG_LEVEL": "DEBUG"}
    settings = Settings.from_env(env)
    with contextlib.redirect_stderr(io.StringIO()) as logged:
        configure_logging(settings.log_level, settings.log_format, secrets_of(env))
        refresher = build_refresher(settings, catalog)
        refresher.run_once()
        client = AsgiClient(App(refresher, catalog))
        pages = [client.get(page).text for page in ("/metrics", "/health", "/", "/-/healthy", "/-/ready")]
        refresher.stop()
    assert Exposed(pages[0]).value(UP, source=source) == 0
    kept = [file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()]
    assert len(kept) > 1
    assert f"source {source}" in logged.getvalue()
    return "".join([*pages, *kept, logged.getvalue()]), json.loads(pages[1])["sources"][source]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_part_of_a_key_file_is_shown(tmp_path: Path, catalog: Catalog, log_format: str):
    pem = private_key()

    def refuse(_: faults.Request) -> faults.Reply:
        return faults.Reply(400, json.dumps({"error": "invalid_grant", "error_description": pem + SECRET}).encode())

    with faults.FaultProxy(script=refuse) as tokens:
        key = service_account(pem, tokens.url)
        contents = (json.dumps(key), json.dumps({**key, "private_key": SECRET}), SECRET, json.dumps([SECRET]))
        for number, content in enumerate(contents):
            path = tmp_path / "gcp.json"
            path.write_text(content)
            shown, status = everything_shown(
                tmp_path / str(number),
                catalog,
                "audit",
                GOOGLE_CLOUD_PROJECT="test-project",
                GOOGLE_APPLICATION_CREDENTIALS=str(path),
                EXPORTER_LOG_FORMAT=log_format,
            )
            assert status["last_error_reason"] == "auth"
            assert SECRET not in shown
            for line in pem.splitlines()[1:-1]:
                assert line not in shown
        assert tokens.count("POST", TOKEN_PATH) > 0


@pytest.mark.parametrize("code", [200, 401, 403, 404, 500])
@pytest.mark.parametrize(
    "login", [{"AIRFLOW_USERNAME": "monitor", "AIRFLOW_PASSWORD": SECRET}, {"AIRFLOW_TOKEN": SECRET}]
)
def test_airflows_password_and_token_are_not_shown_even_when_it_quotes_them(
    tmp_path: Path, catalog: Catalog, login: dict[str, str], code: int
):
    def quote(request: faults.Request) -> faults.Reply:
        quoted = {"detail": f"{request.headers} {request.body!r} {SECRET}", "title": SECRET, "access_token": SECRET}
        return faults.Reply(code, json.dumps(quoted).encode(), {"Content-Type": "application/json"})

    with faults.FaultProxy(script=quote) as airflow:
        env = {**login, "AIRFLOW_BASE_URL": airflow.url, "AIRFLOW_TIMEOUT_SECONDS": "2"}
        shown, _ = everything_shown(tmp_path / "exporter", catalog, "airflow", AUDIT_URL="nowhere.csv", **env)
        assert airflow.requests
    assert SECRET not in shown
    assert base64.b64encode(f"monitor:{SECRET}".encode()).decode() not in shown
