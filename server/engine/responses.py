"""An answer over HTTP, whole or as a stream of server-sent events; the work ends when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Send

from registry_hooks import events
from server.direct_stream import DirectStream, unless_client_leaves
from server.engine.answering import Answering
from server.engine.api_errors import ApiError, ServerError
from server.engine.formats import Format
from server.engine.identity import Envelope
from server.engine.transcript import Piece

_DONE = b"data: [DONE]\n\n"
MAX_ARRIVING = 64
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class AnswerStream(DirectStream):
    """Answers as server-sent events. A failure in the middle is an error event, and then there is no `[DONE]`."""

    def __init__(self, answers: Sequence[Answering], form: Format, envelope: Envelope, *, include_usage: bool) -> None:
        super().__init__(200, _HEADERS)
        self._answers = answers
        self._events = _events(answers, form, envelope, include_usage=include_usage)

    def end(self) -> None:
        close_all(self._answers)

    async def pass_on(self, send: Send) -> None:
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def whole_answer(
    request: Request, answers: Sequence[Answering], form: Format, envelope: Envelope
) -> JSONResponse:
    """All answers in one.

    Raises:
        ServerError: The engine failed on one.
        ClientDisconnect: Nobody waits for them any more; the engine was told.
    """
    try:
        collected = await unless_client_leaves(request.receive, _collect_all(answers))
    finally:
        close_all(answers)
    pairs = zip(answers, collected, strict=True)
    choices = [form.whole(index, pieces, one.finish_reason) for index, (one, pieces) in enumerate(pairs)]
    return JSONResponse(envelope.wrap(form.whole_kind, choices, usage=usage_of(answers)))


def close_all(answers: Sequence[Answering]) -> None:
    """The answers are complete, or nobody waits for them any more."""
    for answering in answers:
        answering.close()


def usage_of(answers: Sequence[Answering]) -> dict[str, Any]:
    """Token counts, as OpenAI's clients read them; a prompt with several answers counts once."""
    first = [one for one in answers if one.ask.sampling.choice == 0]
    prompt, made = sum(len(one.ask.prompt_ids) for one in first), sum(one.transcript.num_tokens for one in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.num_reused_tokens for one in first)},
    }


async def _events(
    answers: Sequence[Answering], form: Format, envelope: Envelope, *, include_usage: bool
) -> AsyncIterator[bytes]:
    more: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        for index in range(len(answers)):
            for choice in form.opening(index):
                yield _event(envelope.wrap(form.chunk_kind, [choice], **more))
        async for index, piece in _merged(answers):
            if piece is None:
                choice = form.finish(index, answers[index].finish_reason)
            elif piece.text or piece.scored:
                choice = form.piece(index, piece)
            else:
                continue
            yield _event(envelope.wrap(form.chunk_kind, [choice], **more))
        if include_usage:
            yield _event(envelope.wrap(form.chunk_kind, [], usage=usage_of(answers)))
        yield _DONE
    except ApiError as error:
        yield _event(error.body())
    except Exception as error:  # noqa: BLE001 - a stream that is cut looks complete to clients, so it must end by name
        events.logger().error("stream.failed", error=f"{type(error).__name__}: {error}")
        yield _event(ServerError("the answer could not be finished").body())


async def _merged(answers: Sequence[Answering]) -> AsyncIterator[tuple[int, Piece | None]]:
    """The pieces of all answers as they are made, with their index; None after the last of each."""
    if len(answers) == 1:
        async for only in answers[0].pieces():
            yield 0, only
        yield 0, None
        return
    arriving: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(MAX_ARRIVING)
    pumping = [asyncio.create_task(_pump(index, one, arriving)) for index, one in enumerate(answers)]
    try:
        num_left = len(pumping)
        while num_left:
            index, piece = await arriving.get()
            if isinstance(piece, Exception):
                raise piece
            num_left -= piece is None
            yield index, piece
    finally:
        for task in pumping:
            task.cancel()


async def _pump(
    index: int, answering: Answering, arriving: asyncio.Queue[tuple[int, Piece | Exception | None]]
) -> None:
    try:
        async for piece in answering.pieces():
            await arriving.put((index, piece))
        await arriving.put((index, None))
    except Exception as error:  # noqa: BLE001 - raised where the pieces are read
        await arriving.put((index, error))


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + to_json(document) + b"\n\n"


async def _collect_all(answers: Sequence[Answering]) -> list[list[Piece]]:
    return await asyncio.gather(*map(_collect, answers))


async def _collect(answering: Answering) -> list[Piece]:
    return [piece async for piece in answering.pieces()]
