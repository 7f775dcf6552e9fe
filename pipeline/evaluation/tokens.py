"""Where a prompt ends and its answer begins, in the engine's own token ids, which it is asked for.

The border is drawn as lm-evaluation-harness draws it. Nothing is rendered or tokenized here: a copy of what an engine
does is right until a checkpoint comes whose tokenizer class, template or special tokens it does not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.items import Item
from pipeline.evaluation.question import Question, unusable

TOKENIZE = "/tokenize"

Ask = Callable[[Question], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """What the engine made of a prompt or a chat.

    Attributes:
        text: The chat by its template; None where the engine does not tell it.
    """

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A text in two parts.

    Attributes:
        answer_ids: Never empty.
    """

    context_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """The whole text."""
        return [*self.context_ids, *self.answer_ids]


def chat_of(item: Item) -> dict[str, Any]:
    """The chat of an item as OpenAI writes it, and what it has for the chat template."""
    chat = {"messages": [{"role": turn.role, "content": turn.content} for turn in item.messages]}
    return {**chat, "chat_template_kwargs": dict(item.template)} if item.template else chat


class Tokens:
    """The tokenizer of the engine that is asked, for one item.

    Args:
        ask: Sends a question and gives the engine's answer.
        item: For the names in errors.
    """

    def __init__(self, ask: Ask, item: Item) -> None:
        self._ask, self._item = ask, item

    async def opening(self) -> Tokenized:
        """The item's prompt, whose ids the engine also uses when it is asked to answer it.

        Raises:
            EvaluationError: The engine cannot say, or refuses the chat.
        """
        if self._item.prompt is not None:
            return await self._of({"prompt": self._item.prompt, "add_special_tokens": True})
        return await self._of({**chat_of(self._item), "add_generation_prompt": True})

    async def pair(self, opening: Tokenized, answer: str) -> Pair:
        """The item's prompt and an answer to it.

        Of a plain prompt the spaces at its end belong to the answer. A chat ends where its template ends, spaces and
        all; where the engine does not tell the template's text, the answer is tokenized alone.

        Source: `lm_eval.api.model.TemplateLM._encode_pair`, version 0.4.13.

        Raises:
            EvaluationError: The engine cannot say.
        """
        if self._item.prompt is None:
            if opening.text is None:
                return Pair(context_ids=opening.ids, answer_ids=await self._ids(answer, special=False))
            return await self._split(opening.ids, opening.text + answer, answer, special=False)
        context = self._item.prompt.rstrip()
        context_ids = opening.ids if context == self._item.prompt else await self._ids(context, special=True)
        whole = self._item.prompt + answer
        return await self._split(context_ids, whole, whole[len(context) :], special=True)

    async def _split(self, context_ids: tuple[int, ...], whole: str, answer: str, *, special: bool) -> Pair:
        answer_ids = (await self._ids(whole, special=special))[len(context_ids) :]
        if not answer_ids:  # it has melted into the prompt's last token; a sum over no tokens is no score
            answer_ids = await self._ids(answer, special=special)
        return Pair(context_ids=context_ids, answer_ids=answer_ids)

    async def _ids(self, text: str, *, special: bool) -> tuple[int, ...]:
        found = await self._of({"prompt": text, "add_special_tokens": special})
        if not found.ids:
            raise unusable(self._item, f"to {TOKENIZE} has no tokens for {text[:40]!r}")
        return found.ids

    async def _of(self, body: Mapping[str, Any]) -> Tokenized:
        document = await self._ask(Question(path=TOKENIZE, body=body))
        ids, text = document.get("tokens"), document.get("prompt")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise unusable(self._item, f"to {TOKENIZE} has no token ids")
        return Tokenized(ids=tuple(ids), text=text if isinstance(text, str) else None)
