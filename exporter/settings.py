"""Settings from the environment, validated once into a frozen value.

Every variable is one row of VARIABLES, from which `Settings.from_env`, the command line's `--help` and
`docs/configuration.md` (held to this table by a test) are made. All problems are reported together.
"""

import difflib
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from exporter.errors import ConfigError

MIN_BYTES_BILLED: Final = 10 * 1024 * 1024
"""BigQuery bills at least 10 MiB a query and refuses a lower `maximumBytesBilled`."""

_PROJECT = re.compile(r"^(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$")
_USERINFO = re.compile(r"//.*@")
"""The part of a URL that may hold a password."""
_TABLE = re.compile(r"^(?:[A-Za-z0-9.:-]+\.)?[A-Za-z0-9_]+\.[\w-]+$")
FILE_SUFFIXES: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
DATABASE_SUFFIXES: Final = (".duckdb", ".db")


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


@dataclass(frozen=True, slots=True)
class AuditLocation:
    """Where the embedded audit log is: `kind` is duckdb, parquet, csv or jsonl; `path` may be a glob for files."""

    kind: str
    path: str

    @property
    def is_glob(self) -> bool:
        """Whether the path is a pattern for several files."""
        return self.kind != "duckdb" and any(mark in self.path for mark in "*?[")

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


@dataclass(frozen=True)
class Settings:
    """All settings, validated. Times are seconds, sizes bytes. Made by `from_env`."""

    host: str
    port: int
    threads: int
    refresh_seconds: float
    stale_after_seconds: float
    state_dir: Path | None
    catalog_path: Path | None
    max_series: int
    refresh_token: Secret | None
    log_level: str
    log_format: str
    audit_url: AuditLocation | None
    audit_table: str | None
    audit_env: str | None
    audit_sample_data: str
    audit_probe_seconds: float | None
    audit_timeout_seconds: float
    audit_connect_timeout_seconds: float
    audit_max_query_age_seconds: float
    audit_max_bytes_billed: int
    google_project: str | None
    google_credentials: Path | None
    bigquery_emulator: str | None
    airflow_url: str | None
    airflow_username: str | None
    airflow_password: Secret | None
    airflow_token: Secret | None
    airflow_api: str
    airflow_dag_ids: tuple[str, ...]
    airflow_max_dags: int
    airflow_lookback_days: float
    airflow_timeout_seconds: float
    airflow_connect_timeout_seconds: float
    airflow_verify_tls: bool
    airflow_ca_file: Path | None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read and validate all variables; an empty one counts as unset.

        Raises:
            ConfigError: with one sentence for every variable that cannot be used.
        """
        problems: list[str] = []
        values: dict[str, Any] = {}
        for variable in VARIABLES:
            text = env.get(variable.name, "").strip()
            try:
                values[variable.field] = variable.parse(text or variable.default)
            except ValueError as error:
                shown = "" if variable.secret else f", not {_USERINFO.sub('//…@', text)!r}"
                problems.append(f"{variable.name}: expected {error}{shown}")
        for at_least, other in _ORDERED:
            _put_in_order(at_least, other, env, values, problems)
        for here, other in (("username", "password"), ("password", "username")):
            if values.get(f"airflow_{here}") and values.get(f"airflow_{other}", "") is None:
                problems.append(f"AIRFLOW_{other.upper()}: expected a value, because AIRFLOW_{here.upper()} is set")
        if problems:
            raise ConfigError(problems)
        warnings = _unknown_variables(env)
        if values["google_project"] and values["audit_url"]:
            warnings.append("GOOGLE_CLOUD_PROJECT and AUDIT_URL are both set: AUDIT_URL wins, BigQuery is not read")
        if values["airflow_token"] and values["airflow_username"]:
            warnings.append("AIRFLOW_TOKEN and AIRFLOW_USERNAME are both set: the token is used, the password is not")
        if not values["airflow_verify_tls"]:
            warnings.append("AIRFLOW_VERIFY_TLS is false: whoever stands between can read Airflow's password")
        return cls(**values, warnings=tuple(warnings))

    @property
    def uses_bigquery(self) -> bool:
        """Whether the audit log is read from BigQuery rather than from the embedded DuckDB."""
        return self.google_project is not None and self.audit_url is None

    @property
    def embedded(self) -> AuditLocation:
        """Where the embedded audit log is."""
        return self.audit_url or AuditLocation("duckdb", DEFAULT_AUDIT_FILE)

    @property
    def wants_sample_data(self) -> bool:
        """Whether a missing embedded audit log is made and filled with sample history."""
        if self.audit_sample_data == "auto":
            return self.audit_url is None
        return self.audit_sample_data == "true" and self.embedded.kind == "duckdb"


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """The secret strings reachable from this environment, for the log filter that blots them out.

    These are the secret variables and the private parts of the Google key file, if it can be read. Nothing is raised:
    a key file that is missing or broken is reported by the source that needs it.
    """
    found = [env.get(variable.name, "").strip() for variable in VARIABLES if variable.secret]
    key_file = env.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip()
    if key_file:
        try:
            content = json.loads(Path(key_file).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        # A key file that impersonates a service account holds another one's content.
        for part in (content, content.get("source_credentials") if isinstance(content, dict) else None):
            for name in _SECRET_PARTS:
                value = part.get(name) if isinstance(part, dict) else None
                if isinstance(value, str):
                    # A key shows up whole, or line by line where a message quotes a part of it.
                    found += [value, *(line for line in value.splitlines() if not _KEY_MARK.fullmatch(line))]
    return tuple(sorted({text for text in found if len(text) >= 4}, key=lambda text: (-len(text), text)))


_SECRET_PARTS: Final = ("private_key", "private_key_id", "client_secret", "refresh_token")
_KEY_MARK: Final = re.compile(r"-----(BEGIN|END) [A-Z ]+-----\s*")

DEFAULT_AUDIT_FILE: Final = "audit.duckdb"


def _text(text: str) -> str | None:
    return text or None


def _path(text: str) -> Path | None:
    return None if text in ("", "none") else Path(text)


def _number(low: float, high: float, unit: str = "seconds") -> Callable[[str], float]:
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


def _integer(low: int, high: int, what: str = "a whole number") -> Callable[[str], int]:
    def parse(text: str) -> int:
        expected = f"{what} from {low} to {high}"
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(expected)
        return int(text)

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for choice in allowed:
            if text.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(allowed))

    return parse


def _table(text: str) -> str | None:
    if text and not _TABLE.fullmatch(text):
        raise ValueError("dataset.table or project.dataset.table")
    return text or None


def _project(text: str) -> str | None:
    if text and not _PROJECT.fullmatch(text):
        raise ValueError("a Google Cloud project id: 6 to 30 lower-case letters, digits and hyphens")
    return text or None


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:\[\]-]+", text):
        raise ValueError("a host name or an address")
    return text


def _emulator(text: str) -> str | None:
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"https?://[A-Za-z0-9_.:\[\]-]+/?", url):
        raise ValueError("host:port or http://host:port")
    return url.rstrip("/")


def _airflow_url(text: str) -> str | None:
    """AIRFLOW_BASE_URL without what people copy along: a slash at the end, or the path of one API version."""
    if not text:
        return None
    parts = urllib.parse.urlsplit(text)  # raises ValueError itself for a broken [address]
    if "@" in parts.netloc:
        raise ValueError("a URL without user and password: those go into AIRFLOW_USERNAME and AIRFLOW_PASSWORD")
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    fits = parts.scheme in ("http", "https") and parts.hostname and port_fits and not (parts.query or parts.fragment)
    if not fits or re.search(r"\s", text):
        raise ValueError("http://host:port or https://host/path")
    path = re.sub(r"/api(/v\d+)?$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path}".rstrip("/")


def _dag_ids(text: str) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if any(not re.fullmatch(r"[\w.-]{1,250}", dag) for dag in ids) and ids != ("*",):
        raise ValueError("DAG ids separated by commas, or * alone")
    return ids


def _secret(text: str) -> Secret | None:
    return Secret(text) if text else None


def _header_secret(text: str) -> Secret | None:
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise ValueError("a token: printable characters without spaces")
    return _secret(text)


def _refresh_token(text: str) -> Secret | None:
    if text and not re.fullmatch(r"[\x21-\x7e]{16,}", text):
        raise ValueError("a token: at least 16 printable characters without spaces")
    return _secret(text)


def _optional(parse: Callable[[str], float]) -> Callable[[str], float | None]:
    return lambda text: parse(text) if text else None


def _flag(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def parse_audit_url(text: str) -> AuditLocation | None:
    """Turn AUDIT_URL into a location.

    `duckdb:///abs/audit.duckdb` is absolute (as in any URL; a fourth slash does no harm), `duckdb:rel/audit.duckdb`
    relative to the working directory. A plain path or glob is known by its ending.

    Raises:
        ValueError: says what was expected.
    """
    if not text:
        return None
    expected = (
        "duckdb:///absolute/path.duckdb, duckdb:relative/path.duckdb, or a path or glob that ends in "
        + ", ".join([*DATABASE_SUFFIXES, *FILE_SUFFIXES])
    )
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        kind = scheme.lower()
        if kind not in ("duckdb", "file", *FILE_SUFFIXES.values()):
            raise ValueError(expected)
        if rest.startswith("//"):
            if not rest.startswith("///"):
                raise ValueError(expected + " (two slashes would name a host)")
            rest = "/" + rest.lstrip("/")
        if not rest.strip("/"):
            raise ValueError(expected)
        if kind == "duckdb" and Path(rest).suffix.lower() in FILE_SUFFIXES:
            raise ValueError(expected + " (leave `duckdb:` out before a file that is not a DuckDB database)")
        if kind != "file":
            return AuditLocation(kind, rest)
        text = rest
    suffix = Path(text).suffix.lower()
    if suffix in DATABASE_SUFFIXES:
        return AuditLocation("duckdb", text)
    if suffix in FILE_SUFFIXES:
        return AuditLocation(FILE_SUFFIXES[suffix], text)
    raise ValueError(expected)


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: where its value goes, how it is read, and what the documentation says of it."""

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    help: str
    secret: bool = False


_DAY = 86400.0

VARIABLES: Final = (
    Variable("EXPORTER_HOST", "host", _host, "0.0.0.0", "Address to listen on."),  # noqa: S104 -- scraped from outside
    Variable(
        "EXPORTER_PORT",
        "port",
        _integer(1, 65535, "a port"),
        "9101",
        "Port to listen on. 9101 is also haproxy_exporter's default: change it where both run on one host.",
    ),
    Variable("EXPORTER_THREADS", "threads", _integer(2, 64), "8", "Requests served at the same time."),
    Variable(
        "EXPORTER_REFRESH_SECONDS", "refresh_seconds", _number(1, _DAY), "60", "Seconds between two looks at a source."
    ),
    Variable(
        "EXPORTER_STALE_AFTER_SECONDS",
        "stale_after_seconds",
        _number(1, 30 * _DAY),
        "3600",
        "How long the last good reading of a source that is down is still shown; then its series are dropped.",
    ),
    Variable(
        "EXPORTER_STATE_DIR",
        "state_dir",
        _path,
        "exporter-state",
        "Folder in which the last good readings and the counters' state survive a restart; `none` for no folder.",
    ),
    Variable(
        "EXPORTER_CATALOG",
        "catalog_path",
        _path,
        "",
        "A YAML file that replaces the built-in catalogue of metrics. See [the catalogue](catalogue.md).",
    ),
    Variable(
        "EXPORTER_MAX_SERIES",
        "max_series",
        _integer(1, 10_000_000),
        "200000",
        "At most this many series from the audit log where the catalogue labels them; of more, those with the newest "
        "rows. See [many models](catalogue.md#many-models).",
    ),
    Variable(
        "EXPORTER_REFRESH_TOKEN",
        "refresh_token",
        _refresh_token,
        "",
        "Bearer token that `POST /-/refresh` asks for. Unset: there is no such path. See "
        "[freshness on demand](freshness.md).",
        secret=True,
    ),
    Variable(
        "EXPORTER_LOG_LEVEL", "log_level", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "Least level logged."
    ),
    Variable(
        "EXPORTER_LOG_FORMAT",
        "log_format",
        _one_of("text", "json"),
        "text",
        "`text` for people, `json` for one JSON object a line.",
    ),
    Variable(
        "GOOGLE_CLOUD_PROJECT",
        "google_project",
        _project,
        "",
        "Project whose BigQuery is read and billed. Unset: the audit log is an embedded DuckDB file.",
    ),
    Variable(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "google_credentials",
        _path,
        "",
        "Key file of the service account. Unset: the machine's own Google credentials.",
    ),
    Variable(
        "BIGQUERY_EMULATOR_HOST",
        "bigquery_emulator",
        _emulator,
        "",
        "`host:port` of a BigQuery emulator, asked without credentials. For tests.",
    ),
    Variable(
        "AUDIT_TABLE",
        "audit_table",
        _table,
        "",
        "`dataset.table` or `project.dataset.table` of the audit log. Unset: the catalogue's, `monitoring_audit.logs`.",
    ),
    Variable(
        "AUDIT_URL",
        "audit_url",
        parse_audit_url,
        "",
        "Embedded audit log: `duckdb:///path/audit.duckdb` (three slashes: absolute), `duckdb:audit.duckdb` "
        "(relative), or a path or glob of `.parquet`, `.csv` or `.jsonl` files. Unset: `audit.duckdb` in the working "
        "directory. "
        "Wins over BigQuery when both are set.",
    ),
    Variable(
        "AUDIT_SAMPLE_DATA",
        "audit_sample_data",
        _one_of("auto", "true", "false"),
        "auto",
        "Whether a DuckDB audit log that does not exist is made and filled with sample history. `auto`: only when "
        "AUDIT_URL is unset, so that a mistyped path never turns into invented data.",
    ),
    Variable("AUDIT_ENV", "audit_env", _text, "", "Count only the rows whose `env` column has this value."),
    Variable(
        "AUDIT_PROBE_SECONDS",
        "audit_probe_seconds",
        _optional(_number(1, _DAY)),
        "",
        "Between two refreshes, ask this often for free whether the audit log changed, and read it only then. Unset: "
        "not at all. See [freshness on demand](freshness.md).",
    ),
    Variable(
        "AUDIT_TIMEOUT_SECONDS",
        "audit_timeout_seconds",
        _number(1, 600),
        "30",
        "Overall deadline of one refresh of the audit log, retries and waiting included.",
    ),
    Variable(
        "AUDIT_CONNECT_TIMEOUT_SECONDS",
        "audit_connect_timeout_seconds",
        _number(0.1, 600),
        "5",
        "Time to open a connection to BigQuery.",
    ),
    Variable(
        "AUDIT_MAX_QUERY_AGE_SECONDS",
        "audit_max_query_age_seconds",
        _number(0, 30 * _DAY),
        "21600",
        "Run the audit query after this time even if the table did not change.",
    ),
    Variable(
        "AUDIT_MAX_BYTES_BILLED",
        "audit_max_bytes_billed",
        _integer(MIN_BYTES_BILLED, 2**50, "a number of bytes"),
        str(1024**3),
        "Refuse to run a query that would bill more bytes than this. BigQuery bills, and allows, no less than 10 MiB.",
    ),
    Variable(
        "AIRFLOW_BASE_URL",
        "airflow_url",
        _airflow_url,
        "",
        "Where Airflow's web server or API server is, path prefix included: `https://host/airflow`. Unset: Airflow is "
        "not read. See [Airflow](airflow.md).",
    ),
    Variable(
        "AIRFLOW_USERNAME",
        "airflow_username",
        _text,
        "",
        "User with Airflow's Viewer role. Goes with AIRFLOW_PASSWORD.",
    ),
    Variable("AIRFLOW_PASSWORD", "airflow_password", _secret, "", "That user's password.", secret=True),
    Variable(
        "AIRFLOW_TOKEN",
        "airflow_token",
        _header_secret,
        "",
        "A bearer token instead of user and password. It is not renewed.",
        secret=True,
    ),
    Variable(
        "AIRFLOW_API",
        "airflow_api",
        _one_of("auto", "v1", "v2"),
        "auto",
        "REST API version: `v1` for Airflow 2, `v2` for Airflow 3; `auto` asks the server.",
    ),
    Variable(
        "AIRFLOW_DAG_IDS",
        "airflow_dag_ids",
        _dag_ids,
        "",
        "DAGs to watch, separated by commas; `*` for all. Unset: those that the catalogue takes XComs from.",
    ),
    Variable(
        "AIRFLOW_MAX_DAGS",
        "airflow_max_dags",
        _integer(1, 2000),
        "100",
        "At most this many DAGs are watched; of more, the first by name.",
    ),
    Variable(
        "AIRFLOW_LOOKBACK_DAYS",
        "airflow_lookback_days",
        _number(0, 3650, "days"),
        "30",
        "How far back finished runs are counted when a DAG is watched for the first time.",
    ),
    Variable(
        "AIRFLOW_TIMEOUT_SECONDS",
        "airflow_timeout_seconds",
        _number(1, 600),
        "30",
        "Overall deadline of one refresh from Airflow, retries and waiting included.",
    ),
    Variable(
        "AIRFLOW_CONNECT_TIMEOUT_SECONDS",
        "airflow_connect_timeout_seconds",
        _number(0.1, 600),
        "5",
        "Time to open a connection to Airflow.",
    ),
    Variable(
        "AIRFLOW_VERIFY_TLS",
        "airflow_verify_tls",
        _flag,
        "true",
        "`false` accepts any certificate: only for a try. Better is AIRFLOW_CA_FILE.",
    ),
    Variable(
        "AIRFLOW_CA_FILE",
        "airflow_ca_file",
        _path,
        "",
        "PEM file with the certificate authority that signed Airflow's certificate, if it is a private one.",
    ),
)

_ORDERED: Final = (
    ("EXPORTER_STALE_AFTER_SECONDS", "EXPORTER_REFRESH_SECONDS"),
    ("AUDIT_TIMEOUT_SECONDS", "AUDIT_CONNECT_TIMEOUT_SECONDS"),
    ("AIRFLOW_TIMEOUT_SECONDS", "AIRFLOW_CONNECT_TIMEOUT_SECONDS"),
)
"""Pairs of variables of which the first must not be less than the second."""


def _put_in_order(
    at_least: str, other: str, env: Mapping[str, str], values: dict[str, Any], problems: list[str]
) -> None:
    """Note a pair that is out of order; a default gives way to a value that was set."""
    fields = {variable.name: variable.field for variable in VARIABLES}
    high, low = values.get(fields[at_least]), values.get(fields[other])
    if high is None or low is None or high >= low:
        return
    if not env.get(at_least, "").strip():
        values[fields[at_least]] = low
    elif not env.get(other, "").strip():
        values[fields[other]] = high
    else:
        problems.append(f"{at_least}: expected at least {other} ({low:g}), not {high:g}")


_OURS = re.compile(r"^(?:EXPORTER|AUDIT)_[A-Z0-9_]+$")


def _unknown_variables(env: Mapping[str, str]) -> list[str]:
    known = {variable.name for variable in VARIABLES}
    warnings = []
    for name in sorted(env):
        if _OURS.match(name) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            hint = f" (did you mean {near[0]}?)" if near else ""
            warnings.append(f"{name} is not a setting of this exporter and is ignored{hint}")
    return warnings
