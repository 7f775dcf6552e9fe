"""`relay evaluate`: scores versions on a test set and writes the scores into the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.evaluation import test_set as test_sets
from pipeline.evaluation.conduct import Conduct
from pipeline.evaluation.evaluating import evaluate
from pipeline.evaluation.results import Evaluation, Summary
from pipeline.evaluation.score_record import record
from pipeline.evaluation.test_set import TestSet
from pipeline.evaluation.version_files import cache_of, fetch_version
from registry_hooks.errors import RelayError, UnknownModelError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.ports import VersionSource
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings


def run(versions: Sequence[str], *, settings: Settings, test_set: Path, conduct: Conduct | None = None) -> int:
    """Score each version and print what came out; the process's exit code, 1 when one could not be scored.

    Args:
        versions: Numbers or aliases.

    Raises:
        TestSetError: The test set cannot be used.
        UnknownModelError: There is no such version or alias; nothing was scored.
        RegistryError: MLflow did not answer.
    """
    items = test_sets.load(test_set)
    console = Console(highlight=False, soft_wrap=True)
    timeouts = settings.registry
    registry = MlflowRegistry(
        settings.tracking_uri, timeout_s=timeouts.timeout_s, write_timeout_s=timeouts.write_timeout_s
    )
    try:
        wanted = [find(registry, timeouts.name, text) for text in versions]
        task = _Task(
            settings=settings,
            conduct=conduct or Conduct(),
            test_set=items,
            book=MlflowScores(registry),
            store=S3Store(settings.store, settings.s3_endpoint_url),
        )
        console.print(f"{len(items.items)} items of {escape(items.name)} ({items.digest[:12]})")
        scored = [_scored(task, version, console) for version in wanted]
    finally:
        registry.close()
    return 0 if all(scored) else 1


def find(source: VersionSource, name: str, text: str) -> ModelVersion:
    """The version that a person means by `7`, `Production` or `@Production`.

    Raises:
        UnknownModelError: There is none.
    """
    if text.isdecimal():
        return source.get_version(name, int(text))
    found = source.resolve_alias(name, text.removeprefix("@"))
    if found is None:
        raise UnknownModelError(f"{name!r} has no alias {text.removeprefix('@')!r}: nothing was scored")
    return found


def score_table(evaluation: Evaluation, title: str) -> Table:
    """Overall and each slice."""
    table = Table("slice", "items", "score", "exact match", "accuracy", "loss", title=title, title_justify="left")
    _add(table, "all", evaluation.overall)
    slices = evaluation.slices
    for name, summary in slices.items() if len(slices) > 1 else ():
        _add(table, escape(name), summary)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    settings: Settings
    conduct: Conduct
    test_set: TestSet
    book: MlflowScores
    store: S3Store


def _scored(task: _Task, version: ModelVersion, console: Console) -> bool:
    """Whether a version was scored; where it was not, says why, and the next one has its turn."""
    try:
        task.book.artifact_root(version)  # better known before the work than after it
        cache = cache_of(task.settings, task.conduct)
        folder = fetch_version(version, reader=task.store, cache=cache, settings=task.settings, conduct=task.conduct)
        evaluation = evaluate(
            folder,
            task.test_set,
            settings=task.settings.engine,
            deadline_s=task.conduct.deadline_s,
            conduct=task.conduct,
        )
        record(evaluation, version, test_set=task.test_set, book=task.book, writer=task.store)
    except RelayError as error:
        console.print(f"{version.label} was not scored: {escape(str(error))}", style="red")
        return False
    how = f"{evaluation.seconds:.1f} s on {evaluation.device} in {evaluation.dtype}"
    console.print(score_table(evaluation, f"{escape(version.label)} step {version.step}, {how}"))
    return True


def _add(table: Table, name: str, summary: Summary) -> None:
    shares = (summary.score, summary.exact_match, summary.accuracy)
    shown = ("-" if share is None else f"{share:.3f}" for share in shares)
    table.add_row(name, str(summary.num_items), *shown, f"{summary.loss:.4f}")
