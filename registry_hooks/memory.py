"""The in-memory twin of the registry: the same ports, the same answers as MLflow, for tests of what uses them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from registry_hooks import contract
from registry_hooks.errors import RegistryError, RegistryUnavailableError, UnknownModelError, UserError
from registry_hooks.records import CheckpointDraft, DraftPlace, ModelVersion, RunRecord


@dataclass(slots=True)
class _Model:
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    num_made: int = 0  # MLflow never uses a number again


@dataclass(slots=True)
class _Run:
    experiment: str
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    ended: bool = False


@dataclass(slots=True)
class _Draft:
    place: DraftPlace
    step: int
    registered: bool = False


class MemoryRegistry:
    """`VersionSource`, `ReportSink`, `ModelOverview` and `CheckpointCatalog` in memory; may be called from any thread.

    Attributes:
        down: While it is set, every method of the ports raises `RegistryUnavailableError`.
        num_calls: Calls of the ports so far.
        records: Every run that was recorded, in order.
    """

    def __init__(self, *, experiment: str = "relay", artifact_root: str = "s3://memory") -> None:
        self.down = False
        self.num_calls = 0
        self.records: list[RunRecord] = []
        self._experiment = experiment
        self._root = artifact_root
        self._models: dict[str, _Model] = {}
        self._runs: dict[str, _Run] = {}
        self._trainings: dict[str, str] = {}
        self._drafts: dict[str, _Draft] = {}
        self._copies: set[tuple[str, int]] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    # What a person does.

    def add_version(
        self,
        name: str,
        *,
        artifact_uri: str,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        model_id: str | None = None,
        status: str = "READY",
    ) -> ModelVersion:
        """Register a version as somebody else would, with a run of its own; makes the model if need be."""
        with self._lock:
            run_id = self._new_run(self._experiment)
            self._runs[run_id].metrics.update(metrics or {})
            self._runs[run_id].params.update(params or {})
            return self._register(
                name, run_id=run_id, model_id=model_id, artifact_uri=artifact_uri, status=status, tags=dict(tags or {})
            )

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        with self._lock:
            self._model(name).aliases[alias] = self._version(name, version).version

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias, also when it was not there."""
        with self._lock:
            self._model(name).aliases.pop(alias, None)

    # VersionSource.

    def resolve_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` names now."""
        with self._answering():
            model = self._model(name)
            return self._shown(model.versions[model.aliases[alias]]) if alias in model.aliases else None

    def get_version(self, name: str, version: int) -> ModelVersion:
        """One version."""
        with self._answering():
            return self._shown(self._version(name, version))

    def run_metrics(self, run_id: str) -> Mapping[str, float]:
        """Last value of each metric of a run."""
        with self._answering():
            return dict(self._run(run_id).metrics)

    def get_run(self, run_id: str) -> RunRecord:
        """All that a run tells."""
        with self._answering():
            run = self._run(run_id)
            about = next((record for record in self.records if record.run_id == run_id), None)
            empty = RunRecord(experiment=run.experiment, run_name="", params={}, metrics={}, tags={}, run_id=run_id)
            return about or replace(empty, params=dict(run.params), metrics=dict(run.metrics))

    # ReportSink.

    def set_version_tag(self, name: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None removes it."""
        with self._answering():
            old = self._version(name, version)
            self._model(name).versions[version] = replace(old, tags=_with_tag(old.tags, key, value))

    def set_model_tag(self, name: str, key: str, value: str | None) -> None:
        """Set a tag of a registered model; None removes it."""
        with self._answering():
            model = self._model(name)
            model.tags = _with_tag(model.tags, key, value)

    def record_run(self, record: RunRecord) -> str:
        """Write one finished run."""
        with self._answering():
            run_id = self._new_run(record.experiment)
            self._runs[run_id] = _Run(experiment=record.experiment, metrics=dict(record.metrics), ended=True)
            self._keep(replace(record, run_id=run_id, ended_at=record.ended_at or datetime.now(UTC)))
            return run_id

    # ModelOverview.

    def model_tags(self, name: str) -> Mapping[str, str]:
        """Tags of the registered model."""
        with self._answering():
            return dict(self._model(name).tags)

    def aliases(self, name: str) -> Mapping[str, int]:
        """All aliases of the registered model."""
        with self._answering():
            return dict(self._model(name).aliases)

    def latest_runs(self, experiment: str, limit: int) -> Sequence[RunRecord]:
        """The newest runs of an experiment, newest first."""
        with self._answering():
            return tuple(self._newest_first(experiment)[:limit])

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The newest versions, newest first."""
        with self._answering():
            versions = self._models[name].versions.values() if name in self._models else ()
            newest = sorted(versions, key=lambda version: version.version, reverse=True)[:limit]
            return tuple(as_listed(self._shown(version)) for version in newest)

    # CheckpointCatalog.

    def find_version(self, name: str, digest: str) -> ModelVersion | None:
        """The newest version whose manifest has that digest."""
        with self._answering():
            return self._published(name, digest)

    def open_draft(self, draft: CheckpointDraft) -> DraftPlace:
        """The place of an earlier try with the same digest, else a new one."""
        with self._answering():
            known = self._drafts.get(draft.digest)
            if known and not known.registered and known.step == draft.lineage.step:
                return known.place
            parent = self._parent(draft)
            model_id = f"m-{next(self._numbers):032x}"
            place = DraftPlace(
                experiment_id=self._run(parent).experiment,
                parent_run_id=parent,
                run_id=self._new_run(self._run(parent).experiment),
                model_id=model_id,
                artifact_uri=f"{self._root}/models/{model_id}/artifacts",
                ready=False,
            )
            self._drafts[draft.digest] = _Draft(place=place, step=draft.lineage.step)
            return place

    def finish_draft(self, draft: CheckpointDraft, place: DraftPlace) -> None:
        """Log the metrics, end the child run, mark the place ready."""
        with self._answering():
            run = self._run(place.run_id)
            run.metrics.update(draft.metrics)
            run.ended = True
            self._drafts[draft.digest].place = replace(place, ready=True)

    def create_version(self, draft: CheckpointDraft, place: DraftPlace, tags: Mapping[str, str]) -> ModelVersion:
        """The model version; the one that is there already when this draft was registered before."""
        with self._answering():
            known = self._published(draft.name, draft.digest)
            if known:
                return known
            if not self._drafts[draft.digest].place.ready:
                raise RegistryError("the draft is not finished: no version was made")
            self._drafts[draft.digest].registered = True
            return self._register(
                draft.name,
                run_id=place.run_id,
                model_id=place.model_id,
                artifact_uri=place.artifact_uri,
                status="READY",
                tags=dict(tags),
            )

    def _shown(self, version: ModelVersion) -> ModelVersion:
        """As MLflow's adapter shows it: without what was said of the version that it is a copy of."""
        is_copy = (version.name, version.version) in self._copies
        copied = contract.copied_tags(version.label, version.tags, is_copy=is_copy)
        tags = {key: value for key, value in version.tags.items() if key not in copied}
        return replace(version, tags=tags, copied_tags=copied)

    def _keep(self, record: RunRecord) -> None:
        started = round((record.started_at or datetime.now(UTC)).timestamp() * 1000)  # what MLflow's column holds
        self.records.append(replace(record, started_at=datetime.fromtimestamp(started / 1000, UTC)))

    def _newest_first(self, experiment: str) -> list[RunRecord]:
        """By their start, as they tell it themselves; which of two of one moment comes first nobody can rely on."""
        found = [record for record in self.records if record.experiment == experiment]
        return sorted(found, key=lambda record: record.started_at or datetime.min.replace(tzinfo=UTC), reverse=True)

    def _answering(self) -> threading.RLock:
        self.num_calls += 1
        if self.down:
            raise RegistryUnavailableError("the registry in memory is down, as a test wished")
        return self._lock

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            raise UnknownModelError(f"there is no registered model {name!r}")
        return self._models[name]

    def _version(self, name: str, version: int) -> ModelVersion:
        found = self._model(name).versions.get(version)
        if found is None:
            raise UnknownModelError(f"registered model {name!r} has no version {version}", what="version")
        return found

    def _run(self, run_id: str) -> _Run:
        if run_id not in self._runs:
            raise UnknownModelError(f"there is no run {run_id!r}", what="run")
        return self._runs[run_id]

    def _new_run(self, experiment: str) -> str:
        run_id = f"{next(self._numbers):032x}"
        self._runs[run_id] = _Run(experiment=experiment)
        return run_id

    def _parent(self, draft: CheckpointDraft) -> str:
        if draft.parent_run_id:
            if draft.parent_run_id not in self._runs:
                raise UserError(f"there is no run {draft.parent_run_id!r}: pass --run-id of a run that exists")
            return draft.parent_run_id
        if draft.training_key not in self._trainings:
            self._trainings[draft.training_key] = self._new_run(self._experiment)
        return self._trainings[draft.training_key]

    def _published(self, name: str, digest: str) -> ModelVersion | None:
        versions = self._models[name].versions.values() if name in self._models else ()
        return max((v for v in versions if v.digest == digest), key=lambda v: v.version, default=None)

    def _register(
        self, name: str, *, run_id: str, model_id: str | None, artifact_uri: str, status: str, tags: dict[str, str]
    ) -> ModelVersion:
        model = self._models.setdefault(name, _Model())
        number = model.num_made = model.num_made + 1
        version = ModelVersion(
            name=name,
            version=number,
            run_id=run_id,
            model_id=model_id,
            artifact_uri=artifact_uri.rstrip("/"),
            status=status,
            tags=tags,
        )
        model.versions[number] = version
        return version


def as_listed(version: ModelVersion) -> ModelVersion:
    """A version as MLflow lists it: where its files lie is asked of one version at a time."""
    return replace(version, artifact_uri="")


def _with_tag(tags: Mapping[str, str], key: str, value: str | None) -> dict[str, str]:
    others = {k: v for k, v in tags.items() if k != key}
    return others if value is None else others | {key: value}
