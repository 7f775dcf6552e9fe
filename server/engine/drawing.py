"""Random tokens for many requests at once. Shapes: R rows, V vocabulary, K likeliest tokens, N blocks of S tokens.

One uniform number per row and the inverse of the cumulative distribution in *vocabulary* order: in sorted order two
nearly equal probabilities could change places between two machines and take another token with the same seed. Every
row is computed from itself alone, so what is beside it changes nothing. Sums are in float64. On the way from logits
settings apply in the order of transformers: temperature, top_k, top_p, min_p.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from server.engine.asks import Sampling

# A nucleus is nearly always among so few likeliest tokens; to look for it there saves sorting the vocabulary.
LOOKS = (256, 4096)
# Cumulative sums in two levels: over blocks of so many tokens, then within one.
BLOCK_TOKENS = 256
# On CPU a few rows at a time, so that what one step writes is in the cache when the next reads it.
CACHED_ELEMENTS = 512 * 1024


def draw(logits_RV: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """A token for each row; `uniforms` are in 0 ≤ u < 1. Temperatures are above 0, each row has a finite largest."""
    num_rows = len(samplings)
    num_at_once = num_rows if logits_RV.is_cuda else max(1, CACHED_ELEMENTS // logits_RV.shape[1])
    tokens: list[int] = []
    for first in range(0, num_rows, num_at_once):
        some = slice(first, first + num_at_once)
        tokens += _draw_some(logits_RV[some], samplings[some], uniforms[some])
    return tokens


def _draw_some(logits_RV: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    weights_RV = _weights(logits_RV, [one.temperature for one in samplings])
    num_tokens = weights_RV.shape[1]
    tokens = [-1] * len(samplings)
    plain = [row for row, one in enumerate(samplings) if not _is_cut(one, num_tokens)]
    cut = [row for row, one in enumerate(samplings) if _is_cut(one, num_tokens)]
    if plain:
        weights_PV = _without_unlikely(_rows(weights_RV, plain), [samplings[row].min_p for row in plain])
        for row, token in zip(plain, inverse_cdf(weights_PV, [uniforms[row] for row in plain]), strict=True):
            tokens[row] = token
    for num_looked in (*(look for look in LOOKS if 2 * look <= num_tokens), num_tokens):
        if not cut:
            break
        few_RV = _rows(weights_RV, cut)
        found = _draw_cut(few_RV, [samplings[row] for row in cut], [uniforms[row] for row in cut], num_looked)
        for row, token in zip(cut, found, strict=True):
            tokens[row] = token
        cut = [row for row in cut if tokens[row] < 0]
    return tokens


def nucleus(
    likeliest_RK: torch.Tensor, totals_R: torch.Tensor, top_ps: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the K likeliest, best first, are in the smallest set whose share of the total reaches `top_p`.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, §3.1.

    Returns:
        Whether each is inside; and for each row whether K tokens were enough to say so.
    """
    wanted_R1 = (totals_R * totals_R.new_tensor(top_ps))[:, None]
    reached_RK = likeliest_RK.double().cumsum(-1)
    inside_RK = reached_RK - likeliest_RK < wanted_R1
    inside_RK[:, 0] = True
    return inside_RK, reached_RK[:, -1] >= wanted_R1[:, 0]


def inverse_cdf(weights_RV: torch.Tensor, uniforms: Sequence[float]) -> list[int]:
    """The index in which a share `uniform` of each row's total weight falls; never one of weight 0."""
    num_rows, num_tokens = weights_RV.shape
    num_missing = -num_tokens % BLOCK_TOKENS
    padded_RV = torch.nn.functional.pad(weights_RV, (0, num_missing)) if num_missing else weights_RV
    blocks_RNS = padded_RV.view(num_rows, -1, BLOCK_TOKENS)
    until_RN = blocks_RNS.sum(-1, dtype=torch.float64).cumsum(-1)
    targets_R1 = until_RN[:, -1:] * until_RN.new_tensor(uniforms)[:, None]
    block_R1 = _first_above(until_RN, targets_R1)
    before_R1 = until_RN.gather(1, (block_R1 - 1).clamp(min=0)) * (block_R1 > 0)
    block_RS = blocks_RNS[torch.arange(num_rows, device=weights_RV.device), block_R1[:, 0]]
    within_R1 = _first_above(block_RS.double().cumsum(-1), targets_R1 - before_R1)
    tokens: list[int] = (block_R1 * BLOCK_TOKENS + within_R1)[:, 0].tolist()
    return tokens


def _first_above(cumulative_RN: torch.Tensor, targets_R1: torch.Tensor) -> torch.Tensor:
    """The first place whose sum is above the target; where rounding leaves none, the last that adds anything."""
    largest_R1 = cumulative_RN[:, -1:].contiguous()
    last_R1 = torch.searchsorted(cumulative_RN, largest_R1)
    return torch.minimum(torch.searchsorted(cumulative_RN, targets_R1, right=True), last_R1)


def _weights(logits_RV: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """Probabilities up to a factor: the likeliest has 1, so that no temperature overflows."""
    centred_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    return centred_RV.div_(centred_RV.new_tensor(temperatures)[:, None]).exp_()


def _is_cut(one: Sampling, num_tokens: int) -> bool:
    return one.top_p < 1 or 0 < one.top_k < num_tokens


def _rows(whole_RV: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return whole_RV if len(rows) == len(whole_RV) else whole_RV[torch.tensor(rows, device=whole_RV.device)]


def _without_unlikely(weights_RV: torch.Tensor, min_ps: Sequence[float]) -> torch.Tensor:
    """Zero what is below a share `min_p` of the likeliest, whose weight is 1."""
    if not any(min_ps):
        return weights_RV
    return weights_RV * (weights_RV >= weights_RV.new_tensor(min_ps)[:, None])


def _draw_cut(
    weights_RV: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float], num_looked: int
) -> list[int]:
    """Tokens of rows with a top_k or top_p; -1 where the `num_looked` likeliest are too few to tell."""
    num_tokens = weights_RV.shape[1]
    is_all = num_looked == num_tokens
    likeliest_RK, ids_RK = weights_RV.sort(descending=True) if is_all else weights_RV.topk(num_looked)
    top_ks = [one.top_k if 0 < one.top_k < num_tokens else num_tokens for one in samplings]
    top_ks_R1 = torch.tensor(top_ks, device=weights_RV.device)[:, None]
    likeliest_RK = likeliest_RK * (torch.arange(num_looked, device=weights_RV.device)[None] < top_ks_R1)
    has_top_k_R = top_ks_R1[:, 0] <= num_looked
    totals_R = torch.where(
        has_top_k_R, likeliest_RK.sum(-1, dtype=torch.float64), weights_RV.sum(-1, dtype=torch.float64)
    )
    inside_RK, is_enough_R = nucleus(likeliest_RK, totals_R, [one.top_p for one in samplings])
    is_known_R = has_top_k_R | (is_enough_R & (top_ks_R1[:, 0] == num_tokens))
    kept_RK = _without_unlikely(likeliest_RK * inside_RK, [one.min_p for one in samplings])
    if is_all:
        return inverse_cdf(torch.zeros_like(weights_RV).scatter_(1, ids_RK, kept_RK), uniforms)
    ordered = ids_RK.argsort(-1)
    places = inverse_cdf(kept_RK.gather(1, ordered), uniforms)
    chosen_R1 = ids_RK.gather(1, ordered).gather(1, torch.tensor(places, device=ids_RK.device)[:, None])
    found: list[int] = torch.where(is_known_R, chosen_R1[:, 0], -1).tolist()
    return found
