"""One gateway that real clients talk to, on a model whose answers vary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.demo.world import save_untrained

MODEL = "lively"


@pytest.fixture(scope="session")
def lively_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with large weights: its greedy answers are not one token for ever."""
    folder = tmp_path_factory.mktemp("clients") / "lively"
    save_untrained(folder, seed=0, initializer_range=0.2)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1, "log_history": []}))
    return folder


@pytest.fixture(scope="session")
def gateway_of_clients(
    stack: Any,
    gateways: Callable[..., Any],
    publish_cli: Callable[[str, Path], int],
    lively_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A gateway that serves the lively checkpoint, as version 1 of the registered model `lively`."""
    assert publish_cli(MODEL, lively_checkpoint) == 1
    alias = {"name": MODEL, "alias": "Production", "version": "1"}
    httpx.post(f"{stack.tracking_uri}/api/2.0/mlflow/registered-models/alias", json=alias).raise_for_status()
    gateway = gateways(MODEL, cache=tmp_path_factory.mktemp("clients-cache"))
    gateway.wait_for_version(1)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def api_url(gateway_of_clients: Any) -> str:
    """What a client takes as its base URL."""
    return f"{gateway_of_clients.url}/v1"
