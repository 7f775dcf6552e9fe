"""The choice of the next token of each request. Shapes: R rows, V vocabulary, S tokens seen, M of them made.

What a request gets depends on its own logits and its own generator only, whatever else is in the batch.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import torch

from server.engine.asks import Sampling
from server.engine.drawing import draw

# Below this a temperature is greedy: dividing by it would only overflow.
MIN_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one request, from a generator that no other request touches."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self._made: Counter[int] = Counter()
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set()
        self._seen_S: torch.Tensor | None = None
        self._biases: tuple[torch.Tensor, torch.Tensor] | None = None
        self._random: random.Random | None = None  # seeding one takes longer than choosing greedily

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < MIN_TEMPERATURE

    @property
    def changes_logits(self) -> bool:
        """Whether penalties or biases are to be applied."""
        one = self.sampling
        return bool(one.frequency_penalty or one.presence_penalty or one.logit_bias) or one.repetition_penalty != 1

    def pick(self, logits_V: torch.Tensor) -> int:
        """The next token; it counts as made.

        Raises:
            FloatingPointError: The logits hold NaN or positive infinity.
        """
        token = pick_all(logits_V[None], [self])[0]
        if token is None:
            raise FloatingPointError("the model's logits are not finite at this place")
        return token

    def uniform(self) -> float:
        """The one random number of a token."""
        if self._random is None:
            self._random = random.Random(_seed_of(self.sampling))  # noqa: S311 - no secret
        return self._random.random()

    def count(self, token: int) -> None:
        """Remember a token as made, where a penalty will ask for it."""
        if not self.changes_logits:
            return
        self._made[token] += 1
        if self._seen_S is not None and token not in self._seen:
            self._seen.add(token)
            self._seen_S = torch.cat((self._seen_S, self._seen_S.new_tensor([token])))

    def adjust(self, logits_V: torch.Tensor) -> None:
        """Apply penalties and biases in place.

        Source: OpenAI's API reference for frequency and presence penalties and biases; Keskar et al., "CTRL", 2019,
        §4.1, for the repetition penalty.
        """
        one = self.sampling
        if one.repetition_penalty != 1:
            if self._seen_S is None:
                self._seen_S = torch.tensor(sorted(self._seen), dtype=torch.int64, device=logits_V.device)
            old_S = logits_V[self._seen_S]
            logits_V[self._seen_S] = torch.where(
                old_S > 0, old_S / one.repetition_penalty, old_S * one.repetition_penalty
            )
        if self._made and (one.frequency_penalty or one.presence_penalty):
            ids_M = torch.tensor(list(self._made), device=logits_V.device)
            counts_M = logits_V.new_tensor(list(self._made.values()))
            logits_V[ids_M] -= one.frequency_penalty * counts_M + one.presence_penalty
        if one.logit_bias:
            if self._biases is None:
                tokens, biases = zip(*one.logit_bias, strict=True)
                self._biases = torch.tensor(tokens, device=logits_V.device), logits_V.new_tensor(biases)
            logits_V.index_add_(0, *self._biases)


def pick_all(logits_RV: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row, counted as made; None where its logits hold NaN or positive infinity."""
    largest_R, best_R = logits_RV.max(-1)  # a NaN counts as the largest
    is_good = [math.isfinite(value) for value in largest_R.tolist()]
    changed = [row for row, one in enumerate(samplers) if is_good[row] and one.changes_logits]
    if changed:
        logits_RV = logits_RV.clone()
        for row in changed:
            samplers[row].adjust(logits_RV[row])
        best_R = logits_RV.argmax(-1)
    picked: list[int | None] = [token if good else None for token, good in zip(best_R.tolist(), is_good, strict=True)]
    drawn = [row for row, one in enumerate(samplers) if is_good[row] and not one.is_greedy]
    if drawn:
        rows = logits_RV if len(drawn) == len(samplers) else logits_RV[torch.tensor(drawn, device=logits_RV.device)]
        settings, uniforms = [samplers[row].sampling for row in drawn], [samplers[row].uniform() for row in drawn]
        for row, drawn_token in zip(drawn, draw(rows, settings, uniforms), strict=True):
            picked[row] = drawn_token
    for sampler, token in zip(samplers, picked, strict=True):
        if token is not None:
            sampler.count(token)
    return picked


def _seed_of(sampling: Sampling) -> str | None:
    """A string, since Random takes the absolute value of an integer."""
    if sampling.seed is None:
        return None
    return f"{sampling.seed}/{sampling.choice}" if sampling.choice else str(sampling.seed)
