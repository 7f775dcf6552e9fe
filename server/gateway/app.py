"""The HTTP door of the gateway: routes, keys, bounds, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from registry_hooks.settings import Settings
from server.direct_stream import App, unless_client_leaves
from server.garbage import nothing_to_collect
from server.gateway import info, openai_errors
from server.gateway.control import Watcher
from server.gateway.departure import Departure
from server.gateway.door import REQUEST_ID, problem_answer
from server.gateway.journal import Journal
from server.gateway.lineup import LineUp
from server.gateway.metrics import Metrics
from server.gateway.openai_errors import ApiProblem
from server.gateway.outcome import ReloadAnswer, describe, planned
from server.gateway.proxy import Call, ProblemError, Proxy

# A body is read in one go on the event loop, where nothing else moves meanwhile: 2 MB of small numbers take 0.1 s.
MAX_BODY_BYTES = 2_000_000
DEFAULT_RELOAD_WAIT_S = 60.0
LONGEST_RELOAD_WAIT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts of one gateway."""

    settings: Settings
    lineup: LineUp
    watcher: Watcher
    journal: Journal
    metrics: Metrics
    departure: Departure


class Health(BaseModel):
    """`/health` and `/ready`."""

    status: str
    reason: str = ""


def create_app(gateway: Gateway) -> FastAPI:
    """The gateway's HTTP application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with nothing_to_collect():
            app.state.proxy = Proxy(gateway.lineup, gateway.settings.serve, gateway.departure)
        yield
        app.state.proxy.close()

    app = App(title="Relay gateway", lifespan=lifespan, docs_url="/docs", redoc_url=None)
    _add_error_handlers(app)
    _add_status_routes(app, gateway)
    _add_reload_route(app, gateway)
    _add_openai_routes(app, gateway)
    return app


def _add_status_routes(app: FastAPI, gateway: Gateway) -> None:
    lineup, journal = gateway.lineup, gateway.journal

    @app.get("/health")
    async def health() -> Health:
        """Liveness: this process answers. Never waits for a reload."""
        return Health(status="ok")

    @app.get("/ready", responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        """Whether a model answers."""
        if gateway.departure.is_announced:
            response.status_code = 503
            return Health(status="leaving", reason="this server is going; requests are still taken for a moment")
        slot = lineup.current
        is_ready = slot is not None and slot.is_alive() and slot.is_answering
        response.status_code = 200 if is_ready else 503
        return Health(status="ready" if is_ready else "not ready", reason=journal.status.because)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = gateway.metrics.render(lineup, journal.status)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/models/info")
    async def models_info(request: Request) -> info.ModelInfo:
        """What is served, and why."""
        slot = lineup.current
        health = await request.app.state.proxy.engine_health(slot) if slot is not None and slot.is_alive() else {}
        settings = gateway.settings
        return info.model_info(
            lineup,
            journal.status,
            server=settings.serve.server_name,
            score_metric=settings.registry.score_metric,
            health=health,
            now=datetime.now(UTC),
        )


def _add_reload_route(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/models/reload", responses={202: {"model": ReloadAnswer}, 409: {"model": ReloadAnswer}})
    async def reload(
        request: Request,
        response: Response,
        dry_run: bool = Query(False, description="Only say what would be done."),
        force: bool = Query(False, description="Try again what was refused before."),
        timeout_s: float = Query(DEFAULT_RELOAD_WAIT_S, ge=0, le=LONGEST_RELOAD_WAIT_S),
    ) -> ReloadAnswer:
        """Look at the alias now, and wait (bounded) for what comes of it."""
        _check_key(request, gateway.settings)
        if dry_run:
            preview = await asyncio.to_thread(gateway.watcher.preview)
            return planned(gateway.lineup, gateway.journal.status, preview)
        asked_at = datetime.now(UTC)
        try:
            ticket = gateway.watcher.look_now(retry_refused=force)
            await asyncio.wait_for(asyncio.wrap_future(ticket), timeout_s)
            answer = describe(gateway.lineup, gateway.journal.status, asked_at=asked_at)
        except TimeoutError:
            answer = describe(gateway.lineup, gateway.journal.status, asked_at=asked_at, pending=True)
        response.status_code = answer.http_status
        return answer


def _add_openai_routes(app: FastAPI, gateway: Gateway) -> None:
    settings = gateway.settings

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, object]:
        _check_key(request, settings)
        return {"object": "list", "data": info.model_cards(gateway.lineup)}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> info.ModelCard:
        _check_key(request, settings)
        for card in info.model_cards(gateway.lineup):
            if card.id == name:
                return card
        message = f"model {name!r} is not served here; GET /v1/models lists those that are"
        raise ProblemError(openai_errors.invalid(message, code="model_not_found", param="model", status=404))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _forward(request, gateway, "/v1/chat/completions")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _forward(request, gateway, "/v1/completions")


async def _forward(request: Request, gateway: Gateway, path: str) -> Response:
    """The engine's answer; `path` is the route's own, whatever the URL looks like."""
    call = Call(path=path, body=b"", model=None, request_id=request.scope[REQUEST_ID])
    status, code = 499, "client_left"
    try:
        _check_key(request, gateway.settings)
        body = await _body(request)
        call = replace(call, body=body, model=_model_of(body))
        response: Response = await unless_client_leaves(request.receive, request.app.state.proxy.forward(call))
        status, code = response.status_code, ""
    except ProblemError as error:
        status, code = error.problem.status, error.problem.code
        raise
    except ClientDisconnect:
        raise
    except Exception:
        status, code = 500, "internal_error"
        raise
    finally:
        gateway.metrics.count_request(path, status)
        if status >= 400:
            call.failed(status, code)
    return response


def _check_key(request: Request, settings: Settings) -> None:
    key = settings.serve.api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode("latin-1"), key.get_secret_value().encode())
    if scheme.lower() != "bearer" or not is_right:
        raise ProblemError(openai_errors.unauthorized())


async def _body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
        raise ProblemError(_too_large())
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise ProblemError(_too_large())
        pieces.append(piece)
    return b"".join(pieces)


def _too_large() -> ApiProblem:
    message = f"the request is larger than {MAX_BODY_BYTES} bytes"
    return openai_errors.invalid(message, code="request_too_large", status=413)


def _model_of(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            openai_errors.invalid(f"the request body is not valid JSON: {error}", code="invalid_json")
        ) from error
    if not isinstance(document, dict):
        raise ProblemError(openai_errors.invalid("the request body must be a JSON object", code="invalid_json"))
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise ProblemError(openai_errors.invalid("`model` must be a string", code="invalid_type", param="model"))
    return model


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, problem: ApiProblem) -> Response:
        return problem_answer(problem, request.scope[REQUEST_ID])

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return answer(request, error.problem)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(request, openai_errors.invalid(f"{param}: {first['msg']}", param=param))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.scope['path']}: {error.detail}"
        return answer(request, openai_errors.invalid(message, code=code, status=error.status_code))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        message = "internal error in the gateway; its log says more"
        return answer(request, ApiProblem(status=500, message=message, type="server_error", code="internal_error"))
