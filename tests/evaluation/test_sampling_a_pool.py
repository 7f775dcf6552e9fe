"""A sample of a pool is fair to every slice, the same for whoever draws it again, and another for another seed."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.evaluation.items import Item
from pipeline.evaluation.sampling import draw
from pipeline.evaluation.test_set import TestSet, build


def item_of(number: int, *, slice_name: str = "a", group: str = "") -> Item:
    return Item(
        item_id=f"{slice_name}{number}", slice=slice_name, prompt=f"{number}", messages=(), answer="x", group=group
    )


@pytest.fixture
def pool() -> TestSet:
    """600, 300 and 3 items."""
    sizes = {"a": 600, "b": 300, "c": 3}
    return build([item_of(n, slice_name=name) for name, size in sizes.items() for n in range(size)], name="pool")


def ids(found: TestSet) -> set[str]:
    return {item.item_id for item in found.items}


def test_each_slice_has_its_share_and_the_smallest_one_is_there(pool: TestSet) -> None:
    assert Counter(item.slice for item in draw(pool, 90, seed=7).items) == {"a": 60, "b": 30, "c": 1}


def test_the_same_seed_draws_the_same_whatever_the_order_of_the_lines(pool: TestSet) -> None:
    turned = build(pool.items[::-1], name="pool")

    assert draw(turned, 90, seed=7).digest == draw(pool, 90, seed=7).digest
    assert draw(pool, 90, seed=7).name == "pool sample 7"


def test_another_seed_draws_other_items(pool: TestSet) -> None:
    first, second = ids(draw(pool, 90, seed=7)), ids(draw(pool, 90, seed=8))

    assert len(first & second) < 30  # 9 are to be expected
    assert draw(pool, 90, seed=7).digest != draw(pool, 90, seed=8).digest


def test_over_many_seeds_every_item_has_its_turn(pool: TestSet) -> None:
    drawn = Counter(one for seed in range(120) for one in ids(draw(pool, 90, seed=seed)) if one.startswith("a"))

    assert len(drawn) == 600
    assert max(drawn.values()) < 40  # 12 are to be expected


def test_a_larger_pool_keeps_most_of_the_sample(pool: TestSet) -> None:
    larger = build([*pool.items, item_of(600)], name="pool")

    assert len(ids(draw(pool, 90, seed=7)) & ids(draw(larger, 90, seed=7))) >= 88


def test_items_of_a_group_stay_together() -> None:
    pool = build([item_of(n, group=f"g{n // 5}") for n in range(500)], name="pool")
    drawn = Counter(item.group for item in draw(pool, 50, seed=1).items)

    assert set(drawn.values()) == {5}
    assert len(drawn) == 10
    assert pool.num_observations == 100


def test_a_pool_that_has_no_more_is_taken_whole(pool: TestSet) -> None:
    assert draw(pool, 903, seed=1) is pool
