"""One request in the batch, from its first prompt token to its last new one."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.asks import Ask, Event, TokenScore
from server.engine.packing import Piece
from server.engine.sampling import Sampler


def tokens_of(ask: Ask) -> int:
    """Tokens of a request at its longest."""
    return len(ask.prompt_ids) + ask.max_new_tokens


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """One request in the batch.

    Attributes:
        num_stored: Its tokens whose keys and values are in its row.
        num_reused: Those of them that another request had computed.
        made: Tokens that it made so far.
        events: What came of the last pass.
    """

    ask: Ask
    row: int
    sampler: Sampler
    num_stored: int = 0
    num_reused: int = 0
    made: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    is_over: bool = False

    @property
    def num_wanted(self) -> int:
        """Places that its row must have, at the most."""
        return tokens_of(self.ask)

    @property
    def num_to_read(self) -> int:
        """Prompt tokens that a pass must see: all, but the last one when nothing is made after it."""
        num_tokens = len(self.ask.prompt_ids)
        return num_tokens if self.ask.max_new_tokens else max(1, num_tokens - 1)

    @property
    def num_unread(self) -> int:
        """Prompt tokens that no pass has seen yet."""
        return max(0, self.num_to_read - self.num_stored)

    @property
    def num_reusable(self) -> int:
        """Prompt tokens before the first whose logits are wanted, which score the next one."""
        last = self.num_to_read - 1
        return last if self.ask.scores_from is None else min(last, self.ask.scores_from - 1)

    def stored_tokens(self, limit: int | None = None) -> tuple[int, ...]:
        """The first tokens whose keys and values are in its row."""
        end = self.num_stored if limit is None else min(limit, self.num_stored)
        prompt_ids = self.ask.prompt_ids
        return prompt_ids[:end] if end <= len(prompt_ids) else (*prompt_ids, *self.made)[:end]

    def piece(self, limit: int, max_logits: int = 1) -> Piece:
        """Its next tokens, at most `limit` of its prompt, and so many that no more logits are wanted."""
        if not self.num_unread:
            return Piece(row=self.row, past=self.num_stored, tokens=(self.made[-1],))
        first = max(self.num_stored, self.num_reusable)
        end = min(self.num_to_read, self.num_stored + limit, first + max_logits)
        return Piece(
            row=self.row,
            past=self.num_stored,
            tokens=self.ask.prompt_ids[self.num_stored : end],
            num_logits=max(0, end - first),
        )
