"""Settings from the environment, validated once into a frozen value.

A setting is one field of `Settings`: its declaration names the environment variable, the parser, the default and the
help text. `Settings.from_env`, the command line's `--help`, `docs/configuration.md` (a test compares it) and the list
of secrets derive from these declarations. All problems are reported together.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from exporter import setting_values as values
from exporter.errors import ConfigError
from exporter.regular_file import read_regular_file
from exporter.setting_values import AuditLocation, Secret

__all__ = ["DEFAULT_AUDIT_FILE", "MIN_BYTES_BILLED", "VARIABLES", "AuditLocation", "Secret", "Settings", "secrets_of"]

DEFAULT_AUDIT_FILE: Final = "audit.duckdb"
MIN_BYTES_BILLED: Final = 10 * 1024 * 1024
"""BigQuery bills at least 10 MiB a query and refuses a lower `maximumBytesBilled`."""
DAY: Final = 86400.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variable:
    """The environment variable of one setting: how its text is read, and what the documentation says of it.

    `parse` takes the stripped text, or `default` where there is none, and raises ValueError with what was expected.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    secret: bool = False


def setting(name: str, parse: Callable[[str], T], default: str, help: str, *, secret: bool = False) -> T:
    """Declare a field of `Settings`; its type is the parser's, which mypy checks."""
    variable = Variable(name, parse, default, help, secret)
    return dataclasses.field(default=parse(default), metadata={"variable": variable})


@dataclass(frozen=True)
class Settings:
    """All settings, validated. Times are seconds, sizes bytes. Made by `from_env`; `Settings()` has the defaults."""

    host: str = setting(
        "EXPORTER_HOST",
        values.host,
        "0.0.0.0",  # noqa: S104 -- scraped from outside
        "Address to listen on.",
    )
    port: int = setting(
        "EXPORTER_PORT",
        values.integer(1, 65535, "a port"),
        "9101",
        "Port to listen on. 9101 is also haproxy_exporter's default: change it where both run on one host.",
    )
    max_connections: int = setting(
        "EXPORTER_MAX_CONNECTIONS",
        values.integer(16, 10_000),
        "512",
        "Connections at once; beyond it the oldest idle one is closed.",
    )
    refresh_seconds: float = setting(
        "EXPORTER_REFRESH_SECONDS", values.number(1, DAY), "60", "Seconds between two refreshes of a source."
    )
    stale_after_seconds: float = setting(
        "EXPORTER_STALE_AFTER_SECONDS",
        values.number(1, 30 * DAY),
        "3600",
        "How long the last good reading of a source that is down is still shown; then its series are dropped.",
    )
    state_dir: Path | None = setting(
        "EXPORTER_STATE_DIR",
        values.optional_path,
        "exporter-state",
        "Folder in which the last good readings and the counters' state survive a restart; `none` for no folder.",
    )
    catalog_path: Path | None = setting(
        "EXPORTER_CATALOG",
        values.optional_path,
        "",
        "A YAML file that replaces the built-in catalogue of metrics. See [the catalogue](catalogue.md).",
    )
    max_series: int = setting(
        "EXPORTER_MAX_SERIES",
        values.integer(1, 10_000_000),
        "200000",
        "At most this many series from the audit log where the catalogue labels them; beyond it, those "
        "with the newest rows stay. See [many models](catalogue.md#many-models).",
    )
    refresh_token: Secret | None = setting(
        "EXPORTER_REFRESH_TOKEN",
        values.bearer_token(at_least=16),
        "",
        "Bearer token that `POST /-/refresh` asks for. Unset: there is no such path. See [freshness on "
        "demand](freshness.md).",
        secret=True,
    )
    web_config_file: Path | None = setting(
        "EXPORTER_WEB_CONFIG_FILE",
        values.optional_path,
        "",
        "YAML file with TLS, users and headers, in the format that Prometheus' exporters share. Unset: plain HTTP, and "
        "no password. See [TLS and passwords](security.md#tls-and-passwords).",
    )
    log_level: str = setting(
        "EXPORTER_LOG_LEVEL", values.one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "Lowest level that is logged."
    )
    log_format: str = setting(
        "EXPORTER_LOG_FORMAT",
        values.one_of("text", "json"),
        "text",
        "`text` for people, `json` for one JSON object a line.",
    )
    google_project: str | None = setting(
        "GOOGLE_CLOUD_PROJECT",
        values.project,
        "",
        "Project whose BigQuery is read and billed. Unset: the audit log is an embedded DuckDB file.",
    )
    google_credentials: Path | None = setting(
        "GOOGLE_APPLICATION_CREDENTIALS",
        values.optional_path,
        "",
        "Key file of the service account. Unset: the machine's own Google credentials.",
    )
    bigquery_emulator: str | None = setting(
        "BIGQUERY_EMULATOR_HOST",
        values.emulator,
        "",
        "`host:port` of a BigQuery emulator, asked without credentials. For tests.",
    )
    audit_table: str | None = setting(
        "AUDIT_TABLE",
        values.table,
        "",
        "`dataset.table` or `project.dataset.table` of the audit log. Unset: the catalogue's, `monitoring_audit.logs`.",
    )
    audit_url: AuditLocation | None = setting(
        "AUDIT_URL",
        values.audit_location,
        "",
        "Embedded audit log: `duckdb:///path/audit.duckdb` (three slashes: absolute), `duckdb:audit.duckdb` "
        "(relative), or a path or glob of `.parquet`, `.csv`, `.csv.gz`, `.jsonl` or `.jsonl.gz` files. Unset: "
        "`audit.duckdb` in the working directory. Wins over BigQuery when both are set.",
    )
    audit_sample_data: str = setting(
        "AUDIT_SAMPLE_DATA",
        values.one_of("auto", "true", "false"),
        "auto",
        "Whether a DuckDB audit log that does not exist is made and filled with sample history. `auto`: only "
        "when AUDIT_URL is unset, so that a mistyped path never turns into invented data.",
    )
    audit_env: str | None = setting(
        "AUDIT_ENV", values.optional_text, "", "Count only the rows whose `env` column has this value."
    )
    audit_probe_seconds: float | None = setting(
        "AUDIT_PROBE_SECONDS",
        values.number_or_off(1, DAY),
        "10",
        "Seconds between two probes, which ask for free whether the audit log changed and have it read only then; `0` "
        "for none. See [freshness](freshness.md#the-probe).",
    )
    audit_timeout_seconds: float = setting(
        "AUDIT_TIMEOUT_SECONDS",
        values.number(1, 600),
        "30",
        "Overall deadline of one refresh of the audit log, retries and waiting included.",
    )
    audit_connect_timeout_seconds: float = setting(
        "AUDIT_CONNECT_TIMEOUT_SECONDS", values.number(0.1, 600), "5", "Time to open a connection to BigQuery."
    )
    audit_max_query_age_seconds: float = setting(
        "AUDIT_MAX_QUERY_AGE_SECONDS",
        values.number(0, 30 * DAY),
        "21600",
        "Run the audit query after this time even if the table did not change.",
    )
    audit_max_bytes_billed: int = setting(
        "AUDIT_MAX_BYTES_BILLED",
        values.integer(MIN_BYTES_BILLED, 2**50, "a number of bytes"),
        str(1024**3),
        "Refuse to run a query that would bill more bytes than this. BigQuery bills, and allows, no less than 10 MiB.",
    )
    airflow_url: str | None = setting(
        "AIRFLOW_BASE_URL",
        values.airflow_url,
        "",
        "Where Airflow's web server or API server is, path prefix included: `https://host/airflow`. Unset: "
        "Airflow is not read. See [Airflow](airflow.md).",
    )
    airflow_username: str | None = setting(
        "AIRFLOW_USERNAME", values.optional_text, "", "User with Airflow's Viewer role. Goes with AIRFLOW_PASSWORD."
    )
    airflow_password: Secret | None = setting(
        "AIRFLOW_PASSWORD", values.secret, "", "That user's password.", secret=True
    )
    airflow_token: Secret | None = setting(
        "AIRFLOW_TOKEN",
        values.bearer_token(),
        "",
        "A bearer token. It wins over user and password where all are set, and is not renewed.",
        secret=True,
    )
    airflow_api: str = setting(
        "AIRFLOW_API",
        values.one_of("auto", "v1", "v2"),
        "auto",
        "REST API version: `v1` for Airflow 2, `v2` for Airflow 3; `auto` asks the server.",
    )
    airflow_dag_ids: tuple[str, ...] = setting(
        "AIRFLOW_DAG_IDS",
        values.dag_ids,
        "",
        "DAGs to watch, separated by commas; `*` for all. Unset: those that the catalogue takes XComs from.",
    )
    airflow_max_dags: int = setting(
        "AIRFLOW_MAX_DAGS",
        values.integer(1, 2000),
        "100",
        "At most this many DAGs are watched; beyond it, the first by name stay.",
    )
    airflow_lookback_days: float = setting(
        "AIRFLOW_LOOKBACK_DAYS",
        values.number(0, 3650, "days"),
        "30",
        "How far back finished runs are counted when a DAG is watched for the first time.",
    )
    airflow_timeout_seconds: float = setting(
        "AIRFLOW_TIMEOUT_SECONDS",
        values.number(1, 600),
        "30",
        "Overall deadline of one refresh from Airflow, retries and waiting included.",
    )
    airflow_connect_timeout_seconds: float = setting(
        "AIRFLOW_CONNECT_TIMEOUT_SECONDS", values.number(0.1, 600), "5", "Time to open a connection to Airflow."
    )
    airflow_verify_tls: bool = setting(
        "AIRFLOW_VERIFY_TLS",
        values.flag,
        "true",
        "`false` accepts any certificate: for trials only. AIRFLOW_CA_FILE is better.",
    )
    airflow_ca_file: Path | None = setting(
        "AIRFLOW_CA_FILE",
        values.optional_path,
        "",
        "PEM file with the certificate authority that signed Airflow's certificate, if it is a private one.",
    )
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read and validate all variables; an empty one counts as unset.

        Raises:
            ConfigError: with one sentence for every variable that cannot be used.
        """
        problems: list[str] = []
        found: dict[str, Any] = {}
        for field, variable in _BY_FIELD.items():
            text = env.get(variable.name, "").strip()
            try:
                values.require_showable(text)
                found[field] = variable.parse(text or variable.default)
            except ValueError as error:
                but = "" if variable.secret else f", not {values.shown(text)}"
                problems.append(f"{variable.name}: expected {error}{but}")
        for at_least, other in _ORDERED:
            _put_in_order(at_least, other, env, found, problems)
        if found.get("airflow_token") is None:
            for here, other in (("username", "password"), ("password", "username")):
                if found.get(f"airflow_{here}") and found.get(f"airflow_{other}", "") is None:
                    problems.append(f"AIRFLOW_{other.upper()}: expected a value, because AIRFLOW_{here.upper()} is set")
        if problems:
            raise ConfigError(problems)
        settings = cls(**found)
        return dataclasses.replace(settings, warnings=(*_ineffective_variables(env), *_doubtful(settings)))

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


_BY_FIELD: Final[Mapping[str, Variable]] = {
    field.name: field.metadata["variable"] for field in dataclasses.fields(Settings) if field.metadata
}
VARIABLES: Final = tuple(_BY_FIELD.values())
"""The variables of all settings, in the order of the documentation."""

_ORDERED: Final = (
    ("stale_after_seconds", "refresh_seconds"),
    ("audit_timeout_seconds", "audit_connect_timeout_seconds"),
    ("airflow_timeout_seconds", "airflow_connect_timeout_seconds"),
)
"""Pairs of fields of which the first must not be less than the second."""


def _put_in_order(
    at_least: str, other: str, env: Mapping[str, str], found: dict[str, Any], problems: list[str]
) -> None:
    """Note a pair that is out of order; a default gives way to a value that was set."""
    high, low = found.get(at_least), found.get(other)
    if high is None or low is None or high >= low:
        return
    higher, lower = _BY_FIELD[at_least].name, _BY_FIELD[other].name
    if not env.get(higher, "").strip():
        found[at_least] = low
    elif not env.get(lower, "").strip():
        found[other] = high
    else:
        problems.append(f"{higher}: expected at least {lower} ({low:g}), not {high:g}")


_OURS: Final = re.compile(r"(?:EXPORTER|AUDIT)_[A-Z0-9_]{1,100}")
_RETIRED: Final = {
    "EXPORTER_THREADS": "the server needs no threads for requests; EXPORTER_MAX_CONNECTIONS bounds its connections",
}
"""Variables that older versions read, and why nothing is left to set."""


def _ineffective_variables(env: Mapping[str, str]) -> list[str]:
    """A sentence for every variable that looks like one of ours and does nothing."""
    known = {variable.name for variable in VARIABLES}
    warnings = []
    for name in sorted(env):
        if name in _RETIRED and env[name].strip():
            warnings.append(f"{name} has no effect any more: {_RETIRED[name]}")
        elif _OURS.fullmatch(name) and name not in known and name not in _RETIRED:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            hint = f" (did you mean {near[0]}?)" if near else ""
            warnings.append(f"{name} is not a setting of this exporter and is ignored{hint}")
    return warnings


def _doubtful(settings: Settings) -> list[str]:
    """A sentence for every setting that can be used and may not be meant."""
    warnings = []
    if settings.google_project and settings.audit_url:
        warnings.append("GOOGLE_CLOUD_PROJECT and AUDIT_URL are both set: AUDIT_URL wins, BigQuery is not read")
    if not settings.airflow_verify_tls:
        warnings.append("AIRFLOW_VERIFY_TLS is false: anyone on the network between can read Airflow's password")
    return warnings


# -- what must never be shown ------------------------------------------------------------------------------------------

_SECRET_PARTS: Final = ("private_key", "private_key_id", "client_secret", "refresh_token")
MAX_KEY_FILE_BYTES: Final = 1_000_000
_KEY_MARK: Final = re.compile(r"-----(BEGIN|END) [A-Z ]+-----\s*")


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """The secret strings reachable from this environment, for the log filter that blots them out.

    These are the secret variables and the private parts of the Google key file, if it can be read. Nothing is raised:
    a key file that is missing or broken is reported by the source that needs it.
    """
    found = [env.get(variable.name, "").strip() for variable in VARIABLES if variable.secret]
    key_file = env.get("GOOGLE_APPLICATION_CREDENTIALS", "").strip()
    if key_file:
        try:
            content = json.loads(read_regular_file(Path(key_file), MAX_KEY_FILE_BYTES))
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
