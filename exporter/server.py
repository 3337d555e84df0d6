"""The app under gunicorn: one worker with several threads, and beside it the process that refreshes.

`python -m exporter serve` runs this; `gunicorn -c docker/exporter/gunicorn.conf.py "exporter.server:app()"` does the
same with gunicorn's own command line. The refresh process is forked when the worker has started and stops with it. A
second worker would query, and bill, on its own, so more than one is refused.
"""

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from exporter import __version__
from exporter.app import create_app
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.errors import ConfigError
from exporter.ledger import Ledger
from exporter.logs import configure_logging
from exporter.refresh import Refresher, State
from exporter.refresh_process import STOP_SECONDS, RefreshProcess
from exporter.settings import Settings, secrets_of
from exporter.sources import build_sources
from exporter.sources.audit import SOURCE_NAME

log = logging.getLogger(__name__)

ONE_WORKER: Final = (
    "The exporter runs with exactly one worker, not {count}: each would query, and bill, on its own. Unset "
    "WEB_CONCURRENCY."
)
FOREIGN_HOST: Final = "EXPORTER_HOST: cannot listen on {host}: {why}. Set a name or an address of this machine"
KEEP_ALIVE_SECONDS: Final = 65
"""Longer than the usual scrape intervals, so that Prometheus keeps its connection."""
GRACE_SECONDS: Final = 1
"""How long requests under way may take to end when the process is told to stop."""


class GunicornLogger(Logger):
    """gunicorn's messages through the exporter's logging: one format, secrets blotted out."""

    def setup(self, cfg: Any) -> None:
        """Keep gunicorn's own handlers out."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def build_refresher(settings: Settings, catalog: Catalog, on_state: Callable[[State], None] | None = None) -> Refresher:
    """Ledger, sources and loop from the settings. Nothing runs, and no connection is open, before `start`."""
    ledger = Ledger.open(settings.state_dir)
    return Refresher(
        catalog,
        build_sources(settings, catalog, ledger),
        ledger,
        interval=settings.refresh_seconds,
        stale_after=settings.stale_after_seconds,
        probes={SOURCE_NAME: settings.audit_probe_seconds} if settings.audit_probe_seconds else None,
        on_state=on_state,
    )


def app(env: Mapping[str, str] | None = None) -> Flask:
    """The app for gunicorn, from the environment; `after_worker_start` has it refreshed.

    Raises:
        ConfigError: settings or catalogue cannot be used.
    """
    env = os.environ if env is None else env
    settings = Settings.from_env(env)
    configure_logging(settings.log_level, settings.log_format, secrets_of(env))
    catalog = load_catalog(settings.catalog_path)
    refresher = RefreshProcess(
        lambda on_state: build_refresher(settings, catalog, on_state), interval=settings.refresh_seconds
    )
    return create_app(refresher, catalog, settings.refresh_token)


def refuse_more_workers(count: int) -> None:
    """Raise ConfigError unless there is exactly one worker."""
    if count != 1:
        raise ConfigError([ONE_WORKER.format(count=count)])


def refuse_foreign_host(host: str) -> None:
    """Raise ConfigError unless the server can listen on this name or address: gunicorn would try for five seconds."""
    bare = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as probe:
        try:
            probe.bind((bare, 0))
        except OSError as error:
            raise ConfigError([FOREIGN_HOST.format(host=host, why=error.strerror)]) from error


def before_start(server: Any) -> None:
    """gunicorn's `on_starting`: refuse more than one worker, and settings that no worker could start with."""
    try:
        refuse_more_workers(server.cfg.workers)
        settings = Settings.from_env(os.environ)
        refuse_foreign_host(settings.host)
        load_catalog(settings.catalog_path)
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)  # noqa: T201 -- logging is not set up yet
        raise SystemExit(2) from error


def after_worker_start(worker: Any) -> None:
    """gunicorn's `post_worker_init`: the worker can serve; fork the process that refreshes, which needs no listener."""
    gc.collect()
    gc.freeze()  # what is there now is shared by both processes for as long as neither's collector touches it
    worker.wsgi.extensions["refresher"].start(worker.sockets)


def before_worker_exit(_server: Any, worker: Any) -> None:
    """gunicorn's `worker_exit`: end the loop and cut off calls under way."""
    wsgi = getattr(worker, "wsgi", None)
    if wsgi is not None:
        wsgi.extensions["refresher"].stop(STOP_SECONDS + 0.2)


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """gunicorn's configuration: what `serve` and the container's gunicorn.conf.py run with."""
    host = f"[{settings.host}]" if ":" in settings.host.strip("[]") and settings.host[0] != "[" else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        "workers": 1,
        "worker_class": "gthread",
        "threads": 8,
        "preload_app": False,
        "keepalive": KEEP_ALIVE_SECONDS,
        "graceful_timeout": GRACE_SECONDS,
        "timeout": 60,
        "control_socket_disable": True,
        "logger_class": GunicornLogger,
        "loglevel": "warning",
        "proc_name": "mlops-exporter",
        "on_starting": before_start,
        "post_worker_init": after_worker_start,
        "worker_exit": before_worker_exit,
    }


class _Application(BaseApplication):
    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return app()


def serve(settings: Settings) -> None:
    """Serve until a signal ends the process. Does not return.

    Raises:
        ConfigError: WEB_CONCURRENCY asks for more than one worker.
    """
    workers = os.environ.get("WEB_CONCURRENCY", "1").strip() or "1"
    refuse_more_workers(int(workers) if workers.isdigit() else -1)
    log.info("exporter %s: serving on http://%s:%s", __version__, settings.host, settings.port)
    for warning in settings.warnings:
        log.warning("%s", warning)
    _Application(gunicorn_options(settings)).run()
