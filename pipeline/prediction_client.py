"""The client: chats with what a Relay server serves, and asks and tells it about its model.

```python
with PredictionClient("http://inference-box:8765", api_key="…") as client:
    answer = client.chat("copy abc", max_tokens=8, temperature=0)
    print(answer, answer.version, answer.step)
    for piece in client.stream("copy abc"):
        print(piece, end="")
```
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import stamina

from pipeline.prediction.answers import MAX_RETRY_AFTER_S, body_of, chat_answer, document_of, problem_of
from pipeline.prediction.errors import AnswerTimeoutError, PredictionError, ServerUnreachableError
from pipeline.prediction.records import ChatAnswer, Health, ModelInfo, ReloadOutcome
from pipeline.prediction.stream import ChatStream
from registry_hooks import settings, trust
from registry_hooks.errors import SettingsError
from registry_hooks.settings import LOOPBACK_HOSTS

DEFAULT_URL = "http://127.0.0.1:8765"
CONNECT_TIMEOUT_S = 5.0
QUESTION_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 5.0
_RELOAD_GRACE_S = 15.0
_MAX_RETRYING_S = 120.0
_MAX_CONNECTIONS = 100
_KEEPALIVE_S = 3.0  # uvicorn closes idle connections after 5 s: let go of them first

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to knock, not where to bind

Messages = Sequence[Mapping[str, object]]


class PredictionClient:
    """One server. Any thread may use it; connections are kept and shared.

    Refused connections, 429, 502, 503 and 504 are tried again, later each time and with jitter; `Retry-After` is
    respected up to 30 s. Nothing is sent again once its answer has begun.

    Args:
        base_url: `http(s)://host[:port][/prefix]`.
        api_key: The server's `serve.api_key`.
        timeout_s: Bound on each silence of an answer.
        max_retries: After the first try.

    Raises:
        SettingsError: A `base_url` that is no HTTP address, or a certificate authority that cannot be read.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_s: float = 120.0, max_retries: int = 3
    ) -> None:
        url = _checked(base_url)
        self.base_url = str(url).rstrip("/")
        self._max_retries = max(0, max_retries)
        self._timeout_s = timeout_s
        self._client = httpx.Client(
            base_url=url,
            headers={"user-agent": "relay"} | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=_KEEPALIVE_S),
            verify=trust.context(os.environ) or True,
            trust_env=url.host not in LOOPBACK_HOSTS,  # a company's proxy cannot reach this machine's own ports
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; streams that are still read break."""
        self._client.close()

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    def chat(self, messages: Messages | str, **options: object) -> ChatAnswer:
        """The whole answer to a conversation.

        Args:
            messages: OpenAI's messages, or a text, which stands for one message of a user.
            **options: Other fields of OpenAI's request, such as `max_tokens`, `temperature`, `stop`, `seed`, or `model`
                (`NAME`, `NAME@Alias`, `NAME/VERSION`).

        Raises:
            PredictionError: One of its kinds; `pipeline.prediction.errors` has the tree.
        """
        response = self._post_chat(messages, options)
        return chat_answer(document_of(response), response.headers)

    def stream(self, messages: Messages | str, **options: object) -> ChatStream:
        """The answer piece by piece: iterate over it; `version`, `step` and `text` are attributes of it.

        The request is sent at once, so errors that come before the answer are raised here.

        Raises:
            PredictionError: One of its kinds; `StreamBrokenError` while iterating.
        """
        return ChatStream(self._post_chat(messages, {**options, "stream": True}))

    def get_model_info(self) -> ModelInfo:
        """What the server serves, and why.

        Raises:
            PredictionError: One of its kinds.
        """
        request = self._client.build_request("GET", "models/info", timeout=_timeout(QUESTION_TIMEOUT_S))
        return ModelInfo.of(document_of(self._send(request)))

    def reload_model(self, *, dry_run: bool = False, force: bool = False, timeout_s: float = 60.0) -> ReloadOutcome:
        """Have the server look at the alias now, and wait for what comes of it.

        A refusal or an unreachable registry is an outcome, not an exception.

        Args:
            dry_run: Only say what would be done.
            force: Try again what was refused before.
            timeout_s: How long to wait, at most 600; after it the outcome is `pending`, and the server goes on.

        Raises:
            PredictionError: The server itself did not answer, or refused the key.
        """
        params = {"dry_run": str(dry_run).lower(), "force": str(force).lower(), "timeout_s": str(timeout_s)}
        wait_s = timeout_s + _RELOAD_GRACE_S
        request = self._client.build_request("POST", "models/reload", params=params, timeout=_timeout(wait_s))
        return ReloadOutcome.of(document_of(self._send(request, is_answer=_is_outcome)))

    def health_check(self) -> Health:
        """Whether a model answers, within 5 s; never raises and never tries twice."""
        request = self._client.build_request("GET", "ready", timeout=_timeout(HEALTH_TIMEOUT_S))
        try:
            response = self._ask(request, is_answer=_is_health)
            document = document_of(response)
        except PredictionError as error:
            return Health(is_alive=False, is_ready=False, reason=str(error))
        return Health(is_alive=True, is_ready=response.is_success, reason=str(document.get("reason", "")))

    def _post_chat(self, messages: Messages | str, options: Mapping[str, object]) -> httpx.Response:
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body = {"messages": asked, **options}
        timeout = _timeout(self._timeout_s)
        return self._send(self._client.build_request("POST", "v1/chat/completions", json=body, timeout=timeout))

    def _send(
        self, request: httpx.Request, is_answer: Callable[[httpx.Response], bool] | None = None
    ) -> httpx.Response:
        """The answer, begun but not read, after as many tries as it takes."""
        for attempt in stamina.retry_context(
            on=_wait_of, attempts=self._max_retries + 1, timeout=_MAX_RETRYING_S, wait_initial=0.2, wait_max=10.0
        ):
            with attempt:
                return self._ask(request, is_answer=is_answer)
        raise AssertionError("stamina either returns or raises")

    def _ask(self, request: httpx.Request, is_answer: Callable[[httpx.Response], bool] | None = None) -> httpx.Response:
        try:
            response = self._client.send(request, stream=True)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise AnswerTimeoutError(
                f"{self.base_url} took the request and gave no answer in time ({_bound(request):g} s). It was not sent "
                "again, since it may still be worked on: raise timeout_s, or ask for less",
                code="timeout",
            ) from error
        except httpx.TransportError as error:
            raise ServerUnreachableError(
                f"{self.base_url} cannot be reached ({type(error).__name__}: {error}): check the address, and that "
                "`relay serve` runs there",
                code="unreachable",
            ) from error
        if response.is_success or (is_answer is not None and is_answer(response)):
            return response
        raise problem_of(response, self.base_url)


_shared: list[tuple[int, PredictionClient]] = []
_shared_lock = threading.Lock()


def get_client() -> PredictionClient:
    """The client that this process shares: made at the first call, and anew after it was closed or after a fork.

    Its address is `client.base_url`, else that of this machine's own server (`serve.host`, `serve.port`); its key is
    `serve.api_key`, that is `RELAY_SERVE__API_KEY`.

    Raises:
        SettingsError: The settings cannot be read.
    """
    with _shared_lock:
        if not _shared or _shared[0][0] != os.getpid() or _shared[0][1].is_closed:
            _shared[:] = [(os.getpid(), _from_settings(os.environ))]
        return _shared[0][1]


def _from_settings(environ: Mapping[str, str]) -> PredictionClient:
    loaded = settings.load(environ=environ)
    serve = loaded.serve
    key = serve.api_key.get_secret_value() if serve.api_key else None
    host = _EVERY_ADDRESS.get(serve.host, serve.host)
    local = f"http://{f'[{host}]' if ':' in host else host}:{serve.port}"
    return PredictionClient(loaded.client.base_url or local, api_key=key)


def _wait_of(error: Exception) -> bool | float:
    """Whether, and where the server said it when, to try again."""
    if not isinstance(error, PredictionError) or not error.transient:
        return False
    if error.retry_after_s is None:
        return True
    if error.retry_after_s > MAX_RETRY_AFTER_S:
        return False
    return error.retry_after_s + random.uniform(0.0, 0.5)  # noqa: S311 - so that not all clients come back at once


def _checked(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"{base_url!r} is no address of a server: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(f"{base_url!r} is no address of a server: write it as {DEFAULT_URL}")
    if url.userinfo:
        raise SettingsError("the address holds a password, which would end up in messages: pass api_key instead")
    return url


def _timeout(silence_s: float) -> httpx.Timeout:
    return httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, silence_s))


def _bound(request: httpx.Request) -> float:
    return float(request.extensions["timeout"]["read"])


def _is_outcome(response: httpx.Response) -> bool:
    """Whether the server says, with an error's status, what came of a reload."""
    return _has_word(response, "status")


def _is_health(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and _has_word(response, "status")


def _has_word(response: httpx.Response, key: str) -> bool:
    try:
        document: Any = json.loads(body_of(response))
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get(key), str)
