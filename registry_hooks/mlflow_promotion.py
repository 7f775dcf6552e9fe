"""The registry as the promoter sees it: versions by number and tag, aliases that move, runs that say what is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from registry_hooks import contract
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_runs import MAX_RUN_TAG_CHARS, create_run, milliseconds, quoted, search_runs
from registry_hooks.ports import RunStatus
from registry_hooks.records import MAX_DESCRIPTION_CHARS, ModelVersion, RunRecord

_PAGE_SIZE = 500


class MlflowPromotion:
    """`VersionBook` and `IntentLog` on the MLflow server of `registry`; may be called from any thread."""

    def __init__(self, registry: MlflowRegistry) -> None:
        self._registry = registry
        self._rest = registry.rest

    def versions_after(self, name: str, version: int) -> Sequence[ModelVersion]:
        """All versions with a higher number, lowest first."""
        self._rest.get("/registered-models/get", name=name)  # a search in a model that is not there finds just nothing
        return tuple(self._search(f"name = {quoted(name)} AND version_number > {version}"))

    def versions_tagged(self, name: str, key: str, value: str) -> Sequence[ModelVersion]:
        """All versions whose tag `key` is `value`, lowest number first."""
        found = self._search(f"name = {quoted(name)} AND tags.`{key}` = {quoted(value)}")
        return tuple(version for version in found if version.tags.get(key) == value)  # a copy's tags are another's

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version; None removes it."""
        if version is None:
            self._rest.call("DELETE", "/registered-models/alias", body={"name": name, "alias": alias})
        else:
            self._rest.post("/registered-models/alias", name=name, alias=alias, version=str(version))

    def describe_version(self, name: str, version: int, markdown: str) -> None:
        """Replace the description of a version."""
        body = {"name": name, "version": str(version), "description": markdown[:MAX_DESCRIPTION_CHARS]}
        self._rest.call("PATCH", "/model-versions/update", body=body)

    def find_runs(
        self, experiment: str, *, limit: int, params: Mapping[str, str | None], status: RunStatus | None = None
    ) -> Sequence[RunRecord]:
        """The newest runs of an experiment that say this, newest first."""
        conditions = [
            f"params.{key} {'IS NULL' if text is None else f'= {quoted(text)}'}" for key, text in params.items()
        ]
        conditions += [f"attributes.status = '{status}'"] if status else []
        return search_runs(self._rest, experiment, limit=limit, condition=" AND ".join(conditions))

    def open_run(self, record: RunRecord) -> str:
        """Write a run that is RUNNING; its id."""
        return create_run(self._rest, record)

    def close_run(self, run_id: str, *, failed: bool, because: str) -> None:
        """End a run that was opened."""
        self._rest.post("/runs/set-tag", run_id=run_id, key=contract.TAG_BECAUSE, value=because[:MAX_RUN_TAG_CHARS])
        status = "KILLED" if failed else "FINISHED"
        self._rest.post("/runs/update", run_id=run_id, status=status, end_time=milliseconds(datetime.now(UTC)))

    def artifact_root(self, run_id: str) -> str:
        """Where files of a run lie (no slash at the end)."""
        return str(self._rest.get("/runs/get", run_id=run_id)["run"]["info"]["artifact_uri"]).rstrip("/")

    def _search(self, condition: str) -> Iterator[ModelVersion]:
        token = ""
        while True:
            answer = self._rest.get(
                "/model-versions/search",
                filter=condition,
                max_results=str(_PAGE_SIZE),
                order_by="version_number ASC",
                page_token=token,
            )
            yield from (self._registry.version_of(found) for found in answer.get("model_versions", ()))
            token = str(answer.get("next_page_token") or "")
            if not token:
                return
