"""The OpenAI API of one engine. Everything here runs on the event loop, which generation never blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from server.engine import prompts, tokenizing, wire
from server.engine.answering import Answering
from server.engine.api_errors import ApiError, InvalidRequestError, ServerError
from server.engine.bodies import read_json
from server.engine.document import openapi_of
from server.engine.formats import ChatFormat, CompletionFormat, Format
from server.engine.identity import Envelope
from server.engine.meters import Meters
from server.engine.prompts import Wanted
from server.engine.request_ids import RequestIdsApp
from server.engine.responses import AnswerStream, close_all, whole_answer
from server.engine.running import RunningEngine
from server.engine.transcript import Transcript

# Names of tokens to keep for `logprobs`: making one costs more than all else about a token.
_MAX_NAMES = 65536
_Made = TypeVar("_Made")


def build_app(running: RunningEngine) -> FastAPI:
    """The app that serves `running`."""
    app = RequestIdsApp(title="Relay engine", docs_url=None, redoc_url=None)
    _Routes(running).add_to(app)
    document = openapi_of(app)
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _unexpected)
    return app


class _Routes:
    """The handlers, and what they share."""

    def __init__(self, running: RunningEngine) -> None:
        self._running = running
        self._meters = Meters(running.engine)
        self._name_token = lru_cache(maxsize=_MAX_NAMES)(running.loaded.token_texts.of)
        # One thread, off the event loop: a long prompt takes a while, and tokenizers are not made for two at once.
        self._prompting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")

    def add_to(self, app: FastAPI) -> None:
        routes: tuple[tuple[str, str, Callable[..., Any]], ...] = (
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.metrics),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model:path}", self.model),
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/v1/completions", self.completion),
            ("POST", "/tokenize", self.tokenize),
            ("POST", "/detokenize", self.detokenize),
        )
        for method, path, handler in routes:
            app.add_api_route(path, handler, methods=[method], response_model=None)
            if method == "GET":  # monitors and `wget --spider` ask for the head alone
                app.add_api_route(path, handler, methods=["HEAD"], response_model=None, include_in_schema=False)

    async def health(self) -> Response:
        """Liveness: says that the event loop turns, whatever the model does."""
        return JSONResponse(self._running.health())

    async def metrics(self) -> Response:
        return Response(self._meters.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, model: str) -> Response:
        self._running.identity.check(model)
        return JSONResponse(self._card())

    async def chat(self, request: Request) -> Response:
        body = wire.parse(wire.ChatRequest, await read_json(request))
        self._running.identity.check(body.model)
        wanted = await self._prompt(partial(prompts.wanted_by_chat, self._running.loaded, body))
        num_top = (body.top_logprobs or 0) if body.logprobs else None
        return await self._answer(request, body, wanted, ChatFormat(num_top_logprobs=num_top))

    async def completion(self, request: Request) -> Response:
        body = wire.parse(wire.CompletionRequest, await read_json(request))
        self._running.identity.check(body.model)
        wanted = await self._prompt(partial(prompts.wanted_by_completion, self._running.loaded, body))
        return await self._answer(request, body, wanted, CompletionFormat(with_logprobs=body.logprobs is not None))

    async def tokenize(self, request: Request) -> Response:
        body = tokenizing.tokenize_request(await read_json(request))
        self._running.identity.check(body.model)
        return JSONResponse(await self._prompt(partial(tokenizing.tokenized, self._running.loaded, body)))

    async def detokenize(self, request: Request) -> Response:
        body = tokenizing.detokenize_request(await read_json(request))
        self._running.identity.check(body.model)
        return JSONResponse(await self._prompt(partial(tokenizing.detokenized, self._running.loaded, body)))

    async def _prompt(self, make: Callable[[], _Made]) -> _Made:
        return await asyncio.get_running_loop().run_in_executor(self._prompting, make)

    async def _answer(
        self,
        request: Request,
        body: wire.ChatRequest | wire.CompletionRequest,
        wanted: list[Wanted],
        form: Format,
    ) -> Response:
        answers = self._begin(wanted, body.stop or ())
        envelope = Envelope.new(form.id_prefix, self._running.identity)
        if body.stream:
            return AnswerStream(answers, form, envelope, include_usage=body.include_usage)
        return await whole_answer(request, answers, form, envelope)

    def _begin(self, wanted: list[Wanted], stops: Sequence[str]) -> list[Answering]:
        """All answers of a request, in the engine's line; where one finds no place, none stays.

        Raises:
            OverloadedError: Too many wait already.
        """
        answers: list[Answering] = []
        try:
            for one in wanted:
                transcript = Transcript(
                    decode=self._running.decode,
                    name_token=self._name_token,
                    prompt_ids=one.ask.prompt_ids,
                    stops=stops,
                    echo=one.echo,
                )
                answers.append(Answering(self._running.engine, one.ask, transcript, self._meters))
        except ApiError:
            close_all(answers)
            raise
        return answers

    def _card(self) -> dict[str, Any]:
        return self._running.identity.card(self._running.loaded.max_model_len_tokens)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - the handler is registered for it
    return JSONResponse(error.body(), status_code=error.status, headers=dict(error.headers))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for it
    body = InvalidRequestError(f"{error.detail}: see /v1/models, /v1/chat/completions and /v1/completions").body()
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _client_left(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse(ServerError(f"unexpected {type(error).__name__}").body(), status_code=500)
