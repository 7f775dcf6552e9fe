"""Scores a checkpoint: starts the engine that would serve it, asks, and ends it, within a deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.asking import Asker, each
from pipeline.evaluation.conduct import Conduct, choose_device
from pipeline.evaluation.item_scoring import ItemScorer, Scored
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.test_set import TestSet
from registry_hooks.errors import EngineStartError, EvaluationError
from registry_hooks.settings import EngineSettings
from server.engine_spec import EngineReady, EngineSpec
from server.launcher import Engine, spec_of, start_engine
from server.socket_folder import socket_dir

_MODEL_NAME = "evaluation"
# More than are ever asked at once: an item with 64 choices takes 64 places.
_MAX_QUEUE = 8192
_DEATH_SEEN_S = 0.2
# One more whenever a question, or what its answer is worth, changes: all versions are scored anew once.
_SCORING = 2


def evaluate(
    directory: Path,
    test_set: TestSet,
    *,
    settings: EngineSettings,
    deadline_s: float,
    conduct: Conduct | None = None,
) -> Evaluation:
    """Score the checkpoint in `directory` on every item; all of them or none.

    Args:
        directory: What an engine loads; not changed.
        settings: How the engine runs. Those of the server, where scores are to mean what users get.
        deadline_s: Bound on the whole, in seconds from now. Then the engine is ended, and killed if it does not end.
        conduct: How it is asked; its own `deadline_s` does not count here.

    Raises:
        EvaluationError: There is no score, and why; `transient` says whether to try again.
        NotACheckpointError: The folder's tokenizer cannot be read.
    """
    conduct, clock = conduct or Conduct(), _Clock(deadline_s)
    scorer = ItemScorer(directory, of_our_engine=not settings.command)
    device = choose_device(directory, settings, conduct)
    room = socket_dir()
    spec = _spec(directory, settings, device, room)
    # Where something goes wrong the folder stays: the engine's log in it says why.
    with _start(spec, settings, clock) as engine:
        found = asyncio.run(_ask_all(scorer, engine, test_set, conduct, clock))
        evaluation = Evaluation(
            test_set=test_set.name,
            test_set_digest=test_set.digest,
            fingerprint=_fingerprint(test_set, engine.ready, settings),
            form=_form(found, scorer, engine.ready),
            items=tuple(sorted((one.score for one in found), key=lambda score: score.item_id)),
            seconds=clock.seconds,
            device=engine.ready.device,
            dtype=engine.ready.dtype,
        )
    shutil.rmtree(room, ignore_errors=True)
    return evaluation


class _Clock:
    """When it began, and when it must be over."""

    def __init__(self, deadline_s: float) -> None:
        self.started, self.deadline_s = time.monotonic(), deadline_s

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        return max(self.deadline_s - self.seconds, 0.001)

    def over(self, stage: str) -> EvaluationError:
        return EvaluationError(
            f"the evaluation was not done after {self.deadline_s:g} s (stage {stage}): its engine was killed and "
            "nothing was scored; raise the deadline, or take fewer items",
            stage="deadline",
            transient=True,
        )


def _spec(directory: Path, settings: EngineSettings, device: str, room: Path) -> EngineSpec:
    spec = spec_of(settings, checkpoint_dir=str(directory), uds=str(room / "engine.sock"), model_name=_MODEL_NAME)
    return dataclasses.replace(spec, device=device, command=settings.command, max_queue=_MAX_QUEUE)


def _start(spec: EngineSpec, settings: EngineSettings, clock: _Clock) -> Engine:
    try:
        return start_engine(
            spec,
            log_path=Path(spec.uds).with_name("engine.log"),
            start_timeout_s=min(settings.start_timeout_s, clock.left_s),
            stop_grace_s=settings.stop_grace_s,
        )
    except EngineStartError as error:
        if error.stage == "timeout" and clock.seconds >= clock.deadline_s:
            raise clock.over("start") from error
        raise EvaluationError(
            f"the engine did not start, so nothing was scored: {error}",
            stage="start",
            transient=error.transient,
            blame=error.blame,
        ) from error


async def _ask_all(
    scorer: ItemScorer, engine: Engine, test_set: TestSet, conduct: Conduct, clock: _Clock
) -> list[Scored]:
    asker = Asker(
        uds=engine.spec.uds,
        base_url=engine.ready.base_url,
        model=engine.model_name,
        timeout_s=conduct.ask_timeout_s,
    )
    try:
        async with asyncio.timeout(clock.left_s), asker:
            return await each(test_set.items, lambda item: scorer.score(item, asker), num_at_once=conduct.num_at_once)
    except TimeoutError as error:
        raise clock.over("asking") from error
    except EvaluationError as error:
        if error.transient:  # a connection breaks a moment before its process is seen to be gone
            await asyncio.sleep(_DEATH_SEEN_S)
        if error.transient and not engine.is_alive():
            raise EvaluationError(
                f"the engine ended while it was asked{engine.last_words()}; nothing was scored",
                stage="asking",
                transient=True,
            ) from error
        raise


def _fingerprint(test_set: TestSet, ready: EngineReady, settings: EngineSettings) -> str:
    """What must be equal for two evaluations to be compared item by item: how it was measured, not what.

    The dtype is the one that was asked for. What `auto` makes of a checkpoint belongs to the checkpoint, as its chat
    template and its tokenizer do: users get these with it, so they are part of what is compared. See `_form`.
    """
    facts = {
        "test_set": test_set.digest,
        "scoring": _SCORING,
        "dtype": settings.dtype,
        "device": ready.device,
        "engine": settings.command or [f"{name} {_version(name)}" for name in ("relay-cd", "torch", "transformers")],
    }
    return _sha256(facts)


def _form(found: Sequence[Scored], scorer: ItemScorer, ready: EngineReady) -> dict[str, str]:
    """What a version brings along beside its weights, as short digests, so that a change of it is seen."""
    return {
        "chat template": _sha256(scorer.chat_template)[:12],
        "tokens": _sha256(sorted(one.sent_sha256 for one in found))[:12],
        "dtype": ready.dtype,
    }


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
