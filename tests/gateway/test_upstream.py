"""The way to an engine: what it answers, and what is made of an engine that stops, stalls or talks nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from server.gateway.upstream import MAX_WAITING_BYTES, Answer, EngineLostError, Upstream, _Connection

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def an_engine(folder: Path, handler: Handler, *, silence_s: float = 5.0) -> AsyncIterator[Upstream]:
    """The way to an engine that does what `handler` does with each connection."""

    serving: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(served, folder / "e.sock")
    upstream = Upstream(uds=str(folder / "e.sock"), base_url="", silence_s=silence_s)
    try:
        yield upstream
    finally:
        upstream.close()
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def says(*pieces: bytes, then_waits: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_waits:
            await reader.read()

    return handler


async def asked(upstream: Upstream) -> Answer:
    return await upstream.post("/v1/completions", b"{}", request_id="req-1")


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 20)

    asyncio.run(bounded())


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"Content-Length: 6\r\n\r\nab", b"cdef"),
        (CHUNKED + b"2\r\nab\r\n", b"4\r\ncd", b"ef\r\n0\r\n\r\n"),
        (OK + b"\r\nabc", b"def"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 6\r\n\r\nabcdef",),
    ],
    ids=["length", "chunked", "until the connection ends", "after an interim answer"],
)
def test_a_body_is_whole_however_its_end_is_told(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    async def work() -> None:
        async with an_engine(tmp_path, says(*pieces)) as upstream:
            answer = await asked(upstream)

            assert (answer.status, await answer.whole()) == (200, b"abcdef")

    run(work())


def test_the_engine_is_told_what_is_asked_and_a_connection_serves_many_requests(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(b"connection")
        while True:
            seen.append(await request_of(reader))
            writer.write(OK + b"content-length: 1\r\n\r\n1")

    async def work() -> None:
        async with an_engine(tmp_path, handler) as upstream:
            assert [await (await asked(upstream)).whole() for _ in range(3)] == [b"1"] * 3

    run(work())
    assert seen.count(b"connection") == 1
    assert seen[1].startswith(b"POST /v1/completions HTTP/1.1\r\nhost: engine\r\n")
    assert b"x-request-id: req-1\r\n" in seen[1]
    assert seen[1].endswith(b"\r\n\r\n{}")


def test_a_kept_connection_that_the_engine_closed_is_not_used(tmp_path: Path) -> None:
    async def work() -> None:
        async with an_engine(tmp_path, says(OK + b"content-length: 1\r\n\r\n1")) as upstream:
            for _ in range(3):
                assert await (await asked(upstream)).whole() == b"1"
                await asyncio.sleep(0.05)

    run(work())


def test_more_than_was_asked_for_is_never_the_next_answer(tmp_path: Path) -> None:
    one = OK + b"content-length: 1\r\n\r\n"

    async def work() -> None:
        async with an_engine(tmp_path, says(one + b"1" + one + b"2", then_waits=True)) as upstream:
            assert [await (await asked(upstream)).whole() for _ in range(2)] == [b"1", b"1"]

    run(work())


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (OK,),
        (OK + b"content-length: 9\r\n\r\nab",),
        (CHUNKED + b"2\r\nab\r\n",),
        (b"SSH-2.0-OpenSSH\r\n",),
    ],
    ids=["nothing", "half a head", "half a body", "no last chunk", "no HTTP"],
)
def test_an_engine_that_ends_too_early_is_lost(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    async def work() -> None:
        async with an_engine(tmp_path, says(*pieces)) as upstream:
            with pytest.raises(EngineLostError):
                await (await asked(upstream)).whole()

    run(work())


def test_what_arrived_before_the_engine_was_lost_is_read_first(tmp_path: Path) -> None:
    async def work() -> None:
        async with an_engine(tmp_path, says(CHUNKED + b"2\r\nab\r\n")) as upstream:
            answer = await asked(upstream)
            await asyncio.sleep(0.1)

            assert await answer.read() == b"ab"
            with pytest.raises(EngineLostError):
                await answer.read()

    run(work())


def test_an_engine_that_is_not_there_is_lost(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(EngineLostError, match="cannot be reached"):
            await asked(Upstream(uds=str(tmp_path / "none.sock"), base_url="", silence_s=5.0))

    run(work())


@pytest.mark.parametrize("pieces", [(), (CHUNKED + b"2\r\nab\r\n",)], ids=["before the head", "in the body"])
def test_a_silent_engine_is_given_up(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    async def work() -> None:
        async with an_engine(tmp_path, says(*pieces, then_waits=True), silence_s=0.2) as upstream:
            with pytest.raises(TimeoutError):
                await (await asked(upstream)).whole()

    run(work())


def test_an_engine_that_is_slow_but_not_silent_is_waited_for(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for piece in (CHUNKED, *[b"2\r\nab\r\n"] * 4, b"0\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.2)

    async def work() -> None:
        async with an_engine(tmp_path, handler, silence_s=0.4) as upstream:
            assert await (await asked(upstream)).whole() == b"ab" * 4

    run(work())


def test_the_engine_sees_that_a_closed_answer_is_wanted_no_more(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(CHUNKED + b"2\r\nab\r\n")
        await reader.read()
        gone.set()

    async def work() -> None:
        async with an_engine(tmp_path, handler) as upstream:
            answer = await asked(upstream)
            await answer.read()
            reading = asyncio.ensure_future(answer.read())
            await asyncio.sleep(0)
            answer.close()

            with pytest.raises(EngineLostError):
                await reading
            await gone.wait()

    run(work())


def test_the_engine_waits_for_a_slow_reader_and_that_is_no_silence(tmp_path: Path) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    written = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(CHUNKED)
        for _ in range(100):
            writer.write(chunk)
            await writer.drain()
            written.append(1)
        writer.write(b"0\r\n\r\n")

    async def work() -> None:
        async with an_engine(tmp_path, handler, silence_s=0.3) as upstream:
            answer = await asked(upstream)
            await asyncio.sleep(1.0)
            held = len(written) * 65_536
            body = await answer.whole()

            assert held < 8 * MAX_WAITING_BYTES
            assert len(body) == 100 * 65_536

    run(work())


@pytest.mark.parametrize("slow_reader", ["stays", "leaves"])
def test_a_connection_that_was_paused_for_a_slow_reader_serves_the_next_one(tmp_path: Path, slow_reader: str) -> None:
    """The end of a long answer may stand in the very piece that paused the connection."""
    big = b"x" * (MAX_WAITING_BYTES + 100_000)
    whole = OK + b"content-length: %d\r\n\r\n" % len(big) + big
    answers = [whole, OK + b"content-length: 1\r\n\r\n2"]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(answers.pop(0))

    async def work() -> None:
        async with an_engine(tmp_path, handler, silence_s=2.0) as upstream:
            first = await asked(upstream)
            while not first.is_over:
                await asyncio.sleep(0.01)
            if slow_reader == "leaves":
                first.close()

            assert await (await asked(upstream)).whole() == b"2"
            if slow_reader == "stays":
                assert await first.whole() == big

    run(work())


def test_a_paused_connection_is_heard_again_when_its_answer_ends() -> None:
    """Whichever piece it was that paused it."""
    heard: list[str] = []
    transport = SimpleNamespace(
        is_closing=lambda: False,
        write=lambda data: None,
        close=lambda: None,
        pause_reading=lambda: heard.append("pause"),
        resume_reading=lambda: heard.append("resume"),
    )

    async def work() -> None:
        idle: list[_Connection] = []
        connection = _Connection(idle)
        connection.connection_made(cast("asyncio.BaseTransport", transport))
        answer = connection.ask(b"", 5.0)
        size = MAX_WAITING_BYTES + 1
        connection.data_received(OK + b"content-length: %d\r\n\r\n" % size + b"x" * size)

        assert (answer.is_over, heard, idle) == (True, ["pause", "resume"], [connection])

    run(work())
