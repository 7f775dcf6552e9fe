"""Puts a promoter together from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from pipeline.compare_link import compare_link
from pipeline.evaluation.conduct import conduct_of
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.test_set import TestSet
from pipeline.promotion.acting import Hands
from pipeline.promotion.policy import Policy, load_policy
from pipeline.promotion.reconciling import JudgeOfVersions, Promoter
from registry_hooks import events
from registry_hooks.errors import RelayError
from registry_hooks.mlflow_promotion import MlflowPromotion
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

REPORT_FILE = "decision.json"


def clock() -> datetime:
    """Wall clock, UTC."""
    return datetime.now(UTC)


@contextmanager
def connected(settings: Settings) -> Iterator[MlflowRegistry]:
    """The registry, closed at the end."""
    timeouts = settings.registry
    registry = MlflowRegistry(
        settings.tracking_uri, timeout_s=timeouts.timeout_s, write_timeout_s=timeouts.write_timeout_s
    )
    try:
        yield registry
    finally:
        registry.close()


@contextmanager
def hands_of(settings: Settings) -> Iterator[Hands]:
    """What moves aliases, for commands."""
    with connected(settings) as registry:
        yield _hands(settings, registry)


@contextmanager
def promoter_of(settings: Settings) -> Iterator[tuple[Promoter, list[str]]]:
    """A promoter, and what its policy can show on its test set, as lines for people.

    Raises:
        SettingsError: The policy contradicts itself.
        TestSetError: The test set cannot be used.
    """
    policy = load_policy(settings.promoter.policy)
    with connected(settings) as registry:
        hands = _hands(settings, registry)
        judge, lines = _judge(settings, registry, policy)
        silent_after_s = settings.promoter.silent_after_s
        promoter = Promoter(hands=hands, judge=judge, clock=clock, silent_after_s=silent_after_s)
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


def _judge(settings: Settings, registry: MlflowRegistry, policy: Policy) -> tuple[JudgeOfVersions, list[str]]:
    from pipeline.promotion.judging import ItemJudge, MetricJudge  # numpy and scipy: half a second

    def url(versions: Sequence[ModelVersion]) -> str:
        runs = {str(version.version): version.run_id for version in versions if version.run_id}
        return compare_link(settings.tracking_uri, settings.registry.name, runs)

    if settings.evaluate.test_set is None:
        direction = "lower" if policy.lower_is_better else "higher"
        line = f"no test set (evaluate.test_set): {policy.score_metric} decides, {direction} is better (point estimate)"
        return MetricJudge(source=registry, policy=policy, compare_url=url), [line]
    from pipeline.evaluation import test_set as test_sets
    from pipeline.promotion.detectable import smallest_difference_lines

    test_set = test_sets.load(settings.evaluate.test_set)
    known, evaluate = _scoring(settings, registry, test_set)
    judge = ItemJudge(source=registry, policy=policy, compare_url=url, known=known, evaluate=evaluate)
    return judge, smallest_difference_lines(len(test_set.items), test_set.slices, policy)


def _scoring(
    settings: Settings, registry: MlflowRegistry, test_set: TestSet
) -> tuple[Callable[[ModelVersion], Evaluation | None], Callable[[ModelVersion], Evaluation]]:
    """What is on record of a version's scores, and how to make new ones."""
    from pipeline.evaluation.evaluating import evaluate
    from pipeline.evaluation.score_record import record, recorded
    from pipeline.evaluation.version_files import cache_of, fetch_version
    from registry_hooks.mlflow_scores import MlflowScores

    conduct, book = conduct_of(settings), MlflowScores(registry)
    store, cache = S3Store(settings.store, settings.s3_endpoint_url), cache_of(settings, conduct)

    def known(version: ModelVersion) -> Evaluation | None:
        return recorded(version, test_set.digest, book=book, reader=store)

    def score(version: ModelVersion) -> Evaluation:
        folder = fetch_version(version, reader=store, cache=cache, settings=settings, conduct=conduct)
        found = evaluate(folder, test_set, settings=settings.engine, deadline_s=conduct.deadline_s, conduct=conduct)
        record(found, version, test_set=test_set, book=book, writer=store)
        overall = found.overall
        events.logger().info(
            "version.scored", version=version.version, score=overall.score, loss=overall.loss, seconds=found.seconds
        )
        return found

    return known, score
