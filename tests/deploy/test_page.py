"""docs/deploy.md: its expressions are PromQL over metrics that exist, and its copy of the state is one."""

import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from exporter.catalog_parser import load_catalog
from exporter.families import OWN_FAMILIES
from exporter.ledger import Ledger
from tests.deploy.resources import ROOT
from tests.grafana.promql import parse, selectors

TEXT = (ROOT / "docs" / "deploy.md").read_text("utf-8")
KNOWN = {family.name for family in OWN_FAMILIES} | {metric.name for metric in load_catalog().metrics}
USUAL = {"process_resident_memory_bytes", "process_start_time_seconds"}


def test_what_to_watch_can_be_asked_of_prometheus():
    rows = re.findall(r"^\| [^|`]+(?:`\w+`)? \| `(.+)` \|$", TEXT.split("## What to watch")[1], re.MULTILINE)
    assert len(rows) == 13
    for expression in rows:
        parse(expression)
        assert {selector.name for selector in selectors(expression)} <= KNOWN | USUAL


def test_the_copy_of_the_state_is_whole(tmp_path: Path):
    [command] = re.findall(r"^python3 -c '(.+)'$", TEXT, re.MULTILINE)
    ledger = Ledger.open(tmp_path / "exporter-state")
    try:
        subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    finally:
        ledger.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.sqlite3")) as copy:
        tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "reading" in tables
