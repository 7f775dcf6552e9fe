"""The road from a folder to a version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copy2

import pytest

from pipeline.stack.local import LocalStack
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import Settings
from tests.publishing.adapters import Workshop
from tests.publishing.road import Road


@pytest.fixture(scope="module")
def road(stack: LocalStack) -> Iterator[Road]:
    keys = Credentials(
        access_key_id=stack.env["AWS_ACCESS_KEY_ID"], secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"]
    )
    store = S3Store(Settings().store, stack.s3_endpoint_url, credentials=keys)
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=20, write_timeout_s=60)
    yield Road(stack, registry, store)
    registry.close()


@pytest.fixture
def workshop(tiny_checkpoint: Path, tmp_path: Path) -> Workshop:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_checkpoint.iterdir():
        copy2(path, base / path.name)
    return Workshop(base=base, folder=tmp_path)
