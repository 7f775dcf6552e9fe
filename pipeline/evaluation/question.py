"""What an engine is asked, and the error of an answer that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.items import Item
from registry_hooks.errors import EvaluationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One POST to an OpenAI server; `model` is added when it is sent."""

    path: str
    body: Mapping[str, Any]


def unusable(item: Item, what: str) -> EvaluationError:
    """An answer of the engine that is no score and never will be."""
    return EvaluationError(
        f"item {item.item_id!r}: the engine's answer {what}; nothing was scored", stage="answers", transient=False
    )
