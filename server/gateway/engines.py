"""The engine processes of this gateway: starting (with a warm spare), checking, stopping. One thread owns starts."""

from __future__ import annotations

import itertools
import shutil
import threading
from pathlib import Path

import httpx

from registry_hooks import events, golden, probe
from registry_hooks.errors import EngineError, EngineGoneError, GoldenMismatchError
from registry_hooks.golden import GoldenSet
from registry_hooks.settings import Settings
from server.engine_spec import EngineSpec
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.launcher import Engine, EngineChild, socket_dir, start_engine

PROBE_TIMEOUT_S = 120.0
MAX_LOGS = 20
_UNATTESTED_PROMPT = "The quick brown fox jumps over the lazy dog."


class EngineRoom:
    """Starts and stops the engines of one gateway."""

    def __init__(self, settings: Settings, log_dir: Path) -> None:
        self._settings = settings
        self._log_dir = log_dir
        self._sockets = socket_dir()
        self._numbers = itertools.count(1)
        self._spare: EngineChild | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self, checkpoint: Checkpoint) -> Engine:
        """A ready engine of `checkpoint`; its answers are not checked yet.

        Raises:
            EngineStartError: It did not become ready; nothing of it is left.
        """
        engine = self._settings.engine
        spec = EngineSpec(
            checkpoint_dir=checkpoint.directory,
            uds=str(self._sockets / f"e{next(self._numbers)}.sock"),
            model_name=checkpoint.version.name,
            fingerprint=checkpoint.fingerprint,
            device=engine.device,
            dtype=engine.dtype,
            num_threads=engine.num_threads,
            max_model_len_tokens=engine.max_model_len_tokens,
            max_queue=engine.max_queue,
            kv_budget_bytes=engine.kv_budget_bytes,
            packed_linears=engine.packed_linears,
        )
        with self._lock:
            spare, self._spare = self._spare, None
        return start_engine(
            spec,
            log_path=self._new_log(),
            start_timeout_s=engine.start_timeout_s,
            stop_grace_s=engine.stop_grace_s,
            spare=spare,
        )

    def keep_spare(self) -> None:
        """Have a process ready that has imported torch, so that the next start, or restart, is quick."""
        with self._lock:
            if self._closed or (self._spare is not None and self._spare.is_alive()):
                return
            self._spare = EngineChild(self._new_log(), stop_grace_s=self._settings.engine.stop_grace_s)

    def retire(self, slot: Slot, lineup: LineUp) -> None:
        """Stop an engine that left the line-up, once its requests have ended, in the background.

        Past the drain deadline the rest of its streams end with an error event.
        """
        slot.retired = True
        threading.Thread(target=self._drain_and_stop, args=(slot, lineup), name="retire", daemon=True).start()

    def close(self) -> None:
        """Stop the spare; remove the sockets' folder. The engines in the line-up are the caller's."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _drain_and_stop(self, slot: Slot, lineup: LineUp) -> None:
        drained = lineup.wait_drained(slot, self._settings.serve.drain_timeout_s)
        slot.engine.stop()
        version = slot.checkpoint.version.version
        events.logger().info("engine.retired", version=version, drained=drained, cut_streams=slot.in_flight)

    def _new_log(self) -> Path:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        logs = sorted(self._log_dir.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
        for old in logs[: max(0, len(logs) - MAX_LOGS + 1)]:
            old.unlink(missing_ok=True)
        return self._log_dir / f"engine-{next(self._numbers)}.log"


def check_golden(engine: Engine, recorded: GoldenSet | None, *, required: bool) -> str:
    """Ask the engine the golden questions before any user does; the verdict as a sentence.

    A version without golden answers is asked one prompt, whose answer must be finite.

    Raises:
        GoldenMismatchError: Other answers than recorded, none recorded although `required`, or not finite ones.
        EngineGoneError: The engine ended, or did not answer.
    """
    if recorded is None and required:
        raise GoldenMismatchError(
            "it has no golden answers and serve.require_golden is on; publish it with `relay publish`"
        )
    prompts = [item.prompt for item in recorded.items] if recorded else [_UNATTESTED_PROMPT]
    with probe.uds_client(engine.spec.uds, timeout_s=PROBE_TIMEOUT_S) as client:
        observed = probe.observe(
            client, prompts, model=engine.spec.model_name, device=engine.ready.device, dtype=engine.ready.dtype
        )
    if recorded is None:
        return "no golden answers recorded; one prompt scored, finite"
    verdict = golden.compare(recorded, observed)
    if not verdict.passed:
        raise GoldenMismatchError(verdict.because)
    return verdict.because


def warm_up(engine: Engine) -> None:
    """Make the engine generate once on the path that users take.

    Raises:
        EngineError: It does not generate.
    """
    chat = {"model": engine.spec.model_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    plain = {"model": engine.spec.model_name, "prompt": "Hello", "max_tokens": 4}
    try:
        with probe.uds_client(engine.spec.uds, timeout_s=PROBE_TIMEOUT_S) as client:
            answer = client.post("/v1/chat/completions", json=chat)
            if answer.status_code == 400:  # no chat template: a base model
                answer = client.post("/v1/completions", json=plain)
    except httpx.HTTPError as error:
        raise EngineGoneError(f"the engine did not answer the warm-up ({error!r}){engine.last_words()}") from error
    if answer.status_code != 200:
        raise EngineError(f"the engine cannot generate: status {answer.status_code}, {answer.text[:300]}")
