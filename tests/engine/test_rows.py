"""Who holds which row: bounded, without holes where attention reads, whatever joins and leaves."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine import slots
from server.engine.asks import Ask, Finished
from server.engine.batching import Batch
from server.engine.sequence import Running, tokens_of
from tests.engine.batches import GREEDY, MAX_LEN, a_batch, asks, assert_equal_but_for_ties, plain


def test_the_budget_bounds_the_rows() -> None:
    model = plain("qwen3")
    row_bytes = 2 * 3 * MAX_LEN * 2 * 16 * 4

    def rows(budget_bytes: int) -> tuple[int, int]:
        shape = slots.shape_of(model, max_len_tokens=MAX_LEN, device="cpu", budget_bytes=budget_bytes)
        return shape.num_rows(MAX_LEN), shape.num_rows(slots.MIN_ROW_TOKENS)

    assert [rows(1), rows(3 * row_bytes), rows(10**12)] == [(1, 1), (3, 4), (slots.MAX_ROWS, slots.MAX_ROWS)]


def owners_are_right(batch: Batch) -> bool:
    """Every request is in a row of its own that is long enough, those that decode in the first rows without a hole."""
    rows = [running.row for running in batch]
    owned = {row: owner for row, owner in enumerate(batch._rows.owners) if owner is not None}
    return (
        sorted(rows) == sorted(owned)
        and all(owned[running.row] is running for running in batch)
        and rows[: len(batch._decoding)] == list(range(len(batch._decoding)))
        and all(tokens_of(running.ask) <= batch._rows.slots.row_len_tokens for running in batch)
        and len(batch._rows.owners) * batch._rows.slots.row_len_tokens <= batch.num_places
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wanted=st.lists(asks, min_size=1, max_size=14), num_rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_request_owns_one_row_whatever_joins_leaves_and_grows(
    wanted: list[Ask], num_rows: int, seed: int
) -> None:
    batch, dice = a_batch("gpt2", num_rows, max_rows=5), random.Random(seed)
    waiting, live = list(wanted), list[Running]()
    while waiting or live:
        while waiting and batch.has_room(waiting[0]) and dice.random() < 0.7:
            live.append(batch.join(waiting.pop(0)))
            assert owners_are_right(batch)
        if live and dice.random() < 0.3:
            batch.leave(live.pop(dice.randrange(len(live))))
            assert owners_are_right(batch)
        batch.step()
        live = list(batch)
        assert owners_are_right(batch)

    assert batch.num_stored_tokens == 0


def test_short_requests_share_the_room_of_one_long_one() -> None:
    batch = a_batch("llama", 2, max_rows=9)
    short = Ask(prompt_ids=(1, 2), max_new_tokens=5, sampling=GREEDY)
    long = Ask(prompt_ids=tuple(range(40)), max_new_tokens=50, sampling=GREEDY)

    first = [batch.join(short) for _ in range(9)]

    assert batch.num_rows == 9
    assert not batch.has_room(short)
    assert not batch.has_room(long)

    for _ in range(3):
        batch.step()
    for one in (*first[:2], *first[3:]):
        batch.leave(one)
    second = batch.join(long)

    assert batch.num_rows == 2
    assert not batch.has_room(short)

    while first[2].events[-1] != Finished(reason="length"):
        batch.step()
    while second.events[-1] != Finished(reason="length"):
        batch.step()

    assert_equal_but_for_ties("llama", short, first[2].made)
    assert_equal_but_for_ties("llama", long, second.made)


def test_a_request_longer_than_any_row_hears_of_it_instead_of_waiting() -> None:
    batch = a_batch("llama", 2)
    too_long = Ask(prompt_ids=tuple(range(MAX_LEN)), max_new_tokens=1, sampling=GREEDY)

    assert batch.has_room(too_long)
    with pytest.raises(ValueError, match="longest"):
        batch.join(too_long)
