"""The engine's OpenAPI document. Bodies are read by hand (`bodies`, `wire`), so FastAPI does not know them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server.engine.tokenizing import DetokenizeRequest, TokenizeRequest
from server.engine.wire import ChatRequest, CompletionRequest

_SCHEMA = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
_ERRORS = {
    "400": "A field is missing, wrong or not served; `error.param` names it.",
    "404": "No model of that name is served here.",
    "413": "The body is too long.",
    "429": "As many requests wait as may; Retry-After says when to come again.",
    "500": "The model failed on this request.",
}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of what `app` serves, with the bodies and errors of OpenAI's routes."""
    document: dict[str, Any] = get_openapi(title=app.title, version="1", routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for path, kind in _BODIES.items():
        schema = kind.model_json_schema(ref_template=_SCHEMA)
        schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
        operation = document["paths"][path]["post"]
        reference = {"$ref": _SCHEMA.format(model=kind.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
        operation["responses"] |= {status: {"description": text} for status, text in _ERRORS.items()}
    return document
