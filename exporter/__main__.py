"""The command line: mlops-exporter serve | once | check | healthy | hash-password | init-audit | catalogue | backfill.

`python -m exporter` is the same, in a folder that has the package.

Exit codes: 0 done; 1 the command failed (a source is down, a check found a problem); 2 settings, catalogue or arguments
cannot be used.
"""

import argparse
import getpass
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from exporter import __version__
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.errors import ConfigError, OutputError, SourceError
from exporter.logs import configure_logging
from exporter.settings import VARIABLES, Settings, secrets_of
from exporter.showable import escaped, quoted
from exporter.sources import require_drivers

EPILOG = """\
Everything is configured by environment variables. The most useful ones:

{variables}

All of them, with their defaults: docs/configuration.md.

Examples:
  {program} serve
      sample data in ./audit.duckdb, on port 9101
  AUDIT_URL='logs/*.parquet' {program} once
      what a table of files would expose
  GOOGLE_CLOUD_PROJECT=my-project {program} check
      is BigQuery ready, and what would a query bill
"""
COMMAND = "mlops-exporter"
"""The console command, which pyproject.toml declares."""
SHOWN_IN_HELP = ("GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS", "AUDIT_TABLE", "AUDIT_URL", "EXPORTER_PORT")

log = logging.getLogger("exporter")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, settings.log_format, secrets_of(os.environ))
        # The one that is being written may be empty still.
        catalog = load_catalog(None if options.run is _catalogue else settings.catalog_path)
        if catalog.has_audit_log and options.run in (_serve, _once, _check, _init_audit, _backfill):
            require_drivers(settings)
        if options.run in (_serve, _once):
            _have_gunicorn_load()
        return int(options.run(options, settings, catalog))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except (SourceError, OutputError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, grep -q) has what it wanted. Point stdout elsewhere, or its flush at exit fails again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    program = COMMAND if Path(sys.argv[0]).name == COMMAND else "python -m exporter"
    parser = argparse.ArgumentParser(
        prog=program,
        description="Turns a pipeline's audit log, and what its Airflow knows, into Prometheus metrics.",
        epilog=EPILOG.format(variables=_variables(), program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlops-exporter {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve /metrics and /health until stopped; refreshes in the background")
    serve.set_defaults(run=_serve)
    once = commands.add_parser("once", help="refresh once, print the exposition, exit 1 if a source failed")
    once.add_argument("--openmetrics", action="store_true", help="print OpenMetrics instead of the text format")
    once.set_defaults(run=_once)
    check = commands.add_parser("check", help="try everything a refresh needs, print what is missing; bills nothing")
    check.set_defaults(run=_check)
    healthy = commands.add_parser("healthy", help="exit 0 if the exporter on this machine is alive: for health checks")
    healthy.set_defaults(run=_healthy)
    hash_ = commands.add_parser("hash-password", help="print a password's bcrypt hash, for EXPORTER_WEB_CONFIG_FILE")
    hash_.set_defaults(run=_hash_password)
    init = commands.add_parser(
        "init-audit", help="create the audit table, or add the columns it lacks; never drops or changes anything"
    )
    init.add_argument(
        "--location", default=None, help="region of a BigQuery dataset that has to be created, such as EU (default: US)"
    )
    init.set_defaults(run=_init_audit)
    draft = commands.add_parser("catalogue", help="print a starting catalogue for a table, made from its columns")
    draft.add_argument(
        "--from",
        dest="url",
        required=True,
        metavar="TABLE",
        help="a .csv, .jsonl, .parquet or .duckdb file (of that, the table that AUDIT_TABLE names), a pattern, or a "
        "BigQuery table: project.dataset.table",
    )
    draft.set_defaults(run=_catalogue)
    _add_backfill(commands)
    return parser


def _add_backfill(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from exporter.backfill import request

    parser = commands.add_parser(
        "backfill", help="write the audit log's history as OpenMetrics with timestamps, or as blocks for Prometheus"
    )
    add = parser.add_argument
    add("--since", required=True, help="where to begin: 180d (before now), or 2026-03-01, or 2026-03-01T06:00:00Z")
    add("--until", default=request.DEFAULT_UNTIL, help="where to end, in the same form or `now` (default: %(default)s)")
    add("--output", required=True, type=Path, metavar="DIR", help="an empty folder, or one to be made")
    add("--step", default=request.DEFAULT_STEP, help="how exactly a change is timed, at most 5m (default: %(default)s)")
    add("--job", default=request.DEFAULT_JOB, help="the series' job label (default: %(default)s)")
    add("--instance", default=request.DEFAULT_INSTANCE, help="the series' instance label (default: %(default)s)")
    add("--promtool", action="store_true", help="make blocks with promtool, and keep no text")
    parser.set_defaults(run=_backfill)


def _variables() -> str:
    shown = [variable for variable in VARIABLES if variable.name in SHOWN_IN_HELP]
    return "\n".join(
        textwrap.fill(
            variable.help.replace("`", ""),
            width=110,
            initial_indent=f"  {variable.name:<32}",
            subsequent_indent=" " * 34,
        )
        for variable in shown
    )


def _have_gunicorn_load() -> None:
    """Have gunicorn loaded without a traceback: it makes a number of WEB_CONCURRENCY while it is.

    Raises:
        ConfigError: it is no number.
    """
    text = os.environ.get("WEB_CONCURRENCY", "").strip()
    if not text:
        os.environ.pop("WEB_CONCURRENCY", None)
    elif not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ConfigError([f"WEB_CONCURRENCY: expected 1, not {quoted(text)}. Unset it"])


def _serve(_options: argparse.Namespace, settings: Settings, _catalog: Catalog) -> int:
    from exporter.server import serve

    serve(settings)
    return 0


def _once(options: argparse.Namespace, settings: Settings, catalog: Catalog) -> int:
    from exporter.server import build_refresher

    refresher = build_refresher(settings, catalog)
    try:
        state = refresher.run_once()
    finally:
        refresher.stop()
    body = bytes(state.exposition.openmetrics if options.openmetrics else state.exposition.text)
    sys.stdout.buffer.write(body)  # UTF-8 whatever the terminal's encoding is
    sys.stdout.buffer.flush()
    return 0 if all(status.up for status in state.snapshot.statuses) else 1


def _check(_options: argparse.Namespace, settings: Settings, catalog: Catalog) -> int:
    from exporter.check import PROBLEM, check, table

    findings = list(check(settings, catalog))
    print(table(findings))
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0


def _healthy(_options: argparse.Namespace, settings: Settings, _catalog: Catalog) -> int:
    from exporter.healthy import probe

    problem = probe(settings)
    print("healthy" if problem is None else f"unhealthy: {problem}")
    return 0 if problem is None else 1


def _hash_password(_options: argparse.Namespace, _settings: Settings, _catalog: Catalog) -> int:
    from exporter.authentication import hashed

    if sys.stdin.isatty():
        password = getpass.getpass()
        if getpass.getpass("Again: ") != password:
            raise ConfigError(["the two passwords differ"])
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    try:
        print(hashed(password))
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    return 0


def _init_audit(options: argparse.Namespace, settings: Settings, catalog: Catalog) -> int:
    if not catalog.has_audit_log:
        raise ConfigError(["the catalogue has no audit log, so there is no table to make"])
    if settings.uses_bigquery:
        from exporter.sources.audit.bigquery_init import init_bigquery

        report = init_bigquery(settings, catalog, options.location)
    else:
        from exporter.sources.audit.duckdb_init import init_duckdb

        report = init_duckdb(settings, catalog)
    print(report)
    return 0


def _catalogue(options: argparse.Namespace, _settings: Settings, catalog: Catalog) -> int:
    from exporter.catalog_draft import draft, prefix_of
    from exporter.glance import glance

    seen = glance(options.url, os.environ, catalog)
    sys.stdout.buffer.write(draft(seen.columns, seen.rows, seen.table, prefix_of(seen.name), seen.notes).encode())
    sys.stdout.buffer.flush()
    return 0


def _backfill(options: argparse.Namespace, settings: Settings, catalog: Catalog) -> int:
    from exporter.backfill.command import backfill
    from exporter.backfill.request import Request

    # So that SIGTERM, like Ctrl-C, ends it by an exception: what was begun is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell that starts it in the background has SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = ("since", "output", "until", "step", "job", "instance", "promtool")
    try:
        backfill(Request(**{name: getattr(options, name) for name in names}), settings, catalog, print)
    except KeyboardInterrupt:
        print("stopped: nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
