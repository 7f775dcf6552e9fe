"""One item, from its question to its score, and a digest of exactly what was sent for it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation import scorers
from pipeline.evaluation.asking import Asker
from pipeline.evaluation.items import Item
from pipeline.evaluation.question import Question
from pipeline.evaluation.results import ItemScore
from pipeline.evaluation.template_text import template_text
from pipeline.evaluation.tokens import Tokens


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
        directory: The checkpoint, for the text of its chat template.
        of_our_engine: Whether an engine of ours is asked, not another program in its place.

    Raises:
        NotACheckpointError: It cannot be read.
    """

    def __init__(self, directory: Path, *, of_our_engine: bool) -> None:
        self._of_our_engine = of_our_engine
        self.chat_template = template_text(directory)

    async def score(self, item: Item, asker: Asker) -> Scored:
        """Ask about one item: for its token ids, what the model says by itself, and how likely it holds the answers.

        Raises:
            EvaluationError: There is no score; names the item.
        """
        ask = functools.partial(asker.ask, item_id=item.item_id)
        tokens = Tokens(ask, item)
        opening = await tokens.opening()
        pairs = [await tokens.pair(opening, answer) for answer in item.choices or (item.answer,)]
        first = scorers.greedy(item, max(1, len(pairs[0].ids) - len(opening.ids)))
        said = scorers.begun(opening.text, scorers.read_said(await ask(first), item))
        scorers.check_count(said, len(opening.ids), item)
        second = scorers.likelihoods(pairs, of_our_engine=self._of_our_engine)
        found = scorers.read_likelihoods(await ask(second), pairs, item)
        return Scored(score=scorers.score(item, said, found), sent_sha256=_digest(first, second))


def _digest(*questions: Question) -> str:
    sent = [[question.path, question.body] for question in questions]
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
