"""`relay evaluate`: scores versions on a test set and writes the scores into the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.connecting import connected
from pipeline.evaluation import test_set as test_sets
from pipeline.evaluation.conduct import Conduct
from pipeline.evaluation.results import Evaluation, Summary
from pipeline.evaluation.scoring import Scoring
from registry_hooks.errors import RelayError, UnknownModelError
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
    with connected(settings) as registry:
        wanted = [find(registry, settings.registry.name, text) for text in versions]
        scoring = Scoring(
            settings=settings,
            conduct=conduct or Conduct(),
            test_set=items,
            book=MlflowScores(registry),
            store=S3Store(settings.store, settings.s3_endpoint_url),
        )
        console.print(f"{len(items.items)} items of {escape(items.name)} ({items.digest[:12]})")
        scored = [_scored(scoring, version, console) for version in wanted]
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
    _add(table, "(all items)", evaluation.overall)  # `all` is the slice of those that name none
    slices = evaluation.slices
    for name, summary in slices.items() if len(slices) > 1 else ():
        _add(table, escape(name), summary)
    return table


def _scored(scoring: Scoring, version: ModelVersion, console: Console) -> bool:
    """Whether a version was scored; where it was not, says why, and the next one has its turn."""
    try:
        evaluation = scoring.score(version)
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
