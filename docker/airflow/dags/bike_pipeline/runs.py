"""What a DAG run works on. The clock is that of the data, so that the past can be played in fast-forward."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from bike_pipeline.records import PipelineError

MOST_DAYS: Final = 400


class BadConf(PipelineError):
    """A run was triggered with a configuration that cannot be used; the message lists every problem."""


def as_of(context: Mapping[str, Any]) -> datetime:
    """Up to when the run knows the world: a midnight (UTC).

    The run's conf may name it (`{"as_of": "2025-05-12"}`); otherwise it is the end of the scheduled interval, or the
    last midnight for a run that was triggered by hand.

    Args:
        context: Airflow's task context, of version 2 or 3.

    Raises:
        BadConf: the conf names no date, or one in the future.
    """
    return _read(context)[0]


def window(context: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """The days that a daily run works on: as many as the conf's `days` (1 without it) before `as_of`.

    Raises:
        BadConf: as `as_of`, or `days` is not a whole number from 1 to MOST_DAYS.
    """
    moment, days = _read(context)
    return moment - timedelta(days=days), moment


def _read(context: Mapping[str, Any]) -> tuple[datetime, int]:
    conf = getattr(context["dag_run"], "conf", None) or {}
    problems = []
    now = datetime.now(UTC)
    given, days = conf.get("as_of"), conf.get("days", 1)
    # Airflow 3 has no interval for a run that was triggered by hand.
    moment = _midnight(context.get("data_interval_end") or now)
    if given is not None:
        try:
            day = date.fromisoformat(given)
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        except (TypeError, ValueError):
            problems.append(f"as_of is not a date YYYY-MM-DD: {given!r}")
    if moment > now:
        problems.append(f"as_of is in the future: {moment:%Y-%m-%d}")
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MOST_DAYS:
        problems.append(f"days is not a whole number from 1 to {MOST_DAYS}: {days!r}")
        days = 1
    if problems:
        raise BadConf("conf: " + "; ".join(problems))
    return moment, days


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
