"""The file that EXPORTER_WEB_CONFIG_FILE names: TLS, users and headers, in the format of Prometheus' exporter-toolkit.

The format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. Every problem of the
file, and of the files that it names, is reported at once with its line. No message quotes a hash or a key.
"""

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from exporter.errors import ConfigError
from exporter.regular_file import read_regular_file
from exporter.setting_values import Secret, holds_content
from exporter.yaml_nodes import NodeReader, compose

VARIABLE: Final = "EXPORTER_WEB_CONFIG_FILE"
MAX_CONFIG_BYTES: Final = 131_072
MAX_NODES: Final = 5000
"""Of the file: room for 1,000 users. One that cannot be used is read again every second, beside the scrapes."""
MAX_BYTES: Final = 1_000_000
"""Of each file that it names."""
MAX_USERS: Final = 1000
COSTS: Final = range(4, 16)
"""bcrypt's costs that are taken. Each step doubles the time of a check: 15 takes seconds, 20 a minute."""

_HASH: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_OLD_VERSIONS: Final = ("TLS10", "TLS11")
_CLIENTS: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,  # it lets everybody in: a certificate that nothing looks at is not asked for
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED: Final = ("RequireAnyClientCert", "RequireClientCert")
_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that the format allows, and the values of those that have a fixed choice."""
_NOT_SUPPORTED: Final = {
    "cert": "name a file in cert_file",
    "key": "name a file in key_file",
    "client_ca": "name a file in client_ca_file",
    "cipher_suites": "OpenSSL's own choice holds; `min_version: TLS13` allows the newest alone",
    "curve_preferences": "OpenSSL's own choice holds",
    "prefer_server_cipher_suites": "the server's order always holds",
    "rate_limit": "EXPORTER_MAX_CONNECTIONS, and deadlines, bound what clients cost",
}
"""Keys of the format that mean nothing here, and what to do instead."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the file says, its certificates loaded.

    Attributes:
        tls: the context of new connections; None for plain HTTP.
        allowed_sans: names of which a client's certificate must have one; empty for any.
        users: bcrypt hashes by user; empty where nobody needs a password.
        headers: names and values that are added to every answer.
        files: every file that was read: the certificate, its key, the clients' authority.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, Secret] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def summary(self) -> str:
        """What protects the exporter, in words."""
        parts = []
        if self.tls is None:
            parts.append("plain HTTP")
        else:
            newest_alone = self.tls.minimum_version == ssl.TLSVersion.TLSv1_3
            parts.append("TLS 1.3" if newest_alone else "TLS 1.2 and later")
            clients = {ssl.CERT_OPTIONAL: "verified where given", ssl.CERT_REQUIRED: "required"}
            if self.tls.verify_mode in clients:
                parts.append(f"client certificates {clients[self.tls.verify_mode]}")
        count = len(self.users)
        parts.append(f"{count} user{'s' * (count != 1)} with a password" if self.users else "no password")
        return ", ".join(parts)


def load_web_config(path: Path) -> WebConfig:
    """Read the file at `path` and the certificates that it names; relative paths begin at the file's folder.

    Raises:
        ConfigError: with every problem, each as `file:line: sentence`.
    """
    try:
        text = read_regular_file(path, MAX_CONFIG_BYTES).decode()
    except OSError as error:
        raise ConfigError([f"{VARIABLE}: cannot read {path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{VARIABLE}: {path} is not UTF-8 text (byte {error.start})"]) from error
    reader = _WebConfigReader(str(path), path.parent)
    config = reader.document(compose(text, str(path), MAX_NODES))
    reader.require_none()
    return config


def has_allowed_san(certificate: Mapping[str, Any], allowed: frozenset[str]) -> bool:
    """Whether one of a verified certificate's names is allowed, as `ssl` gives them: DNS, IP address, e-mail or URI."""
    return not allowed.isdisjoint(_san(kind, value) for kind, value in certificate.get("subjectAltName", ()))


def _san(kind: str, value: str) -> str:
    if kind == "IP Address":
        with contextlib.suppress(ValueError):  # an odd one is no name that is allowed
            return str(ipaddress.ip_address(value))  # OpenSSL writes IPv6 in its own way
    return value


class _WebConfigReader(NodeReader):
    """Reads the document's nodes from the top, and the files that they name."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder

    def document(self, root: yaml.Node | None) -> WebConfig:
        top = self.section(root, "file", ("tls_server_config", "http_server_config", "basic_auth_users"))
        tls, sans, files = self.tls(top.get("tls_server_config"))
        users = self.users(top.get("basic_auth_users"))
        return WebConfig(tls, sans, users, self.http(top.get("http_server_config")), files)

    def section(self, node: yaml.Node | None, what: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        """The node's entries by key; a key of the format that is not supported is named as such. No node, or an empty
        one, has no entries."""
        if _is_empty(node):
            return {}
        found = {}
        for key, value in self.entries(node, what).items():
            if key in known:
                if not _is_empty(value):
                    found[key] = value
            elif key in _NOT_SUPPORTED:
                self.note(value, f"{key} is not supported by this exporter: leave it out ({_NOT_SUPPORTED[key]})")
            else:
                self.note(value, f"{what}: unknown key {key!r} (known: {', '.join(known)})")
        return found

    # -- tls_server_config -----------------------------------------------------------------------------------------

    def tls(self, node: yaml.Node | None) -> tuple[ssl.SSLContext | None, frozenset[str], tuple[Path, ...]]:
        paths = ("cert_file", "key_file", "client_ca_file")
        others = ("client_auth_type", "client_allowed_sans", "min_version", "max_version")
        found = self.section(node, "tls_server_config", (*paths, *others))
        if not found:
            return None, frozenset(), ()
        for key in ("cert_file", "key_file"):
            if key not in found:
                self.note(node, f"tls_server_config: {key} is missing")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        self.versions(context, found)
        # Of each file, whether it can be read; OpenSSL says less, and would wait for a named pipe.
        contents = {key: self.file(found[key], key) for key in paths if key in found}
        mode = self.client_mode(found)
        self.authority(context, mode, found, contents.get("client_ca_file"))
        if contents.get("cert_file") and contents.get("key_file"):
            self.certificate(context, found["cert_file"], found["key_file"])
        sans = self.allowed_sans(found, mode)
        files = tuple(self.path(found[key]) for key in paths if key in found)
        return context, sans, files

    def path(self, node: yaml.Node) -> Path:
        return self._folder / str(node.value)

    def file(self, node: yaml.Node, key: str) -> bytes | None:
        """The content of a file that is named; None after a problem."""
        name = self.text(node, key)
        if holds_content(name):  # which must not be quoted as the name of a file that is not there
            self.note(node, f"{key}: expected the name of a file, not what it holds")
            return None
        if not name:
            return None
        path = self.path(node)
        try:
            content = read_regular_file(path, MAX_BYTES)
        except OSError as error:
            self.note(node, f"{key}: cannot read {path}: {error.strerror}")
            return None
        if not content:
            self.note(node, f"{key}: {path} is empty")
        return content or None

    def versions(self, context: ssl.SSLContext, found: Mapping[str, yaml.Node]) -> None:
        chosen = {}
        for key, default in (("min_version", "TLS12"), ("max_version", "TLS13")):
            name = self.text(found[key], key) if key in found else default
            if name in _OLD_VERSIONS:
                self.note(found[key], f"{key}: {name} is not supported by this exporter: it is broken; set TLS12")
            elif name and name not in _VERSIONS:
                self.note(found[key], f"{key}: expected one of {', '.join(_VERSIONS)}, not {name!r}")
            chosen[key] = _VERSIONS.get(name, _VERSIONS[default])
        if chosen["min_version"] > chosen["max_version"]:
            self.note(found["min_version"], "min_version: expected no later version than max_version")
            return
        context.minimum_version, context.maximum_version = chosen["min_version"], chosen["max_version"]

    def certificate(self, context: ssl.SSLContext, cert: yaml.Node, key: yaml.Node) -> None:
        try:
            context.load_cert_chain(self.path(cert), self.path(key), password=_no_password)
        except _EncryptedKeyError:
            self.note(key, f"key_file: {self.path(key)} is encrypted, and nobody is there to type its password")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            if reason == "KEY_VALUES_MISMATCH":
                self.note(key, f"key_file: {self.path(key)} is not the key of the certificate in {self.path(cert)}")
            else:
                said = (
                    f"cert_file, key_file: {self.path(cert)} and {self.path(key)} are no certificate and its key in PEM"
                )
                self.note(cert, f"{said} ({reason})")

    # -- clients' certificates -------------------------------------------------------------------------------------

    def client_mode(self, found: Mapping[str, yaml.Node]) -> ssl.VerifyMode:
        if "client_auth_type" not in found:
            return ssl.CERT_NONE
        name = self.text(found["client_auth_type"], "client_auth_type")
        if name in _UNVERIFIED:
            self.note(
                found["client_auth_type"],
                f"client_auth_type: {name} is not supported by this exporter: it lets any certificate in; "
                "set RequireAndVerifyClientCert",
            )
        elif name and name not in _CLIENTS:
            self.note(
                found["client_auth_type"], f"client_auth_type: expected one of {', '.join(_CLIENTS)}, not {name!r}"
            )
        return _CLIENTS.get(name, ssl.CERT_NONE)

    def authority(
        self, context: ssl.SSLContext, mode: ssl.VerifyMode, found: Mapping[str, yaml.Node], content: bytes | None
    ) -> None:
        type_, file = found.get("client_auth_type"), found.get("client_ca_file")
        if file is None:
            if mode != ssl.CERT_NONE:
                self.note(type_, "client_auth_type: client_ca_file is missing, by which certificates are verified")
            return
        if type_ is None or type_.value in ("NoClientCert", "RequestClientCert"):
            self.note(
                file, "client_ca_file: nothing is verified by it: set client_auth_type RequireAndVerifyClientCert"
            )
        if content is not None:
            try:
                context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # comments may be anything
            except (ssl.SSLError, ValueError):
                self.note(file, f"client_ca_file: {self.path(file)} holds no certificate in PEM")
                return
            context.verify_mode = mode

    def allowed_sans(self, found: Mapping[str, yaml.Node], mode: ssl.VerifyMode) -> frozenset[str]:
        node = found.get("client_allowed_sans")
        if node is None:
            return frozenset()
        if mode != ssl.CERT_REQUIRED:
            self.note(node, "client_allowed_sans: needs client_auth_type RequireAndVerifyClientCert")
        return frozenset(self.text(one, "client_allowed_sans") for one in self.items(node, "client_allowed_sans"))

    # -- the rest --------------------------------------------------------------------------------------------------

    def http(self, node: yaml.Node | None) -> tuple[tuple[bytes, bytes], ...]:
        found = self.section(node, "http_server_config", ("http2", "headers"))
        if "http2" in found and self.text(found["http2"], "http2").lower() != "false":
            self.note(found["http2"], "http2: only false is supported by this exporter, which speaks HTTP/1.1")
        headers = []
        for name, value in self.section(found.get("headers"), "headers", tuple(_HEADERS)).items():
            text = self.text(value, name)
            allowed = _HEADERS[name]
            if allowed and text not in allowed:
                self.note(value, f"{name}: expected one of {', '.join(allowed)}")
            elif not re.fullmatch(r"[\x20-\x7e]*", text):
                self.note(value, f"{name}: expected printable ASCII characters")
            headers.append((name.lower().encode(), text.encode("ascii", "replace")))
        return tuple(headers)

    def users(self, node: yaml.Node | None) -> dict[str, Secret]:
        users: dict[str, Secret] = {}
        if _is_empty(node):
            return users
        for name, value in self.entries(node, "basic_auth_users").items():
            if not name or ":" in name:
                self.note(value, "basic_auth_users: a user's name must not be empty or have a colon")
            fits = isinstance(value, yaml.ScalarNode) and _HASH.fullmatch(value.value)
            if not fits:
                self.note(
                    value, "basic_auth_users: expected a bcrypt hash ($2y$…), which mlops-exporter hash-password makes"
                )
            elif int(fits[1]) not in COSTS:
                self.note(value, f"basic_auth_users: expected a hash of cost {COSTS[0]} to {COSTS[-1]}, not {fits[1]}")
            else:
                users[name] = Secret(value.value)
        if len(users) > MAX_USERS:
            self.note(node, f"basic_auth_users: more than {MAX_USERS} users")
        return users


class _EncryptedKeyError(Exception):
    """The key is encrypted."""


def _no_password() -> str:
    raise _EncryptedKeyError  # OpenSSL would ask on the terminal


def _is_empty(node: yaml.Node | None) -> bool:
    """Whether there is no node, or one without content: a key without a value, `{}` or an empty text."""
    if isinstance(node, yaml.ScalarNode):
        return node.tag.endswith(":null") or not node.value
    return node is None or (isinstance(node, yaml.MappingNode) and not node.value)
