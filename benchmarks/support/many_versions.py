"""Thousands of model versions, written into MLflow's tables at once: through its API they would take minutes."""

from __future__ import annotations

import time

import sqlalchemy
from sqlalchemy import MetaData

from registry_hooks import contract
from registry_hooks.mlflow_registry import MlflowRegistry

_BATCH = 1000


def fill(database: str, registry: MlflowRegistry, name: str, number: int) -> None:
    """Make `number` versions of `name`, all judged but for what the first pass of a promoter does itself.

    The last one is in production.
    """
    registry.rest.post("/registered-models/create", name=name)
    now = int(time.time() * 1000)
    engine = sqlalchemy.create_engine(database)
    tables = MetaData()
    tables.reflect(engine, only=["model_versions", "model_version_tags"])
    versions, tags = tables.tables["model_versions"], tables.tables["model_version_tags"]
    with engine.begin() as connection:
        for start in range(1, number + 1, _BATCH):
            some = range(start, min(start + _BATCH, number + 1))
            connection.execute(versions.insert(), [_version(name, one, now) for one in some])
            connection.execute(tags.insert(), [tag for one in some for tag in _tags(name, one)])
    engine.dispose()
    registry.rest.post("/registered-models/alias", name=name, alias=contract.ALIAS_PRODUCTION, version=str(number))


def _version(name: str, number: int, now_ms: int) -> dict[str, object]:
    return {
        "name": name,
        "version": number,
        "creation_time": now_ms,
        "last_updated_time": now_ms,
        "current_stage": "None",
        "source": f"s3://bench/{number}",
        "status": "READY",
    }


def _tags(name: str, number: int) -> list[dict[str, object]]:
    values = {
        contract.TAG_STEP: str(number * 100),
        contract.TAG_MANIFEST: f"{number:064x}",
        contract.TAG_STATE: contract.STATE_ADMITTED,
        contract.TAG_REASON: "its eval_loss is worse",
        contract.TAG_JUDGED: "0" * 32,
    }
    return [{"name": name, "version": number, "key": key, "value": value} for key, value in values.items()]
