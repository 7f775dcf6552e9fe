"""Puts a promoter together from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.connecting import connected
from pipeline.evaluation.conduct import conduct_of
from pipeline.mlflow_pages import compare_link
from pipeline.promotion.acting import Hands
from pipeline.promotion.moves import this_person
from pipeline.promotion.policy import Policy, load_policy
from pipeline.promotion.reconciling import JudgeOfVersions, Promoter
from pipeline.promotion.rule import Rule
from registry_hooks import events
from registry_hooks.errors import RelayError
from registry_hooks.mlflow_promotion import MlflowPromotion
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

REPORT_FILE = "decision.json"


def clock() -> datetime:
    """Wall clock, UTC."""
    return datetime.now(UTC)


@contextmanager
def hands_of(settings: Settings) -> Iterator[Hands]:
    """What moves aliases, for commands."""
    with connected(settings) as registry:
        yield _hands(settings, registry)


@contextmanager
def promoter_of(
    settings: Settings, *, without_test_set: bool = False, on_progress: Callable[[], None] = lambda: None
) -> Iterator[tuple[Promoter, list[str]]]:
    """A promoter, and what its policy can show on its test set, as lines for people.

    Args:
        settings: All of them.
        without_test_set: Whether a person wants the policy's `score_metric` to decide, whatever the settings say.
        on_progress: Called whenever a version was, or is about to be, scored.

    Raises:
        SettingsError: The policy contradicts itself.
        TestSetError: The test set cannot be used.
    """
    policy = load_policy(settings.promoter.policy)
    with connected(settings) as registry:
        hands = _hands(settings, registry)
        path = None if without_test_set else settings.evaluate.test_set
        judge, rule, lines = _judge(settings, registry, policy, path, on_progress)
        if without_test_set:
            rule = replace(rule, asked_by=this_person())
        silent_after_s = settings.promoter.silent_after_s
        promoter = Promoter(hands=hands, judge=judge, rule=rule, clock=clock, silent_after_s=silent_after_s)
        yield promoter, [f"policy {policy.digest}", *lines]


def _hands(settings: Settings, registry: MlflowRegistry) -> Hands:
    book = MlflowPromotion(registry)
    store = S3Store(settings.store, settings.s3_endpoint_url)

    def keep_report(run_id: str, document: str) -> None:
        """A report that cannot be kept hurts nobody: the run and the descriptions say the same."""
        try:
            store.write(f"{book.artifact_root(run_id)}/{REPORT_FILE}", document.encode())
        except RelayError as error:
            events.logger().warning("report.not_kept", run_id=run_id, because=str(error))

    return Hands(
        registry=registry,
        book=book,
        name=settings.registry.name,
        alias=settings.registry.alias,
        keep_report=keep_report,
    )


def _judge(
    settings: Settings, registry: MlflowRegistry, policy: Policy, path: Path | None, on_progress: Callable[[], None]
) -> tuple[JudgeOfVersions, Rule, list[str]]:
    from pipeline.promotion.judging import ItemJudge, MetricJudge  # numpy and scipy: half a second

    def url(versions: Sequence[ModelVersion]) -> str:
        runs = {str(version.version): version.run_id for version in versions if version.run_id}
        return compare_link(settings.mlflow_url, settings.registry.name, runs)

    if path is None:
        direction = "lower" if policy.lower_is_better else "higher"
        line = f"no test set (evaluate.test_set): {policy.score_metric} decides, {direction} is better (point estimate)"
        rule = Rule(policy=policy.digest, score_metric=policy.score_metric)
        return MetricJudge(source=registry, policy=policy, compare_url=url), rule, [line]
    from pipeline.evaluation import test_set as test_sets
    from pipeline.evaluation.results import Evaluation
    from pipeline.evaluation.sampling import draw
    from pipeline.evaluation.scoring import Scoring
    from pipeline.evaluation.test_set import TestSet
    from pipeline.promotion.detectable import smallest_difference_lines
    from pipeline.promotion.reusing import CountingJudge, SamplingJudge, num_decisions

    test_set, num_sampled = test_sets.load(path), settings.evaluate.sample
    book, store = MlflowScores(registry), S3Store(settings.store, settings.s3_endpoint_url)

    def judge_on(items: TestSet) -> ItemJudge:
        scoring = Scoring(settings=settings, conduct=conduct_of(settings), test_set=items, book=book, store=store)

        def evaluate(version: ModelVersion) -> Evaluation:
            """Lists of versions do not say where the files lie, and most are never asked for."""
            on_progress()
            evaluation = scoring.score(registry.get_version(version.name, version.version))
            on_progress()
            return evaluation

        return ItemJudge(source=registry, policy=policy, compare_url=url, known=scoring.known, evaluate=evaluate)

    rule = Rule(
        policy=policy.digest,
        test_set=test_set.name,
        test_set_digest=test_set.digest,
        test_set_source=str(path.absolute()),
        test_set_sample=str(num_sampled or ""),
    )
    decides = draw(test_set, num_sampled, seed=0) if num_sampled else test_set  # any sample shows as much
    lines = smallest_difference_lines(decides.num_observations, decides.slices, policy)
    if num_sampled:
        return SamplingJudge(judge_on=judge_on, pool=test_set, num_items=num_sampled), rule, lines

    def num_before() -> int:
        return num_decisions(registry, settings.registry.name, test_set.digest)

    return CountingJudge(inner=judge_on(test_set), test_set=test_set, num_before=num_before), rule, lines
