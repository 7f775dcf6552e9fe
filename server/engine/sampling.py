"""The choice of the next token. Shapes: V vocabulary.

One uniform number per token and the inverse of the cumulative distribution in *vocabulary* order: in sorted order two
nearly equal probabilities could change places between two machines and take another token with the same seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from server.engine.asks import Sampling

# Below this a temperature is greedy: dividing by it would only overflow.
MIN_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one request, from a generator that no other request touches."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        # A string, since Random takes the absolute value of an integer.
        self._random = random.Random(None if sampling.seed is None else str(sampling.seed))  # noqa: S311 - no secret

    def pick(self, logits_V: torch.Tensor) -> int:
        """The next token.

        Raises:
            FloatingPointError: The logits hold NaN or positive infinity.
        """
        best = int(logits_V.argmax())  # a NaN counts as the largest
        if not math.isfinite(float(logits_V[best])):
            raise FloatingPointError("the model's logits are not finite at this place")
        return best if self.is_greedy else self.draw(logits_V, best)

    @property
    def is_greedy(self) -> bool:
        return self._sampling.temperature < MIN_TEMPERATURE

    def draw(self, logits_V: torch.Tensor, best: int) -> int:
        """A token by chance; `best` is the likeliest."""
        return inverse_cdf(nucleus(self._probabilities(logits_V, best), self._sampling.top_p), self._random.random())

    def _probabilities(self, logits_V: torch.Tensor, best: int) -> torch.Tensor:
        centred_V = (logits_V - logits_V[best]).double()  # the largest is 0, so no temperature can overflow it
        return torch.softmax(centred_V / self._sampling.temperature, dim=-1)


def pick_all(logits_RV: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row; None where its logits hold NaN or positive infinity.

    A row's choice depends on nothing but its own logits and its own generator.
    """
    best_R = logits_RV.argmax(-1)  # a NaN counts as the largest
    finite = torch.isfinite(logits_RV.gather(1, best_R[:, None])[:, 0]).tolist()
    picked: list[int | None] = []
    for row, (sampler, best) in enumerate(zip(samplers, best_R.tolist(), strict=True)):
        if not finite[row]:
            picked.append(None)
        else:
            picked.append(best if sampler.is_greedy else sampler.draw(logits_RV[row], best))
    return picked


def nucleus(probabilities_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the smallest set of likeliest tokens whose mass reaches `top_p`; not normalised.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, §3.1.
    """
    if top_p >= 1:
        return probabilities_V
    sorted_V, order_V = torch.sort(probabilities_V, descending=True, stable=True)
    outside_V = sorted_V.cumsum(-1) - sorted_V >= top_p
    outside_V[0] = False
    return probabilities_V.index_fill(-1, order_V[outside_V], 0.0)


def inverse_cdf(weights_V: torch.Tensor, uniform: float) -> int:
    """The index in which a share `uniform` (0 ≤ uniform < 1) of the total weight falls; never one of weight 0."""
    cumulative_V = weights_V.cumsum(-1)
    index = int(torch.searchsorted(cumulative_V, uniform * float(cumulative_V[-1]), right=True))
    return index if index < len(weights_V) else int(weights_V.nonzero()[-1])
