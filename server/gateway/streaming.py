"""An engine's stream on its way to a client: one plain loop from socket to socket.

In place of Starlette's StreamingResponse, whose bodies pass three wrappers of `send`, an async generator and a task
group. With that and aiohttp's client (see `upstream`) the gateway took 82 microseconds of CPU a token, and takes 56 so
(benchmarks/serving.py, `gateway_us_per_token`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.gateway.openai_errors import ApiProblem
from server.gateway.upstream import Answer, EngineLostError

_RAW_SEND = "servers_send"
_TAIL_BYTES = 256


class App(FastAPI):
    """Keeps the server's own `send` for the streams, in front of the wrappers that Starlette puts around it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_RAW_SEND] = send
        await super().__call__(scope, receive, send)


class Stream(Response):
    """A stream that ends with an error event when it was cut, and tells when it has ended, however it ended."""

    def __init__(
        self,
        answer: Answer,
        headers: Mapping[str, str],
        *,
        cut: Callable[[], ApiProblem],
        ended: Callable[[], None],
    ) -> None:
        self.status_code = answer.status
        self.background = None
        self.init_headers(headers)
        self._answer = answer
        self._cut = cut
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(until_gone(receive))
        # A client that went away must not leave the engine generating: this ends the read below, too.
        leaving.add_done_callback(lambda _: self._answer.close())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # In a task of its own: a piece would wake the coroutines of some twenty layers above this one.
            await asyncio.create_task(self._pass_on(scope[_RAW_SEND]))
        finally:
            leaving.cancel()
            self._answer.close()
            self._ended()

    async def _pass_on(self, send: Send) -> None:
        answer, tail, is_over = self._answer, b"", False
        while not is_over:
            try:
                piece, is_over = await answer.read(), answer.is_over
                tail = (tail + piece)[-_TAIL_BYTES:]
                is_cut = is_over and b"data: [DONE]" not in tail and b'"error"' not in tail
            except (EngineLostError, TimeoutError):
                piece, is_over, is_cut = b"", True, True
            if is_cut:  # a stream that just ends looks like a complete answer to OpenAI's clients
                piece += b"\n\n" + self._cut().event()
            await send({"type": "http.response.body", "body": piece, "more_body": not is_over})


async def until_gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
