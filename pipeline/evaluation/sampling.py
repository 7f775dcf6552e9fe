"""Fresh items for each decision: a sample of a pool, the same for whoever draws it again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

from pipeline.evaluation.items import Item
from pipeline.evaluation.test_set import TestSet, build

Unit = tuple[Item, ...]


def draw(pool: TestSet, num_items: int, *, seed: int) -> TestSet:
    """About so many items of the pool, each slice in its share and at least once; items of a group stay together.

    Which ones they are follows from pool and seed alone, whatever the order of the lines, so that nothing of it need be
    kept. A unit more or less in the pool changes little of the sample. A group belongs to the slice of its first item.

    Args:
        num_items: At least 1; a pool that has no more is taken whole.
    """
    if num_items >= len(pool.items):
        return pool
    chosen = [
        item
        for name, units in _units_by_slice(pool).items()
        for unit in _first(units, share=num_items / len(pool.items), salt=f"{seed}/{name}")
        for item in unit
    ]
    return build(chosen, name=f"{pool.name} sample {seed}", source=pool.source)


def _units_by_slice(pool: TestSet) -> Mapping[str, list[Unit]]:
    units: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(pool.items, key=lambda one: one.item_id):
        units[f"group {item.group}" if item.group else f"item {item.item_id}"].append(item)
    by_slice: dict[str, list[Unit]] = defaultdict(list)
    for unit in units.values():
        by_slice[unit[0].slice].append(tuple(unit))
    return by_slice


def _first(units: list[Unit], *, share: float, salt: str) -> list[Unit]:
    wanted = max(1, round(share * sum(map(len, units))))
    shuffled = sorted(units, key=lambda unit: hashlib.sha256(f"{salt}/{unit[0].item_id}".encode()).digest())
    taken: list[Unit] = []
    while shuffled and sum(map(len, taken)) < wanted:
        taken.append(shuffled.pop(0))
    return taken
