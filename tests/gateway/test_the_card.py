"""Free memory is that of the card which the engine will use; who expected a card is told when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from server import engine_memory, gpu
from server.gateway import room
from server.gpu import Card, card_of

CARDS = [Card(index=0, uuid="GPU-a1", free_bytes=1_000), Card(index=1, uuid="GPU-b2", free_bytes=90_000)]


@pytest.mark.parametrize(
    ("visible", "index"),
    [(None, 0), ("0", 0), ("1", 1), ("1,0", 1), (" 1 ", 1), ("GPU-b", 1), ("", None), ("-1", None), ("7", None)],
)
def test_the_first_card_that_is_shown_counts_not_the_emptiest(visible: str | None, index: int | None) -> None:
    card = card_of(CARDS, visible)

    assert (card and card.index) == index


def test_a_part_of_a_card_is_one_whose_free_memory_nobody_tells() -> None:
    card = card_of(CARDS, "MIG-1,0")

    assert card is not None
    assert card.free_bytes is None


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi of a machine with a full card and an empty one."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0, GPU-a1, 500\necho 1, GPU-b2, 90000\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


@pytest.mark.usefixtures("smi")
def test_an_empty_second_card_is_no_room_on_a_full_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    on_first = engine_memory.free_bytes("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert (on_first, engine_memory.free_bytes("cuda")) == (500 * 1024**2, 90_000 * 1024**2)
    assert engine_memory.device_of("auto") == "cuda"


def test_a_driver_that_does_not_answer_means_the_cpu_and_is_said(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch; exit 18\n")

    assert (gpu.card(), engine_memory.device_of("auto")) == (None, "cpu")
    assert "although this machine has nvidia-smi" in room.degraded("auto", "cpu")


@pytest.mark.parametrize(("setting", "device"), [("cpu", "cpu"), ("auto", "cuda"), ("auto", "unknown")])
@pytest.mark.usefixtures("smi")
def test_what_was_asked_for_is_not_degraded(setting: str, device: str) -> None:
    assert room.degraded(setting, device) == ""


@pytest.mark.usefixtures("smi")
def test_a_card_that_was_hidden_on_purpose_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert room.degraded("auto", "cpu") == ""
