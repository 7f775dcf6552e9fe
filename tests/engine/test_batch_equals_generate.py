"""Requests that share every pass get the tokens that `generate` gives each of them alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine import batching, choosing, slots
from server.engine.asks import Ask, Event, Failed, Finished, PromptScored, Sampling, TokenMade
from server.engine.batching import Batch
from server.engine.choosing import runner_of
from server.engine.generation import OneAtATime
from tests.engine.batches import (
    FAMILIES,
    GREEDY,
    VOCABULARY,
    a_batch,
    alone,
    around,
    asks,
    assert_equal_but_for_ties,
    new_model,
    packed,
    plain,
    run,
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wanted=st.lists(asks, min_size=1, max_size=9), num_rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_mixed_batch_makes_the_tokens_of_generate(family: str, wanted: list[Ask], num_rows: int, seed: int) -> None:
    """Rows are read one by one, in groups or all together, by the seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(slots.CALL_BYTES, "cpu", (0, 4_000, 10**9)[seed % 3])
        ended = run(a_batch(family, num_rows), wanted, random.Random(seed), leave_early=True)

    assert len(ended) == len(wanted)
    for running in ended:
        assert_equal_but_for_ties(family, running.ask, running.made)
        if running.events and running.events[-1] == Finished(reason="length"):
            assert len(running.made) == running.ask.max_new_tokens


def test_answers_vary_or_equality_would_prove_little() -> None:
    for family in FAMILIES:
        tokens, _ = alone(family, (5, 6, 7), 30)

        assert len(set(tokens)) > 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_is_read_in_pieces_is_read_right(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CHUNK_ALONE_TOKENS", 6)
    monkeypatch.setattr(batching, "CHUNK_BESIDE_TOKENS", 3)
    monkeypatch.setattr(batching, "UNNOTICED_PARAMETER_TOKENS", 0)
    wanted = [
        Ask(prompt_ids=tuple(range(first, first + 50)), max_new_tokens=20, sampling=GREEDY) for first in (1, 60, 150)
    ]
    for running in run(a_batch(family, 3), wanted, random.Random(1)):
        assert_equal_but_for_ties(family, running.ask, running.made)


def test_prompt_scores_are_those_of_a_plain_pass_whatever_runs_beside() -> None:
    prompt = tuple(range(10, 70))
    scoring = Ask(prompt_ids=prompt, max_new_tokens=0, num_top_logprobs=2, scores_from=1)
    noise = [Ask(prompt_ids=(3, 4, 5), max_new_tokens=30, sampling=GREEDY) for _ in range(3)]
    batch = a_batch("qwen3", 4)
    for ask in noise:
        batch.join(ask)
    batch.step()
    running = batch.join(scoring)
    seen: list[Event] = []
    while not seen or not isinstance(seen[-1], Finished):
        batch.step()
        seen += running.events
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        loss = float(plain("qwen3")(ids, labels=ids).loss)

    assert isinstance(seen[0], PromptScored)
    assert -sum(score.logprob for score in seen[0].scores) / 59 == pytest.approx(loss, abs=1e-4)


def test_a_seeded_answer_is_the_same_alone_and_in_any_mix() -> None:
    seeded = Ask(prompt_ids=(9, 8, 7), max_new_tokens=25, sampling=Sampling(temperature=1.5, top_p=0.9, seed=7))
    by_itself = run(a_batch("qwen3", 1), [seeded], random.Random(0))[0].made
    others = [
        Ask(prompt_ids=tuple(range(n, n + 9)), max_new_tokens=30, sampling=Sampling(temperature=2.0)) for n in (1, 50)
    ]
    mixed = run(a_batch("qwen3", 3), [others[0], seeded, others[1]], random.Random(3))

    assert next(running.made for running in mixed if running.ask is seeded) == by_itself


@pytest.fixture
def poisoned() -> Iterator[Batch]:
    """A batch whose model gives NaN for token 299."""
    loaded = packed("qwen3")
    weight = loaded.model.get_input_embeddings().weight
    kept = weight.data[299].clone()
    weight.data[299] = float("nan")
    yield a_batch("qwen3", 3)
    weight.data[299] = kept


def test_a_request_whose_logits_are_not_finite_fails_alone_and_its_row_is_clean_afterwards(poisoned: Batch) -> None:
    good = [Ask(prompt_ids=(n, n + 1, n + 2), max_new_tokens=20, sampling=GREEDY) for n in (10, 20, 30, 40)]
    bad = Ask(prompt_ids=(1, 299, 2), max_new_tokens=20, sampling=GREEDY)
    ended = run(poisoned, [good[0], bad, *good[1:]], random.Random(5))

    for running in ended:
        if running.ask is bad:
            assert isinstance(running.events[-1], Failed)
            assert not running.made
        else:
            assert all(isinstance(event, TokenMade | Finished) for event in running.events)
            assert len(running.made) == 20


def test_a_prompt_that_is_cancelled_half_read_leaves_nothing_that_is_not_finite(
    poisoned: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "CHUNK_ALONE_TOKENS", 4)
    gone = poisoned.join(Ask(prompt_ids=(299,) * 30, max_new_tokens=5, sampling=GREEDY))
    poisoned.step()
    assert gone.num_stored == 4
    poisoned.leave(gone)
    wanted = [Ask(prompt_ids=tuple(range(n, n + 5 * n)), max_new_tokens=20, sampling=GREEDY) for n in (1, 5, 3)]
    ended = run(poisoned, wanted, random.Random(0))

    assert all(len(running.made) == 20 for running in ended)


def test_log_probabilities_are_those_of_a_plain_pass_whatever_others_ask_for() -> None:
    wanted = [
        Ask(prompt_ids=tuple(range(n, n + 9)), max_new_tokens=6, sampling=GREEDY, num_top_logprobs=num)
        for n, num in ((1, None), (40, 3), (80, 0), (120, 5))
    ]
    batch = a_batch("llama", 4)
    running = [batch.join(ask) for ask in wanted]
    seen: dict[int, list[TokenMade]] = {number: [] for number in range(4)}
    for _ in range(6):
        batch.step()
        for number, one in enumerate(running):
            seen[number] += [event for event in one.events if isinstance(event, TokenMade)]

    for number, ask in enumerate(wanted):
        made = [event.token_id for event in seen[number]]
        with torch.inference_mode():
            logprobs = plain("llama")(torch.tensor([[*ask.prompt_ids, *made]])).logits[0].log_softmax(-1)
        for place, event in enumerate(seen[number], start=len(ask.prompt_ids) - 1):
            if ask.num_top_logprobs is None:
                assert event.score is None
                continue
            assert event.score is not None
            assert event.score.logprob == pytest.approx(float(logprobs[place, event.token_id]), abs=1e-4)
            assert len(event.score.top) == ask.num_top_logprobs
            best = logprobs[place].topk(5).values.tolist()
            assert [value for _, value in event.score.top] == pytest.approx(best[: len(event.score.top)], abs=1e-4)


@pytest.mark.parametrize("batched", [True, False])
def test_an_end_token_is_scored_for_those_who_asked(batched: bool) -> None:
    model = new_model("llama")
    prompt = (5, 6, 7)
    end = alone("llama", prompt, 1)[0][0]
    loaded = dataclasses.replace(around(model), eos_ids=frozenset({end}))
    runner = runner_of(loaded) if batched else OneAtATime(loaded)
    for shows_end in (True, False):
        ask = Ask(prompt_ids=prompt, max_new_tokens=4, sampling=GREEDY, num_top_logprobs=1, scores_end=shows_end)
        running = runner.join(ask)
        while not running.events:
            runner.step()
        last = running.events[-1]
        runner.leave(running)

        assert isinstance(last, Finished)
        assert (last.end is not None) == shows_end
        if last.end is not None and last.end.score is not None:
            assert last.end.token_id == last.end.score.top[0][0] == end


def test_a_family_that_no_test_proves_is_batched_only_when_its_logits_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "PROVED", ())
    agreeing = runner_of(around(new_model("mistral")))
    monkeypatch.setattr(batching.Batch, "forward", lambda self, packed: torch.zeros(2, VOCABULARY))
    differing = runner_of(around(new_model("mistral")))

    assert isinstance(agreeing, Batch)
    assert isinstance(differing, OneAtATime)


def test_a_model_with_layers_of_another_kind_is_served_one_at_a_time() -> None:
    loaded = around(new_model("llama"))
    loaded.model.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    runner = runner_of(loaded)

    assert isinstance(runner, OneAtATime)
