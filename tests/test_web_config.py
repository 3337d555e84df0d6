"""The file of EXPORTER_WEB_CONFIG_FILE: what it may say, every problem at once, and what happens when it changes."""

import json
import logging
import ssl
from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.web_config import MAX_CONFIG_BYTES, MAX_NODES, WebConfig, has_allowed_san, load_web_config
from exporter.web_file import WebFile
from testbed.certificates import Authority

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
"""The example of exporter-toolkit's documentation."""
TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: the server's, another one, one with an encrypted key, and the authority's."""
    folder = tmp_path_factory.mktemp("web")
    authority = Authority(folder)
    for name in ("server", "other"):
        authority.issue(name)
    authority.issue("encrypted", password=b"secret")
    (folder / "empty.pem").touch()
    (folder / "text.pem").write_text("no certificate")
    return folder


def loaded(folder: Path, text: str) -> WebConfig:
    (folder / "web.yml").write_text(text)
    return load_web_config(folder / "web.yml")


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["", "{}", "tls_server_config:\nbasic_auth_users: {}\nhttp_server_config:\n"])
def test_a_file_that_says_nothing_protects_nothing(folder: Path, text: str):
    config = loaded(folder, text)
    assert (config.tls, config.users, config.headers) == (None, {}, ())
    assert config.summary == "plain HTTP, no password"


def test_everything_that_is_supported(folder: Path):
    config = loaded(
        folder,
        f"""
tls_server_config:
  cert_file: server.pem
  key_file: {folder}/server.key
  client_ca_file: test-ca.pem
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus, '::1']
  min_version: TLS13
  max_version: TLS13
http_server_config:
  http2: false
  headers: {{X-Frame-Options: deny, Strict-Transport-Security: max-age=31536000, X-XSS-Protection: ''}}
basic_auth_users:
  prometheus: {HASH}
  someone: "{HASH.replace("$2y$10", "$2b$04")}"
""",
    )
    assert config.tls is not None
    assert config.tls.verify_mode == ssl.CERT_REQUIRED
    assert config.tls.minimum_version == config.tls.maximum_version == ssl.TLSVersion.TLSv1_3
    assert config.allowed_sans == {"prometheus", "::1"}
    assert config.headers == ((b"x-frame-options", b"deny"), (b"strict-transport-security", b"max-age=31536000"))
    assert config.users["prometheus"].reveal() == HASH
    assert HASH not in repr(config)
    assert config.files == tuple(folder / name for name in ("server.pem", "server.key", "test-ca.pem"))
    assert config.summary == "TLS 1.3, client certificates required, 2 users with a password"


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("NoClientCert", ssl.CERT_NONE),
        ("RequestClientCert", ssl.CERT_NONE),
        ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL),
        ("RequireAndVerifyClientCert", ssl.CERT_REQUIRED),
    ],
)
def test_the_ways_to_ask_for_a_clients_certificate(folder: Path, kind: str, mode: ssl.VerifyMode):
    authority = "" if mode == ssl.CERT_NONE else ", client_ca_file: test-ca.pem"
    config = loaded(folder, f"{TLS}{authority}, client_auth_type: {kind}}}")
    assert config.tls is not None
    assert config.tls.verify_mode == mode
    assert config.tls.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "1: file: expected a mapping (key: value)"),
        ("tls: {}", "1: file: unknown key 'tls' (known: tls_server_config, http_server_config, basic_auth_users)"),
        ("rate_limit: {burst: 1}", "1: rate_limit is not supported by this exporter: leave it out (EXPORTER_MAX_CONN"),
        ("a: {", "1: not valid YAML: while parsing a flow node: "),
        # tls_server_config
        ("tls_server_config: {key_file: server.key}", "1: tls_server_config: cert_file is missing"),
        ("tls_server_config: {cert_file: server.pem}", "1: tls_server_config: key_file is missing"),
        (f"{TLS}, certificate: x}}", "1: tls_server_config: unknown key 'certificate' (known: cert_file, key_file, "),
        (f"{TLS}, key: x}}", "1: key is not supported by this exporter: leave it out (name a file in key_file)"),
        (f"{TLS}, cipher_suites: [x]}}", "1: cipher_suites is not supported by this exporter: leave it out ("),
        (f"{TLS}, curve_preferences: [x]}}", "1: curve_preferences is not supported by this exporter: leave it out ("),
        (f"{TLS}, min_version: TLS11}}", "1: min_version: TLS11 is not supported by this exporter: it is broken"),
        (f"{TLS}, min_version: '1.2'}}", "1: min_version: expected one of TLS12, TLS13, not '1.2'"),
        (f"{TLS}, max_version: TLS12, min_version: TLS13}}", "1: min_version: expected no later version than max_ver"),
        (
            f"{TLS}, client_auth_type: x}}",
            "1: client_auth_type: expected one of NoClientCert, RequestClientCert, Verif",
        ),
        (
            f"{TLS}, client_auth_type: RequireAnyClientCert}}",
            "1: client_auth_type: RequireAnyClientCert is not support",
        ),
        (f"{TLS}, client_auth_type: VerifyClientCertIfGiven}}", "1: client_auth_type: client_ca_file is missing"),
        (f"{TLS}, client_ca_file: test-ca.pem}}", "1: client_ca_file: nothing is verified by it: set client_auth_type"),
        (f"{TLS}, client_allowed_sans: [a]}}", "1: client_allowed_sans: needs client_auth_type RequireAndVerifyClien"),
        (
            f"{TLS}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: text.pem}}",
            "1: client_ca_file: text.pem holds no certificate in PEM",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: nowhere}",
            "1: key_file: cannot read nowhere: No such file or directory",
        ),
        (
            "tls_server_config: {cert_file: ., key_file: server.key}",
            "1: cert_file: cannot read ",
        ),
        ("tls_server_config: {cert_file: empty.pem, key_file: server.key}", "1: cert_file: empty.pem is empty"),
        (
            "tls_server_config: {cert_file: text.pem, key_file: server.key}",
            "1: cert_file, key_file: text.pem and server.key are no certificate and its key in PEM (",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: other.key}",
            "1: key_file: other.key is not the key of the certificate in server.pem",
        ),
        (
            "tls_server_config: {cert_file: encrypted.pem, key_file: encrypted.key}",
            "1: key_file: encrypted.key is encrypted, and nobody is there to type its password",
        ),
        # http_server_config
        (
            "http_server_config: {http2: true}",
            "1: http2: only false is supported by this exporter, which speaks HTTP/1",
        ),
        ("http_server_config: {headers: {Server: x}}", "1: headers: unknown key 'Server' (known: Content-Security-Po"),
        (
            "http_server_config: {headers: {X-Frame-Options: no}}",
            "1: X-Frame-Options: expected one of deny, sameorigin",
        ),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}', "1: X-XSS-Protection: expected printable ASCII"),
        # basic_auth_users
        ("basic_auth_users: {anna: hunter2}", "1: basic_auth_users: expected a bcrypt hash ($2y$…), which mlops-expo"),
        (f"basic_auth_users: {{anna: '{HASH[:-1]}'}}", "1: basic_auth_users: expected a bcrypt hash ($2y$…), which ml"),
        (f"basic_auth_users: {{anna: ['{HASH}']}}", "1: basic_auth_users: expected a bcrypt hash ($2y$…), which mlo"),
        (
            f"basic_auth_users: {{anna: '{HASH.replace('10', '16')}'}}",
            "1: basic_auth_users: expected a hash of cost 4 ",
        ),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "1: basic_auth_users: a user's name must not be empty or have a co"),
    ],
)
def test_each_problem_is_one_sentence_with_its_line(folder: Path, text: str, expected: str):
    (problem,) = problems(folder, text)
    assert problem.startswith(f"web.yml:{expected}")
    assert "hunter2" not in problem
    assert HASH[7:-1] not in problem


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(folder: Path):
    found = problems(
        folder,
        """
rate_limit: {interval: 1s}
tls_server_config:
  cert_file: nowhere.pem
  key_file: nowhere.key
  min_version: SSL3
basic_auth_users:
  anna: plain
http_server_config:
  http2: true
""",
    )
    assert [problem.split(":")[1] for problem in found] == ["2", "4", "5", "6", "8", "10"]


def test_a_file_that_cannot_be_read_names_the_variable(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere.yml"):
        with pytest.raises(ConfigError, match=r"^EXPORTER_WEB_CONFIG_FILE: cannot read "):
            load_web_config(path)
    (tmp_path / "latin.yml").write_bytes(b"basic_auth_users: {\xe9: x}")
    with pytest.raises(ConfigError, match=r"^EXPORTER_WEB_CONFIG_FILE: .* is not UTF-8 text"):
        load_web_config(tmp_path / "latin.yml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: 1\n" * (MAX_NODES // 2), r":1: more than \d+ keys and values", id="many keys"),
        pytest.param(f"[{'1,' * MAX_NODES}]", r":1: more than \d+ keys and values", id="a long list"),
        pytest.param("#\n" * MAX_CONFIG_BYTES, "cannot read .* it is larger than", id="a large file"),
    ],
)
def test_a_file_that_takes_long_to_read_is_refused(tmp_path: Path, text: str, said: str):
    """It is read again every second for as long as it cannot be used."""
    (tmp_path / "web.yml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_web_config(tmp_path / "web.yml")


def test_a_key_in_place_of_a_files_name_is_quoted_by_no_message(folder: Path):
    key = (folder / "server.key").read_text()
    found = problems(folder, f"tls_server_config: {{cert_file: server.pem, key_file: {json.dumps(key)}}}")
    assert found == ["web.yml:1: key_file: expected the name of a file, not what it holds"]


@pytest.mark.parametrize(
    ("allowed", "expected"), [("prometheus", True), ("2001:db8::1", True), ("a@b", True), ("other", False)]
)
def test_a_clients_certificate_may_have_to_have_one_of_some_names(allowed: str, expected: bool):
    names = (("DNS", "prometheus"), ("IP Address", "2001:DB8:0:0:0:0:0:1"), ("email", "a@b"))
    assert has_allowed_san({"subjectAltName": names}, frozenset({allowed, "unheard-of"})) is expected
    assert not has_allowed_san({}, frozenset({allowed}))


# -- the file changes ------------------------------------------------------------------------------------------------


def test_a_changed_file_holds_from_the_next_look(tmp_path: Path):
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users: {{anna: '{HASH}'}}")
    web = WebFile(file)
    before = web.current
    web.look()
    assert web.current is before
    file.write_text(f"basic_auth_users: {{anna: '{HASH}', berta: '{HASH}'}}")
    web.look()
    assert set(web.current.users) == {"anna", "berta"}
    assert web.problem is None


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    authority = Authority(tmp_path)
    authority.issue("server")
    file = tmp_path / "web.yml"
    file.write_text(TLS + "}")
    web = WebFile(file)
    first = web.current
    authority.issue("server")
    web.look()
    assert web.current is not first
    second = web.current
    (tmp_path / "server.key").write_text("half of a k")
    for _ in range(3):
        web.look()
    assert web.current is second
    assert web.problem is not None
    assert "server.key are no certificate and its key" in web.problem
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.ERROR]
    authority.issue("server")
    web.look()
    assert (web.problem, web.current is second) == (None, False)


def test_a_certificate_that_comes_after_the_file_that_names_it_is_taken(tmp_path: Path):
    authority = Authority(tmp_path)
    authority.issue("server")
    file = tmp_path / "web.yml"
    file.write_text(TLS + "}")
    web = WebFile(file)
    file.write_text("tls_server_config: {cert_file: new.pem, key_file: new.key}")
    web.look()
    assert web.problem is not None
    authority.issue("new")
    web.look()
    assert (web.problem, web.current.files[0].name) == (None, "new.pem")


@pytest.mark.parametrize("text", ["", "tls_server_config: {}", f"{TLS}}}", f"basic_auth_users: {{anna: '{HASH}'}}"])
def test_no_new_file_turns_tls_or_passwords_off(tmp_path: Path, text: str):
    """An editor truncates a file before it writes it."""
    Authority(tmp_path).issue("server")
    file = tmp_path / "web.yml"
    file.write_text(f"{TLS}}}\nbasic_auth_users: {{anna: '{HASH}'}}\n")
    web = WebFile(file)
    before = web.current
    file.write_text(text)
    web.look()
    assert web.current is before
    assert web.problem is not None
    assert "restart the exporter to serve without" in web.problem


def test_what_health_says_of_a_bad_file_is_short_however_much_is_wrong(tmp_path: Path):
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users: {{anna: '{HASH}'}}")
    web = WebFile(file)
    file.write_text("basic_auth_users:\n" + "".join(f"  user{number}: x\n" for number in range(1000)))
    web.look()
    assert web.problem is not None
    assert len(web.problem) < 1100
    assert web.problem.endswith("What was read before still holds")


def test_tls_does_not_begin_while_the_exporter_runs(tmp_path: Path):
    Authority(tmp_path).issue("server")
    file = tmp_path / "web.yml"
    file.write_text("")
    web = WebFile(file)
    file.write_text(TLS + "}")
    web.look()
    assert web.current.tls is None
    assert web.problem is not None
    assert "restart the exporter to serve HTTPS" in web.problem
