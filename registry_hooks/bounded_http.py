"""One HTTP request with a bound on its whole answer: httpx bounds each silence, and a proxy may drip for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping

import httpx


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
        httpx.HTTPError: No answer in time or at all.
    """
    deadline = time.monotonic() + total_s
    with client.stream(method, path, params=params, json=body, timeout=silence_s) as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"the answer was not whole after {total_s:g} s", request=answer.request)
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=b"".join(pieces), request=answer.request
        )
