"""The BigQuery source: Google's own client over HTTP against a real emulator, with faults made at the transport."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.counters import recounted
from exporter.errors import BadData, SourceError, SourceTimeout, SourceUnavailable
from exporter.settings import Settings
from exporter.snapshot import Reading
from exporter.sources.audit.bigquery import PAGE_SETS, BigQueryAudit
from testbed import faults
from testbed.bigquery import BigQueryEmulator

NOW = 1_790_000_000.0
DAY = 86400.0
SCHEMA = {
    "timestamp": "TIMESTAMP",
    "drift_detected": "BOOL",
    "drift_share": "FLOAT64",
    "drifted_features_count": "INT64",
    "r2": "FLOAT64",
    "rmse": "FLOAT64",
    "champion_r2_baseline": "FLOAT64",
    "r2_current": "FLOAT64",
    "r2_baseline": "FLOAT64",
    "r2_train": "FLOAT64",
    "model_improvement": "FLOAT64",
    "fine_tune_triggered": "BOOL",
    "fine_tune_success": "BOOL",
    "deployment_decision": "STRING",
    "env": "STRING",
    "error_message": "STRING",
    "run_id": "STRING",
}


def at(days_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - days_ago * DAY))


def row(days_ago: float, **values: Any) -> dict[str, Any]:
    return {"timestamp": at(days_ago), "env": "prod", **values}


HISTORY = [
    row(21, r2=0.80, rmse=50.0, champion_r2_baseline=0.82, drift_detected=False, drift_share=0.1,
        drifted_features_count=1, deployment_decision="not_triggered", fine_tune_triggered=False),
    row(14, r2=0.60, rmse=72.5, champion_r2_baseline=0.81, drift_detected=True, drift_share=0.6,
        drifted_features_count=6, deployment_decision="deploy", fine_tune_triggered=True, fine_tune_success=True,
        r2_current=0.78, r2_baseline=0.79, r2_train=0.85, model_improvement=0.18),
    row(7, r2=0.77, rmse=55.25, drift_detected=False, drift_share=0.2, drifted_features_count=2,
        deployment_decision="skip", fine_tune_triggered=True, fine_tune_success=False),
    # The sentinels of older writers: this row says nothing of r2 and rmse.
    row(1, r2=0.0, rmse=999.0, deployment_decision="reject", fine_tune_triggered=False),
]  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def proxy(bigquery_emulator: BigQueryEmulator) -> Iterator[faults.FaultProxy]:
    with faults.FaultProxy(bigquery_emulator.url) as made:
        yield made


Connect = Callable[..., BigQueryAudit]


@pytest.fixture
def connect(proxy: faults.FaultProxy, catalog: Catalog, clock: Clock) -> Iterator[Connect]:
    made: list[BigQueryAudit] = []

    def make(table: str, catalog: Catalog = catalog, **env: str) -> BigQueryAudit:
        settings = Settings.from_env(
            {"GOOGLE_CLOUD_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": proxy.url, "AUDIT_TABLE": table, **env}
        )
        made.append(BigQueryAudit(settings, catalog, clock))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def table(bigquery_emulator: BigQueryEmulator) -> str:
    name = bigquery_emulator.create_table(SCHEMA, partition_by="timestamp", require_partition_filter=True)
    bigquery_emulator.load(name, HISTORY)
    return name


def gauge(reading: Reading, metric: str) -> float | None:
    observation = reading.observations.get(metric)
    return None if observation is None else observation.samples[0].value  # type: ignore[union-attr]


def counts(reading: Reading, metric: str) -> dict[str, float]:
    return {s.labels[0][1]: s.value for s in reading.observations[metric].samples}  # type: ignore[union-attr]


def queries(proxy: faults.FaultProxy) -> int:
    """Queries sent, counted at the HTTP level."""
    return sum(
        1 for request in proxy.requests if request.method == "POST" and request.path.endswith(("/jobs", "/queries"))
    )


def outcomes(source: BigQueryAudit) -> dict[str, float]:
    return {s.labels[0][1]: s.value for s in source.telemetry()["mlops_exporter_bigquery_queries_total"]}


# -- many models -------------------------------------------------------------------------------------------------------


MANY = parse_catalog(
    """
version: 1
audit: {table: a.b, timestamp: timestamp, env: env, labels: {model: model, part: part}, missing: [{rmse: 999, r2: 0}]}
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}
  - {name: shop_rmse, type: gauge, help: RMSE., from: [{audit: rmse}]}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: verdict, values: {go: GO, stop: STOP}}}]
""",
    "many.yaml",
)
MANY_SCHEMA = {
    "timestamp": "TIMESTAMP", "env": "STRING", "model": "STRING", "part": "INT64", "r2": "FLOAT64", "rmse": "STRING",
    "verdict": "STRING",
}  # fmt: skip


def labelled(reading: Reading, metric: str) -> dict[tuple[str, ...], float]:
    return {tuple(v for _, v in s.labels): s.value for s in reading.observations[metric].samples}  # type: ignore[union-attr]


def test_each_model_has_its_own_values(connect: Connect, bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table(MANY_SCHEMA, partition_by="timestamp", require_partition_filter=True)
    rows = [
        row(3, model="a", part=1, r2=0.5, rmse="7.5", verdict="GO"),
        row(2, model=" a ", part=1, r2=0.0, rmse="999", verdict="stop"),
        row(2, model="A", part=1, r2=0.6, rmse="n/a", verdict="GO"),
        row(1, model='q"\\ü', part=2, r2=0.7),
        row(1, model="x" * 201, part=2, r2=0.9),
        row(1, model=" ", part=2, r2=0.9),
        row(1, model="a", r2=0.9, verdict="GO"),
        {**row(1, model="b", part=1, r2=0.8), "env": "dev"},
        row(-9, model="c", part=1, r2=0.9, verdict="GO"),
    ]
    bigquery_emulator.load(table, rows)
    source = connect(table, MANY, AUDIT_ENV="prod")
    reading = source.read(None)
    assert labelled(reading, "shop_r2") == {("a", "1"): 0.5, ("A", "1"): 0.6, ('q"\\ü', "2"): 0.7}
    assert labelled(reading, "shop_rmse") == {("a", "1"): 7.5}
    assert {key: n for key, n in labelled(reading, "shop_releases_total").items() if n} == {
        ("a", "1", "go"): 1, ("a", "1", "stop"): 1, ("A", "1", "go"): 1,
    }  # fmt: skip
    assert len(labelled(reading, "shop_releases_total")) == 8
    assert (reading.facts["rows"], reading.facts["label_sets"], reading.facts["series_dropped"]) == (8, 4, 0)
    assert reading.notes == (
        "column rmse: 1 row with text that is not a number, left out",
        "1 row dated in the future: left out of values and counts until their time has come",
        "3 rows without a usable value for model and part (NULL, blank, or longer than 200 characters), left out",
    )
    assert source.read(reading).queried_at == reading.queried_at
    assert source.plan().query.labels == ("model", "part")


def test_the_newest_models_win(connect: Connect, bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table(MANY_SCHEMA)
    bigquery_emulator.load(table, [row(days, model=f"m{days}", part=1, r2=0.5) for days in range(1, 6)])
    reading = connect(table, MANY, EXPORTER_MAX_SERIES="8").read(None)
    assert labelled(reading, "shop_r2") == {("m1", "1"): 0.5, ("m2", "1"): 0.5}
    assert reading.facts["series_dropped"] == 3 * 4
    assert len(labelled(connect(table, MANY).read(reading), "shop_r2")) == 5


def test_an_empty_table_has_no_model(connect: Connect, bigquery_emulator: BigQueryEmulator):
    reading = connect(bigquery_emulator.create_table(MANY_SCHEMA), MANY).read(None)
    assert (reading.facts["rows"], reading.facts["label_sets"]) == (0, 0)


def test_a_table_without_the_labels_column_is_a_clear_error(connect: Connect, bigquery_emulator: BigQueryEmulator):
    table = bigquery_emulator.create_table({name: kind for name, kind in MANY_SCHEMA.items() if name != "part"})
    with pytest.raises(BadData, match="no column 'part', which says the label 'part'"):
        connect(table, MANY).read(None)


def test_ten_thousand_models_come_in_pages(
    connect: Connect, bigquery_emulator: BigQueryEmulator, proxy: faults.FaultProxy
):
    table = bigquery_emulator.create_table(MANY_SCHEMA)
    bigquery_emulator.load(
        table, [row(1, model=f"m{n}", part=1, r2=n / 10_000, rmse="1", verdict="GO") for n in range(10_000)]
    )
    reading = connect(table, MANY).read(None)
    assert len(labelled(reading, "shop_r2")) == 10_000
    assert sum(labelled(reading, "shop_releases_total").values()) == 10_000
    pages = [r for r in proxy.requests if r.method == "GET" and "/queries/" in r.path]
    assert len(pages) >= 10_000 // PAGE_SETS


# -- values ------------------------------------------------------------------------------------------------------------


def test_every_audit_metric_has_the_value_that_the_rows_say(connect: Connect, table: str):
    reading = connect(table).read(None)
    assert gauge(reading, "bike_model_r2_champion_current") == 0.77
    assert gauge(reading, "bike_model_rmse_production") == 55.25
    assert gauge(reading, "bike_model_r2_champion_baseline") == 0.81
    assert gauge(reading, "bike_model_r2_challenger_current") == 0.78
    assert gauge(reading, "bike_model_r2_challenger_baseline") == 0.79
    assert gauge(reading, "bike_model_improvement_delta") == pytest.approx(0.18)
    assert gauge(reading, "bike_drift_detected") == 0
    assert gauge(reading, "bike_drift_share") == 0.2
    assert gauge(reading, "bike_drifted_features_count") == 2
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 1, "skip": 1, "reject": 1}
    assert counts(reading, "bike_training_runs_total") == {"success": 1, "failed": 1}
    assert reading.facts["rows"] == 4
    assert reading.facts["last_record_at"] == NOW - DAY
    assert reading.observations["bike_model_r2_champion_current"].observed_at == NOW - 7 * DAY
    assert reading.gaps == ()


def test_the_query_filters_on_the_partitioning_column(connect: Connect, table: str, proxy: faults.FaultProxy):
    connect(table).read(None)
    sent = [r.json()["configuration"] for r in proxy.requests if r.method == "POST" and r.path.endswith("/jobs")]
    assert len(sent) == 1
    assert "WHERE (`timestamp` >= @from0 OR `timestamp` IS NULL)" in sent[0]["query"]["query"]
    assert sent[0]["query"]["maximumBytesBilled"] == str(1024**3)
    assert sent[0]["query"]["useQueryCache"] is True
    assert sent[0]["jobTimeoutMs"] == "30000"
    assert sent[0]["labels"] == {"app": "mlops-exporter", "purpose": "audit-log"}


def test_only_the_rows_of_the_env_count(connect: Connect, table: str, bigquery_emulator: BigQueryEmulator):
    bigquery_emulator.load(table, [{**row(0.5), "env": "dev", "r2": 0.99, "deployment_decision": "deploy"}])
    reading = connect(table, AUDIT_ENV="prod").read(None)
    assert gauge(reading, "bike_model_r2_champion_current") == 0.77
    assert counts(reading, "bike_model_deployments_total")["deploy"] == 1
    reading = connect(table, AUDIT_ENV="dev").read(None)
    assert gauge(reading, "bike_model_r2_champion_current") == 0.99
    assert gauge(reading, "bike_model_rmse_production") is None


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("NUMERIC", Decimal("0.75"), 0.75),
        ("INT64", 1, 1.0),
        ("BOOL", True, 1.0),
        ("STRING", "0.75", 0.75),
        ("STRING", "True", 1.0),
        ("STRING", "n/a", None),
        ("FLOAT64", float("nan"), None),
        ("FLOAT64", float("inf"), None),
        ("FLOAT64", float("-inf"), None),
        ("FLOAT64", None, None),
    ],
)
def test_column_types_and_missing_values(connect: Connect, bigquery_emulator: BigQueryEmulator, kind, value, expected):
    name = bigquery_emulator.create_table({"timestamp": "TIMESTAMP", "drift_share": kind})
    bigquery_emulator.load(name, [{"timestamp": at(1), "drift_share": value}])
    reading = connect(name).read(None)
    assert gauge(reading, "bike_drift_share") == expected
    if value == "n/a":
        assert reading.notes == ("column drift_share: 1 row with text that is not a number, left out",)


@pytest.mark.parametrize("kind", ["DATETIME", "DATE", "STRING", "TIMESTAMP"])
def test_types_of_the_timestamp_column(connect: Connect, bigquery_emulator: BigQueryEmulator, kind: str):
    name = bigquery_emulator.create_table({"timestamp": kind, "r2": "FLOAT64"})
    text = {"DATE": "2026-09-01", "DATETIME": "2026-09-01T00:00:00"}.get(kind, "2026-09-01T00:00:00Z")
    bigquery_emulator.load(name, [{"timestamp": text, "r2": 0.5}])
    reading = connect(name).read(None)
    assert gauge(reading, "bike_model_r2_champion_current") == 0.5
    assert reading.facts["last_record_at"] == 1_788_220_800.0


def test_a_column_of_a_type_that_makes_no_sense_costs_only_its_metric(
    connect: Connect, bigquery_emulator: BigQueryEmulator
):
    name = bigquery_emulator.create_table({**SCHEMA, "r2": "DATE"})
    bigquery_emulator.load(name, [row(1, rmse=60.0)])
    reading = connect(name).read(None)
    assert gauge(reading, "bike_model_rmse_production") == 60.0
    assert [gap.metric for gap in reading.gaps if "type DATE" in gap.reason] == ["bike_model_r2_champion_current"]


def test_an_empty_table_gives_no_gauge_and_counters_at_zero(connect: Connect, bigquery_emulator: BigQueryEmulator):
    reading = connect(bigquery_emulator.create_table(SCHEMA)).read(None)
    assert set(reading.observations) == {"bike_model_deployments_total", "bike_training_runs_total"}
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 0, "skip": 0, "reject": 0}
    assert reading.facts["last_record_at"] is None


def test_duplicate_timestamps_give_the_larger_value_every_time(connect: Connect, bigquery_emulator: BigQueryEmulator):
    name = bigquery_emulator.create_table(SCHEMA)
    bigquery_emulator.load(name, [row(1, r2=0.3), row(1, r2=0.9), row(1, r2=0.6)])
    assert {gauge(connect(name).read(None), "bike_model_r2_champion_current") for _ in range(5)} == {0.9}


def test_rows_from_the_future_give_neither_gauge_nor_count_until_their_time_comes(
    connect: Connect, bigquery_emulator: BigQueryEmulator, clock: Clock, proxy: faults.FaultProxy
):
    name = bigquery_emulator.create_table(SCHEMA)
    bigquery_emulator.load(name, [row(1, r2=0.7), row(-2, r2=0.2, deployment_decision="skip")])
    source = connect(name)
    reading = source.read(None)
    assert gauge(reading, "bike_model_r2_champion_current") == 0.7
    assert reading.facts["last_record_at"] == NOW - DAY
    assert any("dated in the future" in note for note in reading.notes)
    assert counts(reading, "bike_model_deployments_total")["skip"] == 0
    clock.now += 2 * DAY
    reading = source.read(dataclasses.replace(reading, queried_at=clock.now - 60))
    assert gauge(reading, "bike_model_r2_champion_current") == 0.2
    assert counts(reading, "bike_model_deployments_total")["skip"] == 1
    assert reading.notes == ()


def test_counters_go_on_while_old_rows_expire(connect: Connect, bigquery_emulator: BigQueryEmulator):
    metric = "bike_model_deployments_total"
    first = [row(9 - n, deployment_decision="deploy") for n in range(3)]
    reading, seen = None, []
    for rows in (first, [*first[1:], row(2, deployment_decision="deploy")], first[:1], [*first, row(1)]):
        name = bigquery_emulator.create_table(SCHEMA)
        bigquery_emulator.load(name, rows)
        reading = recounted(connect(name).read(reading), reading, {metric: ("decision",)})
        seen.append(counts(reading, metric)["deploy"])
    assert seen == [3, 4, 4, 4]


# -- asking costs nothing when nothing changed -------------------------------------------------------------------------


def test_an_unchanged_table_is_not_queried_again(connect: Connect, table: str, proxy: faults.FaultProxy, clock: Clock):
    source = connect(table)
    first = source.read(None)
    assert queries(proxy) == 1
    clock.now += 60
    again = source.read(first)
    assert queries(proxy) == 1
    assert again == dataclasses.replace(first, read_at=clock.now)
    assert outcomes(source) == {"executed": 1, "cached": 0, "skipped": 1}


def test_a_new_row_shows_at_the_next_refresh(connect, table, bigquery_emulator, proxy, clock):
    source = connect(table)
    first = source.read(None)
    bigquery_emulator.load(table, [row(0.1, r2=0.91, deployment_decision="deploy")])
    second = source.read(first)
    assert gauge(second, "bike_model_r2_champion_current") == 0.91
    assert counts(second, "bike_model_deployments_total")["deploy"] == 2
    assert queries(proxy) == 2


def test_a_streamed_row_that_moves_only_the_row_count_shows_too(connect, table, bigquery_emulator):
    source = connect(table)
    first = source.read(None)
    bigquery_emulator.load(table, [row(0.1, r2=0.92)], moves_metadata=False)
    assert gauge(source.read(first), "bike_model_r2_champion_current") == 0.92


def test_a_change_of_the_streaming_buffer_is_a_change(connect, table, proxy, clock):
    """The emulator has no streaming buffer, so its metadata is given one on the way."""

    def with_buffer(rows: str) -> faults.Fault:
        def fault(exchange: faults.Exchange) -> None:
            reply = exchange.ask_upstream()
            content = json.loads(reply.body)
            content["streamingBuffer"] = {"estimatedRows": rows, "estimatedBytes": "10", "oldestEntryTime": "1"}
            exchange.send(dataclasses.replace(reply, body=json.dumps(content).encode()))

        return fault

    source = connect(table)
    proxy.add(with_buffer("1"), method="GET", path="/tables/")
    first = source.read(None)
    second = source.read(first)
    assert queries(proxy) == 1
    proxy.clear()
    proxy.add(with_buffer("2"), method="GET", path="/tables/")
    source.read(second)
    assert queries(proxy) == 2


def test_the_query_runs_again_after_the_maximum_age(connect, table, proxy, clock):
    source = connect(table, AUDIT_MAX_QUERY_AGE_SECONDS="3600")
    reading = source.read(None)
    clock.now += 3599
    reading = source.read(reading)
    assert queries(proxy) == 1
    clock.now += 1
    source.read(reading)
    assert queries(proxy) == 2


def test_the_query_runs_again_after_a_failure(connect, table, proxy, bigquery_emulator):
    source = connect(table)
    first = source.read(None)
    bigquery_emulator.load(table, [row(0.1, r2=0.93)])
    proxy.add(faults.google_error(400, "no", reason="invalidQuery"), method="POST", path="/jobs", times=1)
    with pytest.raises(BadData):
        source.read(first)
    assert gauge(source.read(first), "bike_model_r2_champion_current") == 0.93


def test_the_query_runs_again_when_the_clock_stepped_back(connect, table, proxy, clock):
    source = connect(table)
    first = source.read(None)
    clock.now -= 10 * DAY
    source.read(first)
    assert queries(proxy) == 2


def test_a_view_is_always_queried(connect, table, bigquery_emulator, proxy):
    view = bigquery_emulator.create_view(f"SELECT * FROM `{table}`", name="recent")
    source = connect(view)
    first = source.read(None)
    assert gauge(first, "bike_model_r2_champion_current") == 0.77
    source.read(first)
    assert queries(proxy) == 2


def test_a_table_without_a_column_loses_just_that_metric_and_gets_it_back_without_a_restart(connect, bigquery_emulator):
    name = bigquery_emulator.create_table({k: v for k, v in SCHEMA.items() if k != "drift_share"})
    bigquery_emulator.load(name, [{k: v for k, v in HISTORY[2].items() if k != "drift_share"}])
    source = connect(name)
    first = source.read(None)
    assert gauge(first, "bike_drift_share") is None
    assert gauge(first, "bike_model_r2_champion_current") == 0.77
    assert [(gap.metric, gap.reason) for gap in first.gaps if "no column" in gap.reason] == [
        ("bike_drift_share", "the table has no column drift_share")
    ]
    bigquery_emulator.add_column(name, "drift_share", "FLOAT64")
    bigquery_emulator.load(name, [row(0.1, drift_share=0.4)])
    assert gauge(source.read(first), "bike_drift_share") == 0.4


def test_a_column_that_is_removed_while_running_costs_only_its_metric(connect, table, bigquery_emulator):
    source = connect(table)
    first = source.read(None)
    bigquery_emulator.drop_column(table, "rmse")
    second = source.read(first)
    assert gauge(second, "bike_model_rmse_production") is None
    # Without rmse the sentinel row cannot be told from a true 0.0, so it counts.
    assert gauge(second, "bike_drift_share") == 0.2


def test_a_table_that_is_dropped_and_made_anew_comes_back(connect, table, bigquery_emulator):
    source = connect(table)
    first = source.read(None)
    bigquery_emulator.drop_table(table)
    with pytest.raises(SourceUnavailable, match=r"Table .* does not exist.*init-audit") as caught:
        source.read(first)
    assert caught.value.reason == "not_found"
    dataset, _, name = table.rpartition(".")
    bigquery_emulator.create_table(SCHEMA, dataset=dataset, name=name)
    bigquery_emulator.load(table, [row(0.1, r2=0.5)])
    assert gauge(source.read(first), "bike_model_r2_champion_current") == 0.5


def test_a_missing_dataset_is_named(connect):
    with pytest.raises(SourceUnavailable, match=r"test-project\.nowhere") as caught:
        connect("nowhere.logs").read(None)
    assert caught.value.reason == "not_found"


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "reason", "says"),
    [
        (faults.google_error(401, "no"), SourceUnavailable, "auth", "did not accept the credentials"),
        (faults.google_error(403, "Access Denied: Table x"), SourceUnavailable, "permission", "bigquery.dataViewer"),
        (
            faults.google_error(403, "User does not have bigquery.jobs.create permission"),
            SourceUnavailable,
            "permission",
            "bigquery.jobUser",
        ),
        (faults.google_error(403, "no", reason="billingNotEnabled"), SourceUnavailable, "permission", "Billing"),
        (faults.google_error(403, "no", reason="quotaExceeded"), SourceUnavailable, "quota", "quota"),
        (faults.google_error(404, "Not found: Dataset p:d"), SourceUnavailable, "not_found", "Dataset"),
        (faults.google_error(404, "Not found: Project p"), SourceUnavailable, "not_found", "GOOGLE_CLOUD_PROJECT"),
        (faults.google_error(400, "no", reason="invalid"), BadData, "bad_data", "refused the query"),
        (faults.html(), BadData, "bad_data", "proxy"),
        (faults.status(200, [1, 2]), BadData, "bad_data", "not its API"),
        (faults.status(200, {"unexpected": True}), BadData, "bad_data", "not its API"),
    ],
)
@pytest.mark.parametrize("where", ["/tables/", "/jobs"])
def test_each_refusal_is_a_distinct_plain_error(connect, table, proxy, fault, error, reason, says, where):
    source = connect(table)
    proxy.add(fault, path=where)
    with pytest.raises(error) as caught:
        source.read(None)
    assert caught.value.reason == reason
    assert says in str(caught.value)
    proxy.clear()
    assert gauge(source.read(None), "bike_model_r2_champion_current") == 0.77


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.google_error(429, "slow down"), "quota"),
        (faults.google_error(500), "unavailable"),
        (faults.google_error(503), "unavailable"),
        (faults.html(502), "unavailable"),
        (faults.truncate(), "unavailable"),
        (faults.reset(), "unavailable"),
    ],
)
@pytest.mark.parametrize("where", ["/tables/", "/jobs"])
def test_what_may_pass_is_repeated_for_a_bounded_time_and_then_named(connect, table, proxy, fault, reason, where):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="3", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(fault, path=where)
    began = time.monotonic()
    with pytest.raises(SourceError) as caught:
        source.read(None)
    assert time.monotonic() - began < 20
    assert caught.value.reason == reason
    assert len([r for r in proxy.requests if where in r.path]) > 1
    proxy.clear()
    proxy.add(fault, path=where, times=1)
    assert gauge(connect(table).read(None), "bike_model_r2_champion_current") == 0.77


def test_retry_after_reaches_the_error(connect, table, proxy):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="2", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(faults.google_error(403, "later", reason="quotaExceeded", retry_after=120), path="/tables/")
    with pytest.raises(SourceUnavailable) as caught:
        source.read(None)
    assert caught.value.retry_after == 120


def test_a_query_over_the_limit_says_which_setting(connect, table, proxy):
    source = connect(table)
    proxy.add(faults.google_error(400, "Query exceeded limit", reason="bytesBilledLimitExceeded"), path="/jobs")
    with pytest.raises(SourceUnavailable, match="AUDIT_MAX_BYTES_BILLED"):
        source.read(None)


def test_an_endpoint_that_refuses_connections(connect, table, proxy):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="2", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.refuse()
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        source.read(None)
    proxy.listen()
    assert gauge(source.read(None), "bike_model_r2_champion_current") == 0.77


@pytest.mark.parametrize("fault", [faults.hang(), faults.drip(2)])
@pytest.mark.parametrize("where", ["/tables/", "/jobs", "/queries/"])
def test_an_endpoint_that_never_ends_its_answer_is_given_up_at_the_deadline(connect, table, proxy, fault, where):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(fault, path=where)
    began = time.monotonic()
    with pytest.raises(SourceTimeout):
        source.read(None)
    assert time.monotonic() - began < 20
    proxy.clear()
    proxy.release()
    assert gauge(connect(table).read(None), "bike_model_r2_champion_current") == 0.77


def test_a_job_that_does_not_finish_in_time_is_cancelled(connect, table, proxy):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(faults.hang(), method="GET", path="/queries/")
    with pytest.raises(SourceTimeout):
        source.read(None)
    inserted = next(r for r in proxy.requests if r.method == "POST" and r.path.endswith("/jobs"))
    job_id = inserted.json()["jobReference"]["jobId"]
    assert proxy.count("POST", f"/bigquery/v2/projects/test-project/jobs/{job_id}/cancel") == 1


def test_a_job_whose_insertion_was_never_answered_is_cancelled_too(connect, table, proxy):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(faults.hang(), method="POST", matches=lambda request: request.path.endswith("/jobs"))
    with pytest.raises(SourceTimeout):
        source.read(None)
    assert any(request.path.endswith("/cancel") for request in proxy.requests)


def test_interrupt_ends_a_read_at_once(connect, table, proxy):
    source = connect(table)
    proxy.add(faults.hang(), path="/tables/")
    ended: list[SourceError] = []

    def read() -> None:
        with pytest.raises(SourceTimeout) as caught:
            source.read(None)
        ended.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    assert proxy.wait_for_requests(1)
    began = time.monotonic()
    source.interrupt()
    thread.join(20)
    assert ended
    assert time.monotonic() - began < 15


def test_hung_reads_leave_no_thread_behind(connect, table, proxy):
    source = connect(table, AUDIT_TIMEOUT_SECONDS="1", AUDIT_CONNECT_TIMEOUT_SECONDS="1")
    proxy.add(faults.hang(), path="/tables/")
    ours = {thread.name for thread in threading.enumerate() if "deadline" in thread.name}
    for _ in range(3):
        with pytest.raises(SourceTimeout):
            source.read(None)
    assert {thread.name for thread in threading.enumerate() if "deadline" in thread.name} == ours


@pytest.mark.parametrize(("hit", "billed", "outcome"), [(False, 10_485_760, "executed"), (True, 0, "cached")])
def test_bytes_billed_and_answers_from_the_cache_are_counted(connect, table, proxy, hit, billed, outcome):
    """The emulator bills nothing and has no cache, so its answer is given BigQuery's statistics on the way."""

    def with_statistics(exchange: faults.Exchange) -> None:
        reply = exchange.ask_upstream()
        content = json.loads(reply.body)
        content.setdefault("statistics", {}).setdefault("query", {}).update(
            {"totalBytesBilled": str(billed), "cacheHit": hit}
        )
        exchange.send(dataclasses.replace(reply, body=json.dumps(content).encode()))

    proxy.add(with_statistics, path="/jobs")
    source = connect(table)
    source.read(None)
    source.read(None)
    telemetry = source.telemetry()
    assert outcomes(source) == {"executed": 0, "cached": 0, "skipped": 0, outcome: 2}
    assert telemetry["mlops_exporter_bigquery_bytes_billed_total"][0].value == 2 * billed


# -- columns that may not be read --------------------------------------------------------------------------------------


def refuse(proxy: faults.FaultProxy, column: str, said: str, *, where: str = "insert") -> None:
    """Answer as BigQuery does where a policy tag keeps a column from the service account; the emulator has no tags."""
    error = {"reason": "accessDenied", "message": said, "location": "query"}

    def uses(request: faults.Request) -> bool:
        return request.path.endswith("/jobs") and f"`{column}`" in request.json()["configuration"]["query"]["query"]

    def job_fails(exchange: faults.Exchange) -> None:
        reply = exchange.ask_upstream()
        content = json.loads(reply.body)
        content["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
        exchange.send(dataclasses.replace(reply, body=json.dumps(content).encode()))

    proxy.add(faults.google_error(403, said) if where == "insert" else job_fails, method="POST", matches=uses)


NEITHER = (
    "Access Denied: BigQuery BigQuery: User has neither fine-grained reader nor masked get permission to get data "
    "protected by policy tag "
)


@pytest.mark.parametrize("where", ["insert", "job"])
@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (NEITHER + '"Secret : Money" on column test-project.{table}.rmse.', {"rmse"}),
        (NEITHER + '"on column x : r2" on columns {table}.RMSE, {table}.r2.', {"rmse", "r2"}),
        ("Access Denied: User does not have permission to access policy tag projects/p/locations/eu/taxonomies/1/"
         "policyTags/2 on column test-project.{table}.rmse.part.of_it.'", {"rmse"}),
    ],
)  # fmt: skip
def test_a_column_with_a_policy_tag_costs_only_its_metric(connect, table, proxy, where: str, said: str, lost: set[str]):
    said = said.format(table=table.removeprefix("test-project."))
    refuse(proxy, "rmse", said, where=where)
    source = connect(table)
    reading = source.read(None)
    assert gauge(reading, "bike_drift_share") == 0.2
    assert counts(reading, "bike_model_deployments_total") == {"deploy": 1, "skip": 1, "reject": 1}
    metrics = {"rmse": "bike_model_rmse_production", "r2": "bike_model_r2_champion_current"}
    assert {gap.metric for gap in reading.gaps} == {metrics[column] for column in lost}
    assert all("Fine-Grained Reader" in gap.reason and said[:100] in gap.reason for gap in reading.gaps)
    assert {metric for metric in metrics.values() if metric in reading.observations} == {
        metric for column, metric in metrics.items() if column not in lost
    }
    assert reading.facts["missing_columns"] is None
    assert source.read(reading).queried_at == reading.queried_at
    if where == "insert":
        assert connect(table).plan().query.gaps == reading.gaps


def test_what_was_refused_is_asked_for_again_after_a_while_or_on_request(connect, table, proxy, clock):
    said = NEITHER + f'"a : b" on column {table}.'
    refuse(proxy, "rmse", said + "rmse")
    refuse(proxy, "r2", said + "r2")
    view_like = connect(table, AUDIT_MAX_QUERY_AGE_SECONDS="600")
    reading = view_like.read(None)
    assert (queries(proxy), len(reading.gaps)) == (3, 2)
    reading = view_like.read(dataclasses.replace(reading, token="rows have come"))
    assert (queries(proxy), len(reading.gaps)) == (4, 2)
    proxy.clear()
    reading = view_like.read(dataclasses.replace(reading, token="rows have come"))
    assert (queries(proxy), len(reading.gaps)) == (5, 2)
    forced = view_like.read(dataclasses.replace(reading, token=None))
    assert (queries(proxy), forced.gaps) == (6, ())
    refuse(proxy, "rmse", said + "rmse")
    reading = view_like.read(dataclasses.replace(reading, token=None))
    assert [gap.metric for gap in reading.gaps] == ["bike_model_rmse_production"]
    proxy.clear()
    clock.now += 600
    assert view_like.read(reading).gaps == ()


@pytest.mark.parametrize("column", ["timestamp", "env", "somewhere_else"])
def test_a_log_that_cannot_be_read_without_the_column_is_down_and_names_it(connect, table, proxy, column: str):
    said = NEITHER + f'"a : b" on column {table}.{column}.'
    refuse(proxy, "timestamp", said)
    with pytest.raises(SourceUnavailable, match=r"Fine-Grained Reader") as caught:
        connect(table, AUDIT_ENV="prod").read(None)
    assert caught.value.reason == "permission"
    assert f"{table}.{column}" in str(caught.value)
    assert queries(proxy) == 1


def test_refusals_come_to_an_end(connect, bigquery_emulator, proxy):
    catalog = parse_catalog(
        "version: 1\naudit: {table: a.b, timestamp: timestamp}\nmetrics:\n"
        + "".join(f"- {{name: m{n}, type: gauge, help: One., from: [{{audit: c{n}}}]}}\n" for n in range(30)),
        "mine.yaml",
    )

    def refused(exchange: faults.Exchange) -> None:
        asked = exchange.request.json()["configuration"]["query"]["query"]
        column = next(f"c{n}" for n in range(30) if f"`c{n}`" in asked)
        faults.google_error(403, NEITHER + f'"a : b" on column {wide}.{column}.')(exchange)

    wide = bigquery_emulator.create_table({"timestamp": "TIMESTAMP", **{f"c{n}": "FLOAT64" for n in range(30)}})
    proxy.add(refused, method="POST", path="/jobs")
    with pytest.raises(SourceUnavailable, match="Fine-Grained Reader"):
        connect(wide, catalog).read(None)
    assert queries(proxy) == 21


def test_what_google_says_was_not_found_is_kept(connect, table, proxy):
    proxy.add(
        faults.google_error(404, "Not found: Dataset test-project:behind was not found in location EU"), path="/jobs"
    )
    with pytest.raises(SourceUnavailable, match="one region") as caught:
        connect(table).read(None)
    assert caught.value.reason == "not_found"
    assert "test-project:behind was not found in location EU" in str(caught.value)
    assert "does not exist" not in str(caught.value)


def test_rows_without_a_time_are_noted(connect, bigquery_emulator):
    for kind in ("TIMESTAMP", "DATETIME", "DATE", "STRING"):
        name = bigquery_emulator.create_table({"timestamp": kind, "r2": "FLOAT64"})
        bigquery_emulator.load(name, [{"timestamp": "2026-09-01", "r2": 0.5}, {"r2": 0.9}, {"r2": 0.8}])
        reading = connect(name).read(None)
        assert gauge(reading, "bike_model_r2_champion_current") == 0.5
        assert reading.notes == ("2 rows without a usable timestamp, left out",)
        assert reading.facts["rows"] == 1


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "not json", '{"type": "service_account"}', '{"type": "nonsense"}', ""])
def test_a_key_file_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, catalog: Catalog, content: str | None):
    path = tmp_path / "gcp.json"
    if content is not None:
        path.write_text(content)
    settings = Settings.from_env({"GOOGLE_CLOUD_PROJECT": "test-project", "GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    with pytest.raises(SourceUnavailable, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        BigQueryAudit(settings, catalog).read(None)
    assert caught.value.reason == "auth"


def test_plan_says_what_a_query_would_process_and_runs_none(connect, table, proxy):
    source = connect(table)
    plan = source.plan()
    assert plan.table_type == "TABLE"
    assert plan.rows == 4
    assert plan.bytes_processed >= 0
    sent = [r.json() for r in proxy.requests if r.method == "POST" and r.path.endswith("/jobs")]
    assert [content["configuration"].get("dryRun") for content in sent] == [True]
    assert outcomes(source) == {"executed": 0, "cached": 0, "skipped": 0}


# -- between two refreshes ---------------------------------------------------------------------------------------------


def test_a_look_asks_for_the_metadata_alone(
    connect: Connect, table: str, bigquery_emulator: BigQueryEmulator, proxy: faults.FaultProxy
):
    source = connect(table)
    reading = source.read(None)
    sent = len(proxy.requests)
    assert not source.changed(reading)
    bigquery_emulator.load(table, [row(0.1, r2=0.9)])
    assert source.changed(reading)
    assert [(r.method, "/tables/" in r.path) for r in proxy.requests[sent:]] == [("GET", True)] * 2
    assert outcomes(source) == {"executed": 1, "cached": 0, "skipped": 0}


def test_a_look_at_a_view_says_nothing(connect: Connect, table: str, bigquery_emulator: BigQueryEmulator):
    view = bigquery_emulator.create_view(f"SELECT * FROM `{table}` WHERE timestamp >= TIMESTAMP('1900-01-01')")
    source = connect(view)
    assert not source.changed(source.read(None))
