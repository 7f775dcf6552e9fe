"""`relay publish`: publishing with a progress bar, or plain lines where nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from pipeline.connecting import connected
from pipeline.merged_copy import merged_copy
from pipeline.mlflow_pages import version_link
from pipeline.publishing import Published, PublishOptions, publish
from pipeline.stages import PublishProgress
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

__all__ = ["PublishOptions", "run"]

_WORDS = {
    "validate": "reading",
    "convert": "converting",
    "hash": "hashing",
    "upload": "uploading",
    "golden": "golden answers",
    "register": "registering",
}


def run(folder: Path, *, settings: Settings, options: PublishOptions, base: Path | None = None) -> int:
    """Publish `folder` and say so; the process's exit code.

    Args:
        base: The checkpoint that `folder`, a LoRA adapter, is merged into first.

    Raises:
        RelayError: What `publishing.publish` raises, or the adapter does not fit its base.
    """
    if base is None:
        return _publish(folder, settings=settings, options=options)
    with merged_copy(folder, base, name=folder.resolve().name) as merged:
        return _publish(merged, settings=settings, options=replace(options, origin=folder, base=base.resolve().name))


def _publish(folder: Path, *, settings: Settings, options: PublishOptions) -> int:
    console = Console(stderr=False, highlight=False, soft_wrap=True)
    with connected(settings) as registry, _shown(console) as progress:
        published = publish(
            folder,
            catalog=MlflowCatalog(registry, experiment=settings.registry.experiment),
            writer=S3Store(settings.store, settings.s3_endpoint_url),
            settings=settings,
            options=options,
            progress=progress,
        )
    _report(console, published, settings.mlflow_url)
    return 0


def _report(console: Console, published: Published, mlflow_url: str) -> None:
    version = published.version
    if published.nonfinite:
        listed = ", ".join(f"{key} = {value}" for key, value in sorted(published.nonfinite.items()))
        console.print(f"warning: not finite, so not attached to the version: {listed}", style="yellow")
    for note in published.notes:
        console.print(f"note: {note}", style="yellow")
    if published.was_there:
        console.print(f"{version.label} holds these very files already: nothing was published again")
    else:
        seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in published.seconds.items())
        console.print(f"seconds: {seconds}")
        console.print(
            f"published {version.label} step {published.step}, {published.size_bytes / 1e6:.1f} MB "
            f"in {published.total_s:.1f} s"
        )
    console.print(version_link(mlflow_url, version.name, version.version))


@contextmanager
def _shown(console: Console) -> Iterator[PublishProgress]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Lines:
    """A line when a stage is over."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, stage: str, total_bytes: int) -> None:
        """Nothing yet."""

    def advance(self, stage: str, num_bytes: int) -> None:
        """Nothing: a log has no use for it."""

    def end(self, stage: str, seconds: float) -> None:
        self._console.print(f"{_WORDS.get(stage, stage)}: {seconds:.1f} s")


class _Bars:
    """A bar for each stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def begin(self, stage: str, total_bytes: int) -> None:
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(_WORDS.get(stage, stage), total=total_bytes or None)

    def advance(self, stage: str, num_bytes: int) -> None:
        self._bars.advance(self._tasks[stage], num_bytes)

    def end(self, stage: str, seconds: float) -> None:
        task = self._tasks[stage]
        self._bars.update(
            task, total=self._bars.tasks[task].completed or 1, completed=self._bars.tasks[task].completed or 1
        )
