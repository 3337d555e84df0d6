"""Which source's value a metric shows: while the audit log is up its own, while it is down what was observed last."""

import pytest

from exporter.catalog_parser import parse_catalog
from exporter.choice import choose, needed_from, source_of, sources_of
from exporter.snapshot import Observation, Reading, Sample, Snapshot, SourceStatus

CATALOG = parse_catalog(
    """
version: 1
audit: {table: a.b, timestamp: at}
metrics:
  - {name: both, type: gauge, help: h, from: [{audit: c}, {xcom: {dag: d, task: t, key: k}}]}
  - {name: other, type: gauge, help: h, from: [{audit: e}, {xcom: {dag: d, task: t, key: l}}]}
  - {name: xcom_first, type: gauge, help: h, from: [{xcom: {dag: d, task: t, key: k}}, {audit: c}]}
  - {name: alias, type: gauge, help: h, alias_of: both}
  - name: rows_total
    type: counter
    help: h
    labels: [decision]
    from: [{audit: {count: verdict, values: {go: GO}}}]
  - {name: runs_total, type: counter, help: h, labels: [dag_id, state], from: [{airflow: dag_runs}]}
""",
    "choice.yaml",
)
SPECS = {metric.name: metric for metric in CATALOG.metrics}


def observed(value: float, at: float | None) -> Observation:
    return Observation((Sample((), value),), at)


def snapshot(
    *,
    audit: dict[str, Observation] | None = None,
    airflow: dict[str, Observation] | None = None,
    audit_up: bool | None = True,
    airflow_up: bool | None = True,
) -> Snapshot:
    """A snapshot of both sources; None for a source that has no reading to show."""
    given = {"audit": audit, "airflow": airflow}
    return Snapshot(
        at=1000.0,
        statuses=(SourceStatus("audit", audit_up), SourceStatus("airflow", airflow_up)),
        readings={
            name: Reading(name, "i", CATALOG.fingerprint, 900.0, 900.0, None, observations)
            for name, observations in given.items()
            if observations is not None
        },
    )


def shown(of: Snapshot, metric: str = "both") -> tuple[str, float] | None:
    """The source and the value of a metric."""
    choice = choose(CATALOG, of).get(metric)
    if choice is None:
        return None
    (sample,) = choice.observation.samples
    assert isinstance(sample, Sample)
    return choice.source, sample.value


OLD, NEW = 100.0, 200.0


def test_every_kind_of_origin_belongs_to_a_source():
    assert [source_of(SPECS[name].origins[0]) for name in ("both", "rows_total", "xcom_first", "runs_total")] == (
        ["audit", "audit", "airflow", "airflow"]
    )


def test_a_metrics_sources_are_in_the_catalogues_order_each_once():
    assert {name: sources_of(spec) for name, spec in SPECS.items()} == {
        "both": ("audit", "airflow"),
        "other": ("audit", "airflow"),
        "xcom_first": ("airflow", "audit"),
        "alias": (),
        "rows_total": ("audit",),
        "runs_total": ("airflow",),
    }


def test_while_the_audit_log_is_up_its_value_wins_even_if_older():
    of = snapshot(audit={"both": observed(1, OLD)}, airflow={"both": observed(2, NEW)})
    assert shown(of) == ("audit", 1)


def test_the_choice_is_made_metric_by_metric():
    """A column that is missing or was never filled falls to XCom and takes no other metric with it."""
    of = snapshot(audit={"both": observed(1, OLD)}, airflow={"both": observed(2, NEW), "other": observed(3, NEW)})
    assert shown(of, "both") == ("audit", 1)
    assert shown(of, "other") == ("airflow", 3)


@pytest.mark.parametrize("audit_up", [False, None])
@pytest.mark.parametrize(
    ("audit_at", "airflow_at", "winner"),
    [
        (OLD, NEW, "airflow"),
        (NEW, OLD, "audit"),
        (NEW, NEW, "audit"),
        (None, OLD, "airflow"),
        (OLD, None, "audit"),
        (None, None, "audit"),
    ],
)
def test_while_the_audit_log_is_down_or_untried_the_value_observed_last_wins(
    audit_up: bool | None, audit_at: float | None, airflow_at: float | None, winner: str
):
    of = snapshot(audit={"both": observed(1, audit_at)}, airflow={"both": observed(2, airflow_at)}, audit_up=audit_up)
    assert shown(of) == (winner, {"audit": 1, "airflow": 2}[winner])


def test_the_audit_log_takes_over_again_when_it_is_back():
    audit, airflow = {"both": observed(1, OLD)}, {"both": observed(2, NEW)}
    assert shown(snapshot(audit=audit, airflow=airflow, audit_up=False)) == ("airflow", 2)
    assert shown(snapshot(audit=audit, airflow=airflow, audit_up=True)) == ("audit", 1)


def test_a_held_value_is_shown_where_no_other_source_has_one():
    assert shown(snapshot(audit={"both": observed(1, OLD)}, audit_up=False)) == ("audit", 1)


def test_an_airflow_that_is_down_does_not_take_a_value_from_an_audit_log_that_is_up():
    of = snapshot(audit={"both": observed(1, OLD)}, airflow={"both": observed(2, NEW)}, airflow_up=False)
    assert shown(of) == ("audit", 1)


def test_with_the_audit_log_down_airflows_held_value_counts_by_its_age_too():
    down = {"audit_up": False, "airflow_up": False}
    of = snapshot(audit={"both": observed(1, OLD)}, airflow={"both": observed(2, NEW)}, **down)
    assert shown(of) == ("airflow", 2)


def test_a_reading_that_is_too_old_to_show_is_not_chosen():
    """Such a reading is not in the snapshot."""
    assert shown(snapshot(airflow={"both": observed(2, OLD)}, audit_up=False)) == ("airflow", 2)
    assert shown(snapshot(audit_up=False)) is None


def test_the_catalogues_order_decides_which_source_is_first():
    of = snapshot(audit={"xcom_first": observed(1, NEW)}, airflow={"xcom_first": observed(2, OLD)})
    assert shown(of, "xcom_first") == ("airflow", 2)


def test_a_metric_that_no_source_gives_is_absent():
    assert choose(CATALOG, snapshot(audit={}, airflow={})) == {}
    assert choose(CATALOG, Snapshot(1000.0, (), {})) == {}


def test_a_value_from_a_source_that_the_metric_does_not_name_is_ignored():
    of = snapshot(airflow={"rows_total": observed(7, NEW)})
    assert choose(CATALOG, of) == {}


def test_an_observation_of_a_metric_that_the_catalogue_lacks_is_ignored():
    assert choose(CATALOG, snapshot(audit={"gone": observed(1, OLD)})) == {}


def test_an_alias_shows_what_its_metric_shows_and_has_no_value_without_it():
    of = snapshot(audit={"both": observed(1, OLD)}, airflow={"both": observed(2, NEW)}, audit_up=False)
    assert shown(of, "alias") == ("airflow", 2)
    assert "alias" not in choose(CATALOG, snapshot(audit={"other": observed(1, OLD)}))


def test_airflow_stands_in_for_what_the_audit_log_cannot_say():
    both = {"both": observed(1.0, 1.0), "other": observed(2.0, 1.0)}
    assert needed_from("airflow", CATALOG, snapshot(audit=both)) == frozenset()
    assert needed_from("airflow", CATALOG, snapshot(audit={"both": observed(1.0, 1.0)})) == {"other"}
    assert needed_from("airflow", CATALOG, snapshot(audit=both, audit_up=False)) == {"both", "other"}
    assert needed_from("airflow", CATALOG, snapshot(audit_up=None)) == frozenset()
    assert needed_from("audit", CATALOG, snapshot(airflow={})) == {"xcom_first"}
