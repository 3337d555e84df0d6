"""Secrets that tests plant, to look for them afterwards in all that the exporter shows."""

from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

SECRET: Final = "s3cr3t-planted-by-a-test-do-not-show"
TOKEN_PATH: Final = "/token"


def private_key() -> str:
    """A new private key in PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def service_account(pem: str, token_server: str) -> dict[str, str]:
    """The content of a service account's key file, whose tokens are to be had at TOKEN_PATH of this server."""
    return {
        "type": "service_account",
        "project_id": "test-project",
        "private_key_id": SECRET + "-id",
        "private_key": pem,
        "client_email": "exporter@test-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_server + TOKEN_PATH,
    }
