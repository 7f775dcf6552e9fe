"""The road from a folder to a version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.stack.local import LocalStack
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import Settings
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
