"""The audit log's history: the live query's stages, moment by moment, folded into values and counts."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from exporter.backfill.grid import Grid
from exporter.backfill.openmetrics import LAST_RECORD
from exporter.backfill.spool import Key, Spool
from exporter.catalog import Catalog
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Gap, Labels, Totals
from exporter.sources.audit.files import EmbeddedLog
from exporter.sources.audit.query import SOURCE_NAME, AuditQuery, audit_identity
from exporter.state_file import FILE_NAME, copy_of


class AuditLog(Protocol):
    """What both engines offer: their source with a history."""

    def history(self, until: float) -> AbstractContextManager[tuple[AuditQuery, Iterator[Mapping[str, Any]]]]:
        """The query of `AuditQuery.history` and its rows, oldest first."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True)
class AuditHistory:
    """What was read: rows in all and rows from the first moment on, the metrics that the table cannot give, and whether
    the live exporter's counters hold rows that the log no longer does."""

    rows: int
    rows_since: int
    gaps: tuple[Gap, ...]
    rows_left: bool


def audit_log(settings: Settings, catalog: Catalog) -> AuditLog:
    """The audit log that these settings name."""
    if settings.uses_bigquery:
        from exporter.sources.audit.bigquery import BigQueryAudit

        return BigQueryAudit(settings, catalog)
    from exporter.sources.audit.duckdb_reader import DuckDBReader

    return DuckDBReader(EmbeddedLog.of(settings, catalog))


def record(log: AuditLog, spool: Spool, grid: Grid, live: Totals | None) -> AuditHistory:
    """Read the log into the spool.

    A gauge takes its column's newest value; a counter counts from the log's first row, plus the rows that the live
    exporter counted and the log no longer holds, so that history meets the live counter.

    Args:
        live: what the live exporter's counters show; the log is read on to the newest row in them.

    Raises:
        SourceError: the log could not be read.
        OutputError: the spool could not be written.
    """
    total = since = 0
    valued: set[str] = set()
    newest = live.newest if live is not None and live.newest is not None else 0.0
    held: dict[Key, float] = {}
    with log.history(max(grid.last, newest)) as (query, rows):
        counted: dict[Labels, list[tuple[str, Key]]] = {}

        def counts_of(labels: Labels) -> list[tuple[str, Key]]:
            """The counters of a label set by the column that adds to them; those that are new begin now."""
            if labels not in counted:
                counted[labels] = [
                    (f"c{index}", (count.metric, (*labels, (count.label, value))))
                    for count in query.counts
                    for value, index in count.indexes
                ]
                for _, key in counted[labels]:
                    spool.add(key, 0.0)
            return counted[labels]

        if not query.labels:
            counts_of(())
        for row in rows:
            at = int(row["at"])
            spool.at(at)
            shown = at <= grid.last * 1_000_000
            total += int(row["n"]) if shown else 0
            since += int(row["n"]) if shown and at >= grid.start * 1_000_000 else 0
            spool.put((LAST_RECORD, ()), at / 1_000_000)
            labels = query.set_of(row)
            if labels is None:
                continue
            for gauge in query.gauges:
                value = row[f"x{gauge.index}"]
                if value is not None and math.isfinite(value):
                    for metric in gauge.metrics:
                        spool.put((metric, labels), float(value))
                        valued |= {metric} if shown else set()
            for column, key in counts_of(labels):
                if row[column]:
                    spool.add(key, float(row[column]))
                    held[key] = held.get(key, 0.0) + (row[column] if at <= newest * 1_000_000 else 0.0)
    left = _left(live, held)
    for key, rows_left in left.items():
        spool.lift(key, rows_left)
    empty = [
        Gap(m, f"column {g.column} holds no value yet") for g in query.gauges for m in g.metrics if m not in valued
    ]
    return AuditHistory(total, since, (*query.gaps, *empty), bool(left))


def _left(live: Totals | None, held: Mapping[Key, float]) -> Mapping[Key, float]:
    """By series, how many rows the live counters show beyond those that the log holds."""
    if live is None:
        return {}
    shown = (
        ((name, (*labels, *own)), total)
        for (name, own), totals in live.columns.items()
        for labels, total in zip(live.sets, totals, strict=True)
    )
    return {key: total - held.get(key, 0.0) for key, total in shown if total > held.get(key, 0.0)}


def live_state(settings: Settings) -> Ledger:
    """A copy of the live exporter's state in memory; an empty one where there is none. The file is not touched.

    Raises:
        StateError: there is a file, and it cannot be read.
    """
    path = None if settings.state_dir is None else settings.state_dir / FILE_NAME
    if path is None or not path.exists():
        return Ledger.open(None)
    return Ledger(copy_of(path.parent), None)


def live_totals(state: Ledger, settings: Settings, catalog: Catalog) -> Totals | None:
    """What the live exporter's counters of audit rows show; None where that is not known."""
    reading = state.load_reading(SOURCE_NAME, audit_identity(settings, catalog))
    return reading.totals if reading is not None else None
