"""The in-memory registry as the promoter sees it; see `registry_hooks/mlflow_promotion.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.memory import MemoryRegistry, as_listed
from registry_hooks.ports import RunStatus
from registry_hooks.records import ModelVersion, RunRecord


class MemoryPromotion(MemoryRegistry):
    """`VersionBook` and `IntentLog` beside the ports of `MemoryRegistry`."""

    def delete_version(self, name: str, version: int) -> None:
        """Remove a version as a person would; aliases that name it go with it."""
        with self._lock:
            model = self._model(name)
            model.versions.pop(version, None)
            for alias in [alias for alias, number in model.aliases.items() if number == version]:
                del model.aliases[alias]

    def delete_run(self, run_id: str) -> None:
        """Remove a run for good, as `mlflow gc` does after somebody deleted it."""
        with self._lock:
            self._runs.pop(run_id, None)
            self.records = [record for record in self.records if record.run_id != run_id]

    def copy_version(self, name: str, version: int, to: str) -> ModelVersion:
        """Make a version of another registered model of this one, as MLflow does: with its run and all its tags."""
        with self._lock:
            old = self._version(name, version)
            copy = self._register(
                to,
                run_id=old.run_id or "",
                model_id=old.model_id,
                artifact_uri=old.artifact_uri,
                status=old.status,
                tags=dict(old.tags),
            )
            self._copies.add((to, copy.version))
            return self._shown(copy)

    # VersionBook.

    def versions_after(self, name: str, version: int) -> Sequence[ModelVersion]:
        """All versions with a higher number, lowest first."""
        with self._answering():
            versions = self._model(name).versions
            return tuple(as_listed(self._shown(versions[number])) for number in sorted(versions) if number > version)

    def versions_tagged(self, name: str, key: str, value: str) -> Sequence[ModelVersion]:
        """All versions whose tag `key` is `value`, lowest number first."""
        with self._answering():
            versions = self._models[name].versions if name in self._models else {}
            found = [number for number in sorted(versions) if versions[number].tags.get(key) == value]
            shown = (as_listed(self._shown(versions[number])) for number in found)
            return tuple(version for version in shown if key not in version.copied_tags)

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version; None removes it."""
        with self._answering():
            if version is None:
                self._model(name).aliases.pop(alias, None)
            else:
                self._model(name).aliases[alias] = self._version(name, version).version

    def describe_version(self, name: str, version: int, markdown: str) -> None:
        """Replace the description of a version."""
        with self._answering():
            old = self._version(name, version)
            self._model(name).versions[version] = replace(old, description=markdown)

    # IntentLog.

    def find_runs(
        self, experiment: str, *, limit: int, params: Mapping[str, str | None], status: RunStatus | None = None
    ) -> Sequence[RunRecord]:
        """The newest runs of an experiment that say this, newest first."""
        with self._answering():
            like_this = [
                record
                for record in self._newest_first(experiment)
                if all(record.params.get(key) == text for key, text in params.items())
                and status in (None, _status(record))
            ]
            return tuple(like_this[:limit])

    def open_run(self, record: RunRecord) -> str:
        """Write a run that is RUNNING; its id."""
        with self._answering():
            run_id = self._new_run(record.experiment)
            self._keep(replace(record, is_open=True, run_id=run_id))
            return run_id

    def close_run(self, run_id: str, *, failed: bool, because: str) -> None:
        """End a run that was opened."""
        with self._answering():
            for place, record in enumerate(self.records):
                if record.run_id == run_id:
                    tags = {**record.tags, contract.TAG_BECAUSE: because}
                    ended = replace(record, is_open=False, failed=failed, tags=tags, ended_at=datetime.now(UTC))
                    self.records[place] = ended
                    return
            raise UnknownModelError(f"there is no run {run_id!r}")


def _status(record: RunRecord) -> str:
    return "RUNNING" if record.is_open else "KILLED" if record.failed else "FINISHED"
