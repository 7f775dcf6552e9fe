"""Builders of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipeline.promotion.scores import Scores

Build = Callable[..., Scores]


@pytest.fixture(scope="session")
def scored() -> Build:
    """Scores of a version with the values given; everything else as its equals have it."""

    def build(
        version: int,
        values: Sequence[float],
        *,
        step: int | None = None,
        item_ids: Sequence[str] | None = None,
        slices: Sequence[str] | None = None,
        losses: Sequence[float] | None = None,
        groups: Sequence[str] = (),
        fingerprint: str = "same",
        training: str = "",
    ) -> Scores:
        n = len(values)
        return Scores(
            version=version,
            digest=f"digest-{version}",
            step=step,
            item_ids=tuple(item_ids) if item_ids is not None else tuple(f"item-{i:04}" for i in range(n)),
            slices=tuple(slices) if slices is not None else ("all",) * n,
            values=np.array(values, dtype=np.float64),
            losses=None if losses is None else np.array(losses, dtype=np.float64),
            fingerprint=fingerprint,
            groups=tuple(groups),
            training=training,
        )

    return build
