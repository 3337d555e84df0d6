"""Write docs/metrics.md and docs/configuration.md from the catalogue and the settings; --check only compares.

A test runs the comparison, so the pages cannot fall behind the code.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter.catalog import AirflowFigure, CountRows, MetricSpec, NewestColumn, Origin, XCom  # noqa: E402
from exporter.catalog_parser import load_catalog  # noqa: E402
from exporter.families import OWN_FAMILIES  # noqa: E402
from exporter.settings import VARIABLES  # noqa: E402

METRICS_HEAD = """\
# Metrics

<!-- Written by `make docs` from exporter/catalog.yaml and exporter/families.py. Edit those. -->

Values are cached: sources are read once per refresh, and a scrape serves what was read. A value that is unknown has no
sample: never 0, never NaN. Besides the metrics below, `/metrics` has the usual `process_*` and `python_*`.

## The pipeline's

These stand in the [catalogue](catalogue.md), which another team replaces with its own. "Where from" is in order of
preference: while the audit log is up its value wins, and a value it lacks comes from Airflow.

"""

OWN_HEAD = """
## The exporter's own

"""

CONFIGURATION_HEAD = """\
# Configuration

<!-- Written by `make docs` from exporter/settings.py. Edit that. -->

Everything is set by environment variables. An empty variable counts as unset. At the start all of them are checked, and
all problems are reported together, each with the variable's name and what was expected; `python -m exporter check` does
the same and then tries the sources.

"""


def metrics_page() -> str:
    """The text of docs/metrics.md."""
    lines = [METRICS_HEAD + "| metric | type | labels | meaning | where from |", "|---|---|---|---|---|"]
    for metric in load_catalog().metrics:
        labels = ", ".join(_labels(metric)) or "none"
        origins = "; ".join(_origin(origin) for origin in metric.origins) or f"`{metric.alias_of}`"
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} | {origins} |")
    lines += [OWN_HEAD + "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in OWN_FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        lines.append(f"| `{family.name}` | {family.type} | {labels} | {family.help} |")
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    lines = [CONFIGURATION_HEAD + "| variable | default | meaning |", "|---|---|---|"]
    for variable in VARIABLES:
        default = f"`{variable.default}`" if variable.default else "unset"
        secret = " Secret: never shown." if variable.secret else ""
        lines.append(f"| `{variable.name}` | {default} | {variable.help}{secret} |")
    return "\n".join(lines) + "\n"


PAGES = {"docs/metrics.md": metrics_page, "docs/configuration.md": configuration_page}


def _labels(metric: MetricSpec) -> list[str]:
    known = {
        label: [value for value, _ in origin.values]
        for origin in metric.origins
        if isinstance(origin, CountRows)
        for label in metric.labels
    }
    return [f"`{label}`" + (f" ({', '.join(known[label])})" if label in known else "") for label in metric.labels]


def _origin(origin: Origin) -> str:
    match origin:
        case NewestColumn(column):
            return f"audit column `{column}`"
        case CountRows(column, _, where):
            return f"audit rows by `{column}`" + (f" where `{where}`" if where else "")
        case XCom(dag, task, key, field, take):
            path = f" → `{field}`" if field else ""
            length = ", its length" if take else ""
            return f"XCom `{dag}` / `{task}` / `{key}`{path}{length}"
        case AirflowFigure():
            return "Airflow's API"


def main() -> int:
    """Write the pages, or with --check name those that differ and exit 1."""
    stale = []
    for name, page in PAGES.items():
        path = ROOT / name
        text = page()
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
    for name in stale:
        print(f"{name} is not what the code says: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
