"""`python -m exporter backfill`: the series' history from the audit log, as OpenMetrics or as blocks for Prometheus.

The sample written for a moment is what the live exporter would have shown then: a gauge's newest value among the rows
up to that moment, by the same query (`exporter.sources.audit.query`), and counters that count from the log's first
row. The log is read once into a spool and let go; then one file after the other is written, so memory does not grow
with the length of history.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from exporter.backfill.airflow import gaps as airflow_gaps
from exporter.backfill.airflow import record as record_airflow
from exporter.backfill.audit import audit_log, live_state, live_totals, record
from exporter.backfill.blocks import RESERVED_BYTES, find_promtool, make_block
from exporter.backfill.grid import Grid, parse_grid, shown
from exporter.backfill.openmetrics import LAST_RECORD, Writer, families
from exporter.backfill.progress import Progress
from exporter.backfill.request import Request
from exporter.backfill.spool import Spool, Window
from exporter.catalog import Catalog
from exporter.errors import ConfigError, OutputError, SourceUnavailable, StateError
from exporter.ledger import Ledger
from exporter.settings import Settings
from exporter.snapshot import Gap
from exporter.sources import refuse_without_source

HEAD_SECONDS: Final = 3 * 3600
BLOCKS: Final = "blocks"


def backfill(
    request: Request,
    settings: Settings,
    catalog: Catalog,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Write the history that is asked for. What was begun is removed when anything fails.

    Args:
        say: takes what the user should read, a line at a time.
        clock: Unix seconds.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the audit log cannot be read, or holds nothing.
        OutputError: the output cannot be written, or promtool failed.
    """
    refuse_without_source(settings, catalog)
    now = clock()
    grid = parse_grid(request.since, request.until, request.step, now)
    promtool = find_promtool() if request.promtool else None
    with (
        _folder(request.output) as output,
        contextlib.closing(Spool(grid, output)) as audit,
        contextlib.closing(Spool(grid, output)) as airflow,
    ):
        gaps = _read(settings, catalog, grid, (audit, airflow), say)
        target = {"job": request.job, "instance": request.instance}
        writer = Writer(grid, families(catalog), (audit, airflow), target)
        size = writer.size()
        parts = f"{len(grid.windows())} {'blocks' if promtool else 'files'}"
        say(
            f"{shown(grid.start)} to {shown(grid.last)}, in steps of {grid.step} s: {size.series} series, "
            f"{size.samples} samples, {parts}, about {_mib(size.text)} of text"
            + (f", of which at most {_mib(size.largest)} at a time are on disk." if promtool else ".")
        )
        _check_space(output, size.text if promtool is None else size.largest + size.samples + RESERVED_BYTES)
        have = writer.written()
        for gap in gaps:
            if gap.metric not in have:
                say(f"not backfilled: {gap.metric}, because {gap.reason}")
        for metric in catalog.metrics:
            if metric.alias_of and metric.name not in have:
                say(f"not backfilled: {metric.name}, because {metric.alias_of} is not")
        say(f"not backfilled: mlops_exporter_* but {LAST_RECORD}, because they tell of the exporter's own running")
        _write(writer, grid, output, promtool)
    _say_what_next(request, grid, now, size.samples, say)


def _read(
    settings: Settings, catalog: Catalog, grid: Grid, spools: tuple[Spool, Spool], say: Callable[[str], None]
) -> list[Gap]:
    """Read what is configured, and give the metrics that cannot be backfilled."""
    audit, airflow = spools
    try:
        state = live_state(settings)
    except StateError as error:
        say(f"warning: the exporter's state cannot be read ({error}): counters may not join the live ones.")
        state = Ledger.open(None)
    with contextlib.closing(state):
        gaps = _read_audit(settings, catalog, grid, (state, audit), say) if catalog.has_audit_log else ()
        if settings.airflow_url is not None:
            runs = record_airflow(settings, catalog, state, airflow, grid)
            say(f"Read {runs} finished runs from Airflow, which may have deleted older ones.")
    return [*airflow_gaps(catalog, configured=settings.airflow_url is not None), *gaps]


def _read_audit(
    settings: Settings, catalog: Catalog, grid: Grid, kept: tuple[Ledger, Spool], say: Callable[[str], None]
) -> tuple[Gap, ...]:
    state, audit = kept
    with contextlib.closing(audit_log(settings, catalog)) as log:
        found = record(log, audit, grid, live_totals(state, settings, catalog))
    if not found.rows:
        raise SourceUnavailable(
            f"The audit log has no row up to {shown(grid.last)}: there is no history to write. Check AUDIT_URL, "
            "AUDIT_TABLE and AUDIT_ENV, or give a later --until.",
            reason="not_found",
        )
    say(f"Read {found.rows} rows, {found.rows_since} of them since {shown(grid.start)}.")
    if found.rows_left:
        say("The exporter counted rows that have left the log: its counters' history is higher by that.")
    if not found.rows_since:
        say("warning: no row since then: what older rows say is held all the way.")
    return found.gaps


def _write(writer: Writer, grid: Grid, output: Path, promtool: str | None) -> None:
    blocks = output / BLOCKS
    progress = Progress(sys.stderr, len(grid.windows()))
    try:
        for done, held in enumerate(writer.windows()):
            window = held[0]
            progress.show(done, f"{shown(grid.at(window.first))[:10]}, file {done + 1} of {len(grid.windows())}")
            file = output / f"{shown(grid.at(window.first))[:19].replace(' ', 'T').replace(':', '')}.om"
            any_sample = _write_file(writer, held, file)
            if any_sample and promtool is not None:
                make_block(promtool, file, blocks)
            if promtool is not None or not any_sample:
                file.unlink()
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        progress.clear()


def _write_file(writer: Writer, windows: Sequence[Window], file: Path) -> bool:
    with file.open("x", encoding="utf-8", newline="\n") as text:
        return writer.write(windows, text)


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """The output folder, made if need be; emptied again, or removed, when what is inside fails or is interrupted."""
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise ConfigError([f"--output: {output} is not empty. Give a folder that is, or one that does not exist"])
    except FileExistsError as error:
        raise ConfigError([f"--output: {output} is a file, not a folder"]) from error
    except OSError as error:
        raise ConfigError([f"--output: {output} cannot be written: {error.strerror}"]) from error
    try:
        yield output
    except BaseException:
        for path in output.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OutputError(
            f"{output} has {_mib(free)} free, and about {_mib(needed)} are needed. Give a later --since, a longer "
            "--step (at most 5m), or --promtool, which keeps one file of text at a time."
        )


def _say_what_next(request: Request, grid: Grid, now: float, samples: int, say: Callable[[str], None]) -> None:
    days = int((now - grid.start) // 86400) + 1
    if request.promtool:
        blocks = request.output / BLOCKS
        size = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
        say(f"Wrote {samples} samples into {blocks}: {_mib(size)}. Move what is in it into Prometheus' data folder:")
        say(f"  mv {blocks}/* /path/to/prometheus/data/")
        say("They must belong to the user that Prometheus runs as. It finds them within minutes, or at its start.")
    else:
        say(f"Wrote {samples} samples into {request.output}. Make blocks of each file with:")
        say("  promtool tsdb create-blocks-from openmetrics FILE /path/to/prometheus/data")
        say("or run this with --promtool, which is faster.")
    say(
        f"Prometheus deletes what is older than its retention (15d by default) at once: start it with at least "
        f"--storage.tsdb.retention.time={days}d."
    )
    if now - grid.last < HEAD_SECONDS:
        say(
            "warning: this ends less than 3 hours ago, which Prometheus may still be writing: importing it into a "
            "server that has scraped since is not safe. --until 3h is."
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
