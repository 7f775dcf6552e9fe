"""Publishes staged checkpoints as the settings say: the one place where the background meets MLflow and S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import connecting
from pipeline.merged_copy import merged_copy
from pipeline.publishing import Published, PublishOptions, publish
from pipeline.stages import PublishProgress
from pipeline.watching.entries import Entry, Paper
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.ports import CheckpointCatalog, ObjectWriter
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

# What no manifest has.
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPublisher:
    """Publishes entries of a queue, one at a time."""

    catalog: CheckpointCatalog
    writer: ObjectWriter
    settings: Settings

    def __call__(self, entry: Entry, progress: PublishProgress) -> Published:
        """Make a version of it, or find the one that it is.

        Raises:
            RelayError: What `publishing.publish` raises; and `CorruptFileError` where a file was written over.
        """
        entry.check_unchanged()
        # One cheap question first: while the registry is away, nothing is hashed and no engine started for nothing.
        self.catalog.find_version(self.settings.registry.name, _NO_DIGEST)
        paper = entry.paper
        if paper.base is None:
            return self._publish(entry.checkpoint, paper, progress)
        with merged_copy(entry.checkpoint, paper.base, name=paper.name) as merged:
            return self._publish(merged, paper, progress)

    def _publish(self, folder: Path, paper: Paper, progress: PublishProgress) -> Published:
        options = PublishOptions(
            run_id=paper.parent_run_id,
            step=paper.step,
            code_dir=paper.code_dir,
            code=paper.code,
            arguments=paper.arguments,
            origin=paper.origin,
            base=paper.base.name if paper.base else "",
        )
        return publish(
            folder,
            catalog=self.catalog,
            writer=self.writer,
            settings=self.settings,
            options=options,
            progress=progress,
        )


@contextmanager
def connected(settings: Settings) -> Iterator[EntryPublisher]:
    """A publisher with connections of its own, closed at the end.

    Raises:
        SettingsError: The address of MLflow or S3 is none.
    """
    with connecting.connected(settings) as registry:
        store = S3Store(settings.store, settings.s3_endpoint_url)
        try:
            catalog = MlflowCatalog(registry, experiment=settings.registry.experiment)
            yield EntryPublisher(catalog=catalog, writer=store, settings=beside_a_training(settings))
        finally:
            store.close()


def beside_a_training(settings: Settings) -> Settings:
    """The settings with the golden answers recorded on the CPU, unless somebody chose a device.

    The trainer has the card: an engine that takes memory on it could end the training.
    """
    if settings.engine.device != "auto":
        return settings
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"device": "cpu"})})


def target_of(settings: Settings) -> str:
    """Names where and as what a checkpoint is published."""
    return f"{settings.tracking_uri} {settings.registry.name} {settings.publish.dtype}"
