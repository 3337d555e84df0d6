"""XComs of types beyond JSON, through real Airflows; and an Airflow 2 that a 3 takes the place of, and back."""

import pytest

from exporter.catalog_parser import parse_catalog
from exporter.errors import SourceUnavailable
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Reading
from exporter.sources.airflow.source import AirflowSource
from testbed.airflow import Airflow
from testbed.faults import FaultProxy
from tests.integration.test_airflow import env

pytestmark = pytest.mark.timeout(900)

ODD = "odd_xcoms"
SCALARS = {"float64": 0.5, "int64": 7.0, "bool_": 1.0, "decimal": 1.25}
LENGTHS = {"set": 4.0, "tuple": 2.0, "list": 4.0}


def metric(name: str, **xcom: str) -> str:
    origin = ", ".join(f"{key}: {value}" for key, value in {"dag": ODD, "task": "push", **xcom}.items())
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"- {{name: {name}, type: {kind}, help: One., from: [{{xcom: {{{origin}}}}}]}}\n"


CATALOG = parse_catalog(
    "version: 1\nmetrics:\n"
    + "".join(metric(key, key=key) + metric(f"in_{key}", key="report", field=key) for key in SCALARS)
    + "".join(
        metric(key, key=key, take="length") + metric(f"in_{key}", key="report", field=key, take="length")
        for key in LENGTHS
    )
    + metric("in_nested", key="report", field="nested", take="length")
    + metric("sum_total", key="int64"),
    "odd.yaml",
)


def source(airflow: Airflow, url: str | None = None) -> AirflowSource:
    return AirflowSource(Settings.from_env(env(airflow, url)), CATALOG, Ledger.open(None))


def values(reading: Reading) -> dict[str, float]:
    return {name: seen.samples[0].value for name, seen in reading.observations.items()}  # type: ignore[union-attr]


def after_noticing(reader: AirflowSource, previous: Reading) -> Reading:
    """The reading that follows on the one refresh that meets the other version."""
    with pytest.raises(SourceUnavailable, match="If it was upgraded, the next refresh notices"):
        reader.read(previous)
    return reader.read(previous)


@pytest.fixture(scope="module")
def readings(airflow2: Airflow, airflow3: Airflow) -> dict[str, Reading]:
    """What one source reads from an Airflow 2, from the 3 that takes its place, and from the 2 that comes back, each
    of which has executed one run by then."""
    airflow2.trigger(ODD)
    with FaultProxy(airflow2.url) as proxy:
        reader = source(airflow2, proxy.url)
        before = reader.read(None)
        proxy.replace(airflow3.url)
        airflow3.trigger(ODD)
        after = after_noticing(reader, before)
        proxy.replace(airflow2.url)
        back = after_noticing(reader, after)
        reader.close()
    return {"before": before, "after": after, "back": back}


def test_xcoms_of_types_beyond_json_from_airflow_2(readings: dict[str, Reading]):
    scalars = {key: value for key, value in SCALARS.items() if key != "bool_"}
    # A tuple in a dict comes as a list; other sets and tuples as texts, of which nobody can tell how many elements.
    readable = {"list": 3.0, "in_list": 3.0, "in_tuple": 2.0, "in_nested": 3.0, "sum_total": 7.0}
    reading = readings["before"]
    assert values(reading) == scalars | {f"in_{key}": value for key, value in scalars.items()} | readable
    unreadable = {gap.metric for gap in reading.gaps if "cannot be used: a set or tuple as text" in gap.reason}
    assert unreadable == {"set", "in_set", "tuple"}
    assert {gap.metric for gap in reading.gaps} == unreadable | {"bool_", "in_bool_"}


def test_xcoms_of_types_beyond_json_from_airflow_3(readings: dict[str, Reading]):
    everything = SCALARS | LENGTHS
    expected = everything | {f"in_{key}": value for key, value in everything.items()} | {"in_nested": 4.0}
    found = values(readings["after"])
    assert {name: value for name, value in found.items() if name != "sum_total"} == expected
    assert readings["after"].notes == readings["after"].gaps == ()


def test_another_version_behind_the_same_address_is_read_one_refresh_later(readings: dict[str, Reading]):
    assert [reading.facts["api"] for reading in readings.values()] == ["v1", "v2", "v1"]
    assert [str(reading.facts["engine"])[:9] for reading in readings.values()] == [
        "Airflow 2",
        "Airflow 3",
        "Airflow 2",
    ]
    assert [values(reading)["sum_total"] for reading in readings.values()] == [7.0, 14.0, 14.0]
