"""`python -m exporter check`: everything that a refresh needs, tried once, without billing anything."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from exporter.catalog import Catalog
from exporter.errors import ConfigError, SourceError
from exporter.ledger import Ledger
from exporter.settings import MIN_BYTES_BILLED, Settings
from exporter.showable import escaped
from exporter.snapshot import Gap
from exporter.web_config import load_web_config

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "PROBLEM"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: the subject, its state (OK, WARNING or PROBLEM), and the detail."""

    subject: str
    state: str
    detail: str


def check(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    """Try everything in turn; a failure is a finding, never an exception."""
    yield Finding("settings", OK, "every variable can be used")
    for warning in settings.warnings:
        yield Finding("settings", WARNING, warning)
    yield from _web_configuration(settings)
    where = str(settings.catalog_path or "built-in")
    yield Finding("catalogue", OK, f"{where}: {len(catalog.metrics)} metrics")
    ledger = Ledger.open(settings.state_dir)
    unwanted = ledger.wanted and ledger.problem is not None and ledger.held is None  # by the exporter that runs
    yield Finding("state folder", WARNING if unwanted else OK, ledger.held or ledger.problem or str(settings.state_dir))
    ledger.close()
    if not catalog.has_audit_log:
        yield Finding("audit log", OK, "the catalogue has none: none is read")
    elif settings.uses_bigquery:
        yield from _bigquery(settings, catalog)
    else:
        yield from _duckdb(settings, catalog)
    if settings.airflow_url is not None:
        yield from _airflow(settings, catalog)
    elif not catalog.has_audit_log:
        yield Finding("airflow", PROBLEM, "AIRFLOW_BASE_URL is not set, and there is no audit log: nothing is read")
    else:
        yield Finding("airflow", OK, "AIRFLOW_BASE_URL is not set: Airflow is not read")


def _web_configuration(settings: Settings) -> Iterator[Finding]:
    if settings.web_config_file is None:
        return
    try:
        config = load_web_config(settings.web_config_file)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("web", PROBLEM, problem)
        return
    yield Finding("web", OK, f"{settings.web_config_file}: {config.summary}")


def _airflow(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    from exporter.sources.airflow.source import AirflowSource

    ledger = Ledger.open(None)
    source = AirflowSource(settings, catalog, ledger)
    try:
        survey = source.survey()
    except SourceError as error:
        yield Finding("airflow", PROBLEM, f"{error.reason}: {error}")
        return
    finally:
        source.close()
        ledger.close()
    yield Finding("airflow", OK, f"{settings.airflow_url}: Airflow {survey.version}, API {survey.api}, log-in accepted")
    yield Finding("dags", OK, ", ".join(dag for dag in survey.dags if dag not in survey.missing) or "none")
    if survey.missing:
        missing = ", ".join(survey.missing)
        yield Finding("dags", PROBLEM, f"missing, or not visible to this user: {missing} (see AIRFLOW_DAG_IDS)")
    if survey.paused:
        yield Finding("dags", WARNING, f"paused: {', '.join(survey.paused)}")
    for dag in survey.without_run:
        if dag not in survey.missing:
            days = settings.airflow_lookback_days
            yield Finding("xcoms", WARNING, f"{dag}: no successful run in the last {days:g} days")
    found = sorted({f"{spec.task}/{spec.key}" for spec, why in survey.xcoms.items() if why is None})
    if found:
        yield Finding("xcoms", OK, f"in the newest successful runs: {', '.join(found)}")
    for spec, why in sorted(survey.xcoms.items(), key=str):
        if why is not None:
            yield Finding("xcoms", WARNING, f"{spec.dag}/{spec.task}/{spec.key} of the newest successful run {why}")
    yield Finding("requests", OK, f"{survey.requests} a refresh while nothing happens in Airflow")


def _bigquery(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    from exporter.sources.audit.bigquery import ALWAYS_QUERIED, BigQueryAudit

    source = BigQueryAudit(settings, catalog)
    try:
        plan = source.plan()
    except SourceError as error:
        yield Finding("audit log", PROBLEM, f"{error.reason}: {error}")
        return
    finally:
        source.close()
    rows = "" if plan.rows is None else f", {plan.rows} rows"
    yield Finding("audit log", OK, f"BigQuery {plan.table_type.lower()} {source.table}{rows}, {plan.location}")
    yield from _gaps(plan.query.gaps, plan.query.missing_columns)
    billed = max(plan.bytes_processed, MIN_BYTES_BILLED)
    limit = settings.audit_max_bytes_billed
    cost = f"a query processes {_mib(plan.bytes_processed)} and bills {_mib(billed)}"
    when = (
        "at every refresh"
        if plan.table_type in ALWAYS_QUERIED
        else (f"when the table changed, and every {settings.audit_max_query_age_seconds:g} s")
    )
    if billed > limit:
        yield Finding(
            "cost", PROBLEM, f"{cost}, more than AUDIT_MAX_BYTES_BILLED ({_mib(limit)}): BigQuery would refuse it"
        )
    else:
        state = WARNING if plan.table_type in ALWAYS_QUERIED else OK
        yield Finding("cost", state, f"{cost}, {when}; the limit is {_mib(limit)}")


def _duckdb(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    from exporter.sources.audit.duckdb import DuckDBAudit

    source = DuckDBAudit(settings, catalog)
    try:
        reading = source.read(None)
    except SourceError as error:
        yield Finding("audit log", PROBLEM, f"{error.reason}: {error}")
        return
    finally:
        source.close()
    yield Finding("audit log", OK, f"{settings.embedded}: {reading.facts.get('rows')} rows")
    for note in reading.notes:
        yield Finding("audit log", WARNING, note)
    missing = str(reading.facts.get("missing_columns") or "")
    yield from _gaps(reading.gaps, tuple(name for name in missing.split(", ") if name))
    yield Finding("cost", OK, "embedded: nothing is billed")


def _gaps(gaps: Iterable[Gap], missing_columns: Iterable[str]) -> Iterator[Finding]:
    missing = tuple(missing_columns)
    if missing:
        yield Finding("columns", WARNING, f"missing: {', '.join(missing)} (`python -m exporter init-audit` adds them)")
    else:
        yield Finding("columns", OK, "the log has every column that the catalogue names")
    for gap in gaps:
        yield Finding(gap.metric, WARNING, gap.reason)


def table(findings: Iterable[Finding]) -> str:
    """The findings as aligned text, one line each whatever a name from outside holds."""
    rows = [(escaped(finding.subject), finding.state, escaped(finding.detail)) for finding in findings]
    subject_width = max(len(row[0]) for row in rows)
    state_width = max(len(row[1]) for row in rows)
    return "\n".join(f"{subject:<{subject_width}}  {state:<{state_width}}  {detail}" for subject, state, detail in rows)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
