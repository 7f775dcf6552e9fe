"""What stands in the way of the promoter's moves."""

from __future__ import annotations

from typing import Any

from pipeline.promotion.marks import read_mark
from registry_hooks import contract


def hold_of(world: Any) -> str | None:
    """Why the model of `world` is held; None where it is not."""
    mark = read_mark(world.registry.model_tags(world.hands.name).get(contract.TAG_HOLD))
    return mark.why if mark is not None else None
