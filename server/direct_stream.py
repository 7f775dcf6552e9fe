"""A stream's way to its client: one plain loop that writes to the server's socket, and ends when the client leaves.

In place of Starlette's StreamingResponse, whose bodies pass three wrappers of `send` and a task group: a token of a
stream is a hundred bytes, so what is done for each piece counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

RAW_SEND = "servers_send"
_Result = TypeVar("_Result")


class App(FastAPI):
    """Keeps the server's own `send` for the streams, in front of the wrappers that Starlette puts around it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault(RAW_SEND, send)  # a layer around this one may have put there what lies further out
        await super().__call__(scope, receive, send)


class DirectStream(Response):
    """A response whose body is sent piece by piece; for routes of an `App`."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.background = None
        self.init_headers(headers)

    async def pass_on(self, send: Send) -> None:
        """Send the body, its last piece with `more_body` false. Cancelled when the client leaves."""
        raise NotImplementedError

    def end(self) -> None:
        """It is over, whether it was sent to its end or not."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with contextlib.suppress(ClientDisconnect):
                # In a task of its own: a piece would wake the coroutines of some twenty layers above this one.
                await unless_client_leaves(receive, self.pass_on(scope[RAW_SEND]))
        finally:
            self.end()


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """What `work` returns; it is cancelled when nobody waits for it any more.

    Raises:
        ClientDisconnect: The client has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
