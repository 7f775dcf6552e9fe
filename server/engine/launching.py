"""From a spec to a server that listens; both ways to start an engine come through here."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from registry_hooks.errors import EngineGoneError
from server.engine.api import build_app
from server.engine.choosing import runner_of
from server.engine.identity import Identity
from server.engine.loading import LoadedModel, LoadOptions
from server.engine.loading import load as load_checkpoint
from server.engine.packed_linear import pack_linears
from server.engine.running import RunningEngine
from server.engine.scheduling import Engine, Runner
from server.engine_spec import EngineSpec

# From SIGTERM on: streams have ended with an error event by then, what remains is cut.
_GRACE_S = 2
# The client must be the one who closes an idle connection: else it sends a request into one that just ends.
_KEEP_ALIVE_S = 3600


def load(spec: EngineSpec, *, since: float) -> RunningEngine:
    """Load the model of `spec` in an engine of its own.

    Args:
        since: When it was wished for, on `time.monotonic()`.

    Raises:
        NotACheckpointError: The folder cannot be served.
        SettingsError: This machine or model has not what the spec says.
    """
    options = LoadOptions(
        device=spec.device,
        dtype=spec.dtype,
        num_threads=spec.num_threads,
        max_model_len_tokens=spec.max_model_len_tokens,
    )
    engine = Engine(max_queue=spec.max_queue)

    def load_in_engine() -> tuple[LoadedModel, Runner]:
        loaded = load_checkpoint(Path(spec.checkpoint_dir), options)
        if spec.packed_linears and (loaded.device, loaded.dtype) == ("cpu", "float32"):
            pack_linears(loaded.model)
        return loaded, runner_of(loaded, kv_budget_bytes=spec.kv_budget_bytes)

    loaded = engine.start(load_in_engine)
    identity = Identity(model_name=spec.model_name, fingerprint=spec.fingerprint)
    return RunningEngine(engine=engine, loaded=loaded, identity=identity, load_s=time.monotonic() - since)


def serve(running: RunningEngine, listener: socket.socket, *, on_ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or SIGINT, and say which it was; calls `on_ready` once requests are answered.

    Raises:
        EngineGoneError: The model failed several steps in a row: only a new process may heal it.
    """
    config = uvicorn.Config(
        build_app(running),
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config, on_ready=on_ready, on_exit=running.engine.stop)
    running.engine.when_broken(server.end)
    server.run(sockets=[listener])
    if running.engine.is_broken:
        raise EngineGoneError("the model failed several steps in a row, so this engine has ended; its log says why")
    return server.stopped_by


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready, and ends what is being generated when it is told to go."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_exit = on_exit
        self.stopped_by = 0

    def end(self) -> None:
        """From any thread: as if told by a signal."""
        self.should_exit = True
        self._on_exit()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.stopped_by = sig
        self._on_exit()
