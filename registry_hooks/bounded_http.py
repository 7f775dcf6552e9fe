"""One HTTP request with bounds on its whole answer: httpx bounds each silence; a proxy may drip, or pour, for ever."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping

import httpx

# A page of a thousand versions with all their tags has some megabytes.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
# Of a piece that arrives, gzip makes at most a thousand times its size; others, or several of them, make gigabytes.
_ENCODINGS = ("identity", "gzip")
_GZIP = 31  # zlib's number for it


def request(
    client: httpx.Client,
    method: str,
    path: str,
    *,
    silence_s: float,
    total_s: float,
    params: Mapping[str, str] | None = None,
    body: object = None,
) -> httpx.Response:
    """The answer, read whole.

    Args:
        silence_s: Bound on connecting, and on each silence.
        total_s: Bound on the body, from the sending on.

    Raises:
        httpx.HTTPError: No answer in time or at all, or one of more than `MAX_ANSWER_BYTES`.
    """
    deadline = time.monotonic() + total_s
    asked = {"accept-encoding": "gzip"}
    with client.stream(method, path, params=params, json=body, headers=asked, timeout=silence_s) as answer:
        encoding = answer.headers.get("content-encoding", "identity").lower()
        if encoding not in _ENCODINGS:
            raise httpx.DecodingError(f"the answer is encoded as {encoding[:20]!r}", request=answer.request)
        unpack = zlib.decompressobj(_GZIP).decompress if encoding == "gzip" else bytes
        pieces, num_bytes = [], 0
        for piece in answer.iter_raw():
            try:
                pieces.append(unpack(piece))
            except zlib.error as error:
                raise httpx.DecodingError(f"the answer is no gzip ({error})", request=answer.request) from error
            num_bytes += len(pieces[-1])
            if num_bytes > MAX_ANSWER_BYTES:
                message = f"the answer has more than {MAX_ANSWER_BYTES} bytes"
                raise httpx.DecodingError(message, request=answer.request)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"the answer was not whole after {total_s:g} s", request=answer.request)
        answer.headers.pop("content-encoding", None)  # the pieces are unpacked
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=b"".join(pieces), request=answer.request
        )
