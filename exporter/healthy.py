"""`python -m exporter healthy`: whether the exporter on this machine is alive, asked over its own port.

It works with every web configuration, and has no password and no client's certificate. Where the exporter asks for a
password, it is enough that it asks; where it asks for a certificate, that it begins to speak TLS.
"""

import contextlib
import http.client
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Final

from exporter.errors import ConfigError
from exporter.settings import Settings

if TYPE_CHECKING:
    from exporter.web_config import WebConfig

TIMEOUT_SECONDS: Final = 2.0
_HANDSHAKE_OR_HTTP: Final = (b"\x16", b"H")
"""The first byte of an answer to a ClientHello: TLS, or a server of plain HTTP that refuses it."""


def probe(settings: Settings) -> str | None:
    """Ask `/-/healthy` once; gives what is wrong, or None."""
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- an address to compare with
    try:
        if settings.web_config_file is None:
            return _answers_a_request(host, settings.port)
        from exporter.web_config import load_web_config  # it needs a YAML parser, which most exporters' probes do not

        try:
            config = load_web_config(settings.web_config_file)
        except ConfigError:  # it has changed for the worse since, and what was read before still holds
            return _answers_a_handshake(host, settings.port)
        if config.tls is not None and config.tls.verify_mode == ssl.CERT_REQUIRED:
            return _answers_a_handshake(host, settings.port)
        return _answers_a_request(host, settings.port, config)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {host} port {settings.port}: {error}"


def _trusting() -> ssl.SSLContext:
    """For a question to this very machine: the certificate has another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _answers_a_request(host: str, port: int, config: "WebConfig | None" = None) -> str | None:
    if config is None or config.tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=_trusting())
    try:
        connection.request("GET", "/-/healthy")
        status = connection.getresponse().status
    finally:
        connection.close()
    asks = config is not None and config.users and status == 401
    return None if asks or status == 200 else f"/-/healthy answers {status}"


def _answers_a_handshake(host: str, port: int) -> str | None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):  # the ClientHello is written
        _trusting().wrap_bio(incoming, outgoing).do_handshake()
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.sendall(outgoing.read())
        return None if connection.recv(1) in _HANDSHAKE_OR_HTTP else "the connection was closed"


def main() -> int:
    """Probe by the environment's settings; 0 if all is well, 1 if not, 2 where the settings cannot be used."""
    try:
        problem = probe(Settings.from_env(os.environ))
    except ConfigError as error:
        print("\n".join(f"error: {one}" for one in error.problems), file=sys.stderr)
        return 2
    if problem is not None:
        print(f"unhealthy: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
