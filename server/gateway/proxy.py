"""Passes OpenAI requests to the engine that is in service, and its answers back, as bytes.

A request takes one slot and keeps it: one answer, one version. While nothing has been sent to the client a dead engine
is waited for and the request sent again; after that the client gets an error event, never a silent end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import Response

from registry_hooks import events
from registry_hooks.settings import ServeSettings
from server.gateway import openai_errors
from server.gateway.departure import Departure
from server.gateway.lineup import LineUp, Slot
from server.gateway.openai_errors import ApiProblem
from server.gateway.renaming import as_answered, as_asked
from server.gateway.streaming import Stream
from server.gateway.suspects import Suspects
from server.gateway.upstream import Answer, EngineLostError, EngineStoppingError, EngineUnreachableError, Upstream

# How often an engine that lives on may drop one request before its client is told.
MAX_DROPPED = 3
_HELD_STEP_S = 0.02
_PROOF_STEP_S = 0.1
_PASSED_HEADERS = ("content-type", "cache-control", "x-accel-buffering", "retry-after")
_AS_IT_IS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


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

    def failed(self, status: int, code: str) -> None:
        """Write it down, once: what its caller got in place of an answer. Never what it said."""
        log = events.logger().warning if status >= 500 else events.logger().info
        log("request.failed", request_id=self.request_id, path=self.path, status=status, code=code)


class Proxy:
    """The way from the API to the engines. Lives on the event loop."""

    def __init__(self, lineup: LineUp, settings: ServeSettings, departure: Departure) -> None:
        self._lineup = lineup
        self._settings = settings
        self._departure = departure
        self._ways: dict[int, tuple[Slot, Upstream]] = {}
        self._num_held = 0
        self._suspects = Suspects()
        self._witnesses: set[asyncio.Task[None]] = set()

    async def forward(self, call: Call) -> Response:
        """The engine's answer. While nothing was sent to the client, a dead engine's successor is waited for.

        Raises:
            ProblemError: No engine can answer: unknown model, none loaded, none came back in time, or this request
                kills engines.
        """
        deadline, num_dropped = self._deadline(), 0
        while num_dropped < MAX_DROPPED:
            if self._suspects.is_guilty(call.body):
                raise ProblemError(openai_errors.kills_engines())
            slot = await self._take(call.model, deadline)
            try:
                return await self._answer_of(slot, call)
            except EngineLostError as error:
                events.logger().warning(
                    "request.sent_again",
                    request_id=call.request_id,
                    version=slot.checkpoint.version.version,
                    because=repr(error),
                )
                if not isinstance(error, EngineUnreachableError):
                    deadline = self._deadline()  # it was with the engine until now, not held here
                num_dropped += await self._lives_on(slot, deadline, error)
                self._accuse(slot, call, error)
            except TimeoutError:
                silence_s = self._settings.request_timeout_s
                message = f"the engine said nothing for {silence_s:g} s; the request was given up"
                raise ProblemError(openai_errors.unavailable(message, code="engine_timeout", retry_after_s=5)) from None
        raise ProblemError(openai_errors.engine_gone())

    def close(self) -> None:
        for _, way in self._ways.values():
            way.close()
        self._ways.clear()

    async def engine_health(self, slot: Slot) -> Mapping[str, object]:
        """What the engine says of itself now; empty when it does not answer within a second."""
        try:
            health = json.loads((await self._health(slot))[1])
        except (OSError, ValueError, RecursionError):
            return {}
        return health if isinstance(health, dict) else {}

    async def _health(self, slot: Slot) -> tuple[int, bytes]:
        async with asyncio.timeout(1.0):
            answer = await self._way_to(slot).get("/health", timeout_s=1.0)
            try:
                return answer.status, await answer.whole()
            finally:
                answer.close()

    async def _lives_on(self, slot: Slot, deadline: float, error: EngineLostError) -> bool:
        """Whether an engine whose connection broke is well. Waits until that is plain, or it is dead: its sockets go
        before its process does.
        """
        is_going = isinstance(error, EngineStoppingError)
        if not is_going and await self._is_well(slot):
            return True
        with self._held():
            while slot.is_alive():
                if slot.leaving == "shutdown":
                    raise ProblemError(openai_errors.server_stopping())
                if time.monotonic() >= deadline:
                    raise ProblemError(openai_errors.restarting())
                await asyncio.sleep(_PROOF_STEP_S)
                if not is_going and await self._is_well(slot):
                    return True
        return False

    async def _is_well(self, slot: Slot) -> bool:
        try:
            return slot.is_alive() and (await self._health(slot))[0] < 500
        except OSError:
            return False

    def _accuse(self, slot: Slot, call: Call, error: EngineLostError) -> None:
        """Remember who was there when an engine died that nobody had told to go."""
        was_with_it = not isinstance(error, EngineUnreachableError | EngineStoppingError)
        if was_with_it and not slot.is_alive() and not slot.leaving:
            self._suspects.saw_die(call.body, slot.number)

    def _cut(self, slot: Slot, call: Call) -> bytes:
        """The last event of a stream that was cut after it had begun."""
        witness = asyncio.ensure_future(self._witness(slot, call))
        self._witnesses.add(witness)
        witness.add_done_callback(self._witnesses.discard)
        problem = openai_errors.engine_gone(slot.leaving)
        call.failed(problem.status, problem.code)
        return problem.event(call.request_id)

    async def _witness(self, slot: Slot, call: Call) -> None:
        deadline = self._deadline()
        while slot.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(_PROOF_STEP_S)
        self._accuse(slot, call, EngineLostError())

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.hold_timeout_s

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
        with self._held():
            while time.monotonic() < deadline:
                if (slot := self._lineup.take(model)) is not None:
                    return slot
                if self._departure.is_closing:
                    raise ProblemError(openai_errors.server_stopping())
                await asyncio.sleep(_HELD_STEP_S)
        raise ProblemError(openai_errors.restarting())

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if self._num_held >= self._settings.max_held:
            raise ProblemError(openai_errors.restarting())
        self._num_held += 1
        try:
            yield
        finally:
            self._num_held -= 1

    async def _answer_of(self, slot: Slot, call: Call) -> Response:
        """The answer of `slot`, which is given back once: when the answer has ended."""
        stay = contextlib.ExitStack()
        stay.callback(self._lineup.give_back, slot)
        response: Response | None = None
        try:
            answer = await self._way_to(slot).post(call.path, as_asked(slot, call.body), request_id=call.request_id)
            stay.callback(answer.close)
            headers = {name: answer.headers[name] for name in _PASSED_HEADERS if name in answer.headers}
            headers |= version_headers(slot)
            if headers.get("content-type", "").startswith("text/event-stream"):
                response = self._stream(answer, headers, slot, call, stay)
            else:
                content = as_answered(slot)(await answer.whole())
                _check_whole(answer, content)
                self._suspects.acquit(call.body)
                response = Response(content, status_code=answer.status, headers=headers)
            return response
        finally:
            if not isinstance(response, Stream):
                stay.close()

    def _stream(
        self, answer: Answer, headers: Mapping[str, str], slot: Slot, call: Call, stay: contextlib.ExitStack
    ) -> Stream:
        def ended(is_whole: bool) -> None:
            stay.close()
            if is_whole:
                self._suspects.acquit(call.body)

        return Stream(answer, headers, cut=lambda: self._cut(slot, call), ended=ended, change=as_answered(slot))

    def _way_to(self, slot: Slot) -> Upstream:
        if slot.number not in self._ways:
            self._forget_the_dead()
            ready, silence_s = slot.engine.ready, self._settings.request_timeout_s
            way = Upstream(uds=slot.engine.spec.uds, base_url=ready.base_url, silence_s=silence_s, ear=slot.ear)
            self._ways[slot.number] = (slot, way)
        return self._ways[slot.number][1]

    def _forget_the_dead(self) -> None:
        for number, (slot, way) in list(self._ways.items()):
            if not slot.is_alive() and slot.in_flight == 0:
                del self._ways[number]
                way.close()


def _check_whole(answer: Answer, content: bytes) -> None:
    """Refuse what is no answer, while nothing of it was passed on.

    Raises:
        EngineLostError: It was cut, or says that the engine is ending.
    """
    if answer.status >= 500 and b'"engine_stopping"' in content:
        raise EngineStoppingError("the engine is stopping")
    claims_json = "json" in answer.headers.get("content-type", "")
    if claims_json and answer.ends_with_the_connection() and not _is_json(content):
        raise EngineLostError("the connection ended within the answer")


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def version_headers(slot: Slot) -> dict[str, str]:
    """Which version answers: `x-relay-*`. What is not printable ASCII, or is a `%`, is percent-encoded as UTF-8."""
    version = slot.checkpoint.version
    headers = {
        "x-relay-model": version.name,
        "x-relay-version": str(version.version),
        "x-relay-digest": slot.checkpoint.digest[:12],
    }
    if version.step is not None:
        headers["x-relay-step"] = str(version.step)
    return {name: quote(value, safe=_AS_IT_IS) for name, value in headers.items()}
