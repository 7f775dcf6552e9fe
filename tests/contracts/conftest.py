"""The registries that the contract is tried on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from registry_hooks.memory import MemoryRegistry
from tests.contracts.registries import World, mlflow_world


@pytest.fixture(
    params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        memory = MemoryRegistry(experiment="contract")
        yield World(memory, memory, memory.set_alias, memory.delete_alias)
        return
    yield request.getfixturevalue("mlflow")


@pytest.fixture
def mlflow(stack: Any) -> Iterator[World]:
    world = mlflow_world(stack.tracking_uri)
    yield world
    world.registry.close()  # type: ignore[attr-defined]


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"
