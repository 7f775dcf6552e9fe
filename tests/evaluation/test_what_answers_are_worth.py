"""From what an engine says to a score; what is no number is an error and never a score."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipeline.evaluation import matching, scorers
from pipeline.evaluation.items import Item, Turn
from pipeline.evaluation.scorers import Likelihood, Said
from pipeline.evaluation.tokens import Pair
from registry_hooks.errors import EvaluationError

PAIR = Pair(context_ids=(1, 2), answer_ids=(3, 4))


def item_of(**changes: Any) -> Item:
    fields: dict[str, Any] = {"item_id": "q", "slice": "all", "prompt": "1+1=", "messages": (), "answer": "2"}
    return Item(**fields | changes)


def scored(*numbers: Any, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "logprobs": {"token_logprobs": list(numbers)}}]}


def test_only_our_engine_is_asked_with_a_field_of_its_own() -> None:
    longer = Pair(context_ids=(1, 2, 5), answer_ids=(3,))
    ours = scorers.likelihoods([longer, PAIR], of_our_engine=True).body
    others = scorers.likelihoods([longer, PAIR], of_our_engine=False).body

    assert ours == {**others, "logprob_start_len": 2}
    assert set(others) == {"prompt", "echo", "logprobs", "temperature", "max_tokens"}


@pytest.mark.parametrize("number", [math.nan, -math.inf, math.inf, None, "-1.0", True, -9999.0])
@pytest.mark.parametrize("place", [2, 3])
def test_what_is_no_number_never_becomes_one(number: Any, place: int) -> None:
    numbers: list[Any] = [None, -1.0, -1.0, -1.0]
    numbers[place] = number

    with pytest.raises(EvaluationError, match="item 'q'") as refused:
        scorers.read_likelihoods(scored(*numbers), [PAIR], item_of())

    assert refused.value.stage == "answers"
    assert not refused.value.transient


def test_json_with_nan_in_it_is_refused_too() -> None:
    document = json.loads('{"choices": [{"index": 0, "logprobs": {"token_logprobs": [null, -1, NaN, -1]}}]}')

    with pytest.raises(EvaluationError, match="nan"):
        scorers.read_likelihoods(document, [PAIR], item_of())


@pytest.mark.parametrize(
    "document",
    [{}, {"choices": []}, {"choices": [{"index": 0, "logprobs": None}]}, scored(-1.0, index=1), {"choices": 5}],
)
def test_missing_log_probabilities_are_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="has no log-probabilities"):
        scorers.read_likelihoods(document, [PAIR], item_of())


def test_too_few_log_probabilities_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="3 log-probabilities for 4 tokens"):
        scorers.read_likelihoods(scored(None, -1.0, -1.0), [PAIR], item_of())


def test_only_the_tokens_of_the_answer_count() -> None:
    document = {
        "choices": [
            {"index": 1, "logprobs": {"token_logprobs": [None, -8.0, -0.5, -0.25]}},
            {"index": 0, "logprobs": {"token_logprobs": [None, -9.0, -2.0, -3.0, -7.0]}},
        ]
    }

    found = scorers.read_likelihoods(document, [PAIR, PAIR], item_of())

    assert found == [Likelihood(logprob=-5.0, num_tokens=2), Likelihood(logprob=-0.75, num_tokens=2)]


def test_the_likeliest_choice_counts_as_a_sum_and_the_loss_is_that_of_the_right_one() -> None:
    item = item_of(choices=("a b c", "d"), gold=0, answer="a b c")
    found = [Likelihood(logprob=-3.0, num_tokens=6), Likelihood(logprob=-2.0, num_tokens=1)]

    result = scorers.score(item, Said(text="", num_prompt_tokens=1), found)

    assert (result.scorer, result.score, result.said) == ("accuracy", 0.0, "1")
    assert (result.loss, result.num_tokens) == (0.5, 6)


@pytest.mark.parametrize(
    ("said", "answer", "is_right"),
    [
        (" 2\n", "2", True),
        ("2\nQuestion: 1+2=", " 2", True),
        ("\n\n2 \nmore", "2", True),
        ("22", "2", False),
        ("", "2", False),
        ("a\nb\nc", "a\nb", True),
        ("a\nc", "a\nb", False),
    ],
)
def test_after_a_prompt_as_many_lines_count_as_the_answer_has(said: str, answer: str, is_right: bool) -> None:
    assert matching.is_right(said, item_of(answer=answer)) is is_right


@pytest.mark.parametrize(("said", "is_right"), [(" 2 \n", True), ("2\nbecause", False)])
def test_a_chat_must_say_nothing_but_the_answer(said: str, is_right: bool) -> None:
    chat = item_of(prompt=None, messages=(Turn(role="user", content="1+1?"),))

    assert matching.is_right(said, chat) is is_right


def test_a_prompt_that_the_engine_reads_otherwise_is_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"makes 4 tokens .* /tokenize and 5 where it answers"):
        scorers.check_count(Said(text="", num_prompt_tokens=5), 4, item_of())


@pytest.mark.parametrize("document", [{}, {"choices": [{}]}, {"choices": [{"text": "x"}], "usage": None}])
def test_an_answer_that_is_no_completion_is_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="no completion"):
        scorers.read_said(document, item_of())
