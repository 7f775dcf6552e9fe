"""The statistics of a promotion: adjusted p-values, bounds, evidence of harm and power. Numpy and scipy only.

Shapes: K candidates, N items. A difference is candidate minus incumbent on the same item, higher is better. Items of
one cluster (copies, questions on one passage) are one observation: their signs flip together.
Only `scipy.special` is used: importing `scipy.stats` costs a start half a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

# Signs in memory at once: 16 MB of float64.
_MAX_CHUNK_SIGNS = 2_000_000
# Two sums of the same numbers in another order differ by rounding; without this, ties would count by chance.
_TIE = 1e-9


def clusters_of(groups: Sequence[str]) -> IntArray | None:
    """The cluster of each item, numbered from 0; an item without a group is one by itself. None where all are."""
    if not any(groups):
        return None
    names = [(group, -1) if group else ("", place) for place, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.intp)


def summed(differences_N: FloatArray, clusters_N: IntArray | None) -> FloatArray:
    """The sum of each cluster, whose sign then flips as a whole; the differences themselves without clusters."""
    if clusters_N is None:
        return differences_N
    return np.asarray(np.bincount(clusters_N, weights=differences_N), dtype=np.float64)


def max_t(differences_KN: FloatArray, *, num_flips: int, seed: int) -> FloatArray:
    """Chance, for each candidate, that the best of K candidates equal to the incumbent would look as good.

    One-sided, adjusted for all candidates together. An item's sign is flipped for all candidates at once, so the
    correlation between checkpoints of one training is kept and costs no power. Exact when there are at most
    `num_flips` patterns of signs; else by `num_flips` random ones.

    Source: Westfall & Young 1993, Resampling-Based Multiple Testing, single-step max-T (algorithm 2.5 with the
    statistic in place of p); sign flips: Romano & Wolf 2005, JASA 100(469); the 1 + in the estimate: Phipson & Smyth
    2010, SAGMB 9(1).

    Args:
        differences_KN: Finite; K and N at least 1.
        num_flips: At least 1; a p-value is never below 1 / (num_flips + 1).
        seed: One seed, one answer.

    Returns:
        p-values, shape K, in (0, 1].
    """
    live_KN = differences_KN[:, (differences_KN != 0).any(axis=0)]  # a zero stays zero under every flip
    largest_K = np.abs(differences_KN).max(axis=1)
    scaled_KN = live_KN / np.where(largest_K > 0, largest_K, 1.0)[:, None]  # squares neither overflow nor vanish
    norm_K = np.sqrt((scaled_KN**2).sum(axis=1))
    unit_KN = scaled_KN / np.where(norm_K > 0, norm_K, 1.0)[:, None]
    observed_K = unit_KN.sum(axis=1)
    num_live = unit_KN.shape[1]
    is_exact = 2**num_live <= num_flips
    signs = _every_sign(num_live) if is_exact else _random_signs(num_live, num_flips=num_flips, seed=seed)
    num_as_good_K = np.zeros(len(observed_K), dtype=np.int64)
    for signs_BN in signs:
        best_B = (signs_BN @ unit_KN.T).max(axis=1)
        num_as_good_K += (best_B[:, None] >= observed_K - _TIE).sum(axis=0)
    if is_exact:
        return np.asarray(num_as_good_K / 2**num_live, dtype=np.float64)
    return np.asarray((1 + num_as_good_K) / (num_flips + 1), dtype=np.float64)


def _every_sign(num_items: int) -> Iterator[FloatArray]:
    step = max(1, _MAX_CHUNK_SIGNS // max(1, num_items))
    for start in range(0, 2**num_items, step):
        numbers = np.arange(start, min(start + step, 2**num_items))
        bits = numbers[:, None] >> np.arange(num_items) & 1  # those of a number are a pattern of signs
        yield bits.astype(np.float64) * 2 - 1


def _random_signs(num_items: int, *, num_flips: int, seed: int) -> Iterator[FloatArray]:
    generator = np.random.default_rng(seed)
    step = max(1, _MAX_CHUNK_SIGNS // num_items)
    for start in range(0, num_flips, step):
        shape = (min(step, num_flips - start), num_items)
        yield generator.integers(0, 2, size=shape, dtype=np.int8).astype(np.float64) * 2 - 1


def standard_error(differences_N: FloatArray, clusters_N: IntArray | None = None) -> float:
    """Standard error of the mean of paired differences; infinite for one observation.

    Source: Miller 2024, Adding Error Bars to Evals, arXiv 2411.00640, sections on paired differences and on clusters.
    """
    deviations_G = summed(differences_N - differences_N.mean(), clusters_N)
    num = len(deviations_G)
    return math.sqrt(num / (num - 1) * float((deviations_G**2).sum())) / len(differences_N) if num > 1 else math.inf


def lower_bound(differences_N: FloatArray, *, alpha: float, clusters_N: IntArray | None = None) -> float:
    """One-sided 1 - alpha lower bound for the mean: Bonett-Price for differences in {-1, 0, 1}, else paired t."""
    if clusters_N is None and np.isin(differences_N, (-1.0, 0.0, 1.0)).all():
        return bonett_price_lower_bound(differences_N, alpha=alpha)
    return t_lower_bound(differences_N, alpha=alpha, clusters_N=clusters_N)


def bonett_price_lower_bound(differences_N: FloatArray, *, alpha: float) -> float:
    """Lower bound for the mean of differences in {-1, 0, 1}; holds its level where few items differ.

    Source: Bonett & Price 2012, Adjusted Wald intervals for a difference of binomial proportions based on paired
    data, J. Educ. Behav. Stat. 37(4), one-sided.
    """
    n = len(differences_N) + 2
    better = (float((differences_N > 0).sum()) + 1) / n
    worse = (float((differences_N < 0).sum()) + 1) / n
    gain = better - worse
    return float(gain + special.ndtri(alpha) * math.sqrt((better + worse - gain**2) / n))


def t_lower_bound(differences_N: FloatArray, *, alpha: float, clusters_N: IntArray | None = None) -> float:
    """Lower bound for the mean by Student's t; minus infinity for one observation.

    Source: Student 1908, Biometrika 6(1), on paired differences; one degree of freedom less than there are clusters.
    """
    num = len(differences_N) if clusters_N is None else len(set(clusters_N.tolist()))
    if num < 2:
        return -math.inf
    error = standard_error(differences_N, clusters_N)
    return float(differences_N.mean() + special.stdtrit(num - 1, alpha) * error)


def harm_p_of_mean(differences_N: FloatArray, *, num_flips: int, seed: int) -> float:
    """Chance that a candidate as good as the incumbent would be so much worse in the mean. One-sided, by sign flips.

    Right-or-wrong scores need no flips: then it is the sign test.
    """
    if np.isin(differences_N, (-1.0, 0.0, 1.0)).all():
        return harm_p(int((differences_N < 0).sum()), int((differences_N > 0).sum()))
    return float(max_t(-differences_N[None, :], num_flips=num_flips, seed=seed)[0])


def harm_p(num_worse: int, num_better: int) -> float:
    """Chance of at least so many worse items among those that differ, if better and worse were equally likely.

    Source: exact one-sided sign test, for right-or-wrong scores McNemar's exact test (McNemar 1947, Psychometrika
    12(2)): P(Bin(worse + better, 1/2) >= worse).
    """
    return float(special.bdtrc(num_worse - 1, num_worse + num_better, 0.5)) if num_worse else 1.0


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: those at most alpha are all false with chance at most alpha.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6(2).
    """
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = floor
    return tuple(adjusted)


def smallest_detectable(num_items: int, discordance: float, alpha: float, power: float = 0.8) -> float:
    """Smallest true gain, as a share of the items, that a one-sided test at `alpha` shows with chance `power`.

    Source: Miettinen 1968, Biometrics 24(2), and Connor 1987, Biometrics 43(1), solved for the difference:
    n d^2 = (z_alpha sqrt(pi) + z_power sqrt(pi - d^2))^2.

    Args:
        num_items: At least 1.
        discordance: Share of items on which the two sides differ, in (0, 1].
        alpha: For one of K candidates take alpha / K, which is a little pessimistic for max-T.
        power: At least 0.5.

    Returns:
        In (0, discordance]; infinite where even a gain on every item that differs would be missed too often.
    """
    z_alpha, z_power = -float(special.ndtri(alpha)), float(special.ndtri(power))
    inner = num_items + z_power**2 - z_alpha**2
    if inner < 0:
        return math.inf
    root = math.sqrt(num_items) * z_alpha + z_power * math.sqrt(inner)
    gain = math.sqrt(discordance) * root / (num_items + z_power**2)
    return gain if gain <= discordance else math.inf


def smallest_detectable_mean(num_items: int, spread: float, alpha: float, power: float = 0.8) -> float:
    """Smallest true mean difference that a one-sided test at `alpha` shows with chance `power`.

    Source: the usual normal approximation, d = (z_alpha + z_power) spread / sqrt(n); Miller 2024, arXiv 2411.00640,
    section on power.

    Args:
        num_items: At least 1.
        spread: Standard deviation of the paired differences, in the unit of the answer.
        alpha: As in `smallest_detectable`.
        power: In (0, 1).
    """
    return float(special.ndtri(power) - special.ndtri(alpha)) * spread / math.sqrt(num_items)


def power_at(gain: float, *, num_items: int, discordance: float, alpha: float) -> float:
    """Chance that a one-sided test at `alpha` shows a true gain; the inverse of `smallest_detectable`.

    Args:
        gain: Share of the items, in (0, 1).
        num_items: At least 1.
        discordance: Share of items that differ; at least `gain`, which is taken where it is less.
        alpha: In (0, 1).
    """
    differing = max(discordance, gain)
    z_alpha = -float(special.ndtri(alpha))
    z_power = (gain * math.sqrt(num_items) - z_alpha * math.sqrt(differing)) / math.sqrt(differing - gain**2)
    return float(special.ndtr(z_power))


def chance_below(margin: float, *, num_items: int, standard_deviation: float, alpha: float) -> float:
    """Chance that a mean which is truly 0 is shown, at `alpha`, to be below `margin`; by the normal approximation.

    Args:
        margin: At least 0, in the unit of the standard deviation.
        num_items: At least 1.
        standard_deviation: Of the paired differences; above 0.
        alpha: In (0, 1).
    """
    return float(special.ndtr(margin * math.sqrt(num_items) / standard_deviation + special.ndtri(alpha)))
