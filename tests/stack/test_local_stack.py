"""MLflow and S3 on one box: found, started, reached, and refused with a reason."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.stack import ports, up
from pipeline.stack.credentials import FILE, local_credentials
from pipeline.stack.local import LocalStack, local_stack, write_env_file
from pipeline.stack.s3_server import rclone_binary, s3_binary
from registry_hooks.errors import PortInUseError, UserError
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import RegistrySettings, ServeSettings, Settings, StackSettings, StoreSettings

RELAY_UP = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.argv[1:] = ['up']; main()"]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


@pytest.mark.integration
def test_mlflow_and_s3_answer_where_the_stack_says(stack: LocalStack) -> None:
    experiments = httpx.post(
        f"{stack.tracking_uri}/api/2.0/mlflow/experiments/search", json={"max_results": 10}, timeout=10
    ).json()["experiments"]
    keys = Credentials(
        access_key_id=stack.env["AWS_ACCESS_KEY_ID"], secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"]
    )
    store = S3Store(StoreSettings(), stack.s3_endpoint_url, credentials=keys)
    store.write(f"s3://{stack.bucket}/hello/world", b"!")

    assert experiments[0]["artifact_location"].startswith(f"s3://{stack.bucket}/")
    assert store.read(f"s3://{stack.bucket}/hello/world", 10) == b"!"
    assert set(stack.logs) == {"s3", "mlflow"}
    assert stack.dead is None


@pytest.mark.integration
def test_the_secret_is_on_no_command_line_and_in_no_repr(stack: LocalStack) -> None:
    secret = stack.env["AWS_SECRET_ACCESS_KEY"]
    lines = [
        " ".join(process.cmdline())
        for child in stack.children
        for process in (psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True))
    ]

    assert len(lines) >= 4
    assert not [line for line in lines if secret in line]
    assert secret not in repr(stack)


@pytest.mark.integration
def test_another_terminal_can_source_the_environment(stack: LocalStack, tmp_path: Path) -> None:
    path = write_env_file(stack, tmp_path)

    shown = subprocess.run(
        ["/bin/sh", "-c", f'. "{path}"; env'], capture_output=True, text=True, check=True, timeout=10
    ).stdout.splitlines()

    assert {f"{key}={value}" for key, value in stack.env.items()} <= set(shown)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["s3_port", "mlflow_port"])
def test_a_port_in_use_is_named_with_its_setting(key: str, listener: int, tmp_path: Path) -> None:
    where = {"s3_port": 0, "mlflow_port": 0, key: listener}
    settings = Settings(stack=StackSettings(data_dir=tmp_path, **where))

    with (
        pytest.raises(PortInUseError, match=rf"port {listener} .*stack\.{key} .*RELAY_STACK__{key.upper()}"),
        local_stack(settings),
    ):
        pass


def test_port_0_takes_a_free_one() -> None:
    port = ports.take(0, host="127.0.0.1", setting="stack.s3_port")

    assert 1024 <= port <= 65535


def test_minio_bin_comes_first_then_the_path_then_rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, on_path = tmp_path / "mine", tmp_path / "bin" / "minio"
    on_path.parent.mkdir()
    for program in (named, on_path):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    monkeypatch.setenv("MINIO_BIN", str(named))
    monkeypatch.setenv("PATH", str(on_path.parent))
    first = s3_binary()
    monkeypatch.delenv("MINIO_BIN")
    second = s3_binary()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    third = s3_binary()

    assert (first, second, third) == (("minio", named), ("minio", on_path), ("rclone", rclone_binary()))


def test_a_wrong_minio_bin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_BIN", str(tmp_path / "no-such-file"))

    with pytest.raises(UserError, match="MINIO_BIN"):
        s3_binary()


def test_local_keys_are_made_once_and_readable_by_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)

    first, second = local_credentials(tmp_path), local_credentials(tmp_path)

    assert first == second
    assert first != local_credentials(tmp_path / "elsewhere")
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert json.loads((tmp_path / FILE).read_text())["access_key_id"] == first.access_key_id


def test_the_keys_of_the_environment_are_used_unless_they_are_temporary_ones_of_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    mine = local_credentials(tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    made = local_credentials(tmp_path)

    assert mine == Credentials(access_key_id="mine", secret_access_key="my-secret")
    assert made.access_key_id.startswith("relay-")


def test_the_server_child_gets_exactly_the_settings_that_were_given() -> None:
    settings = Settings(
        registry=RegistrySettings(name="line"),
        serve=ServeSettings(max_held=3, api_key="sesame", keep_previous=False),
    )

    assert up.environment(settings) == {
        "RELAY_REGISTRY__NAME": "line",
        "RELAY_SERVE__MAX_HELD": "3",
        "RELAY_SERVE__API_KEY": "sesame",
        "RELAY_SERVE__KEEP_PREVIOUS": "False",
    }


@pytest.mark.integration
def test_relay_up_serves_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "RELAY_"))},
        "RELAY_STACK__DATA_DIR": str(tmp_path),
        "RELAY_STACK__MLFLOW_PORT": "0",
        "RELAY_STACK__S3_PORT": "0",
        "RELAY_SERVE__PORT": "0",
        "RELAY_SERVE__CACHE_DIR": str(tmp_path / "cache"),
        "RELAY_REGISTRY__NAME": "never-published",
    }
    output = tmp_path / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(RELAY_UP, stderr=file, env=env) as relay,
    ):
        deadline = time.monotonic() + 150
        while b"Relay is up" not in output.read_bytes() and relay.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        started = psutil.Process(relay.pid).children(recursive=True) if relay.poll() is None else []
        relay.send_signal(signal.SIGINT)
        code = relay.wait(60)

    text = output.read_text()
    assert "Relay is up" in text
    assert len(started) >= 6
    assert (code, [process for process in started if process.is_running()]) == (0, []), text
    assert "stack.env" in text
    assert not (tmp_path / "stack.env").exists()
