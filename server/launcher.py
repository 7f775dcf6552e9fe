"""Starts and stops engine children; the one thing of `server` that `pipeline` may use.

A child cannot outlive its parent: it exits when its stdin ends, which the kernel sees to however the parent went.
`start_new_session` keeps a Ctrl-C in the terminal from reaching engines before the gateway has drained them.
Source: `docs/adr/` on the protocol of launcher and engine; the traps are those of vLLM, Ollama and llama-swap.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import httpx

from registry_hooks import probe
from registry_hooks.errors import Blame, EngineStartError, StartCancelledError
from registry_hooks.settings import EngineSettings
from server.engine_child import ENGINE, SUBSTITUTE, EngineChild
from server.engine_spec import EngineEvent, EngineReady, EngineSpec
from server.socket_folder import check_length

_WHO = {
    Blame.VERSION: "the engine refused the checkpoint",
    Blame.POLICY: "the engine does not take the checkpoint with the settings of this box",
}
# How long one who no longer wants an engine that is being started may wait for its end.
_CANCEL_SEEN_S = 0.2


def spec_of(settings: EngineSettings, *, checkpoint_dir: str, uds: str, model_name: str) -> EngineSpec:
    """The spec of an engine of ours as the settings have it."""
    return EngineSpec(
        checkpoint_dir=checkpoint_dir,
        uds=uds,
        model_name=model_name,
        device=settings.device,
        dtype=settings.dtype,
        num_threads=settings.num_threads,
        max_model_len_tokens=settings.max_model_len_tokens,
        max_queue=settings.max_queue,
        kv_budget_bytes=settings.kv_budget_bytes,
        packed_linears=settings.packed_linears,
    )


class Engine:
    """A ready engine.

    Attributes:
        ready: What it said of itself.
        seconds: Per stage of its start: `import` (0 for a warm spare), `load`, `listen`.
    """

    def __init__(self, child: EngineChild, spec: EngineSpec, ready: EngineReady, seconds: dict[str, float]) -> None:
        self.spec = spec
        self.ready = ready
        self.seconds = seconds
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log_path(self) -> Path:
        return self._child.log_path

    @property
    def model_name(self) -> str:
        """What it calls the model."""
        return self.ready.model_name or self.spec.model_name

    def client(self, timeout_s: float) -> httpx.Client:
        """A client that asks it; `timeout_s` bounds connecting and each silence."""
        return probe.client(uds=self.spec.uds, base_url=self.ready.base_url, timeout_s=timeout_s)

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def when_dead(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from another thread, when the process has ended."""
        self._child.when_dead(callback)

    def last_words(self) -> str:
        return self._child.last_words()

    def kill(self) -> None:
        """End the process at once, as one that hangs must be; `when_dead` tells of it as of any other death."""
        self._child.kill()

    def stop(self) -> None:
        """End the process; its memory is free when this returns."""
        self._child.stop()
        Path(self.spec.uds).unlink(missing_ok=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_engine(
    spec: EngineSpec,
    *,
    log_path: Path,
    start_timeout_s: float,
    stop_grace_s: float = 5.0,
    spare: EngineChild | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Engine:
    """Start an engine and wait until it answers.

    Args:
        log_path: Where a new process logs; a spare has a log already.
        spare: A process that waits for its spec; a dead one is passed over.
        cancelled: Whether it is no longer wanted; asked all the while, from this thread.

    Raises:
        EngineStartError: It did not become ready; nothing of it is left running.
        StartCancelledError: `cancelled` said so; nothing of it is left running either.
    """
    check_length(spec.uds)
    command = SUBSTITUTE if spec.command else ENGINE
    fits = spare is not None and spare.is_alive() and spare.command == command
    child = spare if fits and spare else EngineChild(log_path, stop_grace_s=stop_grace_s, command=command)
    try:
        child.send(spec)
        ready, seconds = _await_ready(child, spec, start_timeout_s, cancelled)
    except BaseException:
        child.stop()
        Path(spec.uds).unlink(missing_ok=True)
        raise
    return Engine(child, spec, ready, seconds)


def _await_ready(
    child: EngineChild, spec: EngineSpec, timeout_s: float, cancelled: Callable[[], bool]
) -> tuple[EngineReady, dict[str, float]]:
    deadline = time.monotonic() + timeout_s
    stages = {"imported": "import", "loaded": "load", "ready": "listen"}
    seconds = dict.fromkeys(stages.values(), 0.0)
    stage, since = "import", time.monotonic()
    while True:
        try:
            event = child.next_event(min(deadline - time.monotonic(), _CANCEL_SEEN_S))
        except queue.Empty:
            if cancelled():
                raise StartCancelledError(
                    f"an engine that is no longer wanted was ended while it started (stage {stage})"
                ) from None
            if time.monotonic() < deadline:
                continue
            raise EngineStartError(
                f"the engine was not ready after {timeout_s:g} s (stage {stage}) and was stopped; "
                f"see {child.log_path}, or raise engine.start_timeout_s",
                stage="timeout",
            ) from None
        if event is None:  # killed, or it crashed: nothing says that the checkpoint did it
            raise EngineStartError(f"the engine process ended at stage {stage}{child.last_words()}", stage=stage)
        if event.event == "failed":
            raise _failure(event, spec)
        now = time.monotonic()
        if event.event in stages:
            seconds[stages[event.event]], since = now - since, now
            stage = {"imported": "load", "loaded": "listen"}.get(event.event, stage)
        if event.event == "ready" and event.ready is not None:
            return event.ready, seconds


def _failure(event: EngineEvent, spec: EngineSpec) -> EngineStartError:
    """What an engine said of its failure. Another program ends for many reasons: none is shown to be the version's."""
    blame = Blame(event.blame) if event.blame in set(Blame) and not spec.command else Blame.BOX
    who = "engine.command" if spec.command else _WHO.get(blame, "the engine could not start on this box")
    return EngineStartError(f"{who}: {event.reason}", stage=event.stage, blame=blame)
