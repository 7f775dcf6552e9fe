"""The scores of one version, and whether those of two versions may be compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from pipeline.promotion.statistics import FloatArray

# Squares of anything larger overflow; no score in use comes near it.
_LARGEST = 1e100
_NUM_NAMED_ITEMS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What one version scored on each item of a test set.

    Attributes:
        version: Of the registered model.
        digest: Of the version's manifest.
        step: Of training; None when nobody recorded it.
        item_ids: Unique.
        slices: Of each item.
        values: The primary score of each item as it was measured: higher is better for `exact_match`; for `loss` nats,
            lower is better, and the rule negates them.
        losses: Loss of each item in nats, for the guardrail; None where it was not measured.
        fingerprint: Of how the scores were measured: test set, device, engine. Two sides are compared only when it is
            equal.
        groups: Of each item, those of one being one observation; empty for an item by itself. Nothing for none at all.
        training: Which training it is of: steps of two trainings say nothing about each other. Empty for unknown.
    """

    version: int
    digest: str
    step: int | None
    item_ids: tuple[str, ...]
    slices: tuple[str, ...]
    values: FloatArray
    losses: FloatArray | None
    fingerprint: str
    training: str = ""
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        losses = n if self.losses is None else len(self.losses)
        groups = len(self.groups) or n
        if not n == len(self.slices) == len(self.values) == losses == groups:
            raise ValueError(
                f"version {self.version}: {n} items, but another number of slices, values, losses or groups"
            )


def by_item_id(scores: Scores) -> Scores:
    """The same scores sorted by item, so that the order of the items changes nothing in a decision."""
    order = sorted(range(len(scores.item_ids)), key=lambda i: scores.item_ids[i])
    return replace(
        scores,
        item_ids=tuple(scores.item_ids[i] for i in order),
        slices=tuple(scores.slices[i] for i in order),
        groups=tuple(scores.groups[i] for i in order if scores.groups),
        values=np.asarray(scores.values, dtype=np.float64)[order],
        losses=None if scores.losses is None else np.asarray(scores.losses, dtype=np.float64)[order],
    )


def unusable(scores: Scores) -> str:
    """What is not a finite number in these scores, in words; empty when all are."""
    columns = {"scores": scores.values} if scores.losses is None else {"scores": scores.values, "losses": scores.losses}
    bad = {name: int((~(np.abs(values) <= _LARGEST)).sum()) for name, values in columns.items()}
    found = [f"{count:,} of its {len(scores.item_ids):,} {name}" for name, count in bad.items() if count]
    return f"{' and '.join(found)} are not finite numbers" if found else ""


def repeated(scores: Scores) -> str:
    """Which items stand more than once in these scores, in words; empty when none does."""
    twice = {item for item, count in Counter(scores.item_ids).items() if count > 1}
    return f"version {scores.version} has items twice: {_named(twice)}" if twice else ""


def mismatch(incumbent: Scores, candidate: Scores) -> str:
    """Why the two were not scored alike, in words; empty when they were.

    Args:
        incumbent: Sorted by item.
        candidate: Sorted by item.
    """
    sides = f"version {candidate.version} and version {incumbent.version}"
    if candidate.item_ids != incumbent.item_ids:
        lacking = set(incumbent.item_ids) - set(candidate.item_ids)
        extra = set(candidate.item_ids) - set(incumbent.item_ids)
        parts = [f"{_named(lacking)} only in version {incumbent.version}"] if lacking else []
        parts += [f"{_named(extra)} only in version {candidate.version}"] if extra else []
        return f"{sides} were scored on different items: {', '.join(parts)}"
    if candidate.fingerprint != incumbent.fingerprint:
        return (
            f"{sides} were scored in different ways: fingerprint {candidate.fingerprint[:40]} and "
            f"{incumbent.fingerprint[:40]}"
        )
    if candidate.slices != incumbent.slices:
        moved = {i for i, a, b in zip(candidate.item_ids, candidate.slices, incumbent.slices, strict=True) if a != b}
        return f"{sides} disagree about the slice of {_named(moved)}"
    if (candidate.losses is None) != (incumbent.losses is None):
        return f"of {sides} only one has losses per item"
    return ""


def _named(items: set[str]) -> str:
    shown = ", ".join(repr(item[:40]) for item in sorted(items)[:_NUM_NAMED_ITEMS])
    more = len(items) - _NUM_NAMED_ITEMS
    return f"{shown} and {more:,} more" if more > 0 else shown
