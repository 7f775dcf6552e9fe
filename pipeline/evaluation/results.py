"""What an evaluation found: one score and one loss for every item, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Scorer = Literal["exact_match", "accuracy"]
LOSS = "loss"
PREFIX = "eval/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """One item.

    Attributes:
        scorer: How it was scored: a text that the model wrote, or a choice by log-likelihood.
        score: 1 right, 0 wrong.
        loss: Mean negative log-likelihood of the right answer, in nats a token; finite.
        num_tokens: Of the right answer.
        said: What the model wrote, or the place of its choice.
        group: Items of one group count as one observation; empty for none.
    """

    item_id: str
    slice: str
    scorer: Scorer
    score: float
    loss: float
    num_tokens: int
    said: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Means over some items.

    Attributes:
        score: Share of right items, of both scorers together.
        exact_match: Of the items with a text; None where there are none.
        accuracy: Of the items with choices; None where there are none.
        loss: Mean of the items' losses, in nats a token.
    """

    num_items: int
    score: float
    exact_match: float | None
    accuracy: float | None
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A version's scores on a test set.

    Attributes:
        test_set: The set's name.
        fingerprint: sha256 over all that must be equal for two evaluations to be compared item by item.
        form: What the version brings along beside its weights (chat template, tokens, dtype), as short digests by
            name. It may differ between versions that are compared; then people are told.
        items: Sorted by id.
        seconds: From the start of the engine to the last score.
        device: `cpu` or `cuda`.
        dtype: In which the engine computed.
    """

    test_set: str
    test_set_digest: str
    fingerprint: str
    items: tuple[ItemScore, ...]
    seconds: float
    device: str
    dtype: str
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        """All items of the set: there is no evaluation of some of them."""
        return len(self.items)

    @property
    def overall(self) -> Summary:
        """Means over all items."""
        return _summary(self.items)

    @property
    def slices(self) -> Mapping[str, Summary]:
        """Means over each slice, by name."""
        names = sorted({item.slice for item in self.items})
        return {name: _summary(item for item in self.items if item.slice == name) for name in names}


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """The metrics of the version's run: `eval/exact_match`, `eval/accuracy`, `eval/loss`, and each with `/SLICE`."""
    found = _metrics(evaluation.overall)
    slices = evaluation.slices
    if len(slices) > 1:  # one slice alone says the same again
        for name, summary in slices.items():
            found |= {f"{key}/{name}": value for key, value in _metrics(summary).items()}
    return found


def _metrics(summary: Summary) -> dict[str, float]:
    values = {"exact_match": summary.exact_match, "accuracy": summary.accuracy, LOSS: summary.loss}
    return {PREFIX + name: value for name, value in values.items() if value is not None}


def _summary(items: Iterable[ItemScore]) -> Summary:
    items = tuple(items)
    return Summary(
        num_items=len(items),
        score=_mean(item.score for item in items) or 0.0,
        exact_match=_mean(item.score for item in items if item.scorer == "exact_match"),
        accuracy=_mean(item.score for item in items if item.scorer == "accuracy"),
        loss=_mean(item.loss for item in items) or 0.0,
    )


def _mean(values: Iterable[float]) -> float | None:
    numbers = tuple(values)
    return sum(numbers) / len(numbers) if numbers else None
