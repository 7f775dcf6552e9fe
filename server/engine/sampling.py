"""The choice of the next token. Shapes: R rows, V vocabulary.

One uniform number per token and the inverse of the cumulative distribution in *vocabulary* order: in sorted order two
nearly equal probabilities could change places between two machines and take another token with the same seed. What a
request gets depends on its own logits and its own generator only, whatever else is in the batch.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import torch

from server.engine.asks import Sampling

# Below this a temperature is greedy: dividing by it would only overflow.
MIN_TEMPERATURE = 1e-5
# A nucleus is nearly always among so many likeliest tokens; to look for it there saves sorting the vocabulary.
FIRST_LOOK = 256


class Sampler:
    """Chooses the tokens of one request, from a generator that no other request touches."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._seen = set(prompt_ids)
        self._made: Counter[int] = Counter()
        # Strings, since Random takes the absolute value of an integer.
        seed = (
            None
            if sampling.seed is None
            else f"{sampling.seed}/{sampling.choice}"
            if sampling.choice
            else sampling.seed
        )
        self._random = random.Random(None if seed is None else str(seed))  # noqa: S311 - no secret

    @property
    def changes_logits(self) -> bool:
        """Whether penalties or biases are to be applied."""
        one = self._sampling
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

    def adjusted(self, logits_V: torch.Tensor) -> torch.Tensor:
        """The logits after penalties and biases.

        Source: OpenAI's API reference for frequency and presence penalties and biases; Keskar et al., "CTRL", 2019,
        §4.1, for the repetition penalty.
        """
        one, logits_V = self._sampling, logits_V.clone()
        if one.repetition_penalty != 1 and (seen := sorted(self._seen | set(self._made))):
            ids_S = torch.tensor(seen, device=logits_V.device)
            old_S = logits_V[ids_S]
            logits_V[ids_S] = torch.where(old_S > 0, old_S / one.repetition_penalty, old_S * one.repetition_penalty)
        if self._made and (one.frequency_penalty or one.presence_penalty):
            ids_M = torch.tensor(list(self._made), device=logits_V.device)
            counts_M = torch.tensor(list(self._made.values()), device=logits_V.device, dtype=logits_V.dtype)
            logits_V[ids_M] -= one.frequency_penalty * counts_M + one.presence_penalty
        for token, bias in one.logit_bias:
            logits_V[token] += bias
        return logits_V

    def choose(self, logits_V: torch.Tensor, best: int) -> int:
        """A token, by chance if the temperature says so; `best` is the likeliest."""
        token = best if self._sampling.temperature < MIN_TEMPERATURE else self._draw(logits_V, best)
        self._made[token] += 1
        return token

    def _draw(self, logits_V: torch.Tensor, best: int) -> int:
        one = self._sampling
        centred_V = (logits_V - logits_V[best]).double()  # the largest is 0, so no temperature can overflow it
        probabilities_V = torch.softmax(centred_V / one.temperature, dim=-1)
        if 0 < one.top_k < len(probabilities_V):
            least = probabilities_V.topk(one.top_k).values[-1]
            probabilities_V = torch.where(probabilities_V < least, 0.0, probabilities_V)
            probabilities_V = probabilities_V / probabilities_V.sum()
        probabilities_V = nucleus(probabilities_V, one.top_p)
        if one.min_p:
            least = one.min_p * probabilities_V.max()
            probabilities_V = torch.where(probabilities_V < least, 0.0, probabilities_V)
        return inverse_cdf(probabilities_V, self._random.random())


def pick_all(logits_RV: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row; None where its logits hold NaN or positive infinity."""
    changed = {row: sampler.adjusted(logits_RV[row]) for row, sampler in enumerate(samplers) if sampler.changes_logits}
    best_R = logits_RV.argmax(-1)  # a NaN counts as the largest
    largest = logits_RV.gather(1, best_R[:, None])[:, 0].tolist()
    picked: list[int | None] = []
    for row, (sampler, best) in enumerate(zip(samplers, best_R.tolist(), strict=True)):
        if not math.isfinite(largest[row]):
            picked.append(None)
        elif row in changed:
            picked.append(sampler.choose(changed[row], int(changed[row].argmax())))
        else:
            picked.append(sampler.choose(logits_RV[row], best))
    return picked


def nucleus(probabilities_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of likeliest tokens whose mass reaches `top_p`; not normalised.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, §3.1.
    """
    if top_p >= 1:
        return probabilities_V
    num_tokens = len(probabilities_V)
    for num_looked in (min(FIRST_LOOK, num_tokens), num_tokens):
        sorted_K, order_K = probabilities_V.topk(num_looked)
        before_K = sorted_K.cumsum(-1) - sorted_K
        if float(before_K[-1]) >= top_p or num_looked == num_tokens:
            break
    inside_K = before_K < top_p
    inside_K[0] = True
    kept_K = order_K[inside_K]
    return torch.zeros_like(probabilities_V).index_copy_(0, kept_K, probabilities_V[kept_K])


def inverse_cdf(weights_V: torch.Tensor, uniform: float) -> int:
    """The index in which a share `uniform` (0 ≤ uniform < 1) of the total weight falls; never one of weight 0."""
    cumulative_V = weights_V.cumsum(-1)
    index = int(torch.searchsorted(cumulative_V, uniform * float(cumulative_V[-1]), right=True))
    return index if index < len(weights_V) else int(weights_V.nonzero()[-1])
