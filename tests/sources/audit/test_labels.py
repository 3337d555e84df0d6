"""Many models: columns of the audit log as labels, on real DuckDB files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.catalog import Catalog
from exporter.catalog_parser import parse_catalog
from exporter.errors import BadData
from exporter.exposition import render
from exporter.families import families
from exporter.snapshot import Reading, Snapshot
from exporter.sources.audit.duckdb_init import init_duckdb
from testbed.exposed import Exposed
from tests.sources.audit.duckdb_log import DAY, NOW, Log, settings_for, source_for

METRICS = """
metrics:
  - {name: shop_r2, type: gauge, help: R2., from: [{audit: r2}]}
  - {name: shop_old_r2, type: gauge, help: Old., alias_of: shop_r2}
  - {name: shop_rmse, type: gauge, help: RMSE., from: [{audit: rmse}]}
  - name: shop_releases_total
    type: counter
    help: Releases.
    labels: [decision]
    from: [{audit: {count: verdict, values: {go: GO, stop: STOP}}}]
"""
SERIES_OF_A_MODEL = 5


def catalogue(labels: str = "{model: model_name}", metrics: str = METRICS) -> Catalog:
    audit = f"{{table: monitoring_audit.logs, timestamp: timestamp, env: env, labels: {labels}, missing: "
    return parse_catalog(f"version: 1\naudit: {audit}[{{rmse: 999.0, r2: 0.0}}]}}\n{metrics}", "c.yaml")


COLUMNS = {
    "timestamp": "TIMESTAMPTZ",
    "env": "VARCHAR",
    "model_name": "VARCHAR",
    "r2": "DOUBLE",
    "rmse": "DOUBLE",
    "verdict": "VARCHAR",
}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "audit.duckdb", COLUMNS)


def row(model: str | None, days_ago: float = 1, **values: Any) -> Mapping[str, Any]:
    return {"at": NOW - days_ago * DAY, "model_name": model, **values}


def read(log: Log, labels: str = "{model: model_name}", **env: str) -> Reading:
    return source_for(log.path, catalogue(labels), **env).read(None)


def values(reading: Reading, metric: str) -> dict[tuple[str, ...], float]:
    """Values by the labels' values."""
    return {tuple(value for _, value in s.labels): s.value for s in reading.observations[metric].samples}  # type: ignore[union-attr]


def exposed(reading: Reading, catalog: Catalog) -> Exposed:
    return Exposed(render(families(catalog, Snapshot(NOW, (), {"audit": reading}))).text)


def test_each_model_has_its_own_newest_values_and_counts(log: Log):
    log.add(
        [
            row("bikes", 3, r2=0.5, rmse=10.0, verdict="GO"),
            row("bikes", 2, r2=0.6, verdict="STOP"),
            row("scooters", 1, r2=0.7),
        ]
    )
    reading = read(log)
    assert values(reading, "shop_r2") == {("bikes",): 0.6, ("scooters",): 0.7}
    assert values(reading, "shop_rmse") == {("bikes",): 10.0}
    assert values(reading, "shop_releases_total") == {
        ("bikes", "go"): 1,
        ("bikes", "stop"): 1,
        ("scooters", "go"): 0,
        ("scooters", "stop"): 0,
    }
    assert reading.observations["shop_r2"].observed_at == NOW - DAY
    assert reading.facts["label_sets"] == 2
    assert reading.facts["rows"] == 3
    found = exposed(reading, catalogue())
    assert found.value("shop_old_r2", model="bikes") == 0.6
    assert found.value("shop_releases_total", model="scooters", decision="go") == 0
    assert found.value("shop_rmse", model="scooters") is None


def test_sentinels_ties_and_future_rows_are_judged_for_each_model(log: Log):
    log.add(
        [
            row("a", 2, r2=0.5, rmse=9.0),
            row("a", 1, r2=0.0, rmse=999.0),
            row("b", 1, r2=0.3),
            row("b", 1, r2=0.4),
            row("c", -9, r2=0.9, verdict="GO"),
        ]
    )
    reading = read(log)
    assert values(reading, "shop_r2") == {("a",): 0.5, ("b",): 0.4}
    assert values(reading, "shop_releases_total")["c", "go"] == 0
    assert reading.notes == ("1 row dated in the future: left out of values and counts until their time has come",)
    assert reading.valid_until is not None


def test_several_columns_and_types_may_be_labels(log: Log):
    log.run("ALTER TABLE monitoring_audit.logs ADD COLUMN region BIGINT")
    log.add([row("a", r2=0.5, region=1), row("a", r2=0.6, region=2), row("a", r2=0.7)])
    reading = read(log, "{model: model_name, region: region}")
    assert values(reading, "shop_r2") == {("a", "1"): 0.5, ("a", "2"): 0.6}
    assert reading.notes == (
        "1 row without a usable value for model and region (NULL, blank, or longer than 200 characters), left out",
    )


@pytest.mark.parametrize("unusable", [None, "", "  ", "x" * 201])
def test_a_row_without_a_usable_label_is_left_out_and_noted(log: Log, unusable: str | None):
    log.add([row("a", r2=0.5), row(unusable, 0.5, r2=0.9, verdict="GO")])
    reading = read(log)
    assert values(reading, "shop_r2") == {("a",): 0.5}
    assert sum(values(reading, "shop_releases_total").values()) == 0
    assert "1 row without a usable value for model" in reading.notes[0]


@pytest.mark.parametrize("name", ["x" * 200, 'a "b"\n\\ %s %', "Modèle ü 模型 🚲", "{}", "A", "null"])
def test_any_text_is_a_label_as_it_stands(log: Log, name: str):
    log.add([row(f" {name} ", r2=0.5)])
    assert exposed(read(log), catalogue()).value("shop_r2", model=name) == 0.5


def test_a_model_whose_rows_have_no_time_does_not_exist(log: Log):
    log.add([{**row("a", r2=0.5), "at": None}, row("b", r2=0.6)])
    reading = read(log)
    assert {model for model, _ in values(reading, "shop_releases_total")} == {"b"}
    assert reading.notes == ("1 row without a usable timestamp, left out",)


def test_an_empty_log_is_no_mistake(log: Log):
    reading = read(log)
    assert reading.facts["rows"] == 0
    assert "shop_r2" not in reading.observations
    assert values(reading, "shop_releases_total") == {}
    assert exposed(reading, catalogue()).value("mlops_exporter_series_dropped") == 0


def test_a_log_of_nameless_rows_says_so(log: Log):
    log.add([row(None, r2=0.5)])
    reading = read(log)
    assert reading.facts["rows"] == 1
    assert "left out" in reading.notes[0]


def test_beyond_the_cap_the_newest_models_win_and_the_rest_is_counted(log: Log):
    log.add([row(f"model-{days}", days, r2=0.5) for days in range(1, 6)])
    log.add([row(None, 0.1, r2=0.9), row("from-the-future", -9, r2=0.9)])
    reading = read(log, EXPORTER_MAX_SERIES=str(2 * SERIES_OF_A_MODEL + 1))
    assert values(reading, "shop_r2") == {("model-1",): 0.5, ("model-2",): 0.5}
    assert reading.facts["rows"] == 7
    assert "EXPORTER_MAX_SERIES is 11: 4 of 6 label sets (20 series) are left out, those with the oldest rows" in (
        reading.notes
    )
    assert exposed(reading, catalogue()).value("mlops_exporter_series_dropped") == 20


def test_models_of_equal_age_are_cut_in_the_order_of_their_names(log: Log):
    """Or others would be shown after each refresh, and dashboards would flicker."""
    log.add([row(name, r2=0.5) for name in ("m7", "m3", "m9", "m1", "m8", "m2", "m6", "m0", "m5", "m4")])
    reading = read(log, EXPORTER_MAX_SERIES=str(3 * SERIES_OF_A_MODEL))
    assert list(values(reading, "shop_r2")) == [("m0",), ("m1",), ("m2",)]


def test_a_cap_below_one_label_set_still_shows_the_newest_one(log: Log):
    log.add([row("old", 2, r2=0.5), row("new", 1, r2=0.6)])
    reading = read(log, EXPORTER_MAX_SERIES="1")
    assert values(reading, "shop_r2") == {("new",): 0.6}
    assert reading.facts["label_sets"] == 1
    assert any("1 of 2 label sets" in note for note in reading.notes)


def test_another_cap_is_asked_for_at_once_though_the_file_is_the_same(log: Log):
    log.add([row(f"model-{days}", days, r2=0.5) for days in range(1, 6)])
    few = source_for(log.path, catalogue(), EXPORTER_MAX_SERIES="5").read(None)
    assert len(values(few, "shop_r2")) == 1
    assert len(values(source_for(log.path, catalogue()).read(few), "shop_r2")) == 5


def test_the_env_filter_decides_which_models_there_are(log: Log):
    log.add([row("a", r2=0.5, env="prod"), row("b", r2=0.6, env="dev")])
    assert values(read(log, AUDIT_ENV="prod"), "shop_r2") == {("a",): 0.5}


def test_a_label_without_its_column_is_a_clear_error(log: Log):
    log.run("ALTER TABLE monitoring_audit.logs DROP COLUMN model_name")
    with pytest.raises(BadData, match="no column 'model_name', which says the label 'model'"):
        read(log)


def test_a_column_that_cannot_name_anything_is_a_clear_error(log: Log):
    with pytest.raises(BadData, match="column 'r2' has type FLOAT64"):
        read(log, "{model: r2}")


def test_a_missing_value_column_costs_its_metric_only(log: Log):
    log.run("ALTER TABLE monitoring_audit.logs DROP COLUMN rmse")
    log.add([row("a", r2=0.5)])
    reading = read(log)
    assert [gap.reason for gap in reading.gaps] == ["the table has no column rmse"]
    assert values(reading, "shop_r2") == {("a",): 0.5}


def test_text_that_is_no_number_is_noted_over_all_models(log: Log):
    log.run("ALTER TABLE monitoring_audit.logs ALTER r2 TYPE VARCHAR")
    log.add([row("a", r2="0.5"), row("b", r2="n/a"), row("c", r2="?")])
    reading = read(log)
    assert values(reading, "shop_r2") == {("a",): 0.5}
    assert reading.notes == ("column r2: 2 rows with text that is not a number, left out",)


def test_init_audit_makes_the_label_columns(tmp_path: Path):
    path = tmp_path / "new.duckdb"
    assert "created table" in str(init_duckdb(settings_for(str(path)), catalogue("{model: a, region: b}")))
    assert source_for(path, catalogue("{model: a, region: b}")).read(None).facts["missing_columns"] is None


def test_without_labels_one_value_is_shown_for_all_rows(log: Log):
    log.add([row("a", 2, r2=0.5, verdict="GO"), row("b", 1, r2=0.6, verdict="GO")])
    plain = parse_catalog(
        "version: 1\naudit: {table: monitoring_audit.logs, timestamp: timestamp}\n" + METRICS, "plain.yaml"
    )
    reading = source_for(log.path, plain).read(None)
    assert values(reading, "shop_r2") == {(): 0.6}
    assert values(reading, "shop_releases_total") == {("go",): 2, ("stop",): 0}
    assert "label_sets" not in reading.facts
