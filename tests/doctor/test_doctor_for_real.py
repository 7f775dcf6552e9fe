"""`relay doctor` with a real registry and store, and with nothing there at all."""

from __future__ import annotations

import io
import json
import socket
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from pipeline import doctor_command
from pipeline.doctor.examining import examine
from pipeline.doctor.finding import Finding
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import RegistrySettings, ServeSettings, Settings, StackSettings, StoreSettings

pytestmark = pytest.mark.integration


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def settings_for(folder: Path, *, tracking_uri: str, endpoint_url: str, name: str = "nobody") -> Settings:
    return Settings(
        registry=RegistrySettings(name=name, tracking_uri=tracking_uri),
        store=StoreSettings(endpoint_url=endpoint_url),
        serve=ServeSettings(port=free_port(), cache_dir=folder / "cache", server_name="doctor-test"),
        stack=StackSettings(data_dir=folder / "data"),
    )


@pytest.fixture
def healthy(stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for key, value in stack.env.items():
        monkeypatch.setenv(key, value)
    return settings_for(tmp_path, tracking_uri=stack.tracking_uri, endpoint_url=stack.s3_endpoint_url)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_healthy_stack_passes_and_the_store_is_as_it_was(healthy: Settings, stack: Any) -> None:
    store = S3Store(healthy.store, healthy.s3_endpoint_url)
    before = store.list_objects(f"s3://{stack.bucket}/mlflow")

    found = by_name(examine(healthy, role="both", timeout_s=30))

    assert [finding for finding in found.values() if finding.verdict == "failed"] == []
    assert {"registry", "MLflow version", "registry clock", "S3 clock", "S3 delete", "torch"} <= set(found)
    assert found["S3 delete"].what.startswith(f"s3://{stack.bucket}/")
    assert (found["registered model"].verdict, "relay publish" in found["registered model"].mend) == ("warning", True)
    assert store.list_objects(f"s3://{stack.bucket}/mlflow") == before


def test_an_inference_box_reads_what_the_alias_names(healthy: Settings, stack: Any) -> None:
    name, root = f"doctor-{uuid.uuid4().hex[:8]}", f"s3://{stack.bucket}/doctor/{uuid.uuid4().hex}"
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=20)
    registry.rest.post("/registered-models/create", name=name)
    registry.rest.post("/model-versions/create", name=name, source=root)
    registry.rest.post("/registered-models/alias", name=name, alias="Production", version="1")
    registry.close()
    S3Store(healthy.store, healthy.s3_endpoint_url).write(f"{root}/manifest.json", b"{}")
    settings = healthy.model_copy(update={"registry": healthy.registry.model_copy(update={"name": name})})

    found = by_name(examine(settings, role="inference", timeout_s=30))

    assert (found["S3 read"].verdict, f"{name}/1" in found["S3 read"].what) == ("ok", True)
    assert found["registered model"].what == f"{name}@Production names version 1"
    assert "S3 write" not in found


def test_a_wrong_key_is_found_and_not_shown(healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0123456789")

    findings = examine(healthy, role="training", timeout_s=30)

    assert by_name(findings)["S3 write"].verdict == "failed"
    assert "AWS_SECRET_ACCESS_KEY" in by_name(findings)["S3 write"].mend
    assert "wrong-secret" not in str(findings)


def test_with_mlflow_down_the_store_is_tried_all_the_same_and_the_guess_is_named(healthy: Settings) -> None:
    registry = healthy.registry.model_copy(update={"tracking_uri": f"http://127.0.0.1:{free_port()}"})
    settings = healthy.model_copy(update={"registry": registry})

    training = by_name(examine(settings, role="training", timeout_s=30))
    inference = by_name(examine(settings, role="inference", timeout_s=30))

    assert training["registry"].verdict == "failed"
    assert (training["S3 delete"].verdict, "a guess" in training["S3 delete"].what) == ("ok", True)
    assert (inference["S3 read"].verdict, "only MLflow knows" in inference["S3 read"].what) == ("failed", True)


def test_with_everything_down_all_is_said_in_time_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = settings_for(tmp_path, tracking_uri=nowhere, endpoint_url=nowhere)
    output = io.StringIO()

    began = time.monotonic()
    code = doctor_command.run(settings=settings, as_json=True, console=Console(file=output, width=100))
    took_s = time.monotonic() - began
    document = json.loads(output.getvalue())
    bad = {one["name"]: one for one in document["findings"] if one["verdict"] == "failed"}

    assert (code, document["healthy"], document["role"]) == (1, False, "both")
    assert {"registry", "registered model", "S3 credentials", "S3 clock", "S3 write"} <= set(bad)
    assert all(one["mend"] for one in bad.values())
    assert "torch" in {one["name"] for one in document["findings"] if one["verdict"] == "ok"}
    assert took_s < 20


def test_an_mlflow_that_refuses_our_name_for_it_is_recognised(tmp_path: Path) -> None:
    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_open = self.path == "/version"
            body = b"3.17.2" if is_open else b"Invalid Host header - possible DNS rebinding attack detected"
            self.send_response(200 if is_open else 403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"

    findings = by_name(examine(settings_for(tmp_path, tracking_uri=url, endpoint_url=url), role="inference"))
    server.shutdown()
    server.server_close()

    assert findings["registry"].verdict == "ok"
    assert (findings["registered model"].verdict, "--allowed-hosts" in findings["registered model"].mend) == (
        "failed",
        True,
    )


def test_people_get_a_table_with_every_remedy(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = settings_for(tmp_path, tracking_uri=nowhere, endpoint_url=nowhere)
    output = io.StringIO()

    code = doctor_command.run(settings=settings, role="inference", console=Console(file=output, width=200))

    assert code == 1
    assert "relay doctor: inference box" in output.getvalue()
    assert "RELAY_REGISTRY__TRACKING_URI" in output.getvalue()
    assert "failed" in output.getvalue().splitlines()[-1]
