"""Publishing, in order: validate, convert, hash, draft, files and golden answers side by side, and the version last.

Whoever is killed in between leaves no version. The same files give the same digest, so the next try finds the draft
and the objects of the first and completes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

import stamina

from pipeline import checkpoint as checkpoints
from pipeline import code_state, mlmodel, training_arguments
from pipeline import lineage as lineages
from pipeline.checkpoint import Checkpoint
from pipeline.code_state import CodeState
from pipeline.hashing import hash_files
from pipeline.recording import GoldenRecorder
from pipeline.scratch import scratch_dir
from pipeline.shipment import Shipment
from pipeline.stages import PublishProgress, Stopwatch
from registry_hooks import contract, manifest, mlflow_names
from registry_hooks.errors import RelayError
from registry_hooks.golden import GoldenSet
from registry_hooks.golden_chat import STOP
from registry_hooks.manifest import Manifest
from registry_hooks.ports import CheckpointCatalog, ObjectWriter
from registry_hooks.records import CheckpointDraft, Lineage, ModelVersion
from registry_hooks.settings import Settings

_ATTEMPTS = 4
_MAX_TOLD = 5
_RETRY_TIMEOUT_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What the user says about one checkpoint.

    Attributes:
        run_id: The training run; None for one that is made, and shared by all checkpoints of the training.
        step: Where neither the Trainer nor the folder's name says.
        code_dir: Work tree of the training code.
        code: Its state when the checkpoint was saved; None asks git now.
        arguments: Of the training, from the training itself; None where nobody asked it.
        origin: The folder that the trainer wrote, where the one that is published is a copy of it, or links to it.
        base: What the model is called that an adapter was merged into; empty for a checkpoint that was saved whole.
    """

    run_id: str | None = None
    step: int | None = None
    code_dir: Path = field(default_factory=Path)
    code: CodeState | None = None
    arguments: Mapping[str, Any] | None = None
    origin: Path | None = None
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A checkpoint that is a version now.

    Attributes:
        was_there: It had been published before, and nothing was done.
        nonfinite: Metrics that were not attached since they are not finite.
        notes: What is worth a person's look, although it is published: a chat without an end, a commit that is unknown.
        seconds: Per stage: `validate`, `convert`, `hash`, `upload`, `golden`, `register`. `golden` runs while `upload`
            does, and may take longer.
        total_s: From start to end.
    """

    version: ModelVersion
    step: int
    size_bytes: int
    was_there: bool
    nonfinite: Mapping[str, str]
    seconds: Mapping[str, float]
    total_s: float
    notes: tuple[str, ...] = ()


def publish(
    folder: Path,
    *,
    catalog: CheckpointCatalog,
    writer: ObjectWriter,
    settings: Settings,
    options: PublishOptions,
    progress: PublishProgress,
) -> Published:
    """Make `folder` a model version, or find the one that it is already.

    Raises:
        NotACheckpointError: It cannot be published, or nobody could chat with it.
        CorruptFileError: A file changed meanwhile.
        EngineError: The engine refused the files, or could not record golden answers.
        RelayError: Registry or store failed. No version was made; publishing again continues.
    """
    watch = Stopwatch(progress)
    with watch.stage("validate"):
        checkpoint = replace(checkpoints.inspect(folder, step=options.step), origin=options.origin or folder)
        code = options.code or code_state.look(options.code_dir)
        arguments = training_arguments.arguments_of(checkpoint.folder, checkpoint.state, options.arguments)
        lineage = lineages.lineage_of(checkpoint, code=code, arguments=arguments)
        told = _told(checkpoint, arguments, options)
    # The engine imports torch while the files are hashed.
    with scratch_dir() as scratch, GoldenRecorder(settings) as recorder:
        source = _converted(checkpoint, settings.publish.dtype, scratch / "converted", watch)
        listed = _hashed(source, watch)
        draft = _draft(source, listed, lineage=lineage, told=told, settings=settings, options=options)
        with watch.stage("register"):
            version = _patiently(lambda: catalog.find_version(draft.name, draft.digest))
        was_there, notes = version is not None, [code.trouble, _about_names(draft)]
        if version is None:
            with watch.stage("register"):
                place = _patiently(lambda: catalog.open_draft(draft))
            shipment = Shipment(checkpoint=source, manifest=listed, place=place, writer=writer, watch=watch)
            golden = shipment.send(recorder, links=scratch / "links")
            with watch.stage("register"):
                version = _registered(draft, shipment, golden.to_json(), catalog)
            notes.append(_about_chats(golden))
    return Published(
        version=version,
        step=draft.lineage.step,
        size_bytes=listed.size_bytes,
        was_there=was_there,
        nonfinite=draft.nonfinite,
        notes=tuple(note for note in notes if note),
        seconds=dict(watch.seconds),
        total_s=watch.total_s,
    )


def _registered(draft: CheckpointDraft, shipment: Shipment, golden: bytes, catalog: CheckpointCatalog) -> ModelVersion:
    """The version of a draft whose files are in the store but for the small ones."""
    place, checkpoint = shipment.place, shipment.checkpoint
    listed = shipment.manifest.to_json()
    papers = {contract.MANIFEST_FILE: listed, contract.GOLDEN_FILE: golden}
    shipment.send_papers({**mlmodel.companions(checkpoint, place, name=draft.name), **papers})
    _patiently(lambda: catalog.finish_draft(draft, place))
    tags = _tags(draft, dtype=checkpoint.dtype, size_bytes=shipment.manifest.size_bytes, golden=golden)
    return _patiently(lambda: catalog.create_version(draft, place, tags))


def _about_names(draft: CheckpointDraft) -> str:
    """What MLflow's pages call otherwise than the trainer does."""
    changed = mlflow_names.changes([*draft.metrics, *draft.params])
    if not changed:
        return ""
    listed = ", ".join(f"{old} as {new}" for new, old in sorted(changed.items())[:_MAX_TOLD])
    return f"MLflow does not take the names of all metrics and params and shows {listed}"


def _about_chats(golden: GoldenSet) -> str:
    """What a person may want to look at; empty for chats that end."""
    if golden.no_chat:
        return f"no chat: {golden.no_chat}; users have /v1/completions"
    endless = sum(chat.finish_reason != STOP for chat in golden.chats)
    if not endless:
        return ""
    return (
        f"{endless} of {len(golden.chats)} golden chats did not end within {golden.chats[0].max_tokens} tokens: an "
        "early checkpoint, a long thought, or an end token that generation_config.json does not name"
    )


def _converted(checkpoint: Checkpoint, dtype: str, out: Path, watch: Stopwatch) -> Checkpoint:
    """The checkpoint in the dtype that the settings want; itself when it has that already."""
    if dtype in ("auto", checkpoint.dtype):
        return checkpoint
    from pipeline.conversion import convert  # it imports torch

    with watch.stage("convert"):
        convert(checkpoint, dtype, out)
        return replace(
            checkpoints.inspect(out, step=checkpoint.step), saved_at=checkpoint.saved_at, origin=checkpoint.origin
        )


def _hashed(source: Checkpoint, watch: Stopwatch) -> Manifest:
    size_bytes = sum((source.folder / name).stat().st_size for name in source.files)
    with watch.stage("hash", size_bytes) as advance:
        return manifest.build(hash_files(source.folder, source.files, prefix=contract.MODEL_DIR, progress=advance))


def _told(checkpoint: Checkpoint, arguments: Mapping[str, Any], options: PublishOptions) -> dict[str, str]:
    """What the Compare page shows of the training."""
    state = checkpoint.state
    told = {**state.arguments, **training_arguments.shown(arguments)}
    told |= {"epoch": f"{state.epoch:g}"} if state.epoch is not None else {}
    told |= {"eval_step": str(state.eval_step)} if state.eval_step is not None else {}
    return told | ({"merged_into": options.base} if options.base else {})


def _draft(
    source: Checkpoint,
    listed: Manifest,
    *,
    lineage: Lineage,
    told: Mapping[str, str],
    settings: Settings,
    options: PublishOptions,
) -> CheckpointDraft:
    state = source.state
    params = {
        **told,
        "dtype": source.dtype,
        "num_parameters": str(source.num_parameters),
        "config_hash": lineage.config_hash,
    }
    return CheckpointDraft(
        name=settings.registry.name,
        digest=listed.digest,
        lineage=lineage,
        metrics=state.metrics,
        nonfinite=state.nonfinite,
        params=params,
        parent_run_id=options.run_id,
        training_key=lineages.training_key(source, lineage.config_hash),
        training_name=source.origin.resolve().parent.name or "training",
    )


def _tags(draft: CheckpointDraft, *, dtype: str, size_bytes: int, golden: bytes) -> dict[str, str]:
    lineage = draft.lineage
    tags = {
        contract.TAG_STEP: str(lineage.step),
        contract.TAG_CONFIG_HASH: lineage.config_hash,
        contract.TAG_BYTES: str(size_bytes),
        contract.TAG_MANIFEST: draft.digest,
        contract.TAG_GOLDEN: hashlib.sha256(golden).hexdigest(),
        contract.TAG_DTYPE: dtype,
        contract.TAG_SAVED_AT: lineage.saved_at.astimezone(UTC).isoformat(timespec="seconds"),
    }
    if lineage.git_commit is not None:
        tags[contract.TAG_GIT_COMMIT] = lineage.git_commit
    if lineage.git_dirty is not None:
        tags[contract.TAG_GIT_DIRTY] = str(lineage.git_dirty).lower()
    if draft.nonfinite:
        tags[contract.TAG_NONFINITE] = ", ".join(f"{key}={value}" for key, value in sorted(draft.nonfinite.items()))
    return tags


def _patiently(call: Callable[[], T]) -> T:
    """The answer of a call that may be made again, tried a few times while the registry is away."""
    for attempt in stamina.retry_context(on=_is_transient, attempts=_ATTEMPTS, timeout=_RETRY_TIMEOUT_S):
        with attempt:
            return call()
    raise AssertionError("stamina either returns or raises")


def _is_transient(error: Exception) -> bool:
    return isinstance(error, RelayError) and error.transient
