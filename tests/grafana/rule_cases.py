"""What each rule does in each case, as series and what is expected of them at which minute.

`CASES[uid][case]` is one test for a real Prometheus: series go in, and at each minute the rule must be `firing` (with
which labels), `quiet`, or have `no data`. docs/alerting.md shows the same table, and a test compares the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PER_MINUTE: Final = 2
PROD: Final = 'job="airflow-metrics", instance="airflow-exporter:9101"'
MONITORED: Final = 'dag_id="monitor_and_fine_tune"'
TEST: Final = 'job="test-metrics", instance="pushgateway-test:9091"'
API: Final = 'job="regmodel-api", instance="regmodel-backend:8000"'

Labels = Mapping[str, str]
PROD_LABELS: Final[Labels] = {"job": "airflow-metrics", "instance": "airflow-exporter:9101"}
TEST_LABELS: Final[Labels] = {"job": "test-metrics", "instance": "pushgateway-test:9091"}

QUIET: Final = "quiet"
NO_DATA: Final = "no data"


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, one sample every half minute, and what is expected at which minute."""

    series: Mapping[str, str]
    expect: Mapping[float, str | Sequence[Labels]]
    outcome: str
    """The case in a few words, as docs/alerting.md has it."""
    every: float = field(default=0.5, kw_only=True)
    """Minutes between samples."""


def flat(value: float | str, minutes: float, per_minute: float = PER_MINUTE) -> str:
    return " ".join([str(value)] * round(minutes * per_minute))


def ramp(start: float, per_sample: float, minutes: float, per_minute: float = PER_MINUTE) -> str:
    return " ".join(f"{start + per_sample * index:g}" for index in range(round(minutes * per_minute)))


def absent(minutes: float, per_minute: float = PER_MINUTE) -> str:
    return flat("_", minutes, per_minute)


GONE: Final = "stale"
"""The mark that Prometheus sets when a scrape fails or a series is no longer exposed."""

FIRES = "fires after its `for`"
FIRES_TEST = "fires for the test series only"
HELD = "held 2 min, then no data"


def gauge_cases(
    metric: str,
    *,
    good: float,
    bad: float,
    inside: float,
    hold: int,
    matchers: str = "",
    labels: Labels | None = None,
    also: Mapping[str, float] | None = None,
) -> dict[str, Case]:
    """The cases of a rule on a gauge. Good for 10 minutes, then bad: the rule fires at 10 + hold.

    Args:
        also: series that the rule needs beside the metric, with a value at which the metric decides.
    """

    def name(target: str, of: str = metric, more: str = matchers) -> str:
        return f"{of}{{{', '.join(filter(None, [target, more]))}}}"

    def beside(target: str, values: str | None = None) -> dict[str, str]:
        return {name(target, other, ""): values or flat(value, 200) for other, value in (also or {}).items()}

    extra = dict(labels or {})
    prod, test = [{**PROD_LABELS, **extra}], [{**TEST_LABELS, **extra}]
    start = 10 + hold
    lost = f"{flat(bad, start + 10)} {GONE} {absent(60)}"
    beside_lost = {
        key: f"{flat(value, start + 10)} {GONE} {absent(60)}"
        for key, value in ((name(PROD, other, ""), value) for other, value in (also or {}).items())
    }
    return {
        "crossed": Case(
            {name(PROD): f"{flat(good, 10)} {flat(bad, hold + 30)} {flat(good, 30)}", **beside(PROD)},
            {5: QUIET, start - 1: QUIET, start: prod, start + 20: prod, start + 35: QUIET},
            FIRES,
        ),
        "just inside": Case({name(PROD): flat(inside, 120), **beside(PROD)}, {hold + 60: QUIET}, "quiet"),
        "series missing": Case({"unrelated": flat(1, 60)}, {0: NO_DATA, 50: NO_DATA}, "no data"),
        "exporter down": Case(
            {name(PROD): lost, **beside_lost}, {start + 9: prod, start + 11: prod, start + 15: NO_DATA}, HELD
        ),
        "source stale": Case(
            # The exporter shows its last reading for an hour more, then drops the series.
            {
                name(PROD): f"{flat(bad, 80)} {GONE} {absent(60)}",
                **{
                    key: f"{flat(value, 80)} {GONE} {absent(60)}"
                    for key, value in ((name(PROD, other, ""), value) for other, value in (also or {}).items())
                },
            },
            {70: prod, 90: NO_DATA},
            "as it was for 1 h, then no data",
        ),
        "restart": Case(
            {name(PROD): f"{flat(bad, 30)} {GONE} _ _ {flat(bad, 60)}", **beside(PROD)},
            {29: prod, 30.5: prod, 31: prod, 31.5: prod, 33: prod},
            "keeps firing",
        ),
        "NaN": Case({name(PROD): flat("NaN", 120), **beside(PROD)}, {hold + 60: QUIET}, "quiet"),
        "only test series": Case(
            {name(PROD): flat(good, 120), name(TEST): flat(bad, 120), **beside(PROD), **beside(TEST)},
            {hold - 1: QUIET, hold: test, 100: test},
            FIRES_TEST,
        ),
    }


def service_cases() -> dict[str, Case]:
    jobs = {
        "regmodel-api": "regmodel-backend:8000",
        "airflow-metrics": "airflow-exporter:9101",
        "pushgateway": "pushgateway:9091",
        "prometheus": "localhost:9090",
    }

    def up(values: Mapping[str, str] | None = None, minutes: float = 120) -> dict[str, str]:
        given = values or {}
        return {
            f'up{{job="{job}", instance="{instance}"}}': given.get(job, flat(1, minutes))
            for job, instance in jobs.items()
        }

    success = f'mlops_exporter_source_last_success_timestamp_seconds{{{PROD}, source="audit"}}'
    source_up = f'mlops_exporter_source_up{{{PROD}, source="audit"}}'
    started = f"process_start_time_seconds{{{PROD}}}"
    fresh = ramp(0, 30, 200)
    audit = [{**PROD_LABELS, "source": "audit"}]
    without = {key: text for key, text in up().items() if "regmodel" not in key}
    return {
        "crossed": Case(
            {**up({"regmodel-api": f"{flat(1, 10)} {flat(0, 30)} {flat(1, 20)}"}), success: fresh},
            {9: QUIET, 10.5: QUIET, 11: [{"job": "regmodel-api"}], 30: [{"job": "regmodel-api"}], 45: QUIET},
            FIRES,
        ),
        # 59 minutes and a half old at most, then read again.
        "just inside": Case(
            {**up(), success: f"{flat(0, 59.5)} {ramp(3570, 30, 60)}", source_up: flat(0, 120)},
            {59: QUIET, 100: QUIET},
            "quiet",
        ),
        "series missing": Case(
            {**without, success: fresh},
            {0.5: QUIET, 1: [{"job": "regmodel-api"}], 60: [{"job": "regmodel-api"}]},
            "fires: a job that is gone counts as down",
        ),
        "exporter down": Case(
            {
                **up({"airflow-metrics": f"{flat(1, 10)} {flat(0, 60)}"}),
                success: f"{ramp(0, 30, 10)} {GONE} {absent(60)}",
            },
            {10.5: QUIET, 11: [{"job": "airflow-metrics"}], 60: [{"job": "airflow-metrics"}]},
            "fires: this is the rule for it",
        ),
        "source stale": Case(
            # Read until minute 10, then the source is down for good.
            {
                **up(minutes=300),
                success: f"{ramp(0, 30, 10)} {flat(570, 200)}",
                source_up: f"{flat(1, 10)} {flat(0, 200)}",
            },
            {60: QUIET, 69.5: QUIET, 71: audit, 150: audit},
            "fires after 1 h",
        ),
        "source never read": Case(
            # Down since the exporter started at second 0: as old as the process.
            {**up(minutes=300), source_up: flat(0, 300), started: flat(0, 300)},
            {30: QUIET, 60: QUIET, 61.5: audit},
            "fires after 1 h",
        ),
        "restart": Case(
            {**up({"airflow-metrics": f"{flat(1, 10)} 0 {flat(1, 30)}"}), success: fresh},
            {10: QUIET, 10.5: QUIET, 11: QUIET},
            "quiet: one failed scrape",
        ),
        "NaN": Case({**up({"prometheus": flat("NaN", 60)}), success: flat("NaN", 60)}, {30: QUIET}, "quiet"),
        "only test series": Case(
            {**up(), f"up{{{TEST}}}": flat(0, 60), success: fresh},
            {0.5: QUIET, 1: [{"job": "test-metrics"}]},
            FIRES_TEST,
        ),
    }


def api_cases() -> dict[str, Case]:
    """Samples every half minute: 20 requests each are 200 in 5 minutes."""

    def requests(target: str, code: int, endpoint: str = "/predict") -> str:
        return f'fastapi_requests_total{{{target}, method="POST", endpoint="{endpoint}", status_code="{code}"}}'

    api, test = [{"job": "regmodel-api"}], [{"job": "test-metrics"}]
    busy = ramp(0, 20, 120)
    return {
        "crossed": Case(
            # From minute 10 on, a fifth of the answers are 5xx: over 5 % of the last 5 minutes from minute 11.5 on.
            {requests(API, 200): busy, requests(API, 503): f"{flat(0, 10)} {ramp(5, 5, 30)} {flat(300, 60)}"},
            {14: QUIET, 17.5: api, 39: api, 60: QUIET},
            FIRES,
        ),
        "just inside": Case(
            {requests(API, 200): ramp(0, 96, 120), requests(API, 500): ramp(0, 5, 120)}, {100: QUIET}, "quiet"
        ),
        "just beyond": Case(
            # 5.2 %.
            {requests(API, 200): ramp(0, 94.8, 120), requests(API, 500): ramp(0, 5.2, 120)},
            {4: QUIET, 100: api},
            "fires after its `for`",
        ),
        "just enough traffic": Case(
            # All of 21 requests in 5 minutes fail.
            {requests(API, 500): ramp(0, 2.1, 120)},
            {4: QUIET, 100: api},
            "fires after its `for`",
        ),
        "too little traffic": Case(
            # All of 18 requests in 5 minutes fail.
            {requests(API, 500): ramp(0, 1.8, 120)},
            {100: QUIET},
            "quiet: not judged",
        ),
        "no errors at all": Case({requests(API, 200): busy}, {100: QUIET}, "quiet"),
        "health checks only": Case({requests(API, 503, "/health"): ramp(0, 20, 120)}, {60: NO_DATA}, "no data"),
        "series missing": Case({"unrelated": flat(1, 60)}, {0: NO_DATA, 50: NO_DATA}, "no data"),
        "exporter down": Case(
            # The exporter has no part in this rule: the API keeps being judged.
            {requests(API, 200): busy, requests(API, 500): ramp(0, 10, 120), 'up{job="airflow-metrics"}': flat(0, 120)},
            {100: api},
            "not affected",
        ),
        "source stale": Case(
            {
                requests(API, 200): busy,
                requests(API, 500): ramp(0, 10, 120),
                f'mlops_exporter_source_up{{{PROD}, source="audit"}}': flat(0, 120),
            },
            {100: api},
            "not affected",
        ),
        "API down": Case(
            {
                requests(API, 200): f"{ramp(0, 20, 30)} {GONE} {absent(60)}",
                requests(API, 500): f"{ramp(0, 20, 30)} {GONE} {absent(60)}",
            },
            {29: api, 33: api, 40: NO_DATA},
            "judged on what is left of 5 min, then no data",
        ),
        "restart": Case(
            # Both counters start again at 0: neither a drop nor a jump.
            {
                requests(API, 200): f"{ramp(0, 20, 30)} {ramp(0, 20, 60)}",
                requests(API, 500): f"{ramp(0, 0.2, 30)} {flat(0, 60)}",
            },
            {29: QUIET, 31: QUIET, 36: QUIET, 80: QUIET},
            "quiet: a reset is not an error",
        ),
        "NaN": Case({requests(API, 200): flat("NaN", 60), requests(API, 500): flat("NaN", 60)}, {50: QUIET}, "quiet"),
        "only test series": Case(
            {requests(API, 200): busy, requests(TEST, 200): ramp(0, 4, 120), requests(TEST, 500): ramp(0, 4, 120)},
            {4: QUIET, 60: test},
            FIRES_TEST,
        ),
    }


def ingestion_cases() -> dict[str, Case]:
    """One sample a minute. Runs succeed daily; the counter grows by 1000 with each."""
    day = 24 * 60

    def success(target: str = PROD) -> str:
        return f'airflow_dag_last_success_timestamp_seconds{{{target}, dag_id="daily_fetch_bike_data"}}'

    def records(target: str = PROD) -> str:
        return f"bike_records_ingested_total{{{target}}}"

    def daily(days: int, first: float = 0, step: float = 86400) -> str:
        return " ".join(flat(first + step * index, day, 1) for index in range(days))

    prod, test = [PROD_LABELS], [TEST_LABELS]
    limit = 36 * 60
    return {
        "crossed": Case(
            # Succeeds at 0 and 5 h, then no more: 36 h after the second success, and 10 minutes.
            {
                success(): f"{flat(0, 300, 1)} {flat(300 * 60, limit + 60, 1)}",
                records(): f"{flat(0, 300, 1)} {flat(1000, limit + 60, 1)}",
            },
            {300: QUIET, 300 + limit: QUIET, 300 + limit + 9: QUIET, 300 + limit + 12: prod, 300 + limit + 50: prod},
            FIRES,
            every=1,
        ),
        "just inside": Case(
            {success(): f"{flat(0, limit - 1, 1)} {flat((limit - 1) * 60, day, 1)}"},
            {limit - 1: QUIET, limit + 30: QUIET},
            "quiet",
            every=1,
        ),
        "succeeds without records": Case(
            # Success every day, yet the counter stands still.
            {success(): daily(2), records(): flat(5000, 2 * day, 1)},
            {limit - 5: QUIET, limit + 9: QUIET, limit + 12: prod, 2 * day - 5: prod},
            FIRES,
            every=1,
        ),
        "Prometheus is new": Case(
            # The counter is known for a few hours only and has not moved: too early to say.
            {success(): flat(0, 300, 1), records(): flat(5000, 300, 1)},
            {290: QUIET},
            "quiet",
            every=1,
        ),
        "series missing": Case({"unrelated": flat(1, 60, 1)}, {0: NO_DATA, 50: NO_DATA}, "no data", every=1),
        "exporter down": Case(
            {success(): f"{flat(0, limit + 60, 1)} {GONE} {absent(60, 1)}"},
            {limit + 55: prod, limit + 61: prod, limit + 70: NO_DATA},
            HELD,
            every=1,
        ),
        "source stale": Case(
            # Airflow is out of reach: its last reading is shown for an hour, then dropped.
            {success(): f"{flat(0, limit + 80, 1)} {GONE} {absent(60, 1)}"},
            {limit + 75: prod, limit + 90: NO_DATA},
            "as it was for 1 h, then no data",
            every=1,
        ),
        "restart": Case(
            # The counter starts again at 0 and grows: a reset is growth, not silence.
            {success(): daily(4), records(): f"{daily(2, 5000, 1000)} {daily(2, 0, 1000)}"},
            {2 * day + 5: QUIET, 3 * day: QUIET, 4 * day - 5: QUIET},
            "quiet: a reset is not silence",
            every=1,
        ),
        "NaN": Case(
            {success(): flat("NaN", limit + 60, 1), records(): flat("NaN", limit + 60, 1)},
            {limit + 50: QUIET},
            "quiet",
            every=1,
        ),
        "only test series": Case(
            # 40 h ago, as the script pushes it: time 0 is 40 h after the success.
            {success(): flat(0, 60, 1), success(TEST): flat(-40 * 3600, 60, 1)},
            {9: QUIET, 10: test},
            FIRES_TEST,
            every=1,
        ),
    }


CASES: Final[Mapping[str, Mapping[str, Case]]] = {
    "model_performance_critical": gauge_cases(
        "bike_model_r2_champion_current", good=0.8, bad=0.6499, inside=0.65, hold=5
    ),
    "model_performance_warning": {
        **gauge_cases("bike_model_r2_champion_current", good=0.8, bad=0.65, inside=0.70, hold=10),
        "below the critical limit": Case(
            {f"bike_model_r2_champion_current{{{PROD}}}": flat(0.6499, 120)},
            {100: QUIET},
            "quiet: the critical rule has it",
        ),
    },
    "model_rmse_high": gauge_cases("bike_model_rmse_production", good=50, bad=70.01, inside=70, hold=5),
    "high_drift_detected": gauge_cases("bike_drift_share", good=0.1, bad=0.501, inside=0.5, hold=15),
    "critical_drift_with_performance": {
        **gauge_cases(
            "bike_drift_share",
            good=0.1,
            bad=0.501,
            inside=0.5,
            hold=5,
            also={"bike_model_r2_champion_current": 0.69},
        ),
        "R² just inside": Case(
            {
                f"bike_drift_share{{{PROD}}}": flat(0.9, 120),
                f"bike_model_r2_champion_current{{{PROD}}}": flat(0.7, 120),
            },
            {100: QUIET},
            "quiet",
        ),
        "drift here, bad R² in the test series": Case(
            {
                f"bike_drift_share{{{PROD}}}": flat(0.9, 120),
                f"bike_model_r2_champion_current{{{PROD}}}": flat(0.8, 120),
                f"bike_model_r2_champion_current{{{TEST}}}": flat(0.1, 120),
            },
            {100: QUIET},
            "quiet: the two are never mixed",
        ),
    },
    "service_down": service_cases(),
    "api_error_rate_high": api_cases(),
    "airflow_dag_too_slow": {
        **gauge_cases(
            "airflow_dag_run_active_seconds",
            good=600,
            bad=3601,
            inside=3600,
            hold=10,
            matchers='dag_id="monitor_and_fine_tune"',
            labels={"dag_id": "monitor_and_fine_tune"},
        ),
        "the run ends": Case(
            # Grows while it runs; 0 once it has ended, however long it took.
            {f"airflow_dag_run_active_seconds{{{PROD}, {MONITORED}}}": f"{ramp(0, 30, 90)} {flat(0, 60)}"},
            {60: QUIET, 69: QUIET, 71: [{**PROD_LABELS, "dag_id": "monitor_and_fine_tune"}], 93: QUIET},
            "resolves",
        ),
        "another DAG is slow": Case(
            {
                f'airflow_dag_run_active_seconds{{{PROD}, dag_id="monitor_and_fine_tune"}}': flat(0, 120),
                f'airflow_dag_run_active_seconds{{{PROD}, dag_id="backfill"}}': flat(99999, 120),
            },
            {100: QUIET},
            "quiet",
        ),
    },
    "no_data_ingested": ingestion_cases(),
}
