"""What survives a restart: one SQLite file in EXPORTER_STATE_DIR.

It holds the last good reading of every source, from which an exporter that is restarted during an outage goes on, and
the tables of whoever counts in its transactions (`make_tables`; `sources/airflow/totals.py` does). A file that is
corrupt, or was written by another version's schema, is set aside with a warning and a new one begun. Without a folder
that can be written, the same tables live in memory: everything works until the process ends.
"""

import base64
import contextlib
import json
import logging
import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from exporter.errors import StateError
from exporter.snapshot import Gap, Grid, HistogramSample, Labels, Observation, Reading, Sample, Totals

log = logging.getLogger(__name__)

ITEMS_AT_ONCE: Final = 200
FILE_NAME: Final = "ledger.sqlite3"
SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE reading (source TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
"""


class Ledger:
    """The state file. One connection, one lock: callers on any thread, one transaction at a time.

    Attributes:
        problem: why state will not survive a restart, for `/health`; None when it will.
    """

    def __init__(self, connection: sqlite3.Connection, problem: str | None) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.problem = problem

    @classmethod
    def open(cls, state_dir: Path | None, clock: Callable[[], float] = time.time) -> "Ledger":
        """Open or make the file in `state_dir`. Never fails: what is wrong is logged and kept in `problem`."""
        if state_dir is None:
            return cls(_in_memory(), "EXPORTER_STATE_DIR is none: state is lost at a restart")
        path = state_dir / FILE_NAME
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            try:
                return cls(_open(path), None)
            except StateError as error:
                aside = path.with_name(f"{FILE_NAME}.set-aside-{int(clock())}")
                path.replace(aside)
                for suffix in ("-wal", "-shm"):
                    path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
                log.warning("state file %s: %s; set aside as %s, a new one is begun", path, error, aside.name)
                return cls(_open(path), None)
        except (OSError, sqlite3.Error, StateError) as error:
            problem = f"state folder {state_dir} cannot be used ({error}): state is lost at a restart"
            log.warning("%s", problem)
            return cls(_in_memory(), problem)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written, or nothing.

        Raises:
            StateError: the file cannot be written (a full disk, a folder that became read-only).
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise StateError(f"state cannot be written: {error}") from error
            finally:
                # Still open only if something above failed; SQLite itself ends it on some errors, such as a full disk.
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def save_reading(self, reading: Reading) -> None:
        """Keep the reading in place of the source's last one.

        Raises:
            StateError: the file cannot be written.
        """
        text = _dumps(reading_to_json(reading))
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO reading (source, json) VALUES (?, ?) "
                "ON CONFLICT (source) DO UPDATE SET json = excluded.json",
                (reading.source, text),
            )

    def load_reading(self, source: str, identity: str) -> Reading | None:
        """The source's last good reading, if one was kept and it was made of the same thing. Never raises."""
        try:
            with self.transaction() as connection:
                row = connection.execute("SELECT json FROM reading WHERE source = ?", (source,)).fetchone()
            reading = reading_from_json(json.loads(row[0])) if row else None
        except (StateError, ValueError) as error:
            log.warning("the kept reading of source %s cannot be used and is left out: %s", source, error)
            return None
        if reading is not None and reading.identity != identity:
            log.info("the kept reading of source %s was made of another table or filter and is left out", source)
            return None
        return reading

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, make its tables if it is new, and prove that it can be written.

    Raises:
        StateError: the file's content is the problem, so another file may do.
        sqlite3.Error, OSError: the folder or the disk is.
    """
    new = not path.exists() or path.stat().st_size == 0
    connection = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if new:
            _make_tables(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise StateError(f"written with schema {version}, this version reads {SCHEMA_VERSION}")
        verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise StateError(f"damaged: {verdict}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise StateError(f"not a usable SQLite file: {error}") from error
    except StateError:
        connection.close()
        raise
    return connection


def _in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _make_tables(connection)
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN;{_SCHEMA};PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def make_tables(connection: sqlite3.Connection, owner: str, versions: Sequence[Sequence[str]]) -> None:
    """Make the tables that a user of the ledger keeps in its file, or bring those of an earlier version up to date.

    Args:
        connection: inside a transaction of the ledger.
        owner: whose tables they are; their version is kept under this name.
        versions: the statements that lead from each version to the next, the first one from nothing to version 1.

    Raises:
        StateError: a later version wrote them.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS tables_of (owner TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT")
    row = connection.execute("SELECT version FROM tables_of WHERE owner = ?", (owner,)).fetchone()
    version = row[0] if row else 0
    if version > len(versions):
        raise StateError(
            f"the tables of {owner} in {FILE_NAME} have version {version}, written by a later exporter; this one knows "
            f"{len(versions)}: use the later one, or another EXPORTER_STATE_DIR"
        )
    if version < len(versions):
        for statements in versions[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO tables_of VALUES (?, ?)", (owner, len(versions)))


def reading_to_json(reading: Reading) -> dict[str, Any]:
    """The reading as values that JSON can hold. The label sets that its Grids share are written once, their numbers
    in base64: as text they would take a hundred times as long."""
    grids = [o.samples for o in reading.observations.values() if isinstance(o.samples, Grid)]
    return {
        "label_sets": grids[0].sets if grids else (),
        "source": reading.source,
        "identity": reading.identity,
        "catalog": reading.catalog,
        "read_at": reading.read_at,
        "queried_at": reading.queried_at,
        "token": reading.token,
        "observations": {
            name: {
                "observed_at": observation.observed_at,
                **(
                    {"grid": _grid_to_json(observation.samples, grids[0].sets)}
                    if isinstance(observation.samples, Grid)
                    else {"samples": [_sample_to_json(sample) for sample in observation.samples]}
                ),
            }
            for name, observation in reading.observations.items()
        },
        "gaps": [[gap.metric, gap.reason] for gap in reading.gaps],
        "notes": list(reading.notes),
        "facts": dict(reading.facts),
        "totals": None if reading.totals is None else _totals_to_json(reading.totals, grids[0].sets if grids else ()),
        "valid_until": reading.valid_until,
    }


def reading_from_json(content: Any) -> Reading:
    """The reading that `reading_to_json` wrote.

    Raises:
        ValueError: it was not written by this version, or was damaged.
    """
    try:
        sets = tuple(_labels(labels) for labels in content.get("label_sets", ()))
        observations = {
            str(name): Observation(
                _grid_from_json(entry["grid"], sets)
                if "grid" in entry
                else tuple(_sample_from_json(sample) for sample in entry["samples"]),
                _optional(entry["observed_at"]),
            )
            for name, entry in content["observations"].items()
        }
        return Reading(
            source=str(content["source"]),
            identity=str(content["identity"]),
            catalog=str(content["catalog"]),
            read_at=float(content["read_at"]),
            queried_at=float(content["queried_at"]),
            token=None if content["token"] is None else str(content["token"]),
            observations=observations,
            gaps=tuple(Gap(str(metric), str(reason)) for metric, reason in content["gaps"]),
            notes=tuple(str(note) for note in content["notes"]),
            facts=dict(content["facts"]),
            totals=_totals_from_json(content["totals"], sets)
            if "totals" in content
            else _totals_of_0_1_0(content, observations),
            valid_until=_optional(content["valid_until"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a reading ({type(error).__name__}: {error})") from error


def _dumps(content: Any) -> str:
    """JSON of the content, a piece at a time: Python's encoder lets no other thread run, however much it is given."""
    if isinstance(content, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_dumps(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list | tuple) and len(content) > ITEMS_AT_ONCE:
        pieces = (content[start : start + ITEMS_AT_ONCE] for start in range(0, len(content), ITEMS_AT_ONCE))
        return "[" + ",".join(json.dumps(piece, allow_nan=False)[1:-1] for piece in pieces) + "]"
    return json.dumps(content, allow_nan=False)


def _sample_to_json(sample: Sample | HistogramSample) -> list[Any]:
    if isinstance(sample, Sample):
        return [sample.labels, sample.value]
    return [sample.labels, list(sample.counts), sample.sum]


def _sample_from_json(content: Any) -> Sample | HistogramSample:
    if len(content) == 2:
        return Sample(_labels(content[0]), float(content[1]))
    return HistogramSample(_labels(content[0]), tuple(int(count) for count in content[1]), float(content[2]))


def _grid_to_json(grid: Grid, sets: tuple[Labels, ...]) -> list[Any]:
    if grid.sets is not sets:
        raise ValueError("the Grids of a reading share one tuple of label sets")
    return [[own, _numbers_to_json(values)] for own, values in grid.columns]


def _grid_from_json(content: Any, sets: tuple[Labels, ...]) -> Grid:
    return Grid(sets, tuple((_labels(own), _numbers_from_json(text, len(sets))) for own, text in content))


def _totals_to_json(totals: Totals, shown: tuple[Labels, ...]) -> dict[str, Any]:
    """The totals; of the label sets that stand in the reading already, only how many they are."""
    known = len(shown) if totals.sets[: len(shown)] == shown else 0
    return {
        "newest": totals.newest,
        "shown": known,
        "sets": totals.sets[known:],
        "columns": [[name, own, _numbers_to_json(values)] for (name, own), values in totals.columns.items()],
    }


def _totals_from_json(content: Any, shown: tuple[Labels, ...]) -> Totals | None:
    if content is None:
        return None
    sets = (*shown[: int(content["shown"])], *(_labels(labels) for labels in content["sets"]))
    columns = {(str(name), _labels(own)): _numbers_from_json(text, len(sets)) for name, own, text in content["columns"]}
    return Totals(_optional(content["newest"]), sets, columns)


def _totals_of_0_1_0(content: Any, observations: Mapping[str, Observation]) -> Totals | None:
    """The totals from a reading that version 0.1.0 wrote, which kept what the log once held as offsets: `carries`, a
    list of metric, labels, rows counted last, and offset. A series of a Grid stands there only if it has an offset or
    is not shown. A metric's own label is the last one. That version counted rows dated in the future, too.
    """
    found: dict[Labels, dict[tuple[str, Labels], float]] = {}
    grids = [(name, o.samples) for name, o in observations.items() if isinstance(o.samples, Grid)]
    for name, grid in grids:
        for own, values in grid.columns:
            if own:  # of the columns of Grids, those with a label of their own are counts
                for labels, value in zip(grid.sets, values, strict=True):
                    found.setdefault(labels, {})[name, own] = value
    for name, series, counted, offset in reversed(content["carries"]):  # the last to leave stands at the end
        labels = _labels(series)
        found.setdefault(labels[:-1], {})[str(name), labels[-1:]] = float(counted) + float(offset)
    if not found:
        return None
    keys = dict.fromkeys(key for values in found.values() for key in values)
    newest, future = _optional(content["facts"].get("last_record_at")), _optional(content["valid_until"])
    if newest is not None and future is not None and future < float(content["read_at"]) + 86_400:
        # Its first row that was dated in the future is at most two hours after that; it must not count again.
        newest = max(newest, future + 7_200)
    return Totals(
        newest,
        tuple(found),
        {key: array("d", (values.get(key, 0.0) for values in found.values())) for key in keys},
    )


def _numbers_to_json(values: "array[float]") -> str:
    return base64.b64encode(values.tobytes()).decode()


def _numbers_from_json(text: Any, length: int) -> "array[float]":
    values = array("d", base64.b64decode(text, validate=True))
    if len(values) != length:
        raise ValueError(f"{len(values)} values for {length} label sets")
    return values


def _labels(content: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in content)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
