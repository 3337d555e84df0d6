"""What `/health` says: the state of every source, in words that an operator can act on. Asks nobody."""

from datetime import UTC, datetime
from typing import Any, Final

from exporter import __version__
from exporter.catalog import Catalog
from exporter.choice import choose, sources_of
from exporter.snapshot import Snapshot, SourceStatus

STANDING_STILL: Final = "Counters stand still"
"""How the note of a source begins that cannot keep what it counts."""
HTTP_STATUS: Final = {"ok": 200, "degraded": 200, "starting": 503, "down": 503}


def overall(snapshot: Snapshot) -> str:
    """`starting` until every source was tried once; `down` when nothing can be shown; `degraded` when some source is
    down, its reading is held, its counters stand still, state that should survive a restart would not, or a step of
    the refresh loop fails; else `ok`."""
    if not snapshot.settled:
        return "starting"
    if not snapshot.readings and not any(status.up for status in snapshot.statuses):
        return "down"
    if snapshot.bugs or any(not status.up or status.held for status in snapshot.statuses):
        return "degraded"
    if snapshot.state_wanted and snapshot.state_problem is not None:
        return "degraded"
    if any(note.startswith(STANDING_STILL) for reading in snapshot.readings.values() for note in reading.notes):
        return "degraded"
    return "ok"


def report(
    catalog: Catalog,
    snapshot: Snapshot,
    *,
    age_seconds: float,
    uptime_seconds: float,
    interval: float,
    too_old: bool = False,
    web_problem: str | None = None,
) -> dict[str, Any]:
    """The body of `/health`.

    Args:
        age_seconds: how long ago the snapshot was made, by which the ages in it have grown.
        web_problem: why the web configuration's file, which has changed, cannot be used.
        too_old: nobody has replaced the snapshot for so long that its values are not served any more.
    """
    chosen = choose(catalog, snapshot)
    served: dict[str, list[str]] = {}
    for metric, choice in chosen.items():
        served.setdefault(choice.source, []).append(metric)
    status = "down" if too_old else overall(snapshot)
    return {
        "status": "degraded" if status == "ok" and web_problem is not None else status,
        "snapshot_age_seconds": round(age_seconds, 1),
        "version": __version__,
        "uptime_seconds": round(uptime_seconds, 1),
        "refresh_interval_seconds": interval,
        "sources": {
            status.name: _source(snapshot, status, age_seconds, served.get(status.name, []))
            for status in snapshot.statuses
        },
        "metrics_without_value": _absent(catalog, snapshot, set(chosen)),
        "bugs": dict(snapshot.bugs),
        "web_configuration": {"problem": web_problem},
        "state": {
            "survives_restart": snapshot.state_problem is None,
            "problem": snapshot.state_problem,
            "note": snapshot.state_note,
        },
    }


def without_details(error: Exception, interval: float) -> dict[str, Any]:
    """The body of `/health` when it cannot be made, which is a bug in the exporter."""
    return {
        "status": "degraded",
        "version": __version__,
        "snapshot_age_seconds": None,
        "refresh_interval_seconds": interval,
        "sources": {},
        "metrics_without_value": {},
        "bugs": {"reporting health": f"bug in the exporter ({type(error).__name__}); the log has the traceback"},
    }


def _source(snapshot: Snapshot, status: SourceStatus, grown: float, serves: list[str]) -> dict[str, Any]:
    reading = snapshot.readings.get(status.name)
    facts = dict(reading.facts) if reading else {}
    content: dict[str, Any] = {
        "up": status.up,
        "last_success": _time(status.last_success_at),
        "age_seconds": None if status.age_seconds is None else round(status.age_seconds + grown, 1),
        "last_error": status.error,
        "last_error_reason": status.reason,
        "held": status.held,
        "refreshes": status.refreshes,
        "failures": dict(status.failures),
        "last_refresh_seconds": None if status.duration_seconds is None else round(status.duration_seconds, 3),
    }
    if status.busy_seconds is not None:
        content["hung_call_seconds"] = round(status.busy_seconds + grown, 1)
    if "last_record_at" in facts:
        at = facts.pop("last_record_at")
        facts["last_record"] = _time(at) if isinstance(at, int | float) else None
    content.update(facts)
    content["notes"] = list(reading.notes) if reading else []
    content["serves"] = serves
    return content


def _absent(catalog: Catalog, snapshot: Snapshot, chosen: set[str]) -> dict[str, str]:
    """Why each metric of the catalogue that has no value has none."""
    configured = {status.name for status in snapshot.statuses}
    reasons: dict[str, str] = {}
    for metric in catalog.metrics:
        if metric.name in chosen:
            continue
        if metric.alias_of:
            reasons[metric.name] = f"alias of {metric.alias_of}"
            continue
        parts = []
        for source in sources_of(metric):
            reading = snapshot.readings.get(source)
            gap = next((gap.reason for gap in reading.gaps if gap.metric == metric.name), None) if reading else None
            if source not in configured:
                parts.append(f"{source}: not configured")
            elif reading is None:
                parts.append(f"{source}: no reading that is good to show")
            else:
                parts.append(f"{source}: {gap or 'no value yet'}")
        reasons[metric.name] = "; ".join(parts)
    return reasons


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
