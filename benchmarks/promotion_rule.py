"""How often the promotion rule moves the alias, beside "the best score wins": `python benchmarks/promotion_rule.py`.

Simulated right-or-wrong scores of checkpoints of one training: items differ in difficulty (2 logits), checkpoints agree
about most of them (some 14 % differ between two), and the incumbent is right on 70 %. Losses are those of an answer of
one token; between two checkpoints they differ with a standard deviation of 0.35 nats an item. The whole rule decides,
with four slices and the default policy. The file is not named `statistics`, which would hide Python's own module from
it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Final

import numpy as np
import numpy.typing as npt
from support.report import Report, Row

from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores

FloatArray = npt.NDArray[np.float64]

# Logits; chosen so that the incumbent is right on 70 % and two equal checkpoints differ on 14 %.
INTERCEPT: Final = 1.35
DIFFICULTY_SD: Final = 2.0
CHECKPOINT_SD: Final = 0.6
SHARED_LUCK: Final = 0.85
NUM_SLICES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is true of the candidates.

    Attributes:
        points_of_all: By how many points every candidate is truly better.
        points_of_one: By how many points more one of them is.
        rise: By how many nats the candidates' mean loss is higher; None where losses are not measured.
    """

    num_items: int
    num_candidates: int
    points_of_all: float = 0.0
    points_of_one: float = 0.0
    rise: float | None = None

    @property
    def what(self) -> str:
        """The row's name."""
        truth = "all equal" if not self.points_of_all else f"all {self.points_of_all:+.0f} points"
        if self.points_of_one:
            truth = f"one {self.points_of_one:+.0f} points"
        who = "1 candidate" if self.num_candidates == 1 else f"{self.num_candidates} candidates"
        loss = "" if self.rise is None else f", loss {self.rise:+.2f} nats"
        return f"{truth}{loss}, {self.num_items} items, {who}: the alias moves"


WORLDS: Final = (
    World(num_items=1000, num_candidates=1),
    World(num_items=1000, num_candidates=5),
    World(num_items=1000, num_candidates=20),
    World(num_items=500, num_candidates=20, points_of_all=-2),
    World(num_items=1000, num_candidates=5, points_of_one=2),
    World(num_items=1000, num_candidates=5, points_of_one=3),
    World(num_items=3000, num_candidates=20, points_of_one=3),
    World(num_items=1000, num_candidates=20, points_of_one=5),
    World(num_items=1000, num_candidates=1, rise=0.0),
    World(num_items=300, num_candidates=1, points_of_one=5, rise=0.0),
    World(num_items=1000, num_candidates=1, points_of_one=5, rise=-0.1),
    World(num_items=1000, num_candidates=1, points_of_one=5, rise=0.0),
    World(num_items=1000, num_candidates=1, points_of_one=5, rise=0.03),
    World(num_items=1000, num_candidates=1, points_of_one=5, rise=0.1),
)
STRICT: Final = Policy(guardrail_forbids="possible_rise")


def main() -> None:
    """Simulate every world and write the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--decisions", type=int, default=1000, help="simulated decisions in each row")
    num_decisions: int = arguments.parse_args().decisions
    started = time.process_time()
    rows: list[Row] = []
    for world in WORLDS:
        rows += _measure(world, num_decisions)
    Report(
        name="statistics",
        title="Promotion rule: false promotions and power",
        lines=[
            f"{num_decisions} simulated decisions in each row, each by the whole rule with the default policy "
            f"(alpha 0.05, {Policy().num_flips} sign flips, least gain 0.5 points, {NUM_SLICES} slices). `plain` moves "
            "the alias to the best score whenever that is above the incumbent's.",
            "The number is the share of decisions that move the alias; in brackets its 95 % interval (Wilson), not a "
            "spread of rounds. Where all are equal or worse every move is a mistake; where one is better the row below "
            "says how often the move went to that one. Where losses are given, `strict` is the rule with "
            "`guardrail_forbids: possible_rise`; the other rows are without losses, so without the guardrail.",
            f"CPU time {time.process_time() - started:.0f} s; numpy {metadata.version('numpy')}, scipy "
            f"{metadata.version('scipy')}; seeds are fixed.",
        ],
        rows=rows,
    ).write()


def _measure(world: World, num_decisions: int) -> list[Row]:
    generator = np.random.default_rng([world.num_items, world.num_candidates, round(world.points_of_one * 10)])
    policy = Policy(max_candidates=max(6, world.num_candidates))
    right = world.num_candidates  # the last version is the one that is better
    ours, plain, strict = [], [], []
    for seed in range(num_decisions):
        incumbent, *rivals = _candidates(world, generator)
        ours.append(decide(incumbent, rivals, policy=policy.model_copy(update={"seed": seed})).winner)
        means = [float(one.values.mean()) for one in (incumbent, *rivals)]
        plain.append(means.index(max(means)) or None)
        if world.rise is not None:
            strict.append(decide(incumbent, rivals, policy=STRICT.model_copy(update={"seed": seed})).winner)
    moved = [one is not None for one in plain]
    rows = [_row(world.what, [one is not None for one in ours], moved)]
    if world.points_of_one:
        rows.append(_row("… and to the better one", [one == right for one in ours], [one == right for one in plain]))
    if strict:
        rows.append(_row("… by the strict guardrail", [one is not None for one in strict], moved))
    return rows


def _candidates(world: World, generator: np.random.Generator) -> list[Scores]:
    """The incumbent and its rivals, the one that is better last."""
    points = [world.points_of_all] * (world.num_candidates - 1) + [world.points_of_all + world.points_of_one]
    gains = np.array([0.0, *(_logits(one / 100) for one in points)])
    values, losses = _scores(generator, gains, world.num_items)
    if world.rise is None:
        return [_as_scores(version, row) for version, row in enumerate(values)]
    losses[1:] += world.rise - _natural_rise(points[-1])
    return [_as_scores(version, values[version], losses[version]) for version in range(len(values))]


def _scores(generator: np.random.Generator, gains_K: FloatArray, num_items: int) -> tuple[FloatArray, FloatArray]:
    """Right-or-wrong scores and losses, shape (models, items) each; the first row is the incumbent's."""
    shape = (len(gains_K), num_items)
    logits = INTERCEPT + gains_K[:, None] - generator.normal(0, DIFFICULTY_SD, num_items)
    noisy = logits + generator.normal(0, CHECKPOINT_SD, shape)
    luck = np.where(generator.random(shape) < SHARED_LUCK, generator.random(num_items), generator.random(shape))
    return (luck < 1 / (1 + np.exp(-noisy))).astype(np.float64), np.logaddexp(0, -noisy)


@lru_cache
def _natural_rise(points: float) -> float:
    """What the mean loss does by itself where a model becomes better by so many points: it falls."""
    losses = _scores(np.random.default_rng(0), np.array([0.0, _logits(points / 100)]), 1_000_000)[1]
    return float((losses[1] - losses[0]).mean())


@lru_cache
def _logits(gain: float) -> float:
    """The gain in logits that makes a model better by so large a share of all items, by bisection."""
    if not gain:
        return 0.0
    generator = np.random.default_rng(0)
    spread = math.hypot(DIFFICULTY_SD, CHECKPOINT_SD)
    logits = INTERCEPT + generator.normal(0, spread, 1_000_000)

    def share(shift: float) -> float:
        return float((1 / (1 + np.exp(-(logits + shift)))).mean())

    base, low, high = share(0.0), -3.0, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) - base < gain else (low, middle)
    return (low + high) / 2


def _as_scores(version: int, values: FloatArray, losses: FloatArray | None = None) -> Scores:
    n = len(values)
    return Scores(
        version=version,
        digest=f"{version}",
        step=version,
        item_ids=tuple(f"{i:05}" for i in range(n)),
        slices=tuple(f"slice {i % NUM_SLICES}" for i in range(n)),
        values=values,
        losses=losses,
        fingerprint="simulated",
    )


def _row(what: str, ours: Sequence[bool], plain: Sequence[bool]) -> Row:
    return Row(what=what, ours=_interval(ours), peer=_interval(plain), unit="share")


def _interval(hits: Sequence[bool]) -> tuple[float, float, float]:
    """Wilson's 95 % interval around the share, so that the report's median is the share and its spread the interval.

    Source: Wilson 1927, JASA 22(158).
    """
    n, share, z = len(hits), sum(hits) / len(hits), 1.96
    centre, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (max(0.0, (centre - half) / (1 + z**2 / n)), share, min(1.0, (centre + half) / (1 + z**2 / n)))


if __name__ == "__main__":
    main()
