"""The app under gunicorn: one worker, which serves and refreshes.

`python -m exporter serve` runs this; `gunicorn -c docker/exporter/gunicorn.conf.py "exporter.server:app()"` does the
same with gunicorn's own command line. A second worker would query, and bill, on its own, so more than one is refused.
"""

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from exporter import __version__
from exporter.app import App
from exporter.catalog import Catalog
from exporter.catalog_parser import load_catalog
from exporter.errors import ConfigError
from exporter.ledger import Ledger
from exporter.logs import configure_logging
from exporter.refresh import Refresher
from exporter.settings import Settings, secrets_of
from exporter.sources import build_sources, refuse_without_source, require_drivers
from exporter.sources.audit.query import SOURCE_NAME
from exporter.web_config import load_web_config
from exporter.web_file import WebFile
from exporter.worker import BoundedWorker

log = logging.getLogger(__name__)

ONE_WORKER: Final = (
    "The exporter runs with exactly one worker, not {count}: each would query, and bill, on its own. One serves "
    "thousands of scrapes a second. Unset WEB_CONCURRENCY."
)
NOT_CONFIGURED: Final = (
    "error: gunicorn runs the exporter with its configuration only: gunicorn -c docker/exporter/gunicorn.conf.py "
    '"exporter.server:app()", or python -m exporter serve'
)
FOREIGN_HOST: Final = "EXPORTER_HOST: cannot listen on {host}: {why}. Set a name or an address of this machine"
GRACE_SECONDS: Final = 1
"""How long requests under way may take to end when the process is told to stop."""
STOP_SECONDS: Final = 0.5
"""How long the refresh loop may take to end then."""
SWITCH_SECONDS: Final = 0.0001
"""How long a thread may keep the GIL when another one waits for it (Python's default is 0.005). A scrape that arrives
while 100,000 series are rendered gets in between: its p99 is a third of what it is with the default."""
FULL_COLLECTION_AFTER: Final = 1000
"""Full garbage collections are a hundred times rarer than by default: each visits every object while it keeps the GIL,
40 ms and more with 100,000 series, and finds next to nothing, since readings and states hold no circles."""
_configured = False
"""Whether this process, or gunicorn's master before it forked, asked for `gunicorn_options`."""


class GunicornLogger(Logger):
    """gunicorn's messages through the exporter's logging: one format, secrets blotted out."""

    def setup(self, cfg: Any) -> None:
        """Keep gunicorn's own handlers out."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def build_refresher(settings: Settings, catalog: Catalog) -> Refresher:
    """Ledger, sources and loop from the settings. Nothing runs, and no connection is open, before `start`."""
    ledger = Ledger.open(settings.state_dir)
    return Refresher(
        catalog,
        build_sources(settings, catalog, ledger),
        ledger,
        interval=settings.refresh_seconds,
        stale_after=settings.stale_after_seconds,
        probes={SOURCE_NAME: settings.audit_probe_seconds} if settings.audit_probe_seconds else None,
    )


def app(env: Mapping[str, str] | None = None) -> App:
    """The app for gunicorn, from the environment; `after_worker_start` has it refreshed.

    Raises:
        ConfigError: settings or catalogue cannot be used.
        SystemExit: gunicorn was started without its configuration, so nothing would be refreshed.
    """
    if not _configured:
        print(NOT_CONFIGURED, file=sys.stderr)  # noqa: T201 -- logging is not set up yet
        raise SystemExit(Arbiter.APP_LOAD_ERROR)
    env = os.environ if env is None else env
    settings = Settings.from_env(env)
    configure_logging(settings.log_level, settings.log_format, secrets_of(env))
    catalog = load_catalog(settings.catalog_path)
    web = None if settings.web_config_file is None else WebFile(settings.web_config_file)
    return App(build_refresher(settings, catalog), catalog, settings.refresh_token, web)


def refuse_more_workers(count: int) -> None:
    """Raise ConfigError unless there is exactly one worker."""
    if count != 1:
        raise ConfigError([ONE_WORKER.format(count=count)])


def refuse_foreign_host(host: str) -> None:
    """Raise ConfigError unless the server can listen on this name or address: gunicorn would try for five seconds."""
    bare = host.strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as probe:  # fails without IPv6
            probe.bind((bare, 0))
    except OSError as error:
        raise ConfigError([FOREIGN_HOST.format(host=host, why=error.strerror)]) from error


def before_start(server: Any) -> None:
    """gunicorn's `on_starting`: refuse more than one worker, and settings that no worker could start with."""
    try:
        refuse_more_workers(server.cfg.workers)
        settings = Settings.from_env(os.environ)
        refuse_foreign_host(settings.host)
        catalog = load_catalog(settings.catalog_path)
        refuse_without_source(settings, catalog)
        if catalog.has_audit_log:
            require_drivers(settings)
        if settings.web_config_file is not None:
            load_web_config(settings.web_config_file)
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)  # noqa: T201 -- logging is not set up yet
        raise SystemExit(2) from error


def when_listening(_server: Any) -> None:
    """gunicorn's `when_ready`: ignore the signals by which it would start a second worker, or a second master, and make
    the worker's memory as small as it can be."""
    for number in (signal.SIGTTIN, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # the worker that is forked next shares these objects for as long as no collection writes to them


def after_worker_start(worker: Any) -> None:
    """gunicorn's `post_worker_init`: the worker can serve; begin refreshing."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is there now stays, so that no collection visits it
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)
    worker.asgi.refresher.start()


def before_worker_exit(_server: Any, worker: Any) -> None:
    """gunicorn's `worker_exit`: end the loop and interrupt calls under way."""
    asgi = getattr(worker, "asgi", None)
    if asgi is not None:
        asgi.refresher.stop(STOP_SECONDS)


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """gunicorn's configuration: what `serve` and the container's gunicorn.conf.py run with."""
    global _configured  # noqa: PLW0603 -- gunicorn gives a worker nothing else to know it by
    _configured = True
    host = f"[{settings.host}]" if ":" in settings.host.strip("[]") and settings.host[0] != "[" else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        "workers": 1,
        "worker_class": BoundedWorker,
        "worker_connections": settings.max_connections,
        "preload_app": False,
        "graceful_timeout": GRACE_SECONDS,
        "timeout": 60,
        "control_socket_disable": True,
        "asgi_loop": "asyncio",
        "logger_class": GunicornLogger,
        "loglevel": "warning",
        "proc_name": "mlops-exporter",
        "on_starting": before_start,
        "when_ready": when_listening,
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
        ConfigError: WEB_CONCURRENCY asks for more than one worker, or the web configuration cannot be used.
    """
    refuse_more_workers(int(os.environ.get("WEB_CONCURRENCY", "1")))
    web = None if settings.web_config_file is None else load_web_config(settings.web_config_file)
    scheme = "http" if web is None or web.tls is None else "https"
    log.info("exporter %s: serving on %s://%s:%s", __version__, scheme, settings.host, settings.port)
    if web is not None:
        log.info("%s: %s", settings.web_config_file, web.summary)
    for warning in settings.warnings:
        log.warning("%s", warning)
    _Application(gunicorn_options(settings)).run()
