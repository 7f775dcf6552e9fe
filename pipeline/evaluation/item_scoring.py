"""One item, from its question to its score, and a digest of exactly what was sent for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation import scorers, tokens
from pipeline.evaluation.asking import Asker
from pipeline.evaluation.chat_text import ChatText
from pipeline.evaluation.results import ItemScore
from pipeline.evaluation.scorers import Question
from pipeline.evaluation.test_set import Item
from pipeline.evaluation.tokens import Pair, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A score, and what it rests on.

    Attributes:
        sent_sha256: Of the questions.
    """

    score: ItemScore
    sent_sha256: str


class ItemScorer:
    """Scores items of a checkpoint.

    Args:
        directory: The checkpoint, for its tokenizer and chat template.
        of_our_engine: Whether an engine of ours is asked, not another program in its place.

    Raises:
        NotACheckpointError: They cannot be read.
        EvaluationError: The chat template is none.
    """

    def __init__(self, directory: Path, *, of_our_engine: bool) -> None:
        self._of_our_engine = of_our_engine
        self._tokens = Tokens(directory)
        self._chat = ChatText(directory)

    @property
    def chat_template(self) -> str:
        """As the checkpoint has it; empty without one."""
        return self._chat.template

    async def score(self, item: Item, asker: Asker) -> Scored:
        """Ask about one item.

        The engine is asked for its own words first, and the chat template is applied here only once that was answered:
        a template that never ends is stopped there, not here.

        Raises:
            EvaluationError: There is no score; names the item.
        """
        first = scorers.greedy(item, len(self._tokens.plain(item.answer)))
        said = scorers.read_said(await asker.ask(first, item_id=item.item_id), item)
        pairs = self._pairs(item, said)
        second = scorers.likelihoods(pairs, of_our_engine=self._of_our_engine)
        found = scorers.read_likelihoods(await asker.ask(second, item_id=item.item_id), pairs, item)
        return Scored(score=scorers.score(item, said, found), sent_sha256=_digest(first, second))

    def _pairs(self, item: Item, said: scorers.Said) -> list[Pair]:
        """Prompt and answer in token ids, for the answer or for each choice."""
        answers = item.choices or (item.answer,)
        if item.prompt is not None:
            scorers.check_count(said, len(self._tokens.prompt(item.prompt)), item)
            return [tokens.pair_of_prompt(self._tokens.prompt, item.prompt, answer) for answer in answers]
        text = self._chat.render(item.messages)
        scorers.check_count(said, len(self._tokens.plain(text)), item)
        return [tokens.pair_of_chat(self._tokens.plain, text, answer) for answer in answers]


def _digest(*questions: Question) -> str:
    sent = [[question.path, question.body] for question in questions]
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
