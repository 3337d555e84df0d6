"""Basic authentication for every path: whose password is right gets in, and guessing costs time.

bcrypt takes a tenth of a second on purpose. It runs on one thread beside the event loop, for one guess at a time, and
once for each password that is right: a keyed hash of that is kept in memory, so that a scrape costs none of it.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from exporter.logs import RareWarning
from exporter.setting_values import Secret

if TYPE_CHECKING:
    from a2wsgi.asgi_typing import HTTPScope, Send

log = logging.getLogger(__name__)

GUESSES_PER_CLIENT: Final = 4
"""Requests of one address whose password is being checked or refused. Beyond them it is told to come back, so that
others' first scrapes need not queue behind its guesses."""
BCRYPT_BYTES: Final = 72
"""How much of a password bcrypt takes into account."""


class Authentication:
    """Checks the Authorization header of requests."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._guesses: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")
        self._warn = RareWarning(log, "requests without the right user and password: %d; the last from %s")

    async def admits(self, scope: "HTTPScope", users: Mapping[str, Secret], send: "Send", slowly: "Send") -> bool:
        """Whether this request comes from one of the users; if not, it has been answered.

        Args:
            users: bcrypt hashes by user.
            send: answers a request that brings no user and password.
            slowly: answers one that brings wrong ones.
        """
        given = credentials(scope)
        if given is None:
            await _refuse(send, 401, b'Basic realm="mlops-exporter", charset="UTF-8"')
            return False
        user, password = given
        kept = self._hash_of(user, users)
        proof = self._proof(user, password, kept)
        if user in users and hmac.compare_digest(self._right.get(user, b""), proof):
            return True
        client = scope.get("client")
        address = client[0] if client else ""
        if self._guesses[address] >= GUESSES_PER_CLIENT:
            await _refuse(send, 429)
            return False
        self._guesses[address] += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(self._thread, _fits, password, kept)
            if right and user in users:
                self._right[user] = proof
                return True
            self._warn(address)
            await _refuse(slowly, 401, b'Basic realm="mlops-exporter", charset="UTF-8"')
            return False
        finally:
            self._guesses[address] -= 1
            self._guesses += Counter()  # without those at zero

    def _hash_of(self, user: str, users: Mapping[str, Secret]) -> bytes:
        """A user's hash; for an unknown user one that no password has, and that takes as long as the slowest."""
        if user in users:
            return users[user].reveal().encode()
        cost = max(hash_.reveal()[4:6] for hash_ in users.values())
        return f"$2b${cost}${'.' * 53}".encode()

    def _proof(self, *parts: str | bytes) -> bytes:
        """A keyed hash of the parts, in which their borders count."""
        digest = hashlib.blake2b(key=self._key)
        for part in parts:
            content = part if isinstance(part, bytes) else part.encode()
            digest.update(len(content).to_bytes(4, "big") + content)
        return digest.digest()


def credentials(scope: "HTTPScope") -> tuple[str, bytes] | None:
    """User and password of a request's Authorization header; None where there is no header, or one of another kind."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, encoded = value.partition(b" ")
            if scheme.lower() != b"basic":
                return None
            try:
                user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
                return (user.decode(), password) if colon else None
            except (binascii.Error, UnicodeDecodeError):
                return None
    return None


def hashed(password: str, cost: int = 10) -> str:
    """A new bcrypt hash of a password.

    Raises:
        ValueError: the password is empty, or longer than BCRYPT_BYTES.
    """
    import bcrypt

    content = password.encode()
    if not 0 < len(content) <= BCRYPT_BYTES:
        raise ValueError(f"a password has 1 to {BCRYPT_BYTES} bytes")
    return bcrypt.hashpw(content, bcrypt.gensalt(cost)).decode()


def _fits(password: bytes, kept: bytes) -> bool:
    import bcrypt  # loaded at the first check: most exporters need none

    return bcrypt.checkpw(password[:BCRYPT_BYTES], kept)


async def _refuse(send: "Send", status: int, challenge: bytes | None = None) -> None:
    body = b"401 Unauthorized\n" if status == 401 else b"429 Too Many Requests: other passwords are being checked\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers.append((b"www-authenticate", challenge) if challenge else (b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
