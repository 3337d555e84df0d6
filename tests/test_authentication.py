"""Users and passwords over the app; bcrypt is real, of the lowest cost unless a test says otherwise."""

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from exporter import app
from exporter.app import App
from exporter.authentication import GUESSES_PER_CLIENT, credentials, hashed
from exporter.catalog import Catalog
from exporter.ledger import Ledger
from exporter.refresh import Refresher
from exporter.settings import Secret
from exporter.web_file import WebFile
from testbed.asgi_client import AsgiClient
from testbed.scripted import Clock, ScriptedSource, reading

PASSWORD = "planted-pässword:with-a-colon"
TOKEN = "planted-0123456789"
PATHS = ("/", "/metrics", "/health", "/-/healthy", "/-/ready", "/-/refresh", "/nowhere", "/metrics/", "//metrics")


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def refresher(catalog: Catalog) -> Iterator[Refresher]:
    clock = Clock()
    source = ScriptedSource(lambda _: reading(catalog, clock))
    made = Refresher(catalog, [source], Ledger.open(None), interval=60, stale_after=3600)
    made.run_once()
    yield made
    made.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "web.yml"
    path.write_text(
        f"basic_auth_users: {{anna: '{hashed(PASSWORD, cost=4)}'}}\n"
        "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: default-src 'self'}}\n"
    )
    return path


@pytest.fixture
def web(file: Path) -> WebFile:
    return WebFile(file)


@pytest.fixture
def client(refresher: Refresher, catalog: Catalog, web: WebFile, monkeypatch: pytest.MonkeyPatch) -> AsgiClient:
    monkeypatch.setattr(app, "REFUSAL_SECONDS", 0.01)
    return AsgiClient(App(refresher, catalog, Secret(TOKEN), web))


def test_no_path_is_open(client: AsgiClient):
    for path in PATHS:
        for method in ("GET", "HEAD", "POST", "PUT"):
            if (path, method) == ("/-/refresh", "POST"):
                continue  # it asks for its token
            answer = client.open(method, path)
            assert (path, method, answer.status_code) == (path, method, 401)
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="mlops-exporter", charset="UTF-8"'
            assert answer.text == "401 Unauthorized\n"
            wrong = client.open(method, path, headers=basic("anna", "wrong"))
            assert (path, method, wrong.status_code) == (path, method, 401)


def test_the_right_password_opens_all_and_costs_bcrypt_once(client: AsgiClient, file: Path, web: WebFile):
    file.write_text(f"basic_auth_users: {{anna: '{hashed(PASSWORD, cost=10)}'}}")
    web.look()
    took = []
    for _ in range(3):
        began = time.process_time()
        assert client.get("/metrics", headers=basic("anna", PASSWORD)).status_code == 200
        took.append(time.process_time() - began)
    assert max(took[1:]) < took[0] / 3
    for path in ("/", "/health", "/-/ready"):
        assert client.get(path, headers=basic("anna", PASSWORD)).status_code == 200
    assert client.get("/nowhere", headers=basic("anna", PASSWORD)).status_code == 404


def test_anything_else_does_not(client: AsgiClient):
    assert client.get("/metrics", headers=basic("anna", PASSWORD)).status_code == 200
    for headers in (
        basic("anna", ""),
        basic("anna", PASSWORD + "x"),
        basic("anna", PASSWORD + "\0"),
        basic("anna", "x" * 5000),
        basic("Anna", PASSWORD),
        basic("", PASSWORD),
        basic("berta", PASSWORD),
        {"Authorization": "Bearer " + TOKEN},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:x").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
    ):
        assert (headers, client.get("/metrics", headers=headers).status_code) == (headers, 401)


def test_a_password_that_changed_does_not_open_any_more(client: AsgiClient, file: Path, web: WebFile):
    assert client.get("/metrics", headers=basic("anna", PASSWORD)).status_code == 200
    file.write_text(f"basic_auth_users: {{anna: '{hashed('new', cost=4)}'}}")
    web.look()
    assert client.get("/metrics", headers=basic("anna", PASSWORD)).status_code == 401
    assert client.get("/metrics", headers=basic("anna", "new")).status_code == 200
    file.write_text(f"basic_auth_users: {{berta: '{hashed('new', cost=4)}'}}")
    web.look()
    assert client.get("/metrics", headers=basic("anna", "new")).status_code == 401


def test_hashes_of_other_tools_are_taken():
    """htpasswd -B writes $2y$; old ones $2a$. Passwords are cut at 72 bytes, as bcrypt does."""
    long = "y" * 80
    made = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    users = {"anna": Secret(made.replace("$2b$", "$2y$")), "berta": Secret(made.replace("$2b$", "$2a$"))}
    assert asyncio.run(_admits(users, basic("anna", long)))
    assert asyncio.run(_admits(users, basic("berta", long)))


async def _admits(users: dict[str, Secret], headers: dict[str, str]) -> bool:
    from exporter.authentication import Authentication

    async def send(message: object) -> None:
        pass

    return await Authentication().admits(_scope(headers["Authorization"]), users, send, send)


def _scope(authorization: str) -> object:
    return {"headers": [(b"authorization", authorization.encode())], "client": ("127.0.0.1", 1)}


def test_an_unknown_user_costs_as_much_as_a_wrong_password(client: AsgiClient, file: Path, web: WebFile):
    file.write_text(f"basic_auth_users: {{anna: '{hashed(PASSWORD, cost=10)}'}}")
    web.look()

    def cost(user: str) -> float:
        began = time.process_time()
        assert client.get("/metrics", headers=basic(user, "wrong")).status_code == 401
        return time.process_time() - began

    known, unknown = min(cost("anna") for _ in range(3)), min(cost("berta") for _ in range(3))
    assert 0.5 < known / unknown < 2


def test_guesses_are_answered_slowly_logged_rarely_and_quote_nothing(client: AsgiClient, caplog, monkeypatch):
    monkeypatch.setattr(app, "REFUSAL_SECONDS", 0.05)
    began = time.monotonic()
    for number in range(5):
        assert client.get("/metrics", headers=basic("anna", f"guess-{number}")).status_code == 401
    assert time.monotonic() - began >= 5 * 0.05
    assert client.get("/metrics").status_code == 401
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "requests without the right user and password: 1; the last from 127.0.0.1"


def test_one_clients_guesses_do_not_queue_without_bound(
    refresher: Refresher, catalog: Catalog, web: WebFile, monkeypatch: pytest.MonkeyPatch
):
    """Ten guesses at once: those beyond the bound are told to come back, and another client's first scrape waits for
    none of them to be refused."""
    monkeypatch.setattr(app, "REFUSAL_SECONDS", 0.2)
    served = App(refresher, catalog, None, web)
    statuses: list[int] = []

    async def request(client: str, headers: dict[str, str]) -> int:
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "headers": [(b"authorization", headers["Authorization"].encode())],
            "client": (client, 1),
        }
        await served(scope, None, send)  # type: ignore[arg-type]
        status = sent[0]["status"]
        assert isinstance(status, int)
        statuses.append(status)
        return status

    async def all_at_once() -> None:
        guesses = [request("192.0.2.1", basic("anna", f"guess-{number}")) for number in range(10)]
        await asyncio.gather(*guesses, request("192.0.2.2", basic("anna", PASSWORD)))

    asyncio.run(all_at_once())
    assert sorted(statuses) == [200] + [401] * GUESSES_PER_CLIENT + [429] * (10 - GUESSES_PER_CLIENT)
    assert statuses.index(200) < statuses.index(401)


def test_refresh_asks_for_its_token_instead(client: AsgiClient):
    """One header holds a token or a password."""
    assert client.post("/-/refresh", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 202
    answer = client.post("/-/refresh", headers=basic("anna", PASSWORD))
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="mlops-exporter"')


def test_the_files_headers_are_in_every_answer_unless_it_has_its_own(client: AsgiClient):
    for path in ("/metrics", "/health", "/nowhere"):
        for headers in ({}, basic("anna", PASSWORD)):
            answer = client.get(path, headers=headers)
            assert answer.headers["X-Frame-Options"] == "deny"
            assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    page = client.get("/", headers=basic("anna", PASSWORD))
    (policy,) = page.headers.getlist("Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_a_broken_file_is_told_on_health_and_the_page(client: AsgiClient, file: Path, web: WebFile):
    me = basic("anna", PASSWORD)
    assert client.get("/health", headers=me).json["web_configuration"] == {"problem": None}
    kept = file.read_text()
    file.write_text("basic_auth_users: {anna: hunter2}")
    web.look()
    health = client.get("/health", headers=me)
    assert (health.status_code, health.json["status"]) == (200, "degraded")
    assert "web.yml:1: basic_auth_users: expected a bcrypt hash" in health.json["web_configuration"]["problem"]
    assert "The web configuration cannot be used" in client.get("/", headers=me).text
    for path in PATHS:
        assert "hunter2" not in client.get(path, headers=me).text
    file.write_text(kept)
    web.look()
    assert client.get("/health", headers=me).json["status"] == "ok"


def test_credentials_are_read_from_the_first_authorization_header():
    scope = {"headers": [(b"host", b"x"), (b"authorization", b"basic " + base64.b64encode(b"a:b:c"))]}
    assert credentials(scope) == ("a", b"b:c")  # type: ignore[arg-type]
    assert credentials({"headers": []}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("password", ["", "x" * 73])
def test_a_password_that_bcrypt_would_cut_is_not_hashed(password: str):
    with pytest.raises(ValueError, match="1 to 72 bytes"):
        hashed(password, cost=4)
