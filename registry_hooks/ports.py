"""What the two sides need of the registry and the store, in their own words.

Every adapter, the in-memory twin included, passes `tests/contracts/`. All methods block for a bounded time, may be
called from any thread, and raise only errors of `registry_hooks.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from registry_hooks.manifest import FileEntry
from registry_hooks.records import CheckpointDraft, DraftPlace, ModelVersion, ObjectInfo, RunRecord, ScoreEntry

RunStatus = Literal["RUNNING", "FINISHED"]

Progress = Callable[[int], None]
"""Told how many more bytes have been moved, from any thread."""
Check = Callable[[], None]
"""Raises when what is under way must end."""


def no_check() -> None:
    """Lets everything go on."""


class VersionSource(Protocol):
    """What a server reads of the registry."""

    def resolve_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` names now; None when the model exists and has no such alias.

        Raises:
            UnknownModelError: There is no registered model `name`.
            RegistryUnavailableError: No answer in time.
        """

    def get_version(self, name: str, version: int) -> ModelVersion:
        """One version.

        Raises:
            UnknownModelError: There is no such version.
            RegistryUnavailableError: No answer in time.
        """

    def run_metrics(self, run_id: str) -> Mapping[str, float]:
        """Last value of each metric of a run; NaN and infinities as they were logged."""


class RunSource(Protocol):
    """What judging reads of trainings."""

    def get_run(self, run_id: str) -> RunRecord:
        """All that a run tells: params, tags, the last value of each metric.

        Raises:
            UnknownModelError: There is no such run (any more).
            RegistryUnavailableError: No answer in time.
        """


class ReportSink(Protocol):
    """What a server writes into the registry."""

    def set_version_tag(self, name: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None removes it, also when it was not there."""

    def set_model_tag(self, name: str, key: str, value: str | None) -> None:
        """Set a tag of a registered model; None removes it, also when it was not there."""

    def record_run(self, record: RunRecord) -> str:
        """Write one finished run, making its experiment if need be; the run's id."""


class ModelOverview(Protocol):
    """What `relay status` reads of the registry."""

    def model_tags(self, name: str) -> Mapping[str, str]:
        """Tags of the registered model.

        Raises:
            UnknownModelError: There is no such model.
        """

    def aliases(self, name: str) -> Mapping[str, int]:
        """All aliases of the registered model, with the versions that they name."""

    def latest_runs(self, experiment: str, limit: int) -> Sequence[RunRecord]:
        """The newest runs of an experiment, newest first; empty when there is no such experiment.

        Raises:
            DeletedExperimentError: Somebody deleted the experiment.
        """

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The newest versions, newest first; empty when there is no such model."""


class VersionBook(Protocol):
    """What the promoter needs of versions and aliases, beside what servers read."""

    def versions_after(self, name: str, version: int) -> Sequence[ModelVersion]:
        """All versions with a higher number, lowest first.

        Raises:
            UnknownModelError: There is no registered model `name`.
        """

    def versions_tagged(self, name: str, key: str, value: str) -> Sequence[ModelVersion]:
        """All versions whose tag `key` is `value`, lowest number first; empty also when there is no such model."""

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version; None removes it, also when it was not there.

        Raises:
            UnknownModelError: There is no such version.
        """

    def describe_version(self, name: str, version: int, markdown: str) -> None:
        """Replace the description of a version, which MLflow's UI renders."""


class IntentLog(Protocol):
    """Runs that are opened before something is done, closed after it, and found again by what they say."""

    def find_runs(
        self, experiment: str, *, limit: int, params: Mapping[str, str | None], status: RunStatus | None = None
    ) -> Sequence[RunRecord]:
        """The newest runs of an experiment that say this, newest first; empty when there is no such experiment.

        Costs the same however many others there are.

        Args:
            params: What their params are; None of one that they must not have.
            status: `RUNNING` of those that are open, `FINISHED` of those that ended well; None of all.

        Raises:
            DeletedExperimentError: Somebody deleted the experiment.
        """

    def open_run(self, record: RunRecord) -> str:
        """Write a run that is RUNNING, making its experiment if need be; the run's id."""

    def close_run(self, run_id: str, *, failed: bool, because: str) -> None:
        """End it: FINISHED, or KILLED when it `failed`; `because` is added as its reason."""


class CheckpointCatalog(Protocol):
    """What the publisher needs of the registry. A version appears last, whole or not at all."""

    def find_version(self, name: str, digest: str) -> ModelVersion | None:
        """The version whose manifest has that digest, if there is one."""

    def open_draft(self, draft: CheckpointDraft) -> DraftPlace:
        """A child run and a LoggedModel for `draft`: those of an earlier try with the same digest, else new ones."""

    def finish_draft(self, draft: CheckpointDraft, place: DraftPlace) -> None:
        """All files are in the store: log the metrics, mark the LoggedModel READY, end the child run."""

    def create_version(self, draft: CheckpointDraft, place: DraftPlace, tags: Mapping[str, str]) -> ModelVersion:
        """The model version, with all its tags at once."""


class ScoreBook(Protocol):
    """What evaluating needs of the registry. Scores belong to the run of a version."""

    def artifact_root(self, version: ModelVersion) -> str:
        """Where files of the version's run lie (no slash at the end).

        Raises:
            UserError: The version has no run.
        """

    def record_scores(self, version: ModelVersion, entry: ScoreEntry, metrics: Mapping[str, float]) -> None:
        """Metrics and test set at the version's run and LoggedModel, the entry last; replaces that of the same set.

        Raises:
            UserError: The version has no run.
            ValueError: A metric is not finite; nothing was written.
        """

    def score_entries(self, version: ModelVersion) -> Sequence[ScoreEntry]:
        """What the version was scored on, sorted by digest; empty when it never was, or has no run."""

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The versions of a registered model with the highest numbers, highest first; empty when it has none."""


class ObjectReader(Protocol):
    """What a server needs of the store. A URI is `s3://bucket/prefix` without a slash at the end."""

    def list_objects(self, uri: str) -> Sequence[ObjectInfo]:
        """Everything below `uri`, sorted by key; empty when there is nothing."""

    def read(self, uri: str, max_bytes: int, *, check: Check = no_check) -> bytes:
        """One small object, whole.

        Args:
            check: Called whenever some bytes have arrived, however few: a store may drip. What it raises ends the read.

        Raises:
            ObjectMissingError: There is no such object.
            ObjectTooLargeError: It is larger than `max_bytes`.
        """

    def read_into(self, uri: str, start: int, buffer: memoryview, *, etag: str = "", check: Check = no_check) -> None:
        """Fill `buffer` with the object's bytes from `start` on.

        Args:
            etag: That of the listing, if the bytes must be of that very state; empty for any.
            check: As for `read`.

        Raises:
            ObjectMissingError: There is no such object.
            ObjectChangedError: It has another etag by now.
            TruncatedObjectError: The object ends before the buffer is full.
            StoreUnavailableError: No answer in time; nothing is known about the buffer.
        """


class ObjectWriter(Protocol):
    """What the publisher needs of the store."""

    def list_objects(self, uri: str) -> Sequence[ObjectInfo]:
        """Everything below `uri`, sorted by key; empty when there is nothing."""

    def write(self, uri: str, data: bytes) -> None:
        """One small object."""

    def upload(self, path: Path, entry: FileEntry, uri: str, progress: Progress) -> None:
        """A file whose bytes must still be those of `entry`; does nothing when they are there already.

        Raises:
            CorruptFileError: The file changed since it was hashed; no object was made.
        """


class ObjectTrial(Protocol):
    """What `relay doctor` needs of the store: a small object that comes and goes. The errors of the two above."""

    def write(self, uri: str, data: bytes) -> None:
        """One small object."""

    def read(self, uri: str, max_bytes: int) -> bytes:
        """One small object, whole."""

    def read_into(self, uri: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the object's bytes from `start` on."""

    def delete(self, uri: str) -> None:
        """Remove one object, also when it was not there."""
