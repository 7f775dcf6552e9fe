"""`relay status` on a real MLflow."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline import status_command
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import RunRecord
from registry_hooks.settings import RegistrySettings, Settings

pytestmark = pytest.mark.integration


def test_what_mlflow_holds_is_told(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"status-{uuid.uuid4().hex[:8]}"
    settings = Settings(registry=RegistrySettings(name=name, tracking_uri=stack.tracking_uri, timeout_s=20))
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=20)
    registry.rest.post("/registered-models/create", name=name)
    for _ in range(3):
        registry.rest.post("/model-versions/create", name=name, source="s3://relay/x")
    registry.rest.post("/registered-models/alias", name=name, alias="Production", version="2")
    registry.set_version_tag(name, 1, contract.TAG_STATE, "admitted")
    registry.set_version_tag(name, 1, contract.TAG_JUDGED, "0" * 32)
    registry.set_version_tag(name, 3, contract.TAG_STEP, "300")
    registry.set_model_tag(name, contract.TAG_FREEZE, "holidays")
    registry.record_run(
        RunRecord(
            experiment=contract.decisions_experiment(name),
            run_name="keep/v2",
            params={},
            metrics={},
            tags={contract.TAG_BECAUSE: "3 is no better"},
            started_at=datetime(2026, 3, 4, tzinfo=UTC),
        )
    )
    registry.close()

    code = status_command.run(settings=settings, as_json=True)
    document = json.loads(capsys.readouterr().out)
    status_command.run(settings=settings)

    assert (code, document["aliased_version"], document["waiting"]) == (0, 2, [3, 2])
    assert (document["newest"]["version"], document["newest"]["step"]) == (3, 300)
    assert (document["hold"], document["freeze"]["why"]) == (None, "holidays")
    assert (document["last_decision"]["run_name"], document["last_deployment"]) == ("keep/v2", None)
    assert "3 is no better" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_the_users_to_mend(stack: Any) -> None:
    settings = Settings(registry=RegistrySettings(name="nobody", tracking_uri=stack.tracking_uri, timeout_s=20))

    with pytest.raises(UnknownModelError):
        status_command.run(settings=settings)
