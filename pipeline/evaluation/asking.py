"""Asks an engine many questions at once, over its Unix socket or its port; every one of them has a bound."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from pipeline.evaluation.question import Question
from pipeline.evaluation.tokens import TOKENIZE
from registry_hooks.errors import EvaluationError

_MAX_WAIT_S = 10.0
_SHOWN_CHARS = 300
_BUSY = (429, 503)
_UNKNOWN_PATH = (404, 405, 501)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Asker:
    """A client of one engine; an async context manager.

    Args:
        uds: Its Unix socket, which counts where `base_url` is empty.
        model: What it calls the model.
        timeout_s: Bound on one answer.
    """

    def __init__(self, *, uds: str, base_url: str, model: str, timeout_s: float) -> None:
        self._uds, self._base_url = uds, base_url
        self._model, self._timeout_s = model, timeout_s

    async def __aenter__(self) -> Asker:
        # Whoever asks bounds how many run at once; a second bound here would only hide one of the two.
        connector = aiohttp.TCPConnector(limit=0) if self._base_url else aiohttp.UnixConnector(self._uds, limit=0)
        self._session = aiohttp.ClientSession(
            base_url=self._base_url or "http://engine",
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, question: Question, *, item_id: str) -> Mapping[str, Any]:
        """The engine's answer; where it is busy, it is asked again when it says so.

        Raises:
            EvaluationError: No answer in time or at all, a refusal, or no JSON; names the item.
        """
        while True:
            status, text, wait_s = await self._post(question, item_id)
            if status not in _BUSY:
                break
            await asyncio.sleep(wait_s)  # the deadline of the whole ends this
        if question.path == TOKENIZE and status in _UNKNOWN_PATH:
            raise EvaluationError(
                f"the engine's program has no {TOKENIZE} (HTTP {status}), so nobody can tell which token ids it reads: "
                f"nothing was scored; take Relay's own engine, or one that answers it as vLLM does",
                stage="asking",
            )
        if status != 200:
            raise EvaluationError(
                f"item {item_id!r}: the engine refused it (HTTP {status}: {text[:_SHOWN_CHARS]}); nothing was scored",
                stage="asking",
            )
        try:
            document = json.loads(text)
        except ValueError as error:
            raise EvaluationError(
                f"item {item_id!r}: the engine's answer is not JSON; nothing was scored", stage="answers"
            ) from error
        return document if isinstance(document, dict) else {}

    async def _post(self, question: Question, item_id: str) -> tuple[int, str, float]:
        try:
            async with self._session.post(question.path, json={"model": self._model, **question.body}) as response:
                return response.status, await response.text(), retry_after_s(response.headers.get("retry-after"))
        except TimeoutError as error:
            raise EvaluationError(
                f"item {item_id!r}: the engine did not answer within {self._timeout_s:g} s; nothing was scored",
                stage="asking",
                transient=True,
            ) from error
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            raise EvaluationError(
                f"item {item_id!r}: the engine went away ({type(error).__name__}: {error}); nothing was scored",
                stage="asking",
                transient=True,
            ) from error


def retry_after_s(header: str | None) -> float:
    """How long a busy server wants to be left alone, within 0.05 and 10 s; a second where it does not say."""
    try:
        wanted = float(header or 1.0)
    except ValueError:
        return 1.0
    return min(max(wanted, 0.05), _MAX_WAIT_S) if math.isfinite(wanted) else 1.0


async def each(
    items: Sequence[_Item], work: Callable[[_Item], Awaitable[_Result]], *, num_at_once: int
) -> list[_Result]:
    """What `work` makes of each item, in their order, so many at once; the first failure ends all.

    Raises:
        Exception: What `work` raised first.
    """
    results: dict[int, _Result] = {}
    line = iter(enumerate(items))

    async def worker(line: Iterator[tuple[int, _Item]]) -> None:
        for place, item in line:
            results[place] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(num_at_once, len(items))):
                group.create_task(worker(line))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [results[place] for place in range(len(items))]
