"""Passes OpenAI requests to the engine that is in service, and its answers back, as bytes.

A request takes one slot and keeps it: one answer, one version. While nothing has been sent to the client a dead engine
is waited for and the request sent again; after that the client gets an error event, never a silent end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from registry_hooks import events
from registry_hooks.settings import ServeSettings
from server.gateway import openai_errors
from server.gateway.lineup import LineUp, Slot
from server.gateway.openai_errors import ApiProblem
from server.gateway.streaming import Stream
from server.gateway.upstream import EngineLostError, Upstream

MAX_ATTEMPTS = 3
_HELD_STEP_S = 0.02
_PASSED_HEADERS = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-request-id")


class ProblemError(Exception):
    """Carries an error answer to the API door."""

    def __init__(self, problem: ApiProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an engine: `path` (`/v1/…`), its raw body, and the `model` that it names."""

    path: str
    body: bytes
    model: str | None
    request_id: str


class Proxy:
    """The way from the API to the engines. Lives on the event loop."""

    def __init__(self, lineup: LineUp, settings: ServeSettings) -> None:
        self._lineup = lineup
        self._settings = settings
        self._ways: dict[int, tuple[Slot, Upstream]] = {}
        self._num_held = 0

    async def forward(self, call: Call) -> Response:
        """The engine's answer.

        Raises:
            ProblemError: No engine can answer: unknown model, none loaded, or it died before it answered.
        """
        deadline = time.monotonic() + self._settings.hold_timeout_s
        for _ in range(MAX_ATTEMPTS):
            slot = await self._take(call.model, deadline)
            try:
                return await self._ask(slot, call)
            except EngineLostError as error:
                self._lineup.give_back(slot)
                events.logger().warning(
                    "request.sent_again", version=slot.checkpoint.version.version, because=repr(error)
                )
                await asyncio.sleep(_HELD_STEP_S)
            except TimeoutError:
                self._lineup.give_back(slot)
                message = (
                    f"the engine said nothing for {self._settings.request_timeout_s:g} s; the request was given up"
                )
                raise ProblemError(openai_errors.unavailable(message, code="engine_timeout", retry_after_s=5)) from None
            except BaseException:
                self._lineup.give_back(slot)
                raise
        raise ProblemError(openai_errors.engine_gone())

    def close(self) -> None:
        for _, way in self._ways.values():
            way.close()
        self._ways.clear()

    async def engine_health(self, slot: Slot) -> Mapping[str, object]:
        """What the engine says of itself now; empty when it does not answer within a second."""
        try:
            async with asyncio.timeout(1.0):
                answer = await self._way_to(slot).get("/health", timeout_s=1.0)
                try:
                    health: Mapping[str, object] = json.loads(await answer.whole())
                    return health
                finally:
                    answer.close()
        except (OSError, ValueError):
            return {}

    async def _take(self, model: str | None, deadline: float) -> Slot:
        if (slot := self._lineup.take(model)) is not None:
            return slot
        if not self._lineup.knows(model):
            names = ", ".join(self._lineup.names()) or "none yet"
            message = f"model {model!r} is not served here; names that are: {names}"
            raise ProblemError(openai_errors.invalid(message, code="model_not_found", param="model", status=404))
        if self._lineup.current is None:
            message = "no model is loaded yet; see /models/info for what is being done about it"
            raise ProblemError(openai_errors.unavailable(message, code="model_loading", retry_after_s=2))
        return await self._hold(model, deadline)

    async def _hold(self, model: str | None, deadline: float) -> Slot:
        """Wait for an engine that is being restarted, bounded in time and number."""
        if self._num_held < self._settings.max_held:
            self._num_held += 1
            try:
                while time.monotonic() < deadline:
                    if (slot := self._lineup.take(model)) is not None:
                        return slot
                    await asyncio.sleep(_HELD_STEP_S)
            finally:
                self._num_held -= 1
        message = "the engine died and is being restarted; send the request again"
        raise ProblemError(openai_errors.unavailable(message, code="engine_restarting", retry_after_s=2))

    async def _ask(self, slot: Slot, call: Call) -> Response:
        """The answer of `slot`, which is given back when the answer has ended."""
        answer = await self._way_to(slot).post(call.path, _body_for(slot, call), request_id=call.request_id)
        passed = {name: answer.headers[name] for name in _PASSED_HEADERS if name in answer.headers}
        passed |= version_headers(slot)
        if not passed.get("content-type", "").startswith("text/event-stream"):
            try:
                content = await answer.whole()
            finally:
                answer.close()
            claims_json = "json" in passed.get("content-type", "")
            if claims_json and answer.ends_with_the_connection() and not _is_json(content):
                raise EngineLostError("the connection ended within the answer")
            self._lineup.give_back(slot)
            return Response(content, status_code=answer.status, headers=passed)
        return Stream(
            answer,
            passed,
            cut=lambda: openai_errors.engine_gone(slot.leaving),
            ended=lambda: self._lineup.give_back(slot),
        )

    def _way_to(self, slot: Slot) -> Upstream:
        if slot.number not in self._ways:
            self._forget_the_dead()
            ready, silence_s = slot.engine.ready, self._settings.request_timeout_s
            way = Upstream(uds=slot.engine.spec.uds, base_url=ready.base_url, silence_s=silence_s)
            self._ways[slot.number] = (slot, way)
        return self._ways[slot.number][1]

    def _forget_the_dead(self) -> None:
        for number, (slot, way) in list(self._ways.items()):
            if not slot.is_alive() and slot.in_flight == 0:
                del self._ways[number]
                way.close()


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _body_for(slot: Slot, call: Call) -> bytes:
    """The request as the engine wants it: another program may call the model something else."""
    if not slot.engine.ready.model_name:
        return call.body
    return json.dumps({**json.loads(call.body), "model": slot.engine.model_name}).encode()


def version_headers(slot: Slot) -> dict[str, str]:
    """Which version answers: `x-relay-*`."""
    version = slot.checkpoint.version
    headers = {
        "x-relay-model": version.name,
        "x-relay-version": str(version.version),
        "x-relay-digest": slot.checkpoint.digest[:12],
    }
    return headers if version.step is None else {**headers, "x-relay-step": str(version.step)}
