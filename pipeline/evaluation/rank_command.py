"""`relay rank`: the versions by score, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.connecting import connected
from pipeline.evaluation import ranking
from pipeline.evaluation.ranking import Ranking, Row
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.score_record import read_entry
from pipeline.terminal import terminal
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.ports import ModelOverview, ObjectReader, ScoreBook
from registry_hooks.records import ScoreEntry
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

MAX_VERSIONS = 100


def run(*, settings: Settings) -> int:
    """Print the newest versions, best first; the process's exit code.

    Raises:
        RelayError: Registry or store did not answer, or there is no such model.
    """
    with connected(settings) as registry:
        found, names = read(
            settings.registry.name,
            overview=registry,
            book=MlflowScores(registry),
            reader=S3Store(settings.store, settings.s3_endpoint_url),
        )
    show(found, terminal(), test_set=names)
    return 0


def read(
    name: str, *, overview: ModelOverview, book: ScoreBook, reader: ObjectReader
) -> tuple[Ranking, ScoreEntry | None]:
    """The ranking of a model's newest versions, and what they were scored on.

    Raises:
        UnknownModelError: There is no such model.
        RegistryError: MLflow did not answer.
        StoreError: The store did not answer.
    """
    aliases = overview.aliases(name)
    versions = book.newest_versions(name, MAX_VERSIONS)
    entries = {version.version: book.score_entries(version) for version in versions}
    digest = ranking.common_test_set(entries)
    evaluations: dict[int, Evaluation] = {}
    shown: ScoreEntry | None = None
    for version in versions:
        entry = next((one for one in entries[version.version] if one.test_set_digest == digest), None)
        evaluation = read_entry(entry, reader) if entry else None
        if evaluation is not None:
            evaluations[version.version] = evaluation
            shown = shown or entry
    return ranking.rank(versions, evaluations, aliases), shown


def show(found: Ranking, console: Console, *, test_set: ScoreEntry | None) -> None:
    """Print it for people."""
    if not found.rows or test_set is None:
        console.print("no version has scores yet: `relay evaluate VERSION --test-set FILE` makes some")
    else:
        names = sorted({name for row in found.rows for name in row.evaluation.slices})
        names = names if len(names) > 1 else []
        console.print(
            f"scored on {escape(test_set.test_set)} ({test_set.test_set_digest[:12]}, {test_set.num_items} items)",
            soft_wrap=True,
        )
        console.print(_table(found.rows, names))
    if not all(row.is_comparable for row in found.rows):
        console.print(
            "* scored another way than most (prompts, chat template, dtype, device or engine): do not compare",
            soft_wrap=True,
        )
    if found.rows and found.unscored:
        listed = ", ".join(str(version.version) for version in found.unscored)
        console.print(f"without scores on it: version {listed}", soft_wrap=True)


def _table(rows: Sequence[Row], slices: Sequence[str]) -> Table:
    table = Table("version", "step", "score", "95 %", "loss", *map(escape, slices), "state", "aliases")
    for column in table.columns:
        column.overflow = "fold"  # a name that does not fit goes on in the next line, not away
    for row in rows:
        overall, by_slice = row.evaluation.overall, row.evaluation.slices
        mark = "" if row.is_comparable else " *"
        table.add_row(
            f"{row.version.version}{mark}",
            "-" if row.version.step is None else str(row.version.step),
            f"{overall.score:.3f}",
            f"{row.low:.3f}-{row.high:.3f}",
            f"{overall.loss:.4f}",
            *(f"{by_slice[name].score:.3f}" if name in by_slice else "-" for name in slices),
            escape(row.state) or "-",
            escape(", ".join(row.aliases)) or "-",
        )
    return table
