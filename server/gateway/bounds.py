"""Bounds of the HTTP server that uvicorn does not have: on heads, bodies, silence, and the number of connections.

None of them needs a key to be hit, so each frees itself: who is late is closed, and when all places are taken, the one
that has waited longest without a request goes.
"""

from __future__ import annotations

import asyncio
import re
import resource
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.gateway import openai_errors

MAX_HEAD_BYTES = 64 * 1024
# A header takes a hundred bytes here, however short it is.
MAX_HEADERS = 256
HEAD_S = 10.0
BODY_SILENCE_S = 30.0
BODY_S = 300.0
# A client that reads nothing of its answer for so long has gone, whatever its network says.
UNREAD_S = 300.0

MOST_CONNECTIONS = 4096
# Beyond the bound there is room for those who ask how this server is.
SPARE_CONNECTIONS = 64
# Files and sockets that are no connection of a client: the registry's, the store's, logs, engines.
_OTHER_DESCRIPTORS = 256


def most_connections() -> int:
    """As many as this process has descriptors for: a stream takes two, one to its client and one to the engine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(16, min(MOST_CONNECTIONS, (soft - _OTHER_DESCRIPTORS) // 2 - SPARE_CONNECTIONS))


# Java's and curl's clients offer HTTP/2 with any request; the parser would take the body for the other protocol.
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)


class Crowd:
    """The connections of one server. Lives on the event loop.

    Args:
        most: How many may have a request running.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[BoundedHttp] = set()
        self._waiting: dict[BoundedHttp, None] = {}  # without a request; who waits longest stands first

    @property
    def is_full(self) -> bool:
        """Whether only questions about this server itself should be answered."""
        return len(self._open) - len(self._waiting) > self._most

    def enter(self, connection: BoundedHttp) -> None:
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) <= self._most:
            return
        longest = next(iter(self._waiting))
        if longest is not connection or len(self._open) > self._most + SPARE_CONNECTIONS:
            self.leave(longest)
            longest.transport.abort()

    def asks(self, connection: BoundedHttp) -> None:
        self._waiting.pop(connection, None)

    def waits(self, connection: BoundedHttp) -> None:
        if connection in self._open:
            self._waiting[connection] = None

    def leave(self, connection: BoundedHttp) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def close_the_late(self, now: float) -> None:
        """To be called once a second."""
        for connection in [each for each in self._open if each.is_late(now)]:
            connection.transport.abort()


class BoundedHttp(HttpToolsProtocol):
    """One connection. Its client is late when a head, a body or the reading of an answer takes too long."""

    def __init__(self, *, crowd: Crowd, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._crowd = crowd
        self._part: Literal["head", "body", "none"] = "head"
        self._since = self._heard_at = self.loop.time()
        self._unread_since: float | None = None
        self._num_head_bytes = 0  # since the last byte of a body

    def is_late(self, now: float) -> bool:
        """Whether the client is: not when it is this side that reads no more."""
        if self._unread_since is not None and now - self._unread_since > UNREAD_S:
            return True
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_answering and self._part == "head"):
            self._since = self._heard_at = now
        if self._part == "head":
            return now - self._since > HEAD_S
        return self._part == "body" and (now - self._heard_at > BODY_SILENCE_S or now - self._since > BODY_S)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._part == "none":
            self._begin_head()
        self._heard_at = self.loop.time()
        self._num_head_bytes += len(data)
        super().data_received(_without_upgrade(data) if self._part == "head" else data)
        if self._part != "none" and self._num_head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part != "head":  # it stands behind a chunked body: nobody reads it, so it is not kept
            return
        if len(self.headers) >= MAX_HEADERS:
            self._refuse_head()
            raise ValueError("too many headers")  # ends the parser
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._part, self._since, self._num_head_bytes = "body", self.loop.time(), 0
        self._crowd.asks(self)
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # else it is answered, or given up
            super().send_400_response(msg)

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part = "none"
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._crowd.waits(self)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def _begin_head(self) -> None:
        if self._part != "head":
            self._part, self._since, self._num_head_bytes = "head", self.loop.time(), 0

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._part == "body" or is_answering:  # nothing may be written into an answer that may be under way
            self.transport.abort()
            return
        message = f"the head of the request has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
        body = openai_errors.invalid(message, code="head_too_large", status=431).body("")
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Of a head, the same without an offer to speak another protocol, which a server may pass over."""
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"ignored", head) + end + body
