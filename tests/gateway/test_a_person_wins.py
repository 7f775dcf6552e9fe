"""The promoter beside real servers: a person's move stands, and a stopped server is an alert and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def relay(stack: Any) -> Callable[..., str]:
    """Runs a command of `relay` on one registered model; what it printed."""
    name = f"person-{uuid.uuid4().hex[:8]}"

    def run(*arguments: str, **environ: str) -> str:
        command = [str(Path(sys.executable).with_name("relay")), *arguments]
        env = {**os.environ, **stack.env, "RELAY_REGISTRY__NAME": name, "RELAY_ENGINE__NUM_THREADS": "1", **environ}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.model = name  # type: ignore[attr-defined]
    return run


def alias_of(person: Any, model: str) -> str:
    return str(person.get_registered_model(model).aliases["Production"])


def test_a_persons_move_stands_until_the_hold_is_deleted(
    relay: Any, start_gateway: Any, person: Any, two_checkpoints: tuple[Path, Path]
) -> None:
    for folder in two_checkpoints:  # of which the second has the better eval_loss
        relay("publish", str(folder))
        relay("reconcile")
    promoted = alias_of(person, relay.model)
    gateway = start_gateway(relay.model)
    gateway.wait_for_version(2)

    person.set_registered_model_alias(relay.model, "Production", "1")
    said = relay("reconcile") + relay("reconcile")
    gateway.wait_for_version(1)
    status = json.loads(relay("status", "--json"))
    held_at = alias_of(person, relay.model)
    person.delete_registered_model_tag(relay.model, "relay.hold")
    after = relay("reconcile")

    assert promoted == "2"
    assert held_at == "1"
    assert "held: Production was moved outside of Relay, from version 2 to version 1" in said
    assert "moved outside of Relay" in json.dumps(status["hold"])
    assert "nothing new" in after
    assert "manual" in relay("history")
    assert "better eval_loss" in relay("why", "2")


def test_a_stopped_server_is_an_alert_and_never_a_rollback(
    relay: Any, start_gateway: Any, person: Any, two_checkpoints: tuple[Path, Path]
) -> None:
    for folder in two_checkpoints:
        relay("publish", str(folder))
        relay("reconcile")
    gateway = start_gateway(relay.model, RELAY_SERVE__HEARTBEAT_S="0.5")
    gateway.wait_for_version(2)
    os.kill(gateway.process.pid, signal.SIGSTOP)
    try:
        time.sleep(3)
        said = relay("reconcile", RELAY_PROMOTER__SILENT_AFTER_S="2")
    finally:
        os.kill(gateway.process.pid, signal.SIGCONT)

    assert "look at this: server test has been silent" in said
    assert alias_of(person, relay.model) == "2"
    assert "rests: nothing new" in said
