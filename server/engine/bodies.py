"""Request bodies: bounded, UTF-8, JSON as the standard has it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from server.engine.api_errors import InvalidRequestError

MAX_BODY_BYTES = 8 * 1024 * 1024


async def read_json(request: Request) -> Any:
    """The document in the body.

    Raises:
        InvalidRequestError: It is too long, not UTF-8, or not JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRequestError(
                f"the body is longer than {MAX_BODY_BYTES} bytes", code="request_too_large", status=413
            )
    try:
        text = body.decode("utf-8")
        document = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # half of a surrogate pair is no text, and no tokenizer takes it
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the body is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise InvalidRequestError("the body holds half a surrogate pair, which is no character") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
