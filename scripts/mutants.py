"""Mutation testing of one module: small faults are put into it, one at a time, and its tests have to notice them.

    make mutants MODULE=exporter/schedule.py        (or `python scripts/mutants.py exporter/schedule.py`)
    make mutants                                    lists the modules, with the tests that are run for each
    python scripts/mutants.py MODULE NAME …         runs some of its mutants again, after a test was added
    MUTANTS_AT_ONCE=1 make mutants MODULE=…         runs one at a time, where others need the cores

mutmut makes the faults and runs the tests, in a copy of the sources under .mutants/. It leaves alone what has a
decorator (properties, context managers) and what stands outside of functions (constants, SQL, patterns). Results, with
the survivors that change nothing that anybody could see, are in docs/testing.md.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / ".mutants"
LINKED: Final = ("exporter", "docker", "grafana", "testbed", "tests", "scripts", "docs", "prometheus.yml", "README.md")
"""What the copy is made of."""
CONFIG: Final = """
[tool.mutmut]
source_paths = [{sources}]
only_mutate = ["{module}"]
also_copy = [{linked}]
pytest_add_cli_args = ["-p", "no:cacheprovider", "--hypothesis-seed=0", {left_out}]
pytest_add_cli_args_test_selection = [{tests}]
do_not_mutate_patterns = ['^\\s*(log\\.\\w+\\(|assert )']
process_isolation = "forkserver"
timeout_constant = 10.0
timeout_multiplier = 3.0
"""
"""Lines that log are left alone: what a log says is tested where somebody relies on it."""
PIPELINE: Final = "docker/airflow/dags/bike_pipeline"
"""Imported as `bike_pipeline`, so it stands at the top of the copy as well."""
AIRFLOW: Final = "tests/sources/airflow"
AUDIT: Final = "tests/sources/audit"
NO_PROPERTIES: Final = "not test_any_ and not length_or_an_error and not comes_back and not test_every_end_is"
"""Leaves out Airflow's tests with hypothesis: seconds for each mutant, and minutes to shrink what they find."""
LEFT_OUT: Final = (
    "tests/test_ledger.py::test_a_read_only_folder_is_a_problem_not_a_crash",
    "tests/test_state_file.py::test_a_holder_that_is_killed_holds_nothing",
    "tests/test_state_file.py::test_on_a_full_disk_there_is_no_file_and_it_is_made_when_there_is_space",
)
"""Tests that run the package in a process of their own, in which mutmut cannot be told which functions it calls."""
TESTS: Final[dict[str, tuple[str, ...]]] = {
    "exporter/schedule.py": ("tests/test_schedule.py",),
    "exporter/counters.py": ("tests/test_counters.py",),
    "exporter/choice.py": ("tests/test_choice.py",),
    "exporter/health.py": ("tests/test_health.py",),
    "exporter/source_state.py": (
        *("tests/test_source_state.py", "tests/test_probes.py", "tests/test_refresh.py"),
        *("tests/test_refresh_kept.py", "tests/test_refresh_requests.py"),
    ),
    "exporter/source_thread.py": ("tests/test_source_thread.py", "tests/test_source_state.py"),
    "exporter/guard.py": ("tests/test_guard.py",),
    "exporter/refresh.py": (
        *("tests/test_source_state.py", "tests/test_refresh.py", "tests/test_refresh_kept.py"),
        *("tests/test_refresh_requests.py", "tests/test_refresh_steps.py", "tests/test_probes.py"),
        "tests/test_state_file.py",
    ),
    "exporter/ledger.py": ("tests/test_ledger.py", "tests/test_state_file.py"),
    "exporter/state_file.py": ("tests/test_state_file.py", "tests/test_ledger.py"),
    "exporter/sources/boundary.py": ("tests/sources/test_boundary.py",),
    "exporter/sources/deadlines.py": ("tests/sources/test_connections.py", "tests/sources/test_deadlines.py"),
    "exporter/sources/airflow/records.py": (f"{AIRFLOW}/test_records.py",),
    "exporter/sources/airflow/windows.py": (f"{AIRFLOW}/test_windows.py", "-k", NO_PROPERTIES),
    "exporter/sources/airflow/watched.py": (f"{AIRFLOW}/test_watched.py",),
    "exporter/sources/airflow/totals.py": (f"{AIRFLOW}/test_counted_once.py", f"{AIRFLOW}/test_ledger_tables.py"),
    "exporter/sources/airflow/xcom_fetch.py": (f"{AIRFLOW}/test_fetching.py",),
    "exporter/sources/airflow/xcom_value.py": (f"{AIRFLOW}/test_xcom_value.py", "-k", NO_PROPERTIES),
    "exporter/sources/airflow/session.py": (
        f"{AIRFLOW}/test_session.py",
        f"{AIRFLOW}/test_session_rules.py",
        "-k",
        "not deadline_holds and not short_retry and not ends_a_call",
    ),
    "exporter/sources/airflow/failures.py": (f"{AIRFLOW}/test_failures.py", f"{AIRFLOW}/test_unreachable.py"),
    "exporter/sources/airflow/api.py": (f"{AIRFLOW}/test_questions.py",),
    "exporter/sources/airflow/observations.py": (f"{AIRFLOW}/test_observations.py",),
    "exporter/sources/airflow/kept.py": (f"{AIRFLOW}/test_kept.py", f"{AIRFLOW}/test_counted_once.py"),
    "exporter/sources/airflow/source.py": (f"{AIRFLOW}/test_one_refresh.py", f"{AIRFLOW}/test_limits.py"),
    "exporter/sources/audit/answer.py": (f"{AUDIT}/test_answer_rules.py", f"{AUDIT}/test_answer.py"),
    "exporter/sources/audit/schema.py": (f"{AUDIT}/test_schema.py",),
    "exporter/sources/audit/query.py": (
        f"{AUDIT}/test_query_rules.py",
        f"{AUDIT}/test_answer_rules.py",
        f"{AUDIT}/test_query.py",
    ),
    "exporter/sources/audit/bigquery.py": (f"{AUDIT}/test_bigquery_rules.py", f"{AUDIT}/test_bigquery_answers.py"),
    "exporter/sources/audit/bigquery_client.py": (
        f"{AUDIT}/test_bigquery_rules.py",
        f"{AUDIT}/test_bigquery_answers.py",
        f"{AUDIT}/test_bigquery_credentials.py",
    ),
    "exporter/sources/audit/bigquery_errors.py": (f"{AUDIT}/test_bigquery_errors.py",),
    "exporter/sources/audit/bigquery_protected.py": (f"{AUDIT}/test_protected_columns.py",),
    "exporter/sources/audit/files.py": (f"{AUDIT}/test_embedded_log.py",),
    "exporter/sources/audit/file_heads.py": (f"{AUDIT}/test_file_heads.py",),
    "exporter/sources/audit/pattern.py": (f"{AUDIT}/test_pattern.py",),
    "exporter/sources/audit/columns.py": (f"{AUDIT}/test_expressions.py",),
    "exporter/sources/audit/row_keys.py": (f"{AUDIT}/test_expressions.py",),
    "exporter/sources/audit/times.py": (f"{AUDIT}/test_expressions.py",),
    f"{PIPELINE}/decision.py": ("tests/pipeline/test_decision.py",),
    f"{PIPELINE}/drift.py": ("tests/pipeline/test_drift_rules.py",),
}
"""The modules that hold promises, and the tests that are to notice a fault in each: fast ones, through public names."""


def main(arguments: Sequence[str]) -> int:
    """Run a module's mutants, or those that are named, and print the survivors. Without a module, list the modules."""
    module, names = (arguments[0], arguments[1:]) if arguments else ("", ())
    if module not in TESTS:
        for known, tests in TESTS.items():
            print(f"{known:48} {' '.join(tests)}")
        return int(bool(module))
    folder = _folder(module, TESTS[module])
    mutmut = [sys.executable, "-m", "mutmut"]
    run = [*mutmut, "run", "--max-children", os.environ.get("MUTANTS_AT_ONCE") or str(os.cpu_count() or 2), *names]
    ended = subprocess.run(run, cwd=folder, check=False)
    if ended.returncode:
        return ended.returncode
    subprocess.run([*mutmut, "export-cicd-stats"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    counts = json.loads((folder / "mutants" / "mutmut-cicd-stats.json").read_text())
    listed = subprocess.run([*mutmut, "results"], cwd=folder, check=True, capture_output=True, text=True).stdout
    for name, _, state in (line.strip().partition(": ") for line in listed.splitlines()):
        if state and state != "not checked":
            shown = subprocess.run([*mutmut, "show", name], cwd=folder, check=True, capture_output=True, text=True)
            print(f"\n{state}: {name}\n" + "\n".join(shown.stdout.splitlines()[3:]))
    print(f"\n{module}: {counts}")
    return 0


def _folder(module: str, tests: Sequence[str]) -> Path:
    """A fresh folder with links to the sources and mutmut's configuration for the module."""
    folder = WORK / module.replace("/", "-").removesuffix(".py")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    links = {name: ROOT / name for name in LINKED} | {Path(PIPELINE).name: ROOT / PIPELINE}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    module = module.removeprefix(f"{Path(PIPELINE).parent}/")
    source = module.partition("/")[0]
    config = CONFIG.format(
        sources=f'"{source}"',
        module=module,
        left_out=", ".join(f'"--deselect={test}"' for test in LEFT_OUT),
        linked=", ".join(f'"{name}"' for name in links if name != source),
        tests=", ".join(f'"{test}"' for test in tests),
    )
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + config)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
