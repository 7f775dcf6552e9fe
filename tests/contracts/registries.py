"""A registry as a test sees it, and drafts and versions to fill it with."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx

from registry_hooks import contract
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.ports import CheckpointCatalog, ModelOverview, ReportSink, VersionSource
from registry_hooks.records import CheckpointDraft, DraftPlace, Lineage, ModelVersion

SAVED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Registry(VersionSource, ReportSink, ModelOverview, Protocol):
    """The three ports that one adapter serves."""


@dataclass(frozen=True)
class World:
    """A registry, and what a person does with it by other means."""

    registry: Registry
    catalog: CheckpointCatalog
    set_alias: Callable[[str, str, int], None]
    delete_alias: Callable[[str, str], None]


def mlflow_world(tracking_uri: str) -> World:
    registry = MlflowRegistry(tracking_uri, timeout_s=20, write_timeout_s=60)
    api = f"{tracking_uri}/api/2.0/mlflow/registered-models/alias"

    def set_alias(name: str, alias: str, version: int) -> None:
        body = {"name": name, "alias": alias, "version": str(version)}
        httpx.post(api, json=body, timeout=30).raise_for_status()

    def delete_alias(name: str, alias: str) -> None:
        httpx.request("DELETE", api, json={"name": name, "alias": alias}, timeout=30).raise_for_status()

    return World(registry, MlflowCatalog(registry, experiment="contract"), set_alias, delete_alias)


def draft_of(name: str, *, step: int = 20, digest: str | None = None, **changes: Any) -> CheckpointDraft:
    draft = CheckpointDraft(
        name=name,
        digest=digest or uuid.uuid4().hex * 2,
        lineage=Lineage(step=step, config_hash="c" * 16, git_commit="a" * 40, git_dirty=True, saved_at=SAVED_AT),
        metrics={"eval_loss": 1.25, "eval_exact_match": 0.5},
        nonfinite={},
        params={"dtype": "float32"},
        parent_run_id=None,
        training_key=uuid.uuid4().hex,
        training_name="sft",
    )
    return replace(draft, **changes)


def publish(
    world: World, draft: CheckpointDraft, tags: Mapping[str, str] | None = None
) -> tuple[DraftPlace, ModelVersion]:
    place = world.catalog.open_draft(draft)
    world.catalog.finish_draft(draft, place)
    all_tags = {contract.TAG_MANIFEST: draft.digest, contract.TAG_STEP: str(draft.lineage.step), **(tags or {})}
    return place, world.catalog.create_version(draft, place, all_tags)
