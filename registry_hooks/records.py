"""What both sides say to each other, as plain frozen records. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from registry_hooks import contract

# What MLflow holds of a version's description.
MAX_DESCRIPTION_CHARS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model version as the registry shows it.

    Attributes:
        artifact_uri: Where its files lie, resolved by the registry (`s3://bucket/prefix`, no slash at the end); empty
            in lists of versions, where nobody asked, and where the run behind it is gone: it cannot be served then.
        status: `READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`.
        tags: Those that are about it. Of a copy, what was said of the version it was copied from is left out.
        description: Markdown that the UI shows.
        copied_tags: What was left out, by key; the promoter removes it when it sees the version first.
        stage: MLflow's old way to name versions, `Production` say; empty for none. Nobody here follows it.
    """

    name: str
    version: int
    run_id: str | None
    model_id: str | None
    artifact_uri: str
    status: str = "READY"
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    copied_tags: frozenset[str] = frozenset()
    stage: str = ""

    @property
    def step(self) -> int | None:
        """The optimizer step at which the checkpoint was saved, counted from 0; None when nobody said."""
        return contract.whole_number(self.tags.get(contract.TAG_STEP))

    @property
    def digest(self) -> str | None:
        """sha256 of its manifest; None for a version that was not published by Relay."""
        return self.tags.get(contract.TAG_MANIFEST) or None

    @property
    def label(self) -> str:
        """`NAME/VERSION`, as people and clients write it."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a checkpoint comes from.

    Attributes:
        step: Optimizer step of the save.
        config_hash: sha256 (first 16 hex digits) over the canonical JSON of the model config and training arguments.
        git_commit: Commit of the training code, 40 hex digits; None outside a git work tree.
        git_dirty: Whether files that git knows had uncommitted changes; None outside a git work tree.
        saved_at: When the checkpoint was saved, UTC.
    """

    step: int
    config_hash: str
    git_commit: str | None
    git_dirty: bool | None
    saved_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDraft:
    """A checkpoint that is about to become a model version.

    Attributes:
        name: Registered model.
        digest: sha256 of the manifest: the checkpoint's identity.
        metrics: Finite eval metrics; non-finite ones are in `nonfinite`, as text, and are never attached.
        params: What the Compare page shows beside the metrics, `step` among them.
        parent_run_id: The training run, if the user named one.
        training_key: Identifies the training when there is no run yet: drafts of one key share a parent run.
        training_name: What that parent run is called.
    """

    name: str
    digest: str
    lineage: Lineage
    metrics: Mapping[str, float]
    nonfinite: Mapping[str, str]
    params: Mapping[str, str]
    parent_run_id: str | None
    training_key: str
    training_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlace:
    """Where a draft's files go: its child run and its LoggedModel exist, no version does.

    Attributes:
        artifact_uri: Root of its files (`s3://bucket/prefix`, no slash at the end).
        ready: Whether the LoggedModel is READY already (an earlier try got that far).
    """

    experiment_id: str
    parent_run_id: str
    run_id: str
    model_id: str
    artifact_uri: str
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that tells of one event: a deployment, or a decision of the promoter.

    Attributes:
        series: Metrics with a value for each of several versions: by name, then by the version, which is the step.
        is_open: Whether it is still RUNNING: what it tells of is intended, not done.
        failed: Whether it ended as FAILED or KILLED.
        run_id: Given by the registry.
    """

    experiment: str
    run_name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    failed: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    is_open: bool = False
    run_id: str = ""
    series: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreEntry:
    """That a version was scored on a test set.

    Attributes:
        test_set: The set's name.
        test_set_source: Where it was read from.
        test_set_digest: sha256 over its items.
        fingerprint: Equal for evaluations that may be compared item by item.
        seconds: That the evaluation took.
        uri: The Parquet file of per-item scores.
    """

    test_set: str
    test_set_source: str
    test_set_digest: str
    fingerprint: str
    num_items: int
    seconds: float
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object in the store.

    Attributes:
        key: Path below the prefix that was listed, `/` between the parts.
        etag: The store's name for this state of it; empty where it gives none.
    """

    key: str
    size_bytes: int
    etag: str = ""
