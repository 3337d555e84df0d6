"""From a snapshot to what `/metrics` serves, in both formats."""

import gzip
import math
import os
import platform
import re
import shutil
import subprocess
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import __version__
from exporter.catalog import Catalog, CountRows, MetricSpec
from exporter.catalog_parser import load_catalog, parse_catalog
from exporter.choice import sources_of
from exporter.errors import FAILURE_REASONS
from exporter.exposition import CHUNK_BYTES, LINES_AT_ONCE, Exposition, render
from exporter.families import CACHED, OWN_FAMILIES, Family, families
from exporter.snapshot import Grid, HistogramSample, Labels, Observation, Reading, Sample, Snapshot, SourceStatus
from testbed.exposed import Exposed

SMALL = parse_catalog(
    r"""
version: 1
audit: {table: a.b, timestamp: at}
metrics:
  - {name: shop_r2, type: gauge, help: "R² of C:\\ now.", from: [{audit: r2}]}
  - {name: shop_old_r2, type: gauge, help: "Deprecated: shop_r2.", alias_of: shop_r2}
  - {name: shop_features_count, type: untyped, help: Features., from: [{audit: features}]}
  - {name: shop_never, type: gauge, help: Never filled., from: [{audit: never}]}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: verdict, values: {go: GO, stop: STOP}}}]
  - name: shop_run_seconds
    type: histogram
    help: Runs.
    labels: [dag_id, state]
    buckets: [1, 2.5, 60]
    from: [{airflow: dag_run_duration}]
""",
    "small.yaml",
)
AUDIT = {
    "shop_r2": Observation((Sample((), 0.75),), 80.0),
    "shop_features_count": Observation((Sample((), 3.0),), 80.0),
    "shop_releases_total": Observation(
        (Sample((("decision", "go"),), 12.0), Sample((("decision", "stop"),), 0.0)), 80.0
    ),
}
RUNS = HistogramSample((("dag_id", 'a "b"\n\\'), ("state", "success")), (1, 2, 0, 3), 200.5)
AIRFLOW = {"shop_run_seconds": Observation((RUNS,), 85.0)}
PROCESS = re.compile(r"(# \w+ )?(process|python)_")


def reading(catalog: Catalog, source: str, observations: dict[str, Observation], **facts: float) -> Reading:
    return Reading(source, "i", catalog.fingerprint, 100.0, 90.0, None, observations, facts=facts)


def small_snapshot(catalog: Catalog = SMALL) -> Snapshot:
    return Snapshot(
        at=100.0,
        statuses=(
            SourceStatus("audit", up=True, last_success_at=100.0, refreshes=3, duration_seconds=0.25),
            SourceStatus(
                *("airflow", False), last_success_at=100.0, refreshes=2, failures={"timeout": 1}, duration_seconds=30.0
            ),
        ),
        readings={
            "audit": reading(catalog, "audit", AUDIT, last_record_at=80.0),
            "airflow": reading(catalog, "airflow", AIRFLOW),
        },
        telemetry={
            "mlops_exporter_bigquery_queries_total": (
                *(
                    Sample((("outcome", outcome),), float(n))
                    for n, outcome in enumerate(("executed", "cached", "skipped"))
                ),
            ),
            "mlops_exporter_bigquery_bytes_billed_total": (Sample((), 10485760.0),),
            "mlops_exporter_airflow_requests_total": (Sample((("code", "200"),), 9.0),),
        },
    )


def expose(catalog: Catalog = SMALL, snapshot: Snapshot | None = None) -> Exposition:
    return render(families(catalog, snapshot or small_snapshot(catalog)))


def without_process(body: bytes) -> str:
    """The lines that do not depend on the process that runs the test."""
    return "".join(line for line in body.decode().splitlines(keepends=True) if not PROCESS.match(line))


FAILURES = "".join(
    f'mlops_exporter_source_refresh_failures_total{{reason="{reason}",source="{source}"}} '
    f"{1.0 if (source, reason) == ('airflow', 'timeout') else 0.0}\n"
    for source in ("audit", "airflow")
    for reason in FAILURE_REASONS
)
TEXT = rf"""# HELP shop_r2 R² of C:\\ now. {CACHED}
# TYPE shop_r2 gauge
shop_r2 0.75
# HELP shop_old_r2 Deprecated: shop_r2. {CACHED}
# TYPE shop_old_r2 gauge
shop_old_r2 0.75
# HELP shop_features_count Features. {CACHED}
# TYPE shop_features_count untyped
shop_features_count 3.0
# HELP shop_releases_total Releases. {CACHED}
# TYPE shop_releases_total counter
shop_releases_total{{decision="go"}} 12.0
shop_releases_total{{decision="stop"}} 0.0
# HELP shop_run_seconds Runs. {CACHED}
# TYPE shop_run_seconds histogram
shop_run_seconds_bucket{{dag_id="a \"b\"\n\\",le="1.0",state="success"}} 1.0
shop_run_seconds_bucket{{dag_id="a \"b\"\n\\",le="2.5",state="success"}} 3.0
shop_run_seconds_bucket{{dag_id="a \"b\"\n\\",le="60.0",state="success"}} 3.0
shop_run_seconds_bucket{{dag_id="a \"b\"\n\\",le="+Inf",state="success"}} 6.0
shop_run_seconds_count{{dag_id="a \"b\"\n\\",state="success"}} 6.0
shop_run_seconds_sum{{dag_id="a \"b\"\n\\",state="success"}} 200.5
# HELP mlops_exporter_build_info Always 1; version of the exporter and of Python.
# TYPE mlops_exporter_build_info gauge
mlops_exporter_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0
# HELP mlops_exporter_source_up 1 if the last refresh of the source succeeded, 0 if it failed; absent before the first one has ended.
# TYPE mlops_exporter_source_up gauge
mlops_exporter_source_up{{source="audit"}} 1.0
mlops_exporter_source_up{{source="airflow"}} 0.0
# HELP mlops_exporter_source_last_success_timestamp_seconds When the source last confirmed the values that are shown, in Unix seconds.
# TYPE mlops_exporter_source_last_success_timestamp_seconds gauge
mlops_exporter_source_last_success_timestamp_seconds{{source="audit"}} 100.0
mlops_exporter_source_last_success_timestamp_seconds{{source="airflow"}} 100.0
# HELP mlops_exporter_source_refresh_duration_seconds How long the last finished refresh of the source took.
# TYPE mlops_exporter_source_refresh_duration_seconds gauge
mlops_exporter_source_refresh_duration_seconds{{source="audit"}} 0.25
mlops_exporter_source_refresh_duration_seconds{{source="airflow"}} 30.0
# HELP mlops_exporter_source_refreshes_total Refreshes of the source.
# TYPE mlops_exporter_source_refreshes_total counter
mlops_exporter_source_refreshes_total{{source="audit"}} 3.0
mlops_exporter_source_refreshes_total{{source="airflow"}} 2.0
# HELP mlops_exporter_source_refresh_failures_total Refreshes of the source that failed, by reason.
# TYPE mlops_exporter_source_refresh_failures_total counter
{FAILURES}# HELP mlops_exporter_metric_source_info Always 1; the source whose value a metric shows at the moment.
# TYPE mlops_exporter_metric_source_info gauge
mlops_exporter_metric_source_info{{metric="shop_r2",source="audit"}} 1.0
mlops_exporter_metric_source_info{{metric="shop_features_count",source="audit"}} 1.0
mlops_exporter_metric_source_info{{metric="shop_releases_total",source="audit"}} 1.0
mlops_exporter_metric_source_info{{metric="shop_run_seconds",source="airflow"}} 1.0
mlops_exporter_metric_source_info{{metric="shop_old_r2",source="audit"}} 1.0
# HELP mlops_exporter_audit_last_record_timestamp_seconds Timestamp of the newest audit row, in Unix seconds.
# TYPE mlops_exporter_audit_last_record_timestamp_seconds gauge
mlops_exporter_audit_last_record_timestamp_seconds 80.0
# HELP mlops_exporter_series_dropped Series from the audit log that EXPORTER_MAX_SERIES leaves out, at most: a column may be empty for some.
# TYPE mlops_exporter_series_dropped gauge
mlops_exporter_series_dropped 0.0
# HELP mlops_exporter_bigquery_queries_total Audit queries by outcome: executed, answered from BigQuery's cache, or skipped because nothing changed.
# TYPE mlops_exporter_bigquery_queries_total counter
mlops_exporter_bigquery_queries_total{{outcome="executed"}} 0.0
mlops_exporter_bigquery_queries_total{{outcome="cached"}} 1.0
mlops_exporter_bigquery_queries_total{{outcome="skipped"}} 2.0
# HELP mlops_exporter_bigquery_bytes_billed_total Bytes that BigQuery billed for audit queries.
# TYPE mlops_exporter_bigquery_bytes_billed_total counter
mlops_exporter_bigquery_bytes_billed_total 1.048576e+07
# HELP mlops_exporter_airflow_requests_total Requests to Airflow's REST API by HTTP status code, `error` where there was no answer.
# TYPE mlops_exporter_airflow_requests_total counter
mlops_exporter_airflow_requests_total{{code="200"}} 9.0
# HELP mlops_exporter_state_persistent 1 if counters and last good readings survive a restart, 0 if the state folder cannot be used.
# TYPE mlops_exporter_state_persistent gauge
mlops_exporter_state_persistent 1.0
# HELP mlops_exporter_loop_errors_total Steps of the refresh loop that failed on a bug of the exporter: what they would have made is missing or old.
# TYPE mlops_exporter_loop_errors_total counter
mlops_exporter_loop_errors_total 0.0
"""  # noqa: E501 -- the format has no line breaks


def to_openmetrics(text: str) -> str:
    """What differs in OpenMetrics: a counter's family has no _total, untyped is called unknown, and there is an end."""
    counters = re.findall(r"^# TYPE (\w+)_total counter$", text, re.MULTILINE)
    for name in counters:
        text = re.sub(rf"^(# \w+ {name})_total ", r"\1 ", text, flags=re.MULTILINE)
    return text.replace(" untyped\n", " unknown\n") + "# EOF\n"


def test_the_text_format_is_exactly_this():
    assert without_process(bytes(expose().text)) == TEXT


def test_openmetrics_is_exactly_this():
    assert without_process(bytes(expose().openmetrics)) == to_openmetrics(TEXT)


def samples(found: list[Metric]) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in found
        for sample in family.samples
        if not PROCESS.match(sample.name)
    }


def test_both_formats_say_the_same_to_the_parsers_of_the_ecosystem():
    exposition = expose()
    text, om = (
        list(parse_text(exposition.text.decode())),
        list(parse_openmetrics(exposition.openmetrics.decode())),
    )
    assert samples(text) == samples(om)
    assert ("shop_r2", (), 0.75) in samples(text)
    assert {family.name: family.type for family in text} == {family.name: family.type for family in om}


def test_gzip_bodies_hold_the_plain_ones():
    exposition = expose()
    assert gzip.decompress(bytes(exposition.text_gzip)) == bytes(exposition.text)
    assert gzip.decompress(bytes(exposition.openmetrics_gzip)) == bytes(exposition.openmetrics)
    assert len(bytes(exposition.text_gzip)) < len(bytes(exposition.text)) / 3


def test_one_snapshot_gives_the_same_bytes_every_time():
    made = [list(families(SMALL, small_snapshot())) for _ in range(2)]
    stable = [[family for family in found if not PROCESS.match(family.name)] for found in made]
    assert render(stable[0]) == render(stable[1])
    for body in (bytes(render(stable[0]).text_gzip), bytes(render(stable[0]).openmetrics_gzip)):
        assert bytes(body)[4:8] == bytes(4), "gzip's header holds no time"


def test_the_process_is_described_too():
    names = Exposed(expose().text).names()
    assert {"process_resident_memory_bytes", "process_start_time_seconds", "python_info"} <= names


# -- values ------------------------------------------------------------------------------------------------------------


def test_what_is_unknown_has_neither_sample_nor_help():
    assert "shop_never" not in expose().text.decode()


def test_a_metric_disappears_with_its_value():
    """Families are made afresh, so no label outlives its value."""
    before = small_snapshot()
    fewer = Observation((Sample((("decision", "go"),), 12.0),), 80.0)
    after = Snapshot(100.0, before.statuses, {"audit": reading(SMALL, "audit", {"shop_releases_total": fewer})})
    assert Exposed(expose(snapshot=before).text).value("shop_releases_total", decision="stop") == 0
    exposed = Exposed(expose(snapshot=after).text)
    assert exposed.value("shop_releases_total", decision="go") == 12
    assert exposed.value("shop_releases_total", decision="stop") is None
    assert exposed.value("shop_r2") is None
    assert exposed.value("shop_old_r2") is None


def test_nothing_is_not_a_number():
    assert not any(math.isnan(sample.value) for sample in Exposed(expose().text).samples)
    assert "NaN" not in expose().openmetrics.decode()


def test_samples_have_no_timestamp():
    assert all(sample.timestamp is None for sample in Exposed(expose().text).samples)


def test_help_says_that_values_are_cached_and_where_their_age_is():
    text = expose(BUILT_IN, full_snapshot()).text.decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    assert {name for name, words in helps.items() if words.endswith(CACHED)} == {m.name for m in BUILT_IN.metrics}
    (age,) = re.findall(r"mlops_exporter_\w+", CACHED)
    assert age in helps


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=4), st.floats(0, 1e12))
def test_a_histogram_is_cumulative_and_ends_with_all_events(counts: list[int], total: float):
    sample = HistogramSample((("dag_id", "d"), ("state", "success")), tuple(counts), total)
    snapshot = Snapshot(
        *(1.0, (), {"airflow": reading(SMALL, "airflow", {"shop_run_seconds": Observation((sample,), 1.0)})})
    )
    exposed = Exposed(expose(snapshot=snapshot).text)
    buckets = [s for s in exposed.samples if s.name == "shop_run_seconds_bucket"]
    assert [s.labels["le"] for s in buckets] == ["1.0", "2.5", "60.0", "+Inf"]
    assert [s.value for s in buckets] == [sum(counts[: index + 1]) for index in range(4)]
    assert exposed.value("shop_run_seconds_count") == sum(counts)
    assert exposed.value("shop_run_seconds_sum") == total


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), st.floats(0, allow_infinity=False))
def test_any_label_and_any_value_come_back_as_they_went_in(label: str, value: float):
    observation = Observation((Sample((("decision", label),), value),), 1.0)
    snapshot = Snapshot(1.0, (), {"audit": reading(SMALL, "audit", {"shop_releases_total": observation})})
    exposition = expose(snapshot=snapshot)
    for found in (
        parse_text(exposition.text.decode()),
        parse_openmetrics(exposition.openmetrics.decode()),
    ):
        got = [s for family in found for s in family.samples if s.name == "shop_releases_total"]
        assert [(s.labels, s.value) for s in got] == [({"decision": label}, value)]


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"', "\\", "\n", "%s", "%"]
)
ANY_VALUE = (
    st.floats(allow_nan=False) | st.integers(0, 10**18).map(float) | st.sampled_from([0.0, -0.0, 1e6, 1e7, 1e16])
)


def by_the_library(family: Family) -> tuple[bytes, bytes]:
    """Both bodies of one family as prometheus_client writes them."""
    same = family.library()
    for sample in family.samples:
        same.add_metric([dict(sample.labels)[name] for name in family.labels], sample.value)  # type: ignore[attr-defined]

    class One:
        def collect(self) -> list[Metric]:
            return [same]

    return generate_latest(One()), openmetrics.generate_latest(One())  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.sampled_from([("shop_r2", "gauge"), ("shop_count", "untyped"), ("shop_total", "counter")]),
    ANY_TEXT,
    st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=5),
    st.lists(ANY_TEXT, max_size=3, unique=True),
    st.data(),
)
def test_many_label_sets_are_written_as_the_library_writes_them(kind, words, rows, decisions, data):
    """Byte by byte, for any text and any value, with any order of labels."""
    sets: tuple[Labels, ...] = tuple((("model", model), ("area", area)) for model, area in rows)
    own: list[Labels] = [(("decision", decision),) for decision in decisions] or [()]
    number = st.lists(ANY_VALUE, min_size=len(sets), max_size=len(sets))
    grid = Grid(sets, tuple((labels, array("d", data.draw(number))) for labels in own))
    labels = ("model", "area", *(["decision"] if decisions else []))
    for samples in (grid, tuple(grid)):
        family = Family(*kind, words, labels, samples)
        exposition = render([family])
        assert (bytes(exposition.text), bytes(exposition.openmetrics)) == by_the_library(family)


def test_more_lines_than_are_put_together_at_once_are_all_there_in_order():
    sets: tuple[Labels, ...] = tuple((("model", f"m{number}"),) for number in range(2 * LINES_AT_ONCE + 1))
    values = array("d", (math.nan if number == LINES_AT_ONCE else number for number in range(len(sets))))
    family = Family("shop_r2", "gauge", "R2.", ("model",), Grid(sets, (((), values),)))
    exposition = render([family])
    assert (bytes(exposition.text), bytes(exposition.openmetrics)) == by_the_library(family)
    assert gzip.decompress(bytes(exposition.text_gzip)) == bytes(exposition.text)
    assert gzip.decompress(bytes(exposition.openmetrics_gzip)) == bytes(exposition.openmetrics)
    assert f'model="m{LINES_AT_ONCE}"' not in exposition.text.decode()


def test_a_large_family_is_held_once_for_both_formats():
    """What is shown and what is being rendered are held at once, so that a second copy would count twice."""
    sets: tuple[Labels, ...] = tuple((("model", f"m{number}"),) for number in range(3 * CHUNK_BYTES // 20))
    family = Family("shop_r2", "gauge", "R2.", ("model",), Grid(sets, (((), array("d", [0.5] * len(sets))),)))
    exposition = render([family])
    in_text = {id(chunk) for chunk in exposition.text.chunks}
    own = [chunk for chunk in exposition.openmetrics.chunks if id(chunk) not in in_text]
    assert len(in_text) > 2
    assert sum(map(len, own)) < len(exposition.openmetrics) - 2 * CHUNK_BYTES


# -- the exporter's own ------------------------------------------------------------------------------------------------


def own(snapshot: Snapshot, loop_errors: int = 0) -> dict[str, Metric]:
    """The exporter's own families by their names in the text format."""
    found = {}
    for family in families(SMALL, snapshot, loop_errors):
        if family.name.startswith("mlops_exporter_"):
            found[family.name + ("_total" if family.type == "counter" else "")] = family
    return found


@pytest.mark.parametrize("snapshot", [small_snapshot(), Snapshot(1.0, (), {})], ids=["busy", "empty"])
def test_every_own_family_is_declared_and_every_declared_one_is_exposed(snapshot: Snapshot):
    found = own(snapshot)
    assert {name: (family.type, family.documentation) for name, family in found.items()} == {
        declared.name: (declared.type, declared.help) for declared in OWN_FAMILIES
    }


def test_own_families_have_the_labels_that_are_declared():
    labels = {name: {tuple(s.labels) for s in family.samples} for name, family in own(small_snapshot()).items()}
    assert labels == {declared.name: {declared.labels} for declared in OWN_FAMILIES}


def test_a_source_that_was_never_tried_is_neither_up_nor_down():
    exposed = Exposed(expose(snapshot=Snapshot(1.0, (SourceStatus("audit"),), {})).text)
    for name in ("up", "last_success_timestamp_seconds", "refresh_duration_seconds"):
        assert exposed.value(f"mlops_exporter_source_{name}", source="audit") is None
    assert exposed.value("mlops_exporter_source_refreshes_total", source="audit") == 0


def test_every_failure_reason_is_at_0_from_the_start():
    exposed = Exposed(expose(snapshot=Snapshot(1.0, (SourceStatus("audit"),), {})).text)
    for reason in FAILURE_REASONS:
        assert exposed.value("mlops_exporter_source_refresh_failures_total", source="audit", reason=reason) == 0


def test_bigquerys_counters_are_at_0_where_bigquery_is_not_used():
    exposed = Exposed(expose(snapshot=Snapshot(1.0, (), {})).text)
    for outcome in ("executed", "cached", "skipped"):
        assert exposed.value("mlops_exporter_bigquery_queries_total", outcome=outcome) == 0
    assert exposed.value("mlops_exporter_bigquery_bytes_billed_total") == 0


def test_the_newest_rows_time_is_absent_where_there_is_no_row():
    exposed = Exposed(expose(snapshot=Snapshot(1.0, (), {})).text)
    assert exposed.value("mlops_exporter_audit_last_record_timestamp_seconds") is None


def test_state_that_would_be_lost_and_errors_of_the_loop_are_shown():
    lost = Snapshot(1.0, (), {}, state_problem="read-only")
    exposed = Exposed(render(families(SMALL, lost, loop_errors=2)).text)
    assert exposed.value("mlops_exporter_state_persistent") == 0
    assert exposed.value("mlops_exporter_loop_errors_total") == 2


def test_provenance_names_the_source_of_every_metric_that_is_shown():
    exposed = Exposed(expose().text)
    shown = {s.labels["metric"]: s.labels["source"] for s in exposed.samples if s.name.endswith("metric_source_info")}
    assert shown == {
        "shop_r2": "audit",
        "shop_old_r2": "audit",
        "shop_features_count": "audit",
        "shop_releases_total": "audit",
        "shop_run_seconds": "airflow",
    }


# -- the built-in catalogue --------------------------------------------------------------------------------------------


BUILT_IN = load_catalog()


def full_snapshot() -> Snapshot:
    """A snapshot in which every metric of the built-in catalogue has a value."""
    given: dict[str, dict[str, Observation]] = {"audit": {}, "airflow": {}}
    for number, metric in enumerate(BUILT_IN.metrics, start=1):
        if metric.origins:
            given[sources_of(metric)[0]][metric.name] = Observation(_samples(metric, float(number)), 80.0)
    base = small_snapshot()
    readings = {
        "audit": reading(BUILT_IN, "audit", given["audit"], last_record_at=80.0),
        "airflow": reading(BUILT_IN, "airflow", given["airflow"]),
    }
    return Snapshot(base.at, base.statuses, readings, base.telemetry)


def _samples(metric: MetricSpec, value: float) -> tuple[Sample | HistogramSample, ...]:
    labels = tuple((label, f"some_{label}") for label in metric.labels)
    if metric.type == "histogram":
        return (HistogramSample(labels, (*(1 for _ in metric.buckets), 2), value),)
    if isinstance(metric.origins[0], CountRows):
        return tuple(Sample(((metric.labels[0], known),), value) for known, _ in metric.origins[0].values)
    return (Sample(labels, value),)


def test_every_metric_of_the_catalogue_is_exposed_with_its_type():
    exposition = expose(BUILT_IN, full_snapshot())
    for found in (
        parse_text(exposition.text.decode()),
        parse_openmetrics(exposition.openmetrics.decode()),
    ):
        by_name = {family.name: family for family in found}
        for metric in BUILT_IN.metrics:
            family = by_name[metric.name.removesuffix("_total")]
            assert family.type == metric.type.replace("untyped", "unknown")
            assert family.samples


def test_known_labels_are_exposed_at_0_so_that_the_first_event_is_seen():
    none_yet = {
        metric.name: Observation(_samples(metric, 0.0), None)
        for metric in BUILT_IN.metrics
        if metric.origins and isinstance(metric.origins[0], CountRows)
    }
    snapshot = Snapshot(1.0, (SourceStatus("audit", True),), {"audit": reading(BUILT_IN, "audit", none_yet)})
    exposed = Exposed(expose(BUILT_IN, snapshot).text)
    for decision in ("deploy", "skip", "reject"):
        assert exposed.value("bike_model_deployments_total", decision=decision) == 0
    for status in ("success", "failed"):
        assert exposed.value("bike_training_runs_total", status=status) == 0


def test_promtool_has_nothing_to_say_about_the_full_output():
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing; Debian's package prometheus has it")
        pytest.skip("promtool is missing; Debian's package prometheus has it")
    body = bytes(expose(BUILT_IN, full_snapshot()).text)
    said = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False, timeout=30)
    assert (said.stdout.decode(), said.stderr.decode(), said.returncode) == ("", "", 0)
