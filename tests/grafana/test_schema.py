"""Every dashboard against what Grafana publishes: its types, compiled by TypeScript, and its lists (node/check.mjs)."""

import json
import os
import shutil
import subprocess

import pytest

from tests.grafana.provisioned import DASHBOARDS, PROVISIONING, ROOT, dashboard

NODE = ROOT / "tests" / "grafana" / "node"
FILES = [PROVISIONING / "dashboards" / f"{name}.json" for name in DASHBOARDS]


@pytest.fixture(scope="module")
def check():
    """Runs node/check.mjs over files; gives its exit code and the problems that it names."""
    node = shutil.which("node")
    missing = None if node else "node is not installed: apt install nodejs npm"
    if node and not (NODE / "node_modules").is_dir():
        missing = "Grafana's types are not installed; run: npm ci --prefix tests/grafana/node"
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)

    def run(*files):
        done = subprocess.run(
            [node, NODE / "check.mjs", *files], check=False, capture_output=True, text=True, timeout=300
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.split("\n")[:-1]

    return run


def test_the_dashboards_are_what_grafana_knows(check):
    assert check(*FILES) == (0, [""])


def panel(board, kind):
    return next(panel for panel in board["panels"] if panel["type"] == kind)


FAULTS = {
    "misspelt-option": (
        lambda board: panel(board, "stat")["options"].update(grafMode="area"),
        "'\"grafMode\"' does not exist",
    ),
    "misspelt-nested-option": (
        lambda board: panel(board, "timeseries")["options"]["legend"].update(showLegends=True),
        "'\"showLegends\"' does not exist",
    ),
    "misspelt-custom": (
        lambda board: panel(board, "timeseries")["fieldConfig"]["defaults"]["custom"].update(fillOpacty=3),
        "'\"fillOpacty\"' does not exist",
    ),
    "misspelt-dashboard": (lambda board: board.update(graphToolTip=1), "'\"graphToolTip\"' does not exist"),
    "misspelt-annotation": (
        lambda board: board["annotations"]["list"][1].update(color="red"),
        "'\"color\"' does not exist",
    ),
    "unknown-unit": (
        lambda board: panel(board, "stat")["fieldConfig"]["defaults"].update(unit="percentuint"),
        'Grafana knows no unit "percentuint"',
    ),
    "wrong-enum": (
        lambda board: panel(board, "stat")["options"].update(textMode="values"),
        "Type '\"values\"' is not assignable",
    ),
    "wrong-enum-of-numbers": (lambda board: board.update(graphTooltip=3), "Type '3' is not assignable"),
    "unknown-color": (
        lambda board: panel(board, "stat")["fieldConfig"]["defaults"]["thresholds"]["steps"][0].update(color="gren"),
        'Grafana knows no color "gren"',
    ),
    "unknown-color-mode": (
        lambda board: panel(board, "stat")["fieldConfig"]["defaults"]["color"].update(mode="threshold"),
        "Type '\"threshold\"' is not assignable",
    ),
    "unknown-reducer": (
        lambda board: panel(board, "gauge")["options"]["reduceOptions"].update(calcs=["latest"]),
        'Grafana knows no reducer "latest"',
    ),
    "unknown-transformation": (
        lambda board: panel(board, "table")["transformations"][0].update(id="merged"),
        'Grafana knows no transformation "merged"',
    ),
    "unknown-override": (
        lambda board: panel(board, "table")["fieldConfig"]["overrides"][0]["properties"].append(
            {"id": "custom.aligned", "value": "left"}
        ),
        "'\"aligned\"' does not exist",
    ),
    "unknown-mapping": (
        lambda board: panel(board, "state-timeline")["fieldConfig"]["defaults"]["mappings"][0].update(type="values"),
        "Type '\"values\"' is not assignable",
    ),
}


def test_the_check_finds_every_fault(check, tmp_path):
    """Each in a copy of the overview of its own; one run of the compiler sees them all."""
    for name, (spoil, _) in FAULTS.items():
        board = dashboard("overview")
        spoil(board)
        (tmp_path / f"{name}.json").write_text(json.dumps(board), "utf-8")
    code, problems = check(*(tmp_path / f"{name}.json" for name in FAULTS))
    assert code == 1
    for name, (_, message) in FAULTS.items():
        found = [problem for problem in problems if problem.startswith(f"{name}: ")]
        assert len(found) == 1, (name, found)
        assert message in found[0], (name, found)
