"""Passes OpenAI requests to the engine that is in service, and its answers back, as bytes.

A request takes one slot and keeps it: one answer, one version. While nothing has been sent to the client a dead engine
is waited for and the request sent again; after that the client gets an error event, never a silent end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
from starlette.responses import Response, StreamingResponse

from registry_hooks import events
from registry_hooks.settings import ServeSettings
from server.gateway import openai_errors
from server.gateway.lineup import LineUp, Slot
from server.gateway.openai_errors import ApiProblem

CONNECT_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 3
_HELD_STEP_S = 0.02
_PASSED_HEADERS = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "x-request-id")
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError)


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
        self._sessions: dict[int, tuple[Slot, aiohttp.ClientSession]] = {}
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
            except _LOST as error:
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

    async def close(self) -> None:
        for _, session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def engine_health(self, slot: Slot) -> Mapping[str, object]:
        """What the engine says of itself now; empty when it does not answer within a second."""
        try:
            timeout = aiohttp.ClientTimeout(total=1.0)
            url = f"{slot.engine.ready.base_url or 'http://engine'}/health"
            async with (await self._session(slot)).get(url, timeout=timeout) as answer:
                health: Mapping[str, object] = await answer.json()
                return health
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
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
        session = await self._session(slot)
        headers = {"content-type": "application/json", "x-request-id": call.request_id}
        url = f"{slot.engine.ready.base_url or 'http://engine'}{call.path}"
        answer = await session.post(url, data=_body_for(slot, call), headers=headers)
        passed = {name: answer.headers[name] for name in _PASSED_HEADERS if name in answer.headers}
        passed |= version_headers(slot)
        if answer.content_type != "text/event-stream":
            async with answer:
                content = await answer.read()
            self._lineup.give_back(slot)
            return Response(content, status_code=answer.status, headers=passed)
        return _Stream(self._stream(slot, answer), lambda: self._end(slot, answer), answer.status, passed)

    async def _stream(self, slot: Slot, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        tail = b""
        try:
            async for piece in answer.content.iter_any():
                tail = (tail + piece)[-256:]
                yield piece
            whole = b"data: [DONE]" in tail or b'"error"' in tail
        except (*_LOST, TimeoutError):
            whole = False
        if not whole:
            # A stream that just ends looks like a complete answer to OpenAI's clients.
            yield b"\n\n" + openai_errors.engine_gone(slot.leaving).event()

    def _end(self, slot: Slot, answer: aiohttp.ClientResponse) -> None:
        answer.close()  # a client that went away must not leave the engine generating
        self._lineup.give_back(slot)

    async def _session(self, slot: Slot) -> aiohttp.ClientSession:
        if slot.number not in self._sessions:
            await self._close_sessions_of_the_dead()
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=self._settings.request_timeout_s
            )
            is_on_tcp = bool(slot.engine.ready.base_url)
            connector = (
                aiohttp.TCPConnector(limit=0)
                if is_on_tcp
                else aiohttp.UnixConnector(path=slot.engine.spec.uds, limit=0)
            )
            self._sessions[slot.number] = (slot, aiohttp.ClientSession(connector=connector, timeout=timeout))
        return self._sessions[slot.number][1]

    async def _close_sessions_of_the_dead(self) -> None:
        for number, (slot, session) in list(self._sessions.items()):
            if not slot.is_alive() and slot.in_flight == 0:
                del self._sessions[number]
                await session.close()


class _Stream(StreamingResponse):
    """A stream that tells when it has ended, however it ended."""

    def __init__(self, content, ended, status: int, headers: Mapping[str, str]) -> None:  # type: ignore[no-untyped-def]
        super().__init__(content, status_code=status, headers=dict(headers))
        self._ended = ended

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


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
