"""Models on disk: one folder a version, and one small file that says which of them is the champion.

    models/
      v0001/model.joblib      the model, as joblib writes it
      v0001/metadata.json     what `Version` holds, and the checksum of model.joblib
      champion.json           {"version": "v0001", ...}

A version appears whole or not at all (it is written beside and renamed), and promotion replaces `champion.json` in one
step, so a crash at any moment leaves the old champion or the new one. One process owns the folder. Model files are
pickles: whoever can write this folder can run code in the service.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib

from regmodel.model import Model, Scores

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"v(\d{4,})")
_CHAMPION: Final = "champion.json"


class UnknownVersion(LookupError):
    """There is no model of that version."""


class BrokenModel(RuntimeError):
    """A version's files are damaged, or were written by libraries that differ too much."""


class ChampionMoved(RuntimeError):
    """Another model is champion than the caller thought."""


@dataclass(frozen=True, slots=True)
class Version:
    """What is known of a trained model.

    Attributes:
        name: `v0001` and so on, ascending.
        created_at: when it was trained, by this machine's clock (ISO 8601, UTC).
        trained_from, trained_to: the window of the counts that it was trained on (ISO 8601, UTC; end excluded).
        rows: how many hours it was trained on.
        r2_train: R² on those hours.
        r2_baseline: R² on test_baseline.
        seed: of the training.
        libraries: versions of what it was made with.
    """

    name: str
    created_at: str
    trained_from: str
    trained_to: str
    rows: int
    r2_train: float
    r2_baseline: float
    seed: int
    libraries: dict[str, str]


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which version is champion, since when (machine's clock), and up to which moment of the data it was chosen."""

    version: str
    promoted_at: str
    as_of: str


class Registry:
    """The models of one folder. Safe for threads of one process.

    Args:
        folder: made if it does not exist.
        keep: how many versions to keep; older ones are removed, but never the champion.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._lock = threading.Lock()
        self._loaded: dict[str, Model] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first. Folders that hold no readable metadata are left out and logged."""
        found = []
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                try:
                    found.append(self.version(path.name))
                except (UnknownVersion, BrokenModel) as error:
                    log.warning("%s", error)
        return tuple(sorted(found, key=lambda one: int(one.name[1:])))

    def version(self, name: str) -> Version:
        """The metadata of one version.

        Raises:
            UnknownVersion, BrokenModel: there is none, or it cannot be read.
        """
        if not _NAME.fullmatch(name) or not (self._folder / name).is_dir():
            raise UnknownVersion(f"there is no model {name!r}")
        content = self._metadata(name)
        content.pop("sha256", None)
        try:
            return Version(**content)
        except TypeError as error:
            raise BrokenModel(f"model {name}: metadata.json has other fields than expected: {error}") from error

    def champion(self) -> Promotion | None:
        """Which version is champion; None when none was promoted yet.

        Raises:
            BrokenModel: the file that says so cannot be read.
        """
        try:
            return Promotion(**json.loads((self._folder / _CHAMPION).read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise BrokenModel(f"{_CHAMPION} cannot be read: {error}") from error

    def model(self, name: str) -> Model:
        """The model of a version, from memory when it was used before.

        Raises:
            UnknownVersion, BrokenModel: there is none, or its file is damaged.
        """
        loaded = self._loaded.get(name)
        if loaded is not None:
            return loaded
        self.version(name)
        checksum = self._metadata(name).get("sha256")
        try:
            content = (self._folder / name / "model.joblib").read_bytes()
        except OSError as error:
            raise BrokenModel(f"model {name}: model.joblib cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != checksum:
            raise BrokenModel(f"model {name}: model.joblib is not what was written (its checksum differs)")
        try:
            regressor, counters = joblib.load(io.BytesIO(content))
        except Exception as error:
            raise BrokenModel(f"model {name}: model.joblib cannot be loaded: {error}") from error
        model = Model(regressor, tuple(counters))
        with self._lock:
            self._remember(name, model)
        return model

    def add(
        self,
        model: Model,
        *,
        created_at: str,
        window: tuple[str, str],
        rows: int,
        train: Scores,
        baseline: Scores,
        seed: int,
        libraries: dict[str, str],
    ) -> Version:
        """Write a new version. It is not champion yet."""
        buffer = io.BytesIO()
        joblib.dump((model.regressor, model.counters), buffer, compress=3)
        content = buffer.getvalue()
        with self._lock:
            numbers = [int(match[1]) for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))]
            version = Version(
                name=f"v{max(numbers, default=0) + 1:04d}",
                created_at=created_at,
                trained_from=window[0],
                trained_to=window[1],
                rows=rows,
                r2_train=train.r2,
                r2_baseline=baseline.r2,
                seed=seed,
                libraries=libraries,
            )
            unfinished = self._folder / f".new-{version.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _write(unfinished / "model.joblib", content)
            metadata = {**dataclasses.asdict(version), "sha256": hashlib.sha256(content).hexdigest()}
            _write(unfinished / "metadata.json", json.dumps(metadata, indent=1).encode())
            unfinished.rename(self._folder / version.name)
            _sync(self._folder)
            self._remember(version.name, model)
        return version

    def promote(self, name: str, *, promoted_at: str, as_of: str, expected: str | None = None) -> Promotion:
        """Make a version champion, in one step.

        Args:
            expected: the version that the caller believes to be champion; None for no such check.

        Raises:
            UnknownVersion, BrokenModel: that model cannot be used, so nothing was changed.
            ChampionMoved: another one than `expected` is champion, so nothing was changed.
        """
        self.model(name)
        with self._lock:
            now = self.champion()
            if expected is not None and (now.version if now else None) != expected:
                raise ChampionMoved(f"the champion is {now.version if now else 'none'}, not {expected}")
            promotion = Promotion(name, promoted_at, as_of)
            unfinished = self._folder / f".{_CHAMPION}.new"
            _write(unfinished, json.dumps(dataclasses.asdict(promotion)).encode())
            unfinished.replace(self._folder / _CHAMPION)
            _sync(self._folder)
        return promotion

    def prune(self) -> tuple[str, ...]:
        """Remove the oldest versions beyond `keep`, never the champion. Gives the names of those removed."""
        champion = self.champion()
        with self._lock:
            names = sorted(
                (path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)),
                key=lambda name: int(name[1:]),
            )
            removed = [name for name in names[: -self._keep] if champion is None or name != champion.version]
            for name in removed:
                self._loaded.pop(name, None)
                with contextlib.suppress(OSError):
                    shutil.rmtree(self._folder / name)
        return tuple(removed)

    def _metadata(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self._folder / name / "metadata.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BrokenModel(f"model {name}: metadata.json cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise BrokenModel(f"model {name}: metadata.json is not an object")
        return content

    def _remember(self, name: str, model: Model) -> None:
        """Keep the model in memory: the champion, and the challengers of the moment."""
        self._loaded[name] = model
        while len(self._loaded) > 4:
            self._loaded.pop(next(iter(self._loaded)))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
