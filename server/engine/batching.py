"""Iteration-level batching: requests join and leave at every forward pass. Engine thread only.

Rows 0..B-1 belong to the requests that decode, in the order of `_decoding`; those whose prompt is still being read hold
rows behind them. A pass takes the next token of every decoding request and at most a chunk of prompt tokens, first come
first served, so a long prompt never stalls the streams of others.
Source: iteration-level scheduling is that of Yu et al., "Orca", OSDI 2022, §3; chunked prompts are those of Agrawal et
al., "Sarathi", 2023.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from server.engine.asks import Ask, Failed, Finished, PromptReused, PromptScored, TokenMade, TokenScore
from server.engine.attention import Pass
from server.engine.generation import score_tokens
from server.engine.loading import LoadedModel
from server.engine.packed_linear import few_sizes, has_packed
from server.engine.packing import Pack, Piece, as_many, pack
from server.engine.rows import Rows
from server.engine.sampling import Sampler, pick_all
from server.engine.sequence import Running, tokens_of
from server.engine.slots import Slots, SlotShape

# Prompt tokens of one pass: few while others stream, since their next token waits for it; many when nobody does, or
# when the model is so small that nobody would notice.
CHUNK_BESIDE_TOKENS = 128
CHUNK_TOKENS_PER_ROW = 4  # where many stream, a pass takes long anyway, and those that wait should soon be among them
CHUNK_ALONE_TOKENS = 512
UNNOTICED_PARAMETER_TOKENS = 3_800_000_000
# To score a prompt the logits of many places are wanted: 16 M floats are 64 MB, whatever the vocabulary.
MAX_LOGITS_OF_PASS = 16 * 1024 * 1024
MIN_SCORED_TOKENS = 16


class Batch:
    """The requests that run, and the rows that they hold."""

    def __init__(self, loaded: LoadedModel, slots: Slots) -> None:
        self._loaded = loaded
        self._rows = Rows(slots, device=loaded.device)
        self._size_for = few_sizes if has_packed(loaded.model) else as_many
        self._decoding: list[Running] = []
        self._reading: deque[Running] = deque()
        unnoticed = UNNOTICED_PARAMETER_TOKENS // max(1, loaded.num_parameters)
        self._chunk_beside = min(max(unnoticed, CHUNK_BESIDE_TOKENS), CHUNK_ALONE_TOKENS)

    @property
    def num_rows(self) -> int:
        """How many requests may run at once, with rows as long as they are now."""
        return len(self._rows.owners)

    @property
    def _shape(self) -> SlotShape:
        return self._rows.slots.shape

    @property
    def num_places(self) -> int:
        return self._shape.num_places

    @property
    def num_stored_tokens(self) -> int:
        return sum(one.num_stored for one in self)

    def __iter__(self) -> Iterator[Running]:
        yield from self._decoding
        yield from self._reading

    def has_room(self, ask: Ask) -> bool:
        """Whether `join` may be called now; True also for a request that can never fit, so that it hears of it."""
        num_wanted = tokens_of(ask)
        if num_wanted > self._shape.max_len_tokens or self._rows.have_room(num_wanted):
            return True
        num_running = len(self._decoding) + len(self._reading)
        return num_running < self._shape.num_rows(self._row_len_with(num_wanted))

    def join(self, ask: Ask) -> Running:
        """Begin a request; there must be room.

        Raises:
            ValueError: It is longer than any row can be.
        """
        num_wanted = tokens_of(ask)
        if num_wanted > self._shape.max_len_tokens:
            raise ValueError(f"{num_wanted} tokens are more than the longest text, {self._shape.max_len_tokens}")
        if not self._rows.have_room(num_wanted):
            self._rows.arrange(self._row_len_with(num_wanted), self._decoding, self._reading)
        row = self._rows.take(ask.prompt_ids)
        running = self._rows.owners[row] = Running(ask=ask, row=row, sampler=Sampler(ask.sampling, ask.prompt_ids))
        self._reading.append(running)
        return running

    def _row_len_with(self, num_wanted: int) -> int:
        return self._shape.row_len_for(max(num_wanted, *(one.num_wanted for one in self), 1))

    def leave(self, running: Running) -> None:
        """End a request, whatever its state. Safe to call twice."""
        if self._rows.owners[running.row] is not running:
            return
        running.is_over = True
        if running in self._reading:
            self._reading.remove(running)
            if running.num_unread:  # no logits of what it read were seen: they may not be finite
                self._rows.clear(running)
        else:
            last = self._decoding[-1]
            if last is not running:
                self._decoding[running.row] = last
                self._rows.move(last, running.row)
            self._decoding.pop()
        self._rows.give_back(running)

    def drop_all(self) -> list[Running]:
        """End every request, after a pass that failed; the rows are as new."""
        dropped = list(self)
        for running in dropped:
            running.is_over = True
        self._rows.forget()
        self._decoding, self._reading = [], deque()
        return dropped

    @torch.inference_mode()
    def step(self) -> list[Running]:
        """One pass; those that it concerned, each with its new events. The last of a request is `Finished` or `Failed`.

        Raises:
            Exception: The model failed on the pass as a whole; what the rows hold is unknown.
        """
        concerned, pieces = self._next_pieces()
        if not concerned:
            return []
        packed = pack(
            pieces,
            num_decoding=len(self._decoding),
            call_places=self._rows.slots.call_places,
            device=self._loaded.device,
            size_for=self._size_for,
        )
        logits_NV = self.forward(packed)
        ready: list[tuple[Running, int]] = []
        first = 0
        for running, piece, num_logits in zip(concerned, pieces, packed.logits_of, strict=True):
            if running.num_reused and piece.past == running.num_reused:
                running.events = [PromptReused(num_tokens=running.num_reused)]
            else:
                running.events = []
            running.num_stored += len(piece.tokens)
            own_NV = logits_NV[first : first + num_logits]
            first += num_logits
            self._score_prompt(running, piece, own_NV)
            if not running.num_unread and not running.is_over:
                ready.append((running, first - 1))
        self._make_tokens(ready, logits_NV)
        self._settle(concerned)
        return concerned

    def _next_pieces(self) -> tuple[list[Running], list[Piece]]:
        concerned = list(self._decoding)
        pieces = [running.piece(1) for running in concerned]
        beside = max(self._chunk_beside, CHUNK_TOKENS_PER_ROW * len(self._decoding))
        left = beside if self._decoding else CHUNK_ALONE_TOKENS
        left_logits = max(MIN_SCORED_TOKENS, MAX_LOGITS_OF_PASS // self._loaded.vocab_size)
        begun: list[Running] = []
        for running in self._reading:
            if left <= 0 or left_logits <= 0:
                break
            if running.num_stored == 0 and not self._rows.begin(running, begun):
                continue
            begun.append(running)
            pieces.append(running.piece(left, left_logits))
            left -= len(pieces[-1].tokens)
            left_logits -= pieces[-1].num_logits
        return concerned + begun, pieces

    def forward(self, packed: Pack) -> torch.Tensor:
        """Raw logits in float32, of the tokens that want them."""
        keep = {"logits_to_keep": packed.kept_N} if self._loaded.keeps_logits else {}
        output = self._loaded.model(
            input_ids=packed.ids_1T,
            position_ids=packed.positions_1T,
            use_cache=False,
            relay=Pass(pack=packed, slots=self._rows.slots),
            **keep,
        )
        logits_NV: torch.Tensor = output.logits[0] if keep else output.logits[0][packed.kept_N]
        return logits_NV[: max(1, sum(packed.logits_of))].float()

    def _score_prompt(self, running: Running, piece: Piece, logits_NV: torch.Tensor) -> None:
        ask = running.ask
        if ask.scores_from is None or not piece.num_logits or running.made:
            return
        end = piece.past + len(piece.tokens)
        following = ask.prompt_ids[end - piece.num_logits + 1 : end + 1]
        try:
            running.scores += score_tokens(logits_NV[: len(following)], following, ask.num_top_logprobs or 0)
        except FloatingPointError as error:
            self._fail(running, error)
            return
        if not running.num_unread:
            unscored = (None,) * (len(ask.prompt_ids) - 1 - len(running.scores))
            running.events.append(PromptScored(scores=(*unscored, *running.scores)))

    def _make_tokens(self, ready: Sequence[tuple[Running, int]], logits_NV: torch.Tensor) -> None:
        """Choose the next token of every request that has logits for it, in the rows that are named."""
        wanting = []
        for running, row in ready:
            if len(running.made) < running.ask.max_new_tokens:
                wanting.append((running, row))
            else:
                running.events.append(Finished(reason="length"))
        if not wanting:
            return
        logits_RV = _rows(logits_NV, [row for _, row in wanting])
        tokens = pick_all(logits_RV, [running.sampler for running, _ in wanting])
        scores = self._scores([running.ask for running, _ in wanting], tokens, logits_RV)
        for (running, _), token, score in zip(wanting, tokens, scores, strict=True):
            if token is None:
                self._fail(running, FloatingPointError("the model's logits are not finite at this place"))
            else:
                self._take(running, TokenMade(token_id=token, score=score))

    def _scores(
        self, asks: Sequence[Ask], tokens: Sequence[int | None], logits_RV: torch.Tensor
    ) -> list[TokenScore | None]:
        """Log-probabilities of the tokens of those who asked for them."""
        scores: list[TokenScore | None] = [None] * len(asks)
        pairs = enumerate(zip(asks, tokens, strict=True))
        rows = [row for row, (ask, token) in pairs if ask.num_top_logprobs is not None and token is not None]
        if not rows:
            return scores
        num_top = max(asks[row].num_top_logprobs or 0 for row in rows)
        chosen = [tokens[row] or 0 for row in rows]
        for row, score in zip(rows, score_tokens(_rows(logits_RV, rows), chosen, num_top), strict=True):
            scores[row] = replace(score, top=score.top[: asks[row].num_top_logprobs])
        return scores

    def _take(self, running: Running, made: TokenMade) -> None:
        ask = running.ask
        if made.token_id in self._loaded.eos_ids or made.token_id in ask.stop_ids:
            running.events.append(Finished(reason="stop", end=made if ask.scores_end else None))
            return
        running.made.append(made.token_id)
        running.events.append(made)
        if len(running.made) == ask.max_new_tokens:
            running.events.append(Finished(reason="length"))

    def _fail(self, running: Running, error: Exception) -> None:
        running.events.append(Failed(because=f"the model failed on this request ({type(error).__name__}: {error})"))
        running.is_over = True
        self._rows.clear(running)

    def _settle(self, concerned: Sequence[Running]) -> None:
        """Let those go that have ended, and those decode whose prompt is read."""
        for running in concerned:
            if running.is_over or (running.events and isinstance(running.events[-1], Finished)):
                self.leave(running)
        for running in [one for one in self._reading if not one.num_unread]:
            self._reading.remove(running)
            self._rows.move(running, len(self._decoding))
            self._decoding.append(running)


def _rows(logits_NV: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows, without a copy where they are all."""
    return logits_NV if rows == list(range(len(logits_NV))) else logits_NV[torch.tensor(rows, device=logits_NV.device)]
