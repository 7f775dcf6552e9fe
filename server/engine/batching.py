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
from server.engine.packing import Pack, Piece, pack
from server.engine.reuse import MIN_REUSED_TOKENS, Leftovers, num_common
from server.engine.sampling import Sampler, pick_all
from server.engine.sequence import Running, tokens_of
from server.engine.slots import Removal, Slots

# Prompt tokens of one pass: few while others stream, since their next token waits for it; many when nobody does, or
# when the model is so small that nobody would notice.
CHUNK_BESIDE_TOKENS = 128
CHUNK_ALONE_TOKENS = 512
UNNOTICED_PARAMETER_TOKENS = 3_800_000_000
# To score a prompt the logits of many places are wanted: 16 M floats are 64 MB, whatever the vocabulary.
MAX_LOGITS_OF_PASS = 16 * 1024 * 1024
MIN_SCORED_TOKENS = 16


class Batch:
    """The requests that run, and the rows that they hold."""

    def __init__(self, loaded: LoadedModel, slots: Slots) -> None:
        self._loaded = loaded
        self._slots = slots
        self._decoding: list[Running] = []
        self._reading: deque[Running] = deque()
        self._owners: list[Running | None] = [None] * slots.num_rows
        self._leftovers = Leftovers(slots.num_rows)
        self._least_reused = MIN_REUSED_TOKENS[loaded.device]
        unnoticed = UNNOTICED_PARAMETER_TOKENS // max(1, loaded.num_parameters)
        self._chunk_beside = min(max(unnoticed, CHUNK_BESIDE_TOKENS), CHUNK_ALONE_TOKENS)

    @property
    def num_rows(self) -> int:
        """How many requests may run at once, with rows as long as they are now."""
        return len(self._owners)

    @property
    def num_places(self) -> int:
        return self._slots.shape.num_places

    @property
    def num_stored_tokens(self) -> int:
        return sum(one.num_stored for one in self)

    def __iter__(self) -> Iterator[Running]:
        yield from self._decoding
        yield from self._reading

    def has_room(self, ask: Ask) -> bool:
        """Whether `join` may be called now; True also for a request that can never fit, so that it hears of it."""
        num_wanted = tokens_of(ask)
        if num_wanted > self._slots.shape.max_len_tokens or self._fits(num_wanted):
            return True
        num_running = len(self._decoding) + len(self._reading)
        return num_running < self._slots.shape.num_rows(self._row_len_with(num_wanted))

    def join(self, ask: Ask) -> Running:
        """Begin a request; there must be room.

        Raises:
            ValueError: It is longer than any row can be.
        """
        num_wanted = tokens_of(ask)
        if num_wanted > self._slots.shape.max_len_tokens:
            raise ValueError(f"{num_wanted} tokens are more than the longest text, {self._slots.shape.max_len_tokens}")
        if not self._fits(num_wanted):
            self._arrange(self._row_len_with(num_wanted))
        free = [row for row, owner in enumerate(self._owners) if owner is None]
        row = self._leftovers.place_for(ask.prompt_ids, free, least=self._least_reused)
        running = Running(ask=ask, row=row, sampler=Sampler(ask.sampling, ask.prompt_ids))
        self._owners[row] = running
        self._reading.append(running)
        return running

    def _fits(self, num_wanted: int) -> bool:
        return num_wanted <= self._slots.row_len_tokens and None in self._owners

    def _row_len_with(self, num_wanted: int) -> int:
        return self._slots.shape.row_len_for(max(num_wanted, *(one.num_wanted for one in self), 1))

    def _arrange(self, row_len_tokens: int) -> None:
        """Make rows of another length: those that decode stay in front, those that read go to the end."""
        num_rows = self._slots.shape.num_rows(row_len_tokens)
        owners: list[Running | None] = [None] * num_rows
        removals = []
        targets = [*range(len(self._decoding)), *(num_rows - 1 - place for place in range(len(self._reading)))]
        for running, target in zip(self, targets, strict=True):
            removals.append(Removal(source=running.row, target=target, num_tokens=running.num_stored))
            owners[target] = running
        kept = [row for row in self._leftovers.newest_first() if self._owners[row] is None]
        free = [row for row in reversed(range(num_rows)) if owners[row] is None]
        leftovers = Leftovers(num_rows)
        for row, target in reversed(list(zip(kept, free, strict=False))):
            tokens = self._leftovers[row][:row_len_tokens]
            removals.append(Removal(source=row, target=target, num_tokens=len(tokens)))
            leftovers.put(target, tokens)
        self._slots.arrange(row_len_tokens, removals)
        for running, target in zip(self, targets, strict=True):
            running.row = target
        self._owners, self._leftovers = owners, leftovers

    def leave(self, running: Running) -> None:
        """End a request, whatever its state. Safe to call twice."""
        if self._owners[running.row] is not running:
            return
        running.is_over = True
        if running in self._reading:
            self._reading.remove(running)
            if running.num_unread:  # no logits of what it read were seen: they may not be finite
                self._slots.clear(running.row, running.num_stored)
                running.num_stored = 0
        else:
            last = self._decoding[-1]
            if last is not running:
                self._decoding[running.row] = last
                self._change_places(last, running.row)
            self._decoding.pop()
        self._owners[running.row] = None
        self._leftovers.put(running.row, running.stored_tokens())

    def drop_all(self) -> list[Running]:
        """End every request, after a pass that failed; the rows are as new."""
        dropped = list(self)
        for running in dropped:
            running.is_over = True
            self._slots.clear(running.row)
        self._owners, self._leftovers = [None] * len(self._owners), Leftovers(len(self._owners))
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
            row_len_tokens=self._slots.row_len_tokens,
            device=self._loaded.device,
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
        left = self._chunk_beside if self._decoding else CHUNK_ALONE_TOKENS
        left_logits = max(MIN_SCORED_TOKENS, MAX_LOGITS_OF_PASS // self._loaded.vocab_size)
        begun: list[Running] = []
        for running in self._reading:
            if left <= 0 or left_logits <= 0:
                break
            if running.num_stored == 0 and not self._begin_reading(running, begun):
                continue
            begun.append(running)
            pieces.append(running.piece(left, left_logits))
            left -= len(pieces[-1].tokens)
            left_logits -= pieces[-1].num_logits
        return concerned + begun, pieces

    def _begin_reading(self, running: Running, begun: Sequence[Running]) -> bool:
        """Copy what another row has of its beginning; not yet, and False, where those before it read more of it now."""
        prompt_ids, least = running.ask.prompt_ids[: running.num_reusable], self._least_reused
        shared = [num_common(prompt_ids, self._held_in(row), least=least) for row in range(len(self._owners))]
        coming = max((num_common(prompt_ids, one.ask.prompt_ids, least=least) for one in begun), default=0)
        num_shared = max(shared)
        if coming >= num_shared + least:
            return False
        if num_shared > shared[running.row]:
            self._slots.move(shared.index(num_shared), running.row, num_shared)
        running.num_stored = running.num_reused = num_shared
        self._leftovers.put(running.row, ())
        return True

    def _held_in(self, row: int) -> tuple[int, ...]:
        owner = self._owners[row]
        return owner.stored_tokens() if owner is not None and owner.num_stored else self._leftovers[row]

    def forward(self, packed: Pack) -> torch.Tensor:
        """Raw logits in float32, of the tokens that want them."""
        keep = {"logits_to_keep": packed.kept_N} if self._loaded.keeps_logits else {}
        output = self._loaded.model(
            input_ids=packed.ids_1T,
            position_ids=packed.positions_1T,
            use_cache=False,
            relay=Pass(pack=packed, slots=self._slots),
            **keep,
        )
        logits_NV: torch.Tensor = output.logits[0] if keep else output.logits[0][packed.kept_N]
        return logits_NV.float()

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
        if made.token_id in self._loaded.eos_ids:
            running.events.append(Finished(reason="stop", end=made if ask.scores_end else None))
            return
        running.made.append(made.token_id)
        running.events.append(made)
        if len(running.made) == ask.max_new_tokens:
            running.events.append(Finished(reason="length"))

    def _fail(self, running: Running, error: Exception) -> None:
        running.events.append(Failed(because=f"the model failed on this request ({type(error).__name__}: {error})"))
        running.is_over = True
        self._slots.clear(running.row, running.num_stored)
        running.num_stored = 0

    def _settle(self, concerned: Sequence[Running]) -> None:
        """Let those go that have ended, and those decode whose prompt is read."""
        for running in concerned:
            if running.is_over or (running.events and isinstance(running.events[-1], Finished)):
                self.leave(running)
        for running in [one for one in self._reading if not one.num_unread]:
            self._reading.remove(running)
            self._change_places(running, len(self._decoding))
            self._decoding.append(running)

    def _change_places(self, running: Running, row: int) -> None:
        other, old = self._owners[row], running.row
        if row == old:
            return
        num_there = max(len(self._leftovers[row]), other.num_stored if other is not None else 0)
        if num_there:
            self._slots.swap(old, row, max(running.num_stored, num_there))
        else:
            self._slots.move(old, row, running.num_stored)
        if other is not None:
            other.row = old
        self._leftovers.swap(old, row)
        self._owners[old], self._owners[row] = other, running
        running.row = row


def _rows(logits_NV: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows, without a copy where they are all."""
    return logits_NV if rows == list(range(len(logits_NV))) else logits_NV[torch.tensor(rows, device=logits_NV.device)]
