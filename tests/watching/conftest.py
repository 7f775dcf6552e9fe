"""Checkpoints as a trainer saves them, and a world in memory for them to go to."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

from tests.watching.memory_world import MemoryWorld, Save


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The output folder of a training."""
    folder = tmp_path / "training"
    folder.mkdir()
    return folder


@pytest.fixture
def save(training: Path, tiny_checkpoint: Path) -> Save:
    """Saves a checkpoint of a step into the output folder, as the HF Trainer does."""

    def save_step(step: int) -> Path:
        folder = copytree(tiny_checkpoint, training / f"checkpoint-{step}")
        state = json.loads((folder / "trainer_state.json").read_text())
        state["global_step"] = step
        (folder / "trainer_state.json").write_text(json.dumps(state))
        (folder / "optimizer.pt").write_bytes(b"stays")
        (folder / "training_args.bin").write_bytes(b"stays, too")
        return folder

    return save_step
