"""Up to which length a model's rotary frequencies are its own: beyond it some depend on the longest text of a pass.

Source: `dynamic_rope_update` of transformers 5.23. Of `longrope` (Phi-3, Phi-4) a pass takes its short or its long
factors by its greatest position, for all its tokens; of `dynamic` the frequencies follow that position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def border_of(config: Any) -> int | None:
    """The longest text, in tokens, that is computed alike in every pass; None where all are.

    Args:
        config: Of the text model, as transformers has it.
    """
    return min(_borders(config), default=None)


def _borders(config: Any) -> Iterator[int]:
    parameters: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    for one in (parameters, *parameters.values()):  # of the model, or one for each type of layers
        rope_type = one.get("rope_type") if isinstance(one, Mapping) else None
        if rope_type == "longrope":
            yield one["original_max_position_embeddings"]
        elif rope_type is not None and "dynamic" in rope_type:
            yield config.max_position_embeddings
