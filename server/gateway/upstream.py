"""HTTP/1.1 to one engine: kept connections, one request at a time on each, answers read piece by piece.

In place of aiohttp's client, which took a quarter of the gateway's CPU time for a streamed token: each piece was parsed
twice and set a timer anew (benchmarks/serving.py, `gateway_us_per_token`).
"""

from __future__ import annotations

import asyncio
from typing import cast
from urllib.parse import urlsplit

import httptools

from server.gateway.lineup import Ear

CONNECT_TIMEOUT_S = 5.0
# So much may wait for a slow client; then the engine has to wait.
MAX_WAITING_BYTES = 256 * 1024


class EngineLostError(ConnectionError):
    """The engine cannot be reached, or it ended in the middle of an answer."""


class EngineUnreachableError(EngineLostError):
    """The engine cannot be reached: the request never came to it."""


class EngineStoppingError(EngineLostError):
    """The engine said that it is ending, in place of an answer."""


class Answer:
    """The answer to one request, being received.

    Attributes:
        headers: By lower-case name.
    """

    def __init__(self, connection: _Connection, silence_s: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_over = False
        self.parser = httptools.HttpResponseParser(self)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._silence_s = silence_s
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look_for_silence)
        self._has_head = False
        self._pieces: list[bytes] = []
        self._num_waiting_bytes = 0
        self._is_paused = False
        self._trouble: Exception | None = None
        self._news: asyncio.Future[None] | None = None

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            EngineLostError: It ended before.
            TimeoutError: It said nothing for too long.
        """
        while not self._has_head:
            await self._until_news()

    async def read(self) -> bytes:
        """What has arrived, at once; nothing only at the end. Raises as `head` does."""
        while not self._pieces:
            if self.is_over:
                return b""
            await self._until_news()
        pieces, self._pieces, self._num_waiting_bytes = self._pieces, [], 0
        self._resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def whole(self) -> bytes:
        """The body. Raises as `head` does."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """End it, if it has not ended: the engine sees that nobody listens, and who reads here gets an error."""
        if not self.is_over:
            self.fail(EngineLostError("closed from here"))

    def fail(self, trouble: Exception) -> None:
        """It ends here, and its connection with it."""
        self._timer.cancel()
        if not self.is_over and self._trouble is None:
            self._trouble = trouble
            self._connection.ear.num_open -= self._has_head
            self._connection.transport.close()
            self._tell()

    def on_message_begin(self) -> None:
        if self.is_over:  # more than was asked for: it must not become the next one's answer
            self._connection.transport.close()
            raise EngineLostError("the engine said more than it was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        if self.status >= 200:
            self._heard_at = self._loop.time()
            self._has_head = True
            self._connection.ear.num_open += self._trouble is None
            self._tell()

    def on_body(self, piece: bytes) -> None:
        self._heard_at = self._loop.time()
        self._pieces.append(piece)
        self._num_waiting_bytes += len(piece)
        if self._num_waiting_bytes > MAX_WAITING_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.transport.pause_reading()
        self._tell()

    def on_message_complete(self) -> None:
        if not self._has_head:  # "100 Continue" and its like come before the answer
            self.headers.clear()
            return
        self._connection.ear.num_open -= self._trouble is None
        self.is_over = True
        self._timer.cancel()
        self._tell()
        self._resume()  # the connection goes to somebody else, who must hear what the engine says
        self._connection.has_answered(keep=self.parser.should_keep_alive())

    def ends_with_the_connection(self) -> bool:
        """Whether nothing else says how long the body is."""
        return self._has_head and "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused, self._heard_at = False, self._loop.time()
            if not self._connection.transport.is_closing():
                self._connection.transport.resume_reading()

    def _look_for_silence(self) -> None:
        since = self._loop.time() if self._is_paused else self._heard_at
        left_s = since + self._silence_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look_for_silence)
        else:
            self.fail(TimeoutError(f"the engine said nothing for {self._silence_s:g} s"))

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _until_news(self) -> None:
        if self._trouble is not None:
            raise self._trouble
        self._news = self._loop.create_future()
        await self._news


class _Connection(asyncio.Protocol):
    """One connection to an engine; after an answer it waits among the idle ones."""

    def __init__(self, idle: list[_Connection], ear: Ear | None = None) -> None:
        self.transport: asyncio.Transport
        self._idle = idle
        self.ear = ear or Ear()
        self._answer: Answer | None = None

    def ask(self, request: bytes, silence_s: float) -> Answer:
        self._answer = Answer(self, silence_s)
        self.transport.write(request)
        return self._answer

    def has_answered(self, *, keep: bool) -> None:
        self._answer = None
        if keep and not self.transport.is_closing():
            self._idle.append(self)
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.ear.num_heard += 1
        if (answer := self._answer) is None:
            self.transport.close()  # nobody asked
            return
        try:
            answer.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.fail(EngineLostError(f"the engine does not speak HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if error is None and answer.ends_with_the_connection():
            self.transport.close()
            answer.on_message_complete()
        else:
            answer.fail(EngineLostError(f"the engine closed the connection: {error or 'at its end'}"))


class Upstream:
    """The way to one engine.

    Args:
        uds: Its Unix socket, where `base_url` is empty.
        silence_s: An answer that stands still for so long is given up.
        ear: Counts what is heard of it.
    """

    def __init__(self, *, uds: str, base_url: str, silence_s: float, ear: Ear | None = None) -> None:
        self._uds = uds
        self._url = urlsplit(base_url or "http://engine")
        self._is_on_tcp = bool(base_url)
        self._silence_s = silence_s
        self._ear = ear or Ear()
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, *, request_id: str) -> Answer:
        """The answer, as soon as its head is there.

        Raises:
            EngineLostError: The engine cannot be reached, or ended before it answered.
            TimeoutError: It said nothing for too long.
        """
        head = (
            f"POST {self._url.path}{path} HTTP/1.1\r\nhost: {self._url.netloc}\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return await self._ask(head.encode("latin-1") + body, self._silence_s)

    async def get(self, path: str, *, timeout_s: float) -> Answer:
        """As `post`."""
        head = f"GET {self._url.path}{path} HTTP/1.1\r\nhost: {self._url.netloc}\r\n\r\n"
        return await self._ask(head.encode("latin-1"), timeout_s)

    def close(self) -> None:
        """Let the idle connections go."""
        for connection in self._idle:
            connection.transport.close()

    async def _ask(self, request: bytes, silence_s: float) -> Answer:
        answer = (self._kept() or await self._connected()).ask(request, silence_s)
        try:
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    def _kept(self) -> _Connection | None:
        while self._idle:
            if not (connection := self._idle.pop()).transport.is_closing():
                return connection
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if self._is_on_tcp:
                    host, port = self._url.hostname or "", self._url.port or 80
                    return (await loop.create_connection(lambda: _Connection(self._idle, self._ear), host, port))[1]
                return (await loop.create_unix_connection(lambda: _Connection(self._idle, self._ear), self._uds))[1]
        except OSError as error:  # TimeoutError is one
            raise EngineUnreachableError(f"the engine cannot be reached: {error!r}") from error
