"""`python -m server.substitute`: another OpenAI server in the engine's place, started by `engine.command`.

To the gateway this process is an engine child like any other (`server/engine_spec.py`); the other program runs below it
and in its process group. The program's health is asked until it is well; from then on it is asked directly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil

from registry_hooks import command_template, events, probe
from server.engine_spec import EngineEvent, EngineReady, EngineSpec
from server.parent import Parent

_POLL_S = 0.1
_HEALTH_TIMEOUT_S = 2.0
# Where OpenAI servers say that they are well: most have the first, all have the second.
_HEALTH_PATHS = ("/health", "/v1/models")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def main() -> int:
    """Run the program until it ends, SIGTERM comes or the parent is gone; the exit code."""
    parent = Parent(when_gone=_end_group)
    events.configure()
    parent.tell(EngineEvent(event="imported"))
    spec, since = parent.wait_for_spec()
    where = "" if command_template.names(spec.command, "uds") else f"http://127.0.0.1:{_free_port()}"
    command = command_template.fill(
        spec.command, dir=spec.checkpoint_dir, name=spec.model_name, uds=spec.uds, port=where.rpartition(":")[2]
    )
    try:
        # What somebody set for all their Hugging Face programs stays; the files are here, nothing need be asked for.
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**_OFFLINE, **os.environ})
    except OSError as error:
        reason = f"{command[0]} cannot be started: {error.strerror}; see engine.command"
        parent.tell(EngineEvent(event="failed", stage="load", reason=reason))
        return 1
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    with probe.client(uds=spec.uds, base_url=where, timeout_s=_HEALTH_TIMEOUT_S) as client:
        if not _becomes_well(client, program):
            reason = f"{command[0]} ended with code {program.returncode} before it answered; its log says why"
            parent.tell(EngineEvent(event="failed", stage="load", reason=reason))
            return 1
        ready = _ready(client, spec, program, where, load_s=time.monotonic() - since)
    parent.tell(EngineEvent(event="loaded", ready=ready))
    parent.tell(EngineEvent(event="ready", ready=ready))
    return program.wait()


def _becomes_well(client: httpx.Client, program: subprocess.Popen[bytes]) -> bool:
    """Whether the program answers before it ends; the launcher bounds the time."""
    while program.poll() is None:
        for path in _HEALTH_PATHS:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(path).status_code == httpx.codes.OK:
                    return True
        time.sleep(_POLL_S)
    return False


def _ready(
    client: httpx.Client, spec: EngineSpec, program: subprocess.Popen[bytes], where: str, *, load_s: float
) -> EngineReady:
    # A server that is not told a name calls the model what it was given to load.
    model_name = spec.model_name if command_template.names(spec.command, "name") else spec.checkpoint_dir
    return EngineReady(
        device="unknown",
        dtype="unknown",
        vram_bytes=0,
        rss_bytes=_resident_bytes(program.pid),
        num_parameters=0,
        max_model_len_tokens=_max_model_len(client, model_name),
        load_s=load_s,
        base_url=where,
        model_name=model_name,
    )


def _max_model_len(client: httpx.Client, model_name: str) -> int:
    """What the program's `/v1/models` says, as vLLM's does; 0 where it says nothing."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        for card in client.get("/v1/models").json()["data"]:
            if card["id"] == model_name:
                return int(card.get("max_model_len") or 0)
    return 0


def _resident_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _end_group() -> None:
    """End this process and the program: the launcher made them a process group of their own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
