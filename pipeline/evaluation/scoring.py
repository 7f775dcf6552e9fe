"""The scores of a version on one test set: those on record, or new ones, fetched, measured and written down."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.conduct import Conduct
from pipeline.evaluation.evaluating import evaluate
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.score_record import record, recorded
from pipeline.evaluation.test_set import TestSet
from pipeline.evaluation.version_files import cache_of, fetch_version
from registry_hooks import events
from registry_hooks.blobs import BlobCache
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Scores versions on one test set."""

    settings: Settings
    conduct: Conduct
    test_set: TestSet
    book: MlflowScores
    store: S3Store

    def known(self, version: ModelVersion) -> Evaluation | None:
        """What is on record; None when there is nothing."""
        return recorded(version, self.test_set.digest, book=self.book, reader=self.store)

    def score(self, version: ModelVersion) -> Evaluation:
        """Score it now, and write that down.

        Raises:
            EvaluationError: There is no score, and why.
            RelayError: Its files cannot be had, or the scores not be written down.
        """
        self.book.artifact_root(version)  # better known before the work than after it
        cache = cache_of(self.settings, self.conduct)
        try:
            return self._score(version, cache)
        finally:
            cache.use_only(frozenset())  # else what was scored once could never be evicted

    def _score(self, version: ModelVersion, cache: BlobCache) -> Evaluation:
        folder = fetch_version(version, reader=self.store, cache=cache, settings=self.settings, conduct=self.conduct)
        found = evaluate(
            folder,
            self.test_set,
            settings=self.settings.engine,
            deadline_s=self.conduct.deadline_s,
            conduct=self.conduct,
        )
        record(found, version, test_set=self.test_set, book=self.book, writer=self.store)
        overall = found.overall
        events.logger().info(
            "version.scored", version=version.version, score=overall.score, loss=overall.loss, seconds=found.seconds
        )
        return found
