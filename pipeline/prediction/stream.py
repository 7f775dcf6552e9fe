"""A streamed answer: the text piece by piece, and a loud end when it is cut."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from pipeline.prediction.errors import StreamBrokenError
from pipeline.prediction.records import Origin

MAX_EVENT_BYTES = 4 * 1024 * 1024
_DONE = b"[DONE]"


class ChatStream(Iterator[str]):
    """Pieces of text as they arrive. Closing it, or leaving its `with` block, ends the request on the server too.

    One thread at a time may read it.

    Attributes:
        text: All that has arrived so far.
        finish_reason: `stop` or `length` once the answer has ended; None before.
        fingerprint: Names version and weights; known with the first piece.
    """

    def __init__(self, response: httpx.Response) -> None:
        origin = Origin.of(response.headers)
        self.model, self.version = origin.model, origin.version
        self.step, self.digest = origin.step, origin.digest
        self.request_id = response.headers.get("x-request-id")
        self.text = ""
        self.finish_reason: str | None = None
        self.fingerprint: str | None = None
        self._is_done = False
        self._events = _events(response)
        # Whoever drops a stream half read must not leave the engine generating for nobody.
        self._close = weakref.finalize(self, response.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the request, whether or not the answer has ended."""
        self._close()

    def __next__(self) -> str:
        """The next piece of text.

        Raises:
            StreamBrokenError: The answer was cut: by an error event, by a silence, or because the connection ended.
        """
        if not self._close.alive:
            raise StopIteration
        try:
            for event in self._events:
                if piece := self._take(event):
                    self.text += piece
                    return piece
        except httpx.TimeoutException as error:
            if not self._is_done:
                raise self._broken("the server fell silent", "timeout") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            if not self._is_done:
                why = f"the connection was lost ({type(error).__name__}: {error})"
                raise self._broken(why, "connection_lost") from error
        if not self._is_done and self.finish_reason is None:
            raise self._broken("it just ended", "connection_lost")
        self.close()
        raise StopIteration

    def _take(self, event: bytes) -> str:
        if event == _DONE:
            self._is_done = True
            return ""
        try:
            document: Any = json.loads(event)
            if error := document.get("error"):
                said = error if isinstance(error, dict) else {"message": str(error)}
                raise self._broken(str(said.get("message", "")), str(said.get("code") or "server_error"))
            self.fingerprint = document.get("system_fingerprint") or self.fingerprint
            choice: dict[str, Any] = next(
                (one for one in document.get("choices") or () if one.get("index", 0) == 0), {}
            )
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            return str((choice.get("delta") or {}).get("content") or "")
        except (ValueError, AttributeError, TypeError) as error:
            raise self._broken("an event in it cannot be read", "not_understood") from error

    def _broken(self, why: str, code: str) -> StreamBrokenError:
        self.close()
        return StreamBrokenError(
            f"the answer broke off after {len(self.text)} characters: {why.rstrip('.')}. It was not asked for again, "
            "since it had begun; `.text` holds what arrived. Ask again if a new answer will do",
            text=self.text,
            version=self.version,
            code=code,
        )


def _events(response: httpx.Response) -> Iterator[bytes]:
    """The data of each server-sent event.

    Lines are split as the standard says, at CR and LF alone: text of a model may hold other characters that Python and
    httpx take for ends of lines, such as U+2028.

    Raises:
        httpx.HTTPError: The connection was lost, or fell silent.
    """
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise httpx.DecodingError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        yield from (line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:"))
