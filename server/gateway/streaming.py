"""An engine's stream on its way to a client, as bytes: it never just ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from starlette.types import Send

from server.direct_stream import DirectStream
from server.gateway.upstream import Answer, EngineLostError

# Where the framing does not tell the end of a stream, its last events do. A quote within their texts is escaped.
_LAST_EVENTS = re.compile(rb'(?:^|\n)data: ?\[DONE\]|"error"\s*:|"finish_reason"\s*:\s*"')
_TAIL_BYTES = 2048


class Stream(DirectStream):
    """A stream that ends with an error event when it was cut, and tells when it has ended, and whether it was whole."""

    def __init__(
        self,
        answer: Answer,
        headers: Mapping[str, str],
        *,
        cut: Callable[[], bytes],
        ended: Callable[[bool], None],
        change: Callable[[bytes], bytes] = lambda piece: piece,
    ) -> None:
        super().__init__(answer.status, headers)
        self._answer = answer
        self._cut = cut
        self._ended = ended
        self._change = change
        self._is_whole = False

    def end(self) -> None:
        self._answer.close()  # the engine must not generate for a client that went away
        self._ended(self._is_whole)

    async def pass_on(self, send: Send) -> None:
        answer, tail, is_over, is_cut = self._answer, b"", False, False
        is_framed = not answer.ends_with_the_connection()
        while not is_over:
            try:
                piece, is_over = self._change(await answer.read()), answer.is_over
                if not is_framed:
                    tail = (tail + piece)[-_TAIL_BYTES:]
                is_cut = is_over and not is_framed and _LAST_EVENTS.search(tail) is None
            except (EngineLostError, TimeoutError):
                piece, is_over, is_cut = b"", True, True
            if is_cut:  # a stream that just ends looks like a complete answer to OpenAI's clients
                piece += b"\n\n" + self._cut()
            await send({"type": "http.response.body", "body": piece, "more_body": not is_over})
        self._is_whole = not is_cut
