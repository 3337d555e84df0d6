"""What a setting's text may say, and the value it becomes: numbers, choices, URLs, secrets, the audit log's location.

A parser takes the stripped text of one variable and returns its value. It raises ValueError with what was expected,
as a phrase that continues "expected …"; the caller adds the variable's name and the text.
"""

import ipaddress
import os.path
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.showable import is_showable, quoted

FILE_SUFFIXES: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
DATABASE_SUFFIXES: Final = (".duckdb", ".db")
COMPRESSED: Final = ".gz"
"""What may follow the ending of a text file."""

_USERINFO = re.compile(r"//.*@", re.DOTALL)
"""The part of a URL that may hold a password."""
_SIGNATURE = re.compile(r"(://[^?]*)\?.*", re.DOTALL)
"""A URL with a query, which may be signed."""
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_TABLE = re.compile(r"(?:[A-Za-z0-9.:-]+\.)?[A-Za-z0-9_]+\.[\w-]+")
_HOST_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""One part of a host name (RFC 1123); underscores as well, since Docker's names have them."""


class Secret:
    """A string that no repr, log line or error message shows; `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('…')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def holds_content(text: str) -> bool:
    """Whether this is JSON, as it is or in base64, PEM or YAML: what a file holds, pasted where its path belongs."""
    return text.startswith(("{", "eyJ")) or "-----BEGIN" in text or ("\n" in text and ":" in text)


def shown(text: str) -> str:
    """A bad value as a message quotes it, without the parts of a URL that may hold a password or a signature. Of what a
    file holds, such as a key, nothing is quoted."""
    if holds_content(text):
        return "what a file holds"
    return quoted(_SIGNATURE.sub(r"\1?…", _USERINFO.sub("//…@", text)))


def require_showable(text: str) -> None:
    """Refuse what could not be sent, logged or shown later.

    Raises:
        ValueError: the text holds a control character, a line break or half a surrogate pair.
    """
    if not is_showable(text):
        raise ValueError("text without control characters, in UTF-8")


# -- texts and paths ---------------------------------------------------------------------------------------------------


def optional_text(text: str) -> str | None:
    """Any text; none is None."""
    return text or None


def optional_path(text: str) -> Path | None:
    """A path; no text, or `none`, is None. It is named in messages, so it must not be a key."""
    if holds_content(text):
        raise ValueError("the path of a file")
    return None if text in ("", "none") else Path(text)


def one_of(*allowed: str) -> Callable[[str], str]:
    """A parser of one of these words, in upper or lower case."""

    def parse(text: str) -> str:
        for choice in allowed:
            if text.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(allowed))

    return parse


def flag(text: str) -> bool:
    """`true` or `false`."""
    return one_of("true", "false")(text) == "true"


# -- numbers -----------------------------------------------------------------------------------------------------------


def number(low: float, high: float, unit: str = "seconds") -> Callable[[str], float]:
    """A parser of a decimal number in this range, both ends included."""

    def parse(text: str) -> float:
        expected = f"a number of {unit} from {low:g} to {high:.0f}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= value <= high:
            raise ValueError(expected)
        return value

    return parse


def number_or_off(low: float, high: float) -> Callable[[str], float | None]:
    """A parser of a number of seconds in this range; 0 is None."""
    parse = number(low, high)

    def parse_or_off(text: str) -> float | None:
        try:
            return parse(text) if float(text) else None
        except ValueError:
            raise ValueError(f"0, or a number of seconds from {low:g} to {high:.0f}") from None

    return parse_or_off


def integer(low: int, high: int, what: str = "a whole number") -> Callable[[str], int]:
    """A parser of a whole number in this range, both ends included."""

    def parse(text: str) -> int:
        expected = f"{what} from {low} to {high}"
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(expected)
        return int(text)

    return parse


# -- secrets -----------------------------------------------------------------------------------------------------------


def secret(text: str) -> Secret | None:
    """A password; none is None."""
    return Secret(text) if text else None


def bearer_token(at_least: int = 1) -> Callable[[str], Secret | None]:
    """A parser of a token that an HTTP header can hold; no text is None."""
    length = f"at least {at_least} " if at_least > 1 else ""

    def parse(text: str) -> Secret | None:
        if text and not (len(text) >= at_least and re.fullmatch(r"[\x21-\x7e]+", text)):
            raise ValueError(f"a token: {length}printable characters without spaces")
        return secret(text)

    return parse


# -- hosts and URLs ----------------------------------------------------------------------------------------------------


def host(text: str) -> str:
    """A host name, an IPv4 address, or an IPv6 address with or without brackets."""
    if not (_is_address(text) or _is_host_name(text)):
        raise ValueError("a host name or an address")
    return text


def _is_address(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return False
    return version == 6 or bare == text


def _is_host_name(text: str) -> bool:
    parts = text.removesuffix(".").split(".")
    # A last part of digits alone makes it an IPv4 address, and then a bad one.
    return len(text) <= 253 and all(_HOST_PART.fullmatch(part) for part in parts) and not parts[-1].isdigit()


def emulator(text: str) -> str | None:
    """The URL of a BigQuery emulator, without a slash at the end."""
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"https?://[A-Za-z0-9_.:\[\]-]+/?", url):
        raise ValueError("host:port or http://host:port")
    return url.rstrip("/")


def airflow_url(text: str) -> str | None:
    """AIRFLOW_BASE_URL without what people copy along: a slash at the end, or the path of one API version."""
    if not text:
        return None
    expected = "http://host:port or https://host/path"
    try:
        parts = urllib.parse.urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:  # its message may quote a password
        raise ValueError(expected) from None
    if "@" in parts.netloc:
        raise ValueError("a URL without user and password: those go into AIRFLOW_USERNAME and AIRFLOW_PASSWORD")
    fits = parts.scheme in ("http", "https") and parts.hostname and port_fits and not (parts.query or parts.fragment)
    if not fits or re.search(r"\s", text):
        raise ValueError(expected)
    path = re.sub(r"/api(/v\d+)?$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path}".rstrip("/")


# -- names in BigQuery and Airflow -------------------------------------------------------------------------------------


def project(text: str) -> str | None:
    """A Google Cloud project id; no text is None."""
    if text and not _PROJECT.fullmatch(text):
        raise ValueError("a Google Cloud project id: 6 to 30 lower-case letters, digits and hyphens")
    return text or None


def is_table_name(text: str) -> bool:
    """Whether the text is `dataset.table` or `project.dataset.table`."""
    return _TABLE.fullmatch(text) is not None


def table(text: str) -> str | None:
    """The name of a BigQuery table; no text is None."""
    if text and not is_table_name(text):
        raise ValueError("dataset.table or project.dataset.table")
    return text or None


def dag_ids(text: str) -> tuple[str, ...]:
    """DAG ids separated by commas, each once, or `*` alone."""
    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if any(not re.fullmatch(r"[\w.-]{1,250}", dag) for dag in ids) and ids != ("*",):
        raise ValueError("DAG ids separated by commas, or * alone")
    return ids


# -- the embedded audit log --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditLocation:
    """Where the embedded audit log is: `kind` is duckdb, parquet, csv or jsonl; `path` may be a glob for files."""

    kind: str
    path: str

    @property
    def is_glob(self) -> bool:
        """Whether the path is a pattern for several files. A file that is called just so, `*.csv`, is that file."""
        is_pattern = self.kind != "duckdb" and any(mark in self.path for mark in "*?[")
        return is_pattern and not os.path.lexists(self.path)

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def audit_location(text: str) -> AuditLocation | None:
    """Turn AUDIT_URL into a location.

    `duckdb:///abs/audit.duckdb` is absolute (as in any URL; a fourth slash does no harm), `duckdb:rel/audit.duckdb`
    relative to the working directory. A plain path or glob is known by its ending. `~` is the home folder.

    Raises:
        ValueError: says what was expected.
    """
    if not text:
        return None
    expected = (
        "duckdb:///absolute/path.duckdb, duckdb:relative/path.duckdb, or a path or glob that ends in "
        + ", ".join([*DATABASE_SUFFIXES, *FILE_SUFFIXES])
        + f" (text files also with {COMPRESSED})"
    )
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        kind = scheme.lower()
        if kind not in ("duckdb", "file", *FILE_SUFFIXES.values()):
            if rest.startswith("//"):
                raise ValueError(
                    f"a path on this machine ({kind}:// is not read: copy or mount the files here, or make an external "
                    "table of them in BigQuery)"
                )
            raise ValueError(expected)
        if rest.startswith("//"):
            if not rest.startswith("///"):
                raise ValueError(expected + " (two slashes would name a host)")
            rest = "/" + rest.lstrip("/")
        if not rest.strip("/"):
            raise ValueError(expected)
        if kind == "duckdb" and Path(rest).suffix.lower() in FILE_SUFFIXES:
            raise ValueError(expected + " (leave `duckdb:` out before a file that is not a DuckDB database)")
        rest = _at_home(rest)
        if kind != "file":
            return AuditLocation(kind, rest)
        text = rest
    text = _at_home(text)
    suffix = Path(text).suffix.lower()
    if suffix == COMPRESSED:
        suffix = Path(text).with_suffix("").suffix.lower()
        if suffix not in (".csv", ".jsonl", ".ndjson"):
            raise ValueError(expected)
    if suffix in DATABASE_SUFFIXES:
        return AuditLocation("duckdb", text)
    if suffix in FILE_SUFFIXES:
        return AuditLocation(FILE_SUFFIXES[suffix], text)
    raise ValueError(expected)


def _at_home(path: str) -> str:
    """The path with the home folder for a `~` at its start; everything else stays as it is written."""
    return os.path.expanduser(path)  # noqa: PTH111 -- pathlib would drop `./` and double slashes
