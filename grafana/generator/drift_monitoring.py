"""Whether the data still looks like what the champion learned."""

from grafana.generator.dashboard import dashboard
from grafana.generator.limits import Limits
from grafana.generator.panels import (
    DRIFT,
    PLAIN,
    Json,
    above,
    gauge,
    query,
    r2_steps,
    right_axis,
    select,
    stat,
    state_timeline,
    table,
    timeseries,
)

UID = "mlops-drift-monitoring"
NO_SHARE = "the audit log has no drift_share"


def build(limits: Limits) -> Json:
    """The dashboard `mlops-drift-monitoring`."""
    detected = f"max by (instance) ({select('bike_drift_detected')})"
    share = f"max by (instance) ({select('bike_drift_share')})"
    features = f"max by (instance) ({select('bike_drifted_features_count')})"
    r2 = f"min by (instance) ({select('bike_model_r2_champion_current')})"
    rmse = f"max by (instance) ({select('bike_model_rmse_production')})"
    age = f"time() - max by (instance) ({select('mlops_exporter_audit_last_record_timestamp_seconds')})"
    limit = above(limits.drift_high)
    now = [
        gauge(
            1, "Current drift share", "Share of the features that drifted in the newest monitoring run.",
            [query(share, "{{instance}}")], width=6, unit="percentunit", steps=limit, low=0, high=1, decimals=0,
            empty=NO_SHARE,
        ),
        stat(
            2, "Status", "Whether the newest monitoring run found drift.",
            [query(detected, "{{instance}}")], width=6, unit="none", steps=above(1), mapping=DRIFT, text="value",
        ),
        stat(
            3, "Drifted features", "How many features drifted in the newest monitoring run.",
            [query(features, "{{instance}}")], width=6, unit="none", text="value",
            empty="the audit log has no drifted_features_count",
        ),
        stat(
            4, "Measured", "Age of the newest row of the audit log.",
            [query(age, "{{instance}}")], width=6, unit="dtdurations", text="value",
            empty="the audit log is empty or out of reach",
        ),
    ]  # fmt: skip
    over_time = [
        timeseries(
            5, "Drift share over time", "The rule high_drift_detected fires when the share stays beyond the limit.",
            [query(share, "{{instance}}")], width=16, unit="percentunit", steps=limit, low=0, high=1, empty=NO_SHARE,
        ),
        timeseries(
            6, "Drifted features over time", "How many features drifted.",
            [query(features, "{{instance}}")], width=8, unit="none", low=0, decimals=0,
            empty="the audit log has no drifted_features_count",
        ),
        state_timeline(
            7, "Status over time", "Drift or no drift, as each monitoring run found it.",
            [query(detected, "{{instance}}")], width=24, mapping=DRIFT,
        ),
    ]  # fmt: skip
    effect = [
        timeseries(
            8, "R² against drift", "Both beyond their limits is what critical_drift_with_performance fires on. "
            "Drift has its own axis, on the right.",
            [query(r2, "R² {{instance}}"), query(f"max ({select('bike_drift_share')})", "drift share")],
            width=12, unit="none", steps=r2_steps(limits), decimals=3,
            overrides=[right_axis("drift share", "percentunit", "drift share")],
        ),
        table(
            9, "Summary", "The newest values side by side.",
            [
                ("Drift", detected, "bool_yes_no", PLAIN),
                ("Drift share", share, "percentunit", limit),
                ("Drifted features", features, "none", PLAIN),
                ("R²", r2, "none", r2_steps(limits)),
                ("RMSE", rmse, "none", above(limits.rmse_critical)),
                ("Measured", age, "dtdurations", PLAIN),
            ],
            width=12, key={"instance": "Instance"},
        ),
    ]  # fmt: skip
    return dashboard(
        UID, "Drift, and what it does to the model.",
        [("Now", 5, now), ("Over time", 6, over_time), ("Effect", 8, effect)],
        refresh="30s", since="now-30d",
    )  # fmt: skip
