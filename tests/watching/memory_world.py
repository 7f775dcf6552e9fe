"""A registry and a store in memory, and a publisher that needs no engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.checkpoint import inspect
from pipeline.hashing import hash_files
from pipeline.publishing import Published
from pipeline.stages import PublishProgress
from pipeline.watching.entries import Entry
from registry_hooks import contract, manifest
from registry_hooks.errors import UnknownModelError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.records import CheckpointDraft, Lineage

WAIT_S = 20.0
NAME = "hands-free"
Save = Callable[[int], Path]


def wait_until(what: str, condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)


@dataclass
class MemoryWorld:
    """Publishes entries as `publishing.publish` does, in the same order, without an engine.

    Attributes:
        errors: Raised for the entry of a step, first of all.
        before_upload: Called before the files of an entry go.
    """

    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    store: MemoryStore = field(default_factory=MemoryStore)
    errors: dict[int, Exception] = field(default_factory=dict)
    before_upload: Callable[[Entry], None] = lambda entry: None
    num_tries: int = 0

    def publish(self, entry: Entry, progress: PublishProgress) -> Published:
        self.num_tries += 1
        entry.check_unchanged()
        if entry.paper.step in self.errors:
            raise self.errors[entry.paper.step]
        found = inspect(entry.checkpoint)
        files = hash_files(found.folder, found.files, prefix="model", progress=lambda n: progress.advance("hash", n))
        listed = manifest.build(files)
        draft = self._draft(entry, listed.digest)
        version = self.registry.find_version(NAME, listed.digest)
        was_there = version is not None
        if version is None:
            place = self.registry.open_draft(draft)
            self.before_upload(entry)
            for one in listed.files:
                uri = f"{place.artifact_uri}/{one.path}"
                self.store.upload(found.folder / Path(one.path).name, one, uri, lambda n: progress.advance("upload", n))
            self.registry.finish_draft(draft, place)
            tags = {contract.TAG_STEP: str(found.step), contract.TAG_MANIFEST: listed.digest}
            version = self.registry.create_version(draft, place, tags)
        return Published(
            version=version,
            step=found.step,
            size_bytes=listed.size_bytes,
            was_there=was_there,
            nonfinite={},
            seconds={},
            total_s=0.0,
        )

    def steps(self) -> list[int]:
        """Steps of the versions, in the order in which they were made."""
        found: list[int] = []
        while True:
            try:
                found.append(self.registry.get_version(NAME, len(found) + 1).step or 0)
            except UnknownModelError:
                return found

    def _draft(self, entry: Entry, digest: str) -> CheckpointDraft:
        lineage = Lineage(
            step=entry.paper.step, config_hash="0" * 16, git_commit=None, git_dirty=None, saved_at=datetime.now(UTC)
        )
        return CheckpointDraft(
            name=NAME,
            digest=digest,
            lineage=lineage,
            metrics={},
            nonfinite={},
            params={},
            parent_run_id=entry.paper.parent_run_id,
            training_key="key",
            training_name="training",
        )
