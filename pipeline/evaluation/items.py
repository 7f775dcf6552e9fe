"""What a test set consists of: questions with their right answers, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Match = Literal["exact", "text", "number", "regex", "last_line"]
ChoiceScore = Literal["sum", "token", "byte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question with its right answer.

    Attributes:
        prompt: Plain text; None where there are messages.
        messages: A chat; empty where there is a prompt.
        answer: The text that should come, or that of the right choice. The loss is measured on it.
        others: Further texts that are as right.
        choices: What to choose from; empty for a text that the model writes.
        gold: Place of the right choice, from 0; None without choices.
        match: When what the model wrote counts as right.
        pattern: That must be found in it, where `match` is `regex`.
        max_tokens: Room for what the model writes; None for what `match` usually needs.
        template: Variables for the chat template, `chat_template_kwargs` in OpenAI's words.
        choice_score: By what the likeliest choice is taken: log-likelihood, that per token, or per byte of its text.
        group: Items of one group count as one observation: copies, or questions on one passage. Empty for none.
    """

    item_id: str
    slice: str
    prompt: str | None
    messages: tuple[Turn, ...]
    answer: str
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    gold: int | None = None
    match: Match = "exact"
    pattern: str = ""
    max_tokens: int | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    choice_score: ChoiceScore = "sum"
    group: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """All right ones."""
        return (self.answer, *self.others)

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked: two items that share it are one question."""
        return self.prompt, self.messages, self.choices

    def canonical(self) -> dict[str, Any]:
        """The item as the digest sees it. What is new since the first format stands there only where it is used."""
        chat = [[turn.role, turn.content] for turn in self.messages]
        used = {
            "others": list(self.others),
            "match": "" if self.match == "exact" else self.match,
            "pattern": self.pattern,
            "max_tokens": self.max_tokens,
            "template": dict(self.template),
            "choice_score": "" if self.choice_score == "sum" else self.choice_score,
            "group": self.group,
        }
        return {
            "id": self.item_id,
            "slice": self.slice,
            "prompt": self.prompt,
            "messages": chat,
            "answer": self.answer if self.gold is None else self.gold,
            "choices": list(self.choices),
            **{key: value for key, value in used.items() if value},
        }
