"""What random histories run on: a registry that kills whoever asks or goes away, and scores from a table."""

from __future__ import annotations

from typing import Any

from pipeline.evaluation.results import Evaluation, ItemScore
from pipeline.promotion.judging import ItemJudge
from pipeline.promotion.policy import Policy
from registry_hooks import contract
from registry_hooks.errors import EvaluationError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

PRODUCTION = contract.ALIAS_PRODUCTION


class Killed(BaseException):
    """The process was killed here."""


class Registry(MemoryPromotion):
    """At the n-th call of its ports it kills whoever asks, or it goes away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left: int | None = None
        self.calls_until_down: int | None = None
        self.automatic_targets: list[int | None] = []

    def _answering(self) -> Any:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed
        if self.calls_until_down is not None:
            self.calls_until_down -= 1
            self.down = self.down or self.calls_until_down < 0
        return super()._answering()

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        super().set_alias(name, alias, version)
        if alias == PRODUCTION:
            self.automatic_targets.append(version)


class Bench:
    """Scores that a real judge asks for: by version, or why there is none.

    Attributes:
        scores: Of each version, 0 to 5.
        faults: Versions that cannot be scored: `item` (the test set does not work on them), `crash` (its
            engine dies).
        forms: What a version brings along beside its weights.
        is_full: Whether the card has no room for anybody.
    """

    def __init__(self, registry: Registry) -> None:
        self.scores: dict[int, int] = {}
        self.faults: dict[int, str] = {}
        self.forms: dict[int, str] = {}
        self.is_full = False
        self._registry = registry

    def judge(self) -> ItemJudge:
        return ItemJudge(
            source=self._registry,
            policy=Policy.model_validate({"primary": "loss", "num_flips": 100}),
            compare_url=lambda versions: None,
            known=lambda version: None,
            evaluate=self._evaluate,
        )

    def _evaluate(self, version: ModelVersion) -> Evaluation:
        if self.is_full:
            raise EvaluationError("the card has no room", stage="room", transient=True)
        self._registry.get_run(version.run_id or "")
        if fault := self.faults.get(version.version):
            raise EvaluationError(f"{fault}!", stage="asking", transient=fault == "crash")
        loss, form = 6.0 - self.scores[version.version], {"template": self.forms.get(version.version, "")}
        items = tuple(
            ItemScore(item_id=str(n), slice="", scorer="exact_match", score=0.0, loss=loss, num_tokens=1, said="")
            for n in range(8)
        )
        return Evaluation(
            test_set="t",
            test_set_digest="d",
            fingerprint="f",
            items=items,
            seconds=1.0,
            device="cpu",
            dtype="f",
            form=form,
        )
