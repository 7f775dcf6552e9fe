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
        made: Tokens that it made so far.
        events: What came of the last pass.
    """

    ask: Ask
    row: int
    sampler: Sampler
    num_stored: int = 0
    made: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    is_over: bool = False

    @property
    def num_wanted(self) -> int:
        """Places that its row must have, at the most."""
        return tokens_of(self.ask)

    @property
    def num_unread(self) -> int:
        """Prompt tokens that no pass has seen yet."""
        return max(0, len(self.ask.prompt_ids) - self.num_stored)

    def piece(self, limit: int) -> Piece:
        """Its next tokens, at most `limit` of its prompt."""
        if not self.num_unread:
            return Piece(row=self.row, past=self.num_stored, tokens=(self.made[-1],))
        tokens = self.ask.prompt_ids[self.num_stored : self.num_stored + limit]
        is_last = len(tokens) == self.num_unread
        return Piece(
            row=self.row,
            past=self.num_stored,
            tokens=tokens,
            wants_logits=is_last or self.ask.scores_prompt,
            wants_all=self.ask.scores_prompt,
        )
