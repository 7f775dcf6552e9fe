"""Versions whose evaluations come from a table, and the judges of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.evaluation.results import Evaluation, ItemScore
from pipeline.promotion.acting import Judgement
from pipeline.promotion.judging import ItemJudge, MetricJudge
from pipeline.promotion.policy import Policy
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

NAME = "model"

NUM_ITEMS = 200


def evaluation(num_right: int, *, fingerprint: str = "f", template: str = "t") -> Evaluation:
    items = tuple(
        ItemScore(
            item_id=f"{place:03}",
            slice="even" if place % 2 == 0 else "odd",
            scorer="exact_match",
            score=float(place < num_right),
            loss=1.0 if place >= num_right else 0.5,
            num_tokens=3,
            said="",
        )
        for place in range(NUM_ITEMS)
    )
    return Evaluation(
        test_set="t",
        test_set_digest="d",
        fingerprint=fingerprint,
        items=items,
        seconds=1.0,
        device="cpu",
        dtype="f",
        form={"chat template": template, "dtype": "f"},
    )


class Bench:
    """Versions in a registry, and a judge whose evaluations come from a table; an exception there is raised."""

    def __init__(self) -> None:
        self.registry = MemoryPromotion()
        self.now: dict[int, Any] = {}
        self.on_record: dict[int, Evaluation] = {}
        self.evaluated: list[int] = []

    def publish(
        self, found: Any, *, loss: float | None = 1.0, eval_step: int = 100, is_nan: bool = False
    ) -> ModelVersion:
        tags = {"relay.step": "100", "relay.manifest_sha256": "0" * 64}
        tags |= {"relay.nonfinite_metrics": "eval_loss=nan, eval_rouge=nan"} if is_nan else {}
        version = self.registry.add_version(
            NAME,
            artifact_uri="s3://b/x",
            tags=tags,
            metrics={} if loss is None else {"eval_loss": loss},
            params={"eval_step": str(eval_step)},
        )
        self.now[version.version] = found
        return version

    def judge(self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion]) -> Judgement:
        return self.of_items().judge(incumbent, candidates)

    def of_items(self, **policy: Any) -> ItemJudge:
        return ItemJudge(
            source=self.registry,
            policy=Policy.model_validate(policy),
            compare_url=lambda versions: f"http://mlflow/{len(versions)}",
            known=lambda version: self.on_record.get(version.version),
            evaluate=self._evaluate,
        )

    def of_metrics(self) -> MetricJudge:
        url: Callable[[Sequence[ModelVersion]], str] = lambda versions: "http://mlflow"  # noqa: E731
        return MetricJudge(source=self.registry, policy=Policy.model_validate({}), compare_url=url)

    def _evaluate(self, version: ModelVersion) -> Evaluation:
        self.evaluated.append(version.version)
        found = self.now[version.version]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Evaluation)
        return found
