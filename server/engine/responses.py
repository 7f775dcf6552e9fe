"""An answer over HTTP, whole or as a stream of server-sent events; the work ends when the client goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from registry_hooks import events
from server.engine.answering import Answering
from server.engine.api_errors import ApiError, ServerError
from server.engine.formats import Format
from server.engine.identity import Envelope
from server.engine.transcript import Piece

_DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class AnswerStream(StreamingResponse):
    """An answer as server-sent events. A failure in the middle is an error event, and then there is no `[DONE]`."""

    def __init__(self, answering: Answering, form: Format, envelope: Envelope, *, include_usage: bool) -> None:
        self._answering = answering
        lines = _events(answering, form, envelope, include_usage=include_usage)
        super().__init__(lines, media_type="text/event-stream", headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.close()


async def whole_answer(request: Request, answering: Answering, form: Format, envelope: Envelope) -> JSONResponse:
    """An answer in one.

    Raises:
        ServerError: The engine failed on it.
        ClientDisconnect: Nobody waits for it any more; the engine was told.
    """
    collecting = asyncio.create_task(_collect(answering))
    leaving = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ClientDisconnect
        choice = form.whole(collecting.result(), answering.finish_reason)
    finally:
        collecting.cancel()
        leaving.cancel()
        answering.close()
    return JSONResponse(envelope.wrap(form.whole_kind, [choice], usage=answering.usage()))


async def _events(
    answering: Answering, form: Format, envelope: Envelope, *, include_usage: bool
) -> AsyncIterator[bytes]:
    more: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        for choice in form.opening():
            yield _event(envelope.wrap(form.chunk_kind, [choice], **more))
        async for piece in answering.pieces():
            if piece.text or piece.scored:
                yield _event(envelope.wrap(form.chunk_kind, [form.piece(piece)], **more))
        yield _event(envelope.wrap(form.chunk_kind, [form.finish(answering.finish_reason)], **more))
        if include_usage:
            yield _event(envelope.wrap(form.chunk_kind, [], usage=answering.usage()))
        yield _DONE
    except ApiError as error:
        yield _event(error.body())
    except Exception as error:  # noqa: BLE001 - a stream that is cut looks complete to clients, so it must end by name
        events.logger().error("stream.failed", error=f"{type(error).__name__}: {error}")
        yield _event(ServerError("the answer could not be finished").body())


def _event(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return b"data: " + text.encode() + b"\n\n"


async def _collect(answering: Answering) -> list[Piece]:
    return [piece async for piece in answering.pieces()]


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
