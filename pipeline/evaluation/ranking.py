"""Which version is best on the test set, for people to read. Pure; the promoter decides by other means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.results import Evaluation
from registry_hooks import contract
from registry_hooks.records import ModelVersion, ScoreEntry

_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A version with scores.

    Attributes:
        low: Lower end of the 95 % interval of the score.
        high: Upper end.
        is_comparable: Whether it was scored as most others were, so that their numbers mean the same.
    """

    version: ModelVersion
    evaluation: Evaluation
    low: float
    high: float
    aliases: tuple[str, ...]
    is_comparable: bool

    @property
    def state(self) -> str:
        """What the promoter made of it; empty when nobody did."""
        return self.version.tags.get(contract.TAG_STATE, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All versions.

    Attributes:
        rows: Best first; of equal scores the one with the smaller loss.
        unscored: Versions without scores on that test set.
    """

    rows: tuple[Row, ...]
    unscored: tuple[ModelVersion, ...]


def common_test_set(entries: Mapping[int, Sequence[ScoreEntry]]) -> str | None:
    """Digest of the test set on which most versions were scored; of equals the one of the newest version.

    Args:
        entries: By number of the version.
    """
    counts = Counter(entry.test_set_digest for found in entries.values() for entry in found)
    newest = {entry.test_set_digest: number for number in sorted(entries) for entry in entries[number]}
    return max(counts, key=lambda digest: (counts[digest], newest[digest], digest), default=None)


def rank(
    versions: Sequence[ModelVersion], evaluations: Mapping[int, Evaluation], aliases: Mapping[str, int]
) -> Ranking:
    """Sort the versions by score.

    Args:
        evaluations: By number of the version, all of one test set.
        aliases: Of the registered model.
    """
    prints = Counter(evaluation.fingerprint for evaluation in evaluations.values())
    usual = prints.most_common(1)[0][0] if prints else ""
    rows = [
        _row(version, evaluations[version.version], aliases, usual)
        for version in versions
        if version.version in evaluations
    ]
    rows.sort(key=lambda row: (-row.evaluation.overall.score, row.evaluation.overall.loss, row.version.version))
    unscored = tuple(version for version in versions if version.version not in evaluations)
    return Ranking(rows=tuple(rows), unscored=unscored)


def wilson(score: float, num_items: int) -> tuple[float, float]:
    """The 95 % interval of a share of right items, within 0..1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if num_items == 0:
        return 0.0, 1.0
    square = _Z_95**2
    centre = (score + square / (2 * num_items)) / (1 + square / num_items)
    spread = score * (1 - score) / num_items + square / (4 * num_items**2)
    half = _Z_95 / (1 + square / num_items) * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _row(version: ModelVersion, evaluation: Evaluation, aliases: Mapping[str, int], usual: str) -> Row:
    low, high = wilson(evaluation.overall.score, evaluation.num_items)
    return Row(
        version=version,
        evaluation=evaluation,
        low=low,
        high=high,
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version.version)),
        is_comparable=evaluation.fingerprint == usual,
    )
