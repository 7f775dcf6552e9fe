"""What a gateway does when the registry, the store or a version is at fault: it keeps serving, and says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

pytestmark = pytest.mark.integration

Start = Callable[..., Any]


def environ_of(links: tuple[Any, Any]) -> dict[str, str]:
    registry, store = links
    return {"MLFLOW_TRACKING_URI": registry.url, "MLFLOW_S3_ENDPOINT_URL": store.url}


@pytest.fixture
def s3(stack: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint_url,
        aws_access_key_id=stack.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


def socket_folders_of(pid: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"relay-{pid}-*"))


def object_of(person: Any, model: str, version: int, path: str) -> tuple[str, str]:
    bucket, _, prefix = person.get_model_version_download_uri(model, version).removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/{path}"


def test_a_gateway_serves_through_an_outage_and_follows_the_alias_after_it(
    start_gateway: Start, served_model: str, person: Any, links: tuple[Any, Any]
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, **environ_of(links))
    gateway.wait_for_version(1)

    for link in links:
        link.cut()
    asked = gateway.client.post(f"{gateway.url}/models/reload")
    during, answer = gateway.info(), gateway.chat()
    person.set_registered_model_alias(served_model, "Production", 2)
    for link in links:
        link.heal()
    after = gateway.wait_for_version(2)

    assert (asked.status_code, asked.json()["status"]) == (503, "registry_unreachable")
    assert during["registry_answers"] is False
    assert "registry" in during["reason"].lower() or "mlflow" in during["reason"].lower()
    assert answer.status_code == 200
    assert after["registry_answers"] is True


def test_a_box_boots_from_its_cache_while_registry_and_store_are_away(
    start_gateway: Start, served_model: str, person: Any, links: tuple[Any, Any]
) -> None:
    person.set_registered_model_alias(served_model, "Production", 2)
    gateway = start_gateway(served_model, **environ_of(links))
    gateway.wait_for_version(2)
    gateway.stop()
    for link in links:
        link.cut()

    again = start_gateway(served_model, **environ_of(links))
    info = again.wait_for_version(2)

    assert "cache" in info["reason"] or "cache" in info["last_reload"]["reason"]
    assert info["checkpoint_step"] == 20
    assert info["attested"] is True
    assert again.chat().status_code == 200


def test_a_server_whose_files_were_tidied_up_serves_again_after_its_engine_died(
    start_gateway: Start, served_model: str, person: Any, tmp_path: Path
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model)
    pid = gateway.wait_for_version(1)["engine_pid"]
    for folder in (*(tmp_path / "cache").glob("checkpoints/*"), *socket_folders_of(gateway.process.pid)):
        shutil.rmtree(folder)
    os.kill(pid, signal.SIGKILL)
    gateway.wait_for_version(1, other_than_pid=pid)

    assert gateway.chat().status_code == 200


def test_a_box_with_an_empty_cache_waits_for_the_registry_and_says_so(
    start_gateway: Start, served_model: str, person: Any, links: tuple[Any, Any]
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    links[0].cut()
    gateway = start_gateway(served_model, **environ_of(links))

    waiting = gateway.client.get(f"{gateway.url}/ready")
    links[0].heal()

    assert waiting.status_code == 503
    assert waiting.json()["reason"]
    assert gateway.wait_for_version(1)["version"] == 1


def test_a_version_waits_while_the_store_is_away_and_is_served_after_it(
    start_gateway: Start, served_model: str, person: Any, links: tuple[Any, Any]
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_STORE__CONNECT_TIMEOUT_S="0.5", **environ_of(links))
    gateway.wait_for_version(1)
    links[1].cut()
    person.set_registered_model_alias(served_model, "Production", 2)

    answer = gateway.client.post(f"{gateway.url}/models/reload?timeout_s=60")
    tags = person.get_model_version(served_model, 2).tags
    still = gateway.chat()
    links[1].heal()
    healed = gateway.client.post(f"{gateway.url}/models/reload?force=true")

    assert (answer.status_code, answer.json()["status"], answer.json()["version"]) == (409, "failed", 1)
    assert "relay.refused.test" not in tags
    assert still.headers["x-relay-version"] == "1"
    assert (healed.json()["status"], healed.json()["version"]) == ("reloaded", 2)


def test_a_flipped_bit_in_the_store_is_refused_and_the_registry_is_told(
    start_gateway: Start,
    publish_cli: Callable[[str, Path], int],
    two_checkpoints: tuple[Path, Path],
    person: Any,
    s3: Any,
) -> None:
    model = f"flipped-{uuid.uuid4().hex[:8]}"
    for folder in two_checkpoints:
        publish_cli(model, folder)
    bucket, key = object_of(person, model, 2, "model/model.safetensors")
    data = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[-1000] ^= 1
    s3.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    person.set_registered_model_alias(model, "Production", 1)
    gateway = start_gateway(model)
    gateway.wait_for_version(1)
    person.set_registered_model_alias(model, "Production", 2)

    answer = gateway.client.post(f"{gateway.url}/models/reload")
    info = gateway.info()
    gateway.stop()

    assert (answer.status_code, answer.json()["status"]) == (409, "refused")
    assert (info["version"], info["desired_version"]) == (1, 2)
    assert "model.safetensors" in info["reason"]
    assert "model.safetensors" in person.get_model_version(model, 2).tags["relay.refused.test"]


def test_a_version_logged_by_mlflow_alone_is_served_and_marked(
    start_gateway: Start, two_checkpoints: tuple[Path, Path], person: Any, stack: Any, served_model: str, tmp_path: Path
) -> None:
    model = f"byhand-{uuid.uuid4().hex[:8]}"
    by_hand(person, model, two_checkpoints[0])
    bad = tmp_path / "bad"
    shutil.copytree(two_checkpoints[1], bad)
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {"intermediate_size": config["intermediate_size"] + 32}))
    by_hand(person, model, bad)
    person.set_registered_model_alias(model, "Production", 1)
    gateway = start_gateway(model)
    info = gateway.wait_for_version(1)
    person.set_registered_model_alias(model, "Production", 2)

    refused = gateway.client.post(f"{gateway.url}/models/reload")
    strict = start_gateway(model, RELAY_SERVE__REQUIRE_MANIFEST="true")
    too_strict = strict.client.post(f"{strict.url}/models/reload")

    assert (info["attested"], info["checkpoint_step"]) == (False, None)
    assert gateway.chat().status_code == 200
    assert refused.json()["status"] == "refused"
    assert refused.json()["version"] == 1
    assert "mismatch" in refused.json()["reason"] or "shape" in refused.json()["reason"]
    assert too_strict.json()["status"] == "declined", too_strict.text
    assert "require_manifest" in too_strict.json()["reason"]


def by_hand(person: Any, model: str, folder: Path) -> None:
    """What a person does who has MLflow only."""
    experiment = person.get_experiment_by_name("by-hand")
    experiment_id = experiment.experiment_id if experiment else person.create_experiment("by-hand")
    run_id = person.create_run(experiment_id).info.run_id
    person.log_artifacts(run_id, str(folder), "checkpoint")
    if not person.search_registered_models(f"name = '{model}'"):
        person.create_registered_model(model)
    source = f"{person.get_run(run_id).info.artifact_uri}/checkpoint"
    person.create_model_version(model, source, run_id=run_id)
