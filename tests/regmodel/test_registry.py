"""Models on disk: whole or not at all, one champion, and nothing that is damaged is used."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmodel import registry as module
from regmodel.model import Model, Scores
from regmodel.registry import BrokenModel, ChampionMoved, Registry, UnknownVersion

SCORES = Scores(0.9, 40.0, 25.0, 100)


class Constant:
    """A regressor that predicts a number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), self.value)


def add(registry: Registry, value: float) -> str:
    return registry.add(
        Model(Constant(value), ("A",)),
        created_at="2025-06-02T00:00:00Z",
        window=("2024-01-15T00:00:00Z", "2025-01-13T00:00:00Z"),
        rows=100,
        train=SCORES,
        baseline=SCORES,
        seed=1,
        libraries={"python": "3"},
    ).name


def promote(registry: Registry, name: str, **more: str) -> None:
    registry.promote(name, promoted_at="2025-06-02T00:00:00Z", as_of="2025-06-02T00:00:00Z", **more)


def predicted(registry: Registry, name: str) -> float:
    table = pd.DataFrame(
        {"timestamp": pd.to_datetime(["2025-03-03T08:00Z"]), "counter": ["A"], "holiday": [False]}
        | {key: [1.0] for key in ("temperature", "rain", "wind", "level", "last_week")}
    )
    return float(registry.model(name).predict(table)[0])


def test_a_restart_keeps_models_and_champion(tmp_path: Path):
    registry = Registry(tmp_path, keep=10)
    assert registry.champion() is None
    assert [add(registry, 1.0), add(registry, 2.0)] == ["v0001", "v0002"]
    promote(registry, "v0002")
    again = Registry(tmp_path, keep=10)
    assert again.champion().version == "v0002"
    assert [version.name for version in again.versions()] == ["v0001", "v0002"]
    assert predicted(again, "v0001") == 1.0
    assert predicted(again, "v0002") == 2.0
    assert add(again, 3.0) == "v0003"


def test_promotion_is_refused_when_another_is_champion_by_now(tmp_path: Path):
    registry = Registry(tmp_path, keep=10)
    for value in range(3):
        add(registry, value)
    promote(registry, "v0001")
    promote(registry, "v0002", expected="v0001")
    with pytest.raises(ChampionMoved, match="the champion is v0002, not v0001"):
        promote(registry, "v0003", expected="v0001")
    assert registry.champion().version == "v0002"


@pytest.mark.parametrize("name", ["v0009", "v1", "../v0001", "champion.json", ""])
def test_a_version_that_is_not_there(tmp_path: Path, name: str):
    registry = Registry(tmp_path, keep=10)
    add(registry, 1.0)
    with pytest.raises(UnknownVersion):
        registry.version(name)
    with pytest.raises(UnknownVersion):
        promote(registry, name)
    assert registry.champion() is None


def test_a_crash_while_writing_leaves_the_old_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry = Registry(tmp_path, keep=10)
    add(registry, 1.0)
    add(registry, 2.0)
    promote(registry, "v0001")

    def crash(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "_write", crash)
    with pytest.raises(OSError, match="full"):
        promote(registry, "v0002")
    with pytest.raises(OSError, match="full"):
        add(registry, 3.0)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob(".new-*")] == [".new-v0003"]
    again = Registry(tmp_path, keep=10)
    assert not list(tmp_path.glob(".new-*")), "a restart removes what was not finished"
    assert again.champion().version == "v0001"
    assert [version.name for version in again.versions()] == ["v0001", "v0002"]
    assert add(again, 3.0) == "v0003"


def test_a_damaged_model_is_named_and_not_used(tmp_path: Path):
    add(Registry(tmp_path, keep=10), 1.0)
    registry = Registry(tmp_path, keep=10)
    model = tmp_path / "v0001" / "model.joblib"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BrokenModel, match=r"model v0001: model.joblib is not what was written"):
        promote(registry, "v0001")
    (tmp_path / "v0001" / "metadata.json").write_text("{")
    with pytest.raises(BrokenModel, match=r"v0001: metadata.json cannot be read"):
        registry.version("v0001")
    assert registry.versions() == ()
    (tmp_path / "champion.json").write_text('{"version": "v0001"}')
    with pytest.raises(BrokenModel, match=r"champion.json cannot be read"):
        registry.champion()


def test_old_versions_are_removed_but_never_the_champion(tmp_path: Path):
    registry = Registry(tmp_path, keep=2)
    for value in range(5):
        add(registry, value)
    promote(registry, "v0001")
    assert registry.prune() == ("v0002", "v0003")
    assert [version.name for version in registry.versions()] == ["v0001", "v0004", "v0005"]
    assert json.loads((tmp_path / "champion.json").read_text())["version"] == "v0001"
    assert predicted(registry, "v0001") == 0.0


def test_a_version_that_was_not_finished_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry = Registry(tmp_path, keep=10)

    def crash(path: Path, content: bytes) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "_write", crash)
    with pytest.raises(OSError, match="full"):
        add(registry, 1.0)
    monkeypatch.undo()
    assert add(registry, 2.0) == "v0001"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v0001"]
    assert predicted(Registry(tmp_path, keep=10), "v0001") == 2.0


def test_version_10000_is_newer_than_9999(tmp_path: Path):
    registry = Registry(tmp_path, keep=2)
    (tmp_path / "v9997").mkdir()
    assert [add(registry, value) for value in range(3)] == ["v9998", "v9999", "v10000"]
    assert registry.prune() == ("v9997", "v9998")
    assert [version.name for version in registry.versions()] == ["v9999", "v10000"]


def test_models_that_are_not_used_leave_memory(tmp_path: Path):
    registry = Registry(tmp_path, keep=3)
    names = [add(registry, value) for value in range(6)]
    registry = Registry(tmp_path, keep=3)
    models = [weakref.ref(registry.model(name)) for name in names]
    gc.collect()
    assert [model() is not None for model in models] == [False, False, True, True, True, True]
    assert registry.model(names[5]) is models[5](), "a model in memory is not read again"
    registry.prune()
    gc.collect()
    assert [model() is not None for model in models] == [False, False, False, True, True, True]
    with pytest.raises(UnknownVersion):
        registry.model(names[2])
