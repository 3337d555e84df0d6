"""Prometheus and Alertmanager with the generated rules and routing, in fast motion: for tests and for the demo.

The speed divides `for`, intervals and windows (`python -m grafana.generator --speed`), and with them how often targets
are scraped and what Prometheus itself waits for.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from grafana.generator.alertmanager import DISABLED
from grafana.generator.files import prometheus as generated
from grafana.generator.limits import ROOT, Limits
from testbed.process import ServerProcess, http_ready


def write_configuration(
    folder: Path,
    targets: Mapping[str, str],
    limits: Limits,
    *,
    speed: float,
    alertmanager: str | None,
    webhook: str = DISABLED,
) -> None:
    """Write prometheus.yml, the rules and Alertmanager's configuration into a folder.

    Args:
        targets: `host:port` by job; jobs of prometheus.yml that are not named are left out.
        alertmanager: its `host:port`; None when there is none.
        webhook: where its messages go.
    """
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text("utf-8"))
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    # The exporter's interval for all of them.
    interval = f"{round(30_000 / speed)}ms"
    config["global"] = {"scrape_interval": interval, "scrape_timeout": interval}
    for job in config["scrape_configs"]:
        job.pop("scrape_interval", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    managers = [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
    config["alerting"] = {"alertmanagers": managers}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    for name, text in generated(limits, speed).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(DISABLED, webhook), "utf-8")


def prometheus_server(program: str, folder: Path, port: int, *, speed: float, log: Path) -> ServerProcess:
    """Prometheus with the folder's configuration; its data is kept there too."""
    return ServerProcess(
        [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            # Its own defaults, and what docker-compose.alertmanager.yaml sets, at this speed.
            f"--query.lookback-delta={round(300_000 / speed)}ms",
            f"--rules.alert.resend-delay={round(60_000 / speed)}ms",
            f"--rules.alert.for-grace-period={round(30_000 / speed)}ms",
        ],
        log=log,
        ready=http_ready(f"http://127.0.0.1:{port}/-/ready"),
        cwd=folder,
    )


def alertmanager_server(program: str, folder: Path, port: int, *, log: Path) -> ServerProcess:
    """Alertmanager with the folder's configuration."""
    return ServerProcess(
        [
            program,
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        log=log,
        ready=http_ready(f"http://127.0.0.1:{port}/-/ready"),
        cwd=folder,
    )
