"""A prompt that begins like another one is not read twice, and nobody's answer changes by it."""

from __future__ import annotations

import random
from itertools import takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.engine import batching
from server.engine.asks import Ask, Event, Failed, Finished, PromptReused, PromptScored
from server.engine.batching import Batch
from server.engine.reuse import MIN_REUSED_TOKENS, Leftovers, num_common
from server.engine.sequence import Running
from tests.engine.batches import FAMILIES, GREEDY, a_batch, assert_equal_but_for_ties, packed, plain, run

HISTORY = tuple(random.Random(4).randrange(290) for _ in range(40))
few_tokens = st.lists(st.integers(0, 1), max_size=12).map(tuple)


def asking(prompt_ids: tuple[int, ...], number: int = 8, **more: object) -> Ask:
    return Ask(prompt_ids=prompt_ids, max_new_tokens=number, sampling=GREEDY, **more)  # type: ignore[arg-type]


def answered(batch: Batch, ask: Ask) -> tuple[Running, list[Event]]:
    """One request by itself, and all its events."""
    running = batch.join(ask)
    seen: list[Event] = []
    while not seen or not isinstance(seen[-1], Finished | Failed):
        batch.step()
        seen += running.events
    return running, seen


@given(one=few_tokens, other=few_tokens, least=st.integers(1, 4))
def test_the_common_beginning_is_counted_right(one: tuple[int, ...], other: tuple[int, ...], least: int) -> None:
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))

    assert num_common(one, other, least=least) == (same if same >= least else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_next_turn_of_a_chat_reads_only_what_is_new(family: str) -> None:
    batch = a_batch(family, 2)
    first, _ = answered(batch, asking(HISTORY))
    next_turn = asking((*HISTORY, *first.made, 5, 6, 7))
    second, seen = answered(batch, next_turn)

    assert seen[0] == PromptReused(num_tokens=len(HISTORY) + 7)  # the last token of an answer is never read
    assert_equal_but_for_ties(family, next_turn, second.made)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_answers_to_one_prompt_read_it_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CHUNK_ALONE_TOKENS", 16)  # the others wait while the first reads, piece by piece
    batch, sizes = a_batch(family, 4), list[int]()
    monkeypatch.setattr(
        batch, "forward", lambda packed: sizes.append(packed.ids_1T.shape[1]) or Batch.forward(batch, packed)
    )
    ended = run(batch, [asking(HISTORY) for _ in range(4)], random.Random(0))

    assert sum(sizes) <= len(HISTORY) + 3 * MIN_REUSED_TOKENS["cpu"] + 4 * 7
    for running in ended:
        assert_equal_but_for_ties(family, running.ask, running.made)


def test_a_row_that_is_still_in_use_lends_its_beginning() -> None:
    batch = a_batch("llama", 3)
    batch.join(asking(HISTORY, number=30))
    for _ in range(4):
        batch.step()
    other = asking((*HISTORY[:25], 1, 2, 3))
    running, seen = answered(batch, other)

    assert seen[0] == PromptReused(num_tokens=25)
    assert_equal_but_for_ties("llama", other, running.made)


def test_what_was_left_survives_rows_of_another_length() -> None:
    batch = a_batch("qwen3", 3)
    short = asking(HISTORY[:12], number=3)
    answered(batch, short)
    answered(batch, asking(tuple(range(100, 160)), number=20))
    assert batch.num_rows == 3

    running, seen = answered(batch, short)

    assert seen[0] == PromptReused(num_tokens=11)
    assert_equal_but_for_ties("qwen3", short, running.made)


def test_the_one_row_of_a_small_budget_goes_on_with_its_own_chat() -> None:
    batch = a_batch("mistral", 1)
    first, _ = answered(batch, asking(HISTORY))
    longer = asking((*HISTORY, *first.made, 9))
    running, seen = answered(batch, longer)

    assert isinstance(seen[0], PromptReused)
    assert_equal_but_for_ties("mistral", longer, running.made)


def test_a_request_takes_the_row_it_continues_and_else_the_one_longest_unused() -> None:
    left = Leftovers(3)
    chat, other = tuple(range(20)), tuple(range(50, 70))
    left.put(0, chat)
    left.put(1, other)

    assert left.place_for((*chat, 99), range(3), least=8) == 0
    assert left.place_for((7, 7, 7), range(3), least=8) == 2
    assert left.place_for((7, 7, 7), range(2), least=8) == 0
    # Only the beginning is shared, as by a system prompt: the chat that lies there may be wanted again.
    assert left.place_for((*chat[:8], 99), range(3), least=8) == 2


@pytest.mark.parametrize("is_known", [True, False])
def test_scores_from_a_place_on_are_those_of_all(is_known: bool) -> None:
    batch = a_batch("qwen3", 3)
    if is_known:
        answered(batch, asking(HISTORY[:30]))
    _, seen = answered(batch, asking(HISTORY, 0, num_top_logprobs=2, scores_from=25))
    scored = next(event for event in seen if isinstance(event, PromptScored)).scores
    ids = torch.tensor([HISTORY])
    with torch.inference_mode():
        logprobs_TV = plain("qwen3")(ids).logits[0].log_softmax(-1)

    assert isinstance(seen[0], PromptReused) == is_known
    assert scored[:24] == (None,) * 24
    for place, score in enumerate(scored[24:], start=24):
        assert score is not None
        assert score.logprob == pytest.approx(float(logprobs_TV[place, HISTORY[place + 1]]), abs=1e-4)
        assert len(score.top) == 2


def test_a_prompt_whose_scores_are_all_wanted_is_read_whole() -> None:
    batch = a_batch("qwen3", 2)
    answered(batch, asking(HISTORY))
    _, seen = answered(batch, asking(HISTORY, 0, num_top_logprobs=0, scores_from=1))

    assert isinstance(seen[0], PromptScored)
    assert None not in seen[0].scores


def test_nothing_is_taken_from_a_request_whose_numbers_were_not_finite() -> None:
    weight = packed("qwen3").model.get_input_embeddings().weight
    kept = weight.data[299].clone()
    batch = a_batch("qwen3", 2)
    try:
        weight.data[299] = float("nan")
        bad, _ = answered(batch, asking((*HISTORY, 299)))
    finally:
        weight.data[299] = kept
    good = asking((*HISTORY, 5))
    running, seen = answered(batch, good)

    assert isinstance(bad.events[-1], Failed)
    assert not any(isinstance(event, PromptReused) for event in seen)
    assert_equal_but_for_ties("qwen3", good, running.made)
