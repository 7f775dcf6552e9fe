"""The graphics card that an engine will use, and its free memory, without starting one. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT_S = 5
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card.

    Attributes:
        index: As nvidia-smi counts, from 0.
        uuid: `GPU-…`, or `MIG-…` of a part of one.
        free_bytes: None where nvidia-smi does not tell it.
    """

    index: int
    uuid: str
    free_bytes: int | None


def card_of(cards: Sequence[Card], visible: str | None) -> Card | None:
    """The card that torch calls `cuda:0`; None when it is shown none.

    Args:
        cards: Those of this machine.
        visible: `CUDA_VISIBLE_DEVICES`: numbers or the beginnings of UUIDs, of which the first counts; None for all.
    """
    if visible is None:
        return cards[0] if cards else None
    first = visible.split(",")[0].strip()
    if first.startswith("MIG-"):
        return Card(index=0, uuid=first, free_bytes=None) if cards else None
    if first.isdecimal():
        return next((card for card in cards if card.index == int(first)), None)
    return next((card for card in cards if first.startswith("GPU-") and card.uuid.startswith(first)), None)


def card() -> Card | None:
    """The card that an engine of this process will use; None when there is none, or the driver does not answer."""
    return card_of(_cards(), os.environ.get(VISIBLE))


def is_expected() -> bool:
    """Whether somebody who installed this machine will think that engines run on a card."""
    hidden = os.environ.get(VISIBLE, "0").strip() in ("", "-1")
    return not hidden and shutil.which("nvidia-smi") is not None


def _cards() -> list[Card]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
        return [_card(line) for line in answer.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _card(line: str) -> Card:
    index, uuid, free = (part.strip() for part in line.split(","))
    return Card(index=int(index), uuid=uuid, free_bytes=int(free) * _MIB if free.isdecimal() else None)
