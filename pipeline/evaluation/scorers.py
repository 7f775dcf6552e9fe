"""The questions of an item and what its answers are worth. Pure: whoever asks passes the questions on.

Each item has two: what the model says by itself, greedily, and how likely it holds the right answer or each choice.
The first goes as a user would send it, so that the server applies chat template and tokenizer; the second goes in the
token ids that the server named, whose number must be what it counted for the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.evaluation import matching
from pipeline.evaluation.items import Item
from pipeline.evaluation.question import Question, unusable
from pipeline.evaluation.results import ItemScore
from pipeline.evaluation.tokens import TOKENIZE, Pair, chat_of
from registry_hooks.errors import EvaluationError

# Room for a few words before or after the right answer, so that a longer one is seen to be another.
EXTRA_TOKENS = 8
# Room for an answer that stands somewhere in what the model writes.
LONG_TOKENS = 256
# OpenAI writes an impossible token so, having no infinity.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model wrote by itself.

    Attributes:
        num_prompt_tokens: As the server counted.
    """

    text: str
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Log-probability of an answer after its prompt, in nats, over all its tokens."""

    logprob: float
    num_tokens: int


def greedy(item: Item, num_answer_tokens: int) -> Question:
    """What the model says by itself. An item with choices has no use for the text, but for the server's count."""
    shared = {"temperature": 0, "max_tokens": 1 if item.choices else _room(item, num_answer_tokens)}
    if item.messages:
        return Question(path="/v1/chat/completions", body={**chat_of(item), **shared})
    return Question(path="/v1/completions", body={"prompt": item.prompt, **shared})


def likelihoods(pairs: Sequence[Pair], *, of_our_engine: bool) -> Question:
    """How likely the model holds each answer; one request for all.

    Our engine is asked for the answers alone; another server may refuse a field that it does not know.
    """
    body = {"prompt": [pair.ids for pair in pairs], "echo": True, "logprobs": 0, "temperature": 0, "max_tokens": 0}
    if of_our_engine:
        body["logprob_start_len"] = min(len(pair.context_ids) for pair in pairs)
    return Question(path="/v1/completions", body=body)


def read_said(document: Mapping[str, Any], item: Item) -> Said:
    """The answer to `greedy`.

    Raises:
        EvaluationError: It is no completion.
    """
    try:
        choice = document["choices"][0]
        text = choice["message"]["content"] if item.messages else choice["text"]
        return Said(text=text or "", num_prompt_tokens=int(document["usage"]["prompt_tokens"]))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise unusable(item, f"is no completion ({error!r})") from error


def read_likelihoods(document: Mapping[str, Any], pairs: Sequence[Pair], item: Item) -> list[Likelihood]:
    """The answers to `likelihoods`, in the order of `pairs`.

    Raises:
        EvaluationError: A log-probability is missing, not finite, or of an impossible token.
    """
    try:
        by_place = {int(choice["index"]): choice["logprobs"]["token_logprobs"] for choice in document["choices"]}
        found = [by_place[place] for place in range(len(pairs))]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise unusable(item, f"has no log-probabilities ({error!r})") from error
    return [_likelihood(values, pair, item) for values, pair in zip(found, pairs, strict=True)]


def check_count(said: Said, num_prompt_tokens: int, item: Item) -> None:
    """Refuse an item whose prompt is another one where the server answers it than where it tokenizes it.

    Raises:
        EvaluationError: The numbers of tokens differ.
    """
    if said.num_prompt_tokens != num_prompt_tokens:
        raise EvaluationError(
            f"item {item.item_id!r}: the engine makes {num_prompt_tokens} tokens of its prompt at {TOKENIZE} and "
            f"{said.num_prompt_tokens} where it answers: nothing was scored, since both must mean the same text; "
            "look at how the engine's program is started (engine.command)",
            stage="prompts",
        )


def score(item: Item, said: Said, found: Sequence[Likelihood]) -> ItemScore:
    """What the answers are worth. The loss is that of the first right answer."""
    if item.gold is None:
        right, scorer, text = float(matching.is_right(said.text, item)), "exact_match", said.text
    else:
        weights = [_weight(one, choice, item) for one, choice in zip(found, item.choices, strict=True)]
        best = weights.index(max(weights))  # of equal ones the first
        right, scorer, text = float(best == item.gold), "accuracy", str(best)
    answer = found[item.gold or 0]
    return ItemScore(
        item_id=item.item_id,
        slice=item.slice,
        scorer="exact_match" if scorer == "exact_match" else "accuracy",
        score=right,
        loss=-answer.logprob / answer.num_tokens,
        num_tokens=answer.num_tokens,
        said=text,
        group=item.group,
    )


def begun(opening: str | None, said: Said) -> Said:
    """What was said, with the `<think>` that a chat template wrote in the model's place."""
    if opening is None or not opening.rstrip().endswith(matching.THINKING):
        return said
    return replace(said, text=matching.THINKING + said.text)


def _room(item: Item, num_answer_tokens: int) -> int:
    """How many tokens the model may write."""
    if item.max_tokens is not None:
        return item.max_tokens
    if item.match in ("number", "last_line", "regex"):
        return LONG_TOKENS
    sizes = [len(text.encode()) for text in item.answers]  # a token has a byte at least
    return num_answer_tokens + max(sizes) - sizes[0] + EXTRA_TOKENS


def _weight(found: Likelihood, choice: str, item: Item) -> float:
    per = {"sum": 1, "token": found.num_tokens, "byte": len(choice.encode())}
    return found.logprob / per[item.choice_score]


def _likelihood(values: Sequence[Any], pair: Pair, item: Item) -> Likelihood:
    begin, end = len(pair.context_ids), len(pair.context_ids) + len(pair.answer_ids)
    numbers = values[begin:end]
    if len(values) < end:
        raise unusable(item, f"has {len(values)} log-probabilities for {end} tokens")
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number) or number <= LOWEST_LOGPROB:
            raise unusable(item, f"has the log-probability {number}: these weights do not compute")
    return Likelihood(logprob=math.fsum(numbers), num_tokens=len(numbers))
