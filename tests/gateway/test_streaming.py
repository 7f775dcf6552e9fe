"""A stream on its way to a client: it never just ends, and however it ends the engine knows and the slot is free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from server.direct_stream import App
from server.gateway import openai_errors
from server.gateway.streaming import Stream
from server.gateway.upstream import Answer, EngineLostError

DONE = b'data: {"x": 1}\n\ndata: [DONE]\n\n'
Sent = list[dict[str, Any]]


class StandIn:
    """An answer that gives these pieces, raises those that are errors, and is over before an empty one.

    After the last it is silent until it is closed.
    """

    status = 200

    def __init__(self, *pieces: bytes | Exception, framed: bool = False) -> None:
        self.pieces = list(pieces)
        self.framed = framed
        self.is_over = False
        self.closed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(self) -> bytes:
        if not self.pieces:
            return await self.closed
        if isinstance(piece := self.pieces.pop(0), Exception):
            raise piece
        self.is_over = not piece or self.pieces[:1] == [b""]
        return piece

    def ends_with_the_connection(self) -> bool:
        return not self.framed

    def close(self) -> None:
        if not self.closed.done():
            self.closed.set_exception(EngineLostError("closed from here"))
            self.closed.exception()


async def passed_on(
    *pieces: bytes | Exception,
    framed: bool = False,
    receive: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    send: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
) -> tuple[Sent, int, StandIn]:
    """What was sent, how often the slot was given back, and the answer."""
    sent: Sent = []
    ends = []
    answer = StandIn(*pieces, framed=framed)

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)
        if send is not None:
            await send(message)

    async def nothing() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    stream = Stream(
        cast("Answer", answer),
        {"content-type": "text/event-stream"},
        cut=lambda: openai_errors.engine_gone("").event("req-1"),
        ended=lambda is_whole: ends.append(1),
    )
    with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
        await asyncio.wait_for(stream({"servers_send": keep}, cast("Any", receive or nothing), cast("Any", keep)), 10)
    return sent, len(ends), answer


def body_of(sent: Sent) -> bytes:
    assert sent[0]["type"] == "http.response.start"
    return b"".join(message["body"] for message in sent[1:])


def test_a_whole_stream_is_passed_on_as_it_is() -> None:
    sent, num_ends, answer = asyncio.run(passed_on(DONE[:9], DONE[9:], b""))

    assert [message.get("more_body") for message in sent] == [None, True, False]
    assert body_of(sent) == DONE
    assert sent[0]["headers"] == [(b"content-type", b"text/event-stream")]
    assert (num_ends, answer.closed.done()) == (1, True)


@pytest.mark.parametrize("end", [b"", EngineLostError("died"), TimeoutError("silent")], ids=["end", "died", "silent"])
def test_a_stream_that_was_cut_ends_with_an_error_event(end: bytes | Exception) -> None:
    sent, num_ends, _ = asyncio.run(passed_on(b'data: {"x": 1}\n\n', end))

    assert b'"code": "engine_died"' in body_of(sent)
    assert sent[-1]["more_body"] is False
    assert num_ends == 1


def test_a_stream_is_whole_when_its_framing_says_so() -> None:
    """`transformers serve` sends no [DONE]."""
    sent, _, _ = asyncio.run(passed_on(b'data: {"x": 1}\n\n', b"", framed=True))

    assert body_of(sent) == b'data: {"x": 1}\n\n'


def test_a_stream_whose_framing_was_cut_ends_with_an_error_event_although_it_said_why_it_finished() -> None:
    last = b'data: {"choices": [{"finish_reason": "stop"}]}\n\n'
    sent, _, _ = asyncio.run(passed_on(last, EngineLostError("died"), framed=True))

    assert b'"code": "engine_died"' in body_of(sent)


@pytest.mark.parametrize(
    ("piece", "is_whole"),
    [
        (b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n', True),
        (b'data: {"choices": [{"delta": {}, "finish_reason":null}]}\n\n', False),
        (rb'data: {"choices": [{"delta": {"content": "\"finish_reason\": \"stop\""}}]}' + b"\n\n", False),
        (b'data: {"choices": [{"delta": {"content": "data: [DONE]"}}]}\n\n', False),
    ],
)
def test_where_the_connection_is_the_framing_the_last_event_tells_the_end(piece: bytes, is_whole: bool) -> None:
    sent, _, _ = asyncio.run(passed_on(piece, b""))

    assert (b'"error"' not in body_of(sent)) is is_whole


def test_a_stream_that_the_engine_ended_with_an_error_gets_no_second_one() -> None:
    sent, _, _ = asyncio.run(passed_on(b'data: {"error": {"code": "x"}}\n\n', b""))

    assert body_of(sent).count(b'"error"') == 1


def test_the_engine_is_told_at_once_when_the_client_leaves() -> None:
    async def leave() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    _, num_ends, answer = asyncio.run(passed_on(b"data: 1\n\n", receive=leave))

    assert (num_ends, answer.closed.done()) == (1, True)


def test_what_goes_wrong_at_the_client_ends_the_stream_and_frees_the_slot() -> None:
    async def breaks(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise ZeroDivisionError

    _, num_ends, answer = asyncio.run(passed_on(b"data: 1\n\n", send=breaks))

    assert (num_ends, answer.closed.done()) == (1, True)


def test_a_stream_that_is_told_to_end_frees_the_slot() -> None:
    async def work() -> tuple[Sent, int, StandIn]:
        streaming = asyncio.create_task(passed_on(b"data: 1\n\n"))
        await asyncio.sleep(0.05)
        streaming.cancel()
        return await streaming

    _, num_ends, answer = asyncio.run(work())

    assert (num_ends, answer.closed.done()) == (1, True)


def test_an_error_after_the_head_gets_no_second_head() -> None:
    """The layers of the application must see the head, else they answer the error with another one."""
    sent: Sent = []

    async def work() -> None:
        app = App()

        @app.get("/")
        async def stream() -> Stream:
            answer = cast("Answer", StandIn(DONE, b""))
            return Stream(answer, {}, cut=lambda: openai_errors.engine_gone("").event("req-1"), ended=int)

        async def breaks(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                raise ZeroDivisionError

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        with pytest.raises(ZeroDivisionError):
            await app(scope, receive, breaks)

    asyncio.run(work())

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
