"""Load on an HTTP server, by wrk: requests per second and latencies.

wrk keeps every latency in a histogram of microseconds and corrects it for coordinated omission. `--latency` prints its
percentiles. Every request has the Accept header that Prometheus 3 sends.
"""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

ACCEPT: Final = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
MISSING: Final = "wrk, the load generator, is not installed: apt install wrk (or brew install wrk)"
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PERCENTILE: Final = re.compile(r"^\s+(50|99)(?:\.0+)?%\s+([\d.]+)(us|ms|s|m|h)\s*$", re.MULTILINE)
_RATE: Final = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_COUNT: Final = re.compile(r"^\s+(\d+) requests in", re.MULTILINE)
_BAD: Final = re.compile(r"^\s+(Non-2xx or 3xx responses|Socket errors): *(.*)$", re.MULTILINE)
_AT_LEAST_REQUESTS: Final = 6
_AT_LEAST_PER_CONNECTION: Final = 3
_LONGEST_SECONDS: Final = 20.0


class LoadError(RuntimeError):
    """wrk is missing, or the server did not answer everything well."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk measured. Latencies are seconds."""

    requests: int
    rate: float
    p50: float
    p99: float


def require() -> None:
    """Say so when wrk is not there.

    Raises:
        LoadError: with how to install it.
    """
    if shutil.which("wrk") is None:
        raise LoadError(MISSING)


def headers(*, gzip: bool) -> dict[str, str]:
    """What Prometheus sends, with or without its wish for compression."""
    return {"Accept": ACCEPT, "Accept-Encoding": "gzip" if gzip else "identity"}


def once(url: str, *, gzip: bool, verify: Path | None = None) -> tuple[bytes, float]:
    """One request: the body as it came over the wire, and the seconds it took. `verify` is the authority's file where
    the URL is one of HTTPS."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(verify) if verify else True
        began = time.perf_counter()
        with session.get(url, headers=headers(gzip=gzip), timeout=60, stream=True) as response:
            response.raise_for_status()
            return response.raw.read(decode_content=False), time.perf_counter() - began


def load(url: str, *, seconds: float, connections: int, gzip: bool, verify: Path | None = None) -> Load:
    """Ask for a URL again and again on some kept-alive connections, for some seconds.

    A server so slow that this would be less than six requests, or three on each connection, is given longer, up to 20
    seconds: one that works at all connections' requests in turns answers none of them for a while.

    Raises:
        LoadError: wrk is missing, a request was not answered with 2xx, or none was at all.
    """
    require()
    _, probe = once(url, gzip=gzip, verify=verify)
    at_least = max(_AT_LEAST_REQUESTS, _AT_LEAST_PER_CONNECTION * connections)
    seconds = min(max(seconds, probe * at_least), max(_LONGEST_SECONDS, seconds))
    arguments = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    for name, value in headers(gzip=gzip).items():
        arguments += ["-H", f"{name}: {value}"]
    done = subprocess.run([*arguments, url], capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise LoadError(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Read what `wrk --latency` printed.

    Raises:
        LoadError: errors were printed, or the numbers were not.
    """
    if bad := _BAD.search(output):
        raise LoadError(f"{bad[1]}: {bad[2]}")
    latencies = {name: float(value) * _UNITS[unit] for name, value, unit in _PERCENTILE.findall(output)}
    rate, count = _RATE.search(output), _COUNT.search(output)
    if rate is None or count is None or not int(count[1]) or set(latencies) != {"50", "99"}:
        raise LoadError(f"wrk measured nothing:\n{output}")
    return Load(int(count[1]), float(rate[1]), latencies["50"], latencies["99"])
