"""Scores into the registry and back: metrics, test set and a tag at the version's run, items in the store beside it."""

from __future__ import annotations

from pipeline.evaluation import scores
from pipeline.evaluation.results import Evaluation, metrics_of
from pipeline.evaluation.test_set import TestSet
from registry_hooks import contract
from registry_hooks.errors import EvaluationError, ObjectMissingError
from registry_hooks.ports import ObjectReader, ObjectWriter, ScoreBook
from registry_hooks.records import ModelVersion, ScoreEntry


def record(
    evaluation: Evaluation, version: ModelVersion, *, test_set: TestSet, book: ScoreBook, writer: ObjectWriter
) -> ScoreEntry:
    """Write an evaluation down; what stood there of the same test set is replaced.

    The file goes first and the entry that names it last: an entry that can be seen has its file.

    Raises:
        UserError: The version has no run to which scores could belong.
        RegistryError: MLflow refused or did not answer.
        StoreError: The store refused or did not answer, or the run's artifacts are not in S3.
    """
    uri = f"{book.artifact_root(version)}/{contract.scores_file(evaluation.test_set_digest)}"
    entry = ScoreEntry(
        test_set=evaluation.test_set,
        test_set_source=test_set.source,
        test_set_digest=evaluation.test_set_digest,
        fingerprint=evaluation.fingerprint,
        num_items=evaluation.num_items,
        seconds=evaluation.seconds,
        uri=uri,
    )
    writer.write(uri, scores.to_parquet(evaluation))
    book.record_scores(version, entry, metrics_of(evaluation))
    return entry


def recorded(
    version: ModelVersion,
    test_set_digest: str,
    fingerprint: str | None = None,
    *,
    book: ScoreBook,
    reader: ObjectReader,
) -> Evaluation | None:
    """What was written down for that test set; None when there is nothing usable.

    Args:
        fingerprint: That it must have; None takes any.

    Raises:
        RegistryError: MLflow did not answer.
        StoreError: The store did not answer.
    """
    entry = next((one for one in book.score_entries(version) if one.test_set_digest == test_set_digest), None)
    if entry is None or fingerprint not in (None, entry.fingerprint):
        return None
    return read_entry(entry, reader)


def read_entry(entry: ScoreEntry, reader: ObjectReader) -> Evaluation | None:
    """The evaluation behind an entry; None when its file is gone, unreadable, or is another one's.

    Raises:
        StoreError: The store did not answer.
    """
    try:
        found = scores.from_parquet(reader.read(entry.uri, scores.MAX_PARQUET_BYTES))
    except (ObjectMissingError, EvaluationError):
        return None
    same = (found.test_set_digest, found.fingerprint) == (entry.test_set_digest, entry.fingerprint)
    return found if same else None
