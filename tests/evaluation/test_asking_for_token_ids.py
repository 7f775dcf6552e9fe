"""The ids that are scored are those that the engine itself makes of the same question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pipeline.evaluation.items import Item, Turn
from pipeline.evaluation.question import Question
from pipeline.evaluation.tokens import Pair, Tokens
from registry_hooks.errors import EvaluationError

BEGIN = 1
TEMPLATE = "user: {} bot: "
PROMPT = Item(item_id="q", slice="all", prompt="one two", messages=(), answer=" three")
CHAT = Item(item_id="q", slice="all", prompt=None, messages=(Turn(role="user", content="hi"),), answer="three")


def words(text: str) -> list[int]:
    """Tokens are words with the space before them, of which the first gets one too; `ab` is one token."""
    pieces = (" " + text.lstrip(" ")).replace("ab", "\0").replace(" ", "\1 ").split("\1")
    return [hash(piece) for piece in pieces if piece]


class Engine:
    """An engine that begins every text with a token of its own, and says what it was asked."""

    def __init__(self, *, tells_text: bool = True) -> None:
        self.tells_text = tells_text
        self.asked: list[Mapping[str, Any]] = []

    async def ask(self, question: Question) -> Mapping[str, Any]:
        assert question.path == "/tokenize"
        self.asked.append(question.body)
        if "messages" not in question.body:
            begin = [BEGIN] if question.body["add_special_tokens"] else []
            return {"tokens": begin + words(question.body["prompt"])}
        text = TEMPLATE.format(question.body["messages"][0]["content"])
        return {"tokens": words(text), **({"prompt": text} if self.tells_text else {})}


def pairs(item: Item, answers: Sequence[str], engine: Engine) -> list[Pair]:
    async def go() -> list[Pair]:
        tokens = Tokens(engine.ask, item)
        opening = await tokens.opening()
        return [await tokens.pair(opening, answer) for answer in answers]

    return asyncio.run(go())


def item_of(prompt: str) -> Item:
    return Item(item_id="q", slice="all", prompt=prompt, messages=(), answer="x")


def test_what_the_tokenizers_class_adds_is_in_what_is_scored() -> None:
    [pair] = pairs(PROMPT, [" three"], Engine())

    assert pair.context_ids == (BEGIN, *words("one two"))
    assert pair.answer_ids == tuple(words(" three"))


def test_spaces_at_the_end_of_a_prompt_belong_to_the_answer() -> None:
    [pair] = pairs(item_of("one two "), ["three"], Engine())

    assert pair.context_ids == (BEGIN, *words("one two"))
    assert pair.answer_ids == tuple(words(" three"))


def test_a_chat_is_rendered_by_the_engine_and_keeps_the_spaces_that_it_ends_with() -> None:
    engine = Engine()
    [pair] = pairs(CHAT, ["three"], engine)

    assert pair.context_ids == tuple(words("user: hi bot: "))
    assert engine.asked[0] == {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True}
    assert engine.asked[1] == {"prompt": "user: hi bot: three", "add_special_tokens": False}


def test_where_the_engine_does_not_tell_a_chats_text_its_ids_count_and_the_answer_stands_alone() -> None:
    [pair] = pairs(CHAT, ["three"], Engine(tells_text=False))

    assert pair.ids == [*words("user: hi bot: "), *words("three")]


def test_an_answer_that_melts_into_the_last_token_of_the_prompt_still_has_tokens() -> None:
    [pair] = pairs(item_of("a"), ["b"], Engine())

    assert pair.answer_ids == (BEGIN, *words("b"))


@pytest.mark.parametrize("document", [{}, {"tokens": "12"}, {"tokens": [1, "2"]}, {"tokens": [True]}])
def test_an_engine_that_names_no_ids_is_an_error(document: dict[str, Any]) -> None:
    async def ask(question: Question) -> Mapping[str, Any]:
        return document

    with pytest.raises(EvaluationError, match=r"item 'q'.*/tokenize has no token ids"):
        asyncio.run(Tokens(ask, PROMPT).opening())
