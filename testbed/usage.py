"""What processes use, as Linux counts it in /proc."""

import os
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")


def patience(seconds: float) -> float:
    """So many seconds on a machine that is there for the test alone; more where others want its processors, too."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pid: int | str = "self") -> int:
    """Memory of a process that is in RAM, shared pages included."""
    return _kib(pid, "Rss") * 1024


def pss_bytes(pid: int) -> int:
    """The same with every shared page divided by the number of processes that share it: these can be added up."""
    return _kib(pid, "Pss") * 1024


def peak_rss_bytes() -> int:
    """Highest RSS of this process since it was started. (What getrusage says includes that of the process that started
    it.)"""
    return _kib("self", "VmHWM", "status") * 1024


def _kib(pid: int | str, name: str, file: str = "smaps_rollup") -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"no {name} of process {pid}")
