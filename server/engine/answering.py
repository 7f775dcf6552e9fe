"""One request in flight, on the event loop's side: events come from the engine's thread, pieces of text go out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from server.engine.api_errors import OverloadedError, ServerError, StoppingError
from server.engine.asks import Ask, Event, Failed, Finished, PromptReused, PromptScored, StopReason, TokenMade
from server.engine.meters import Meters, Stopwatch
from server.engine.scheduling import Engine, EngineStoppedError, QueueFullError
from server.engine.transcript import Piece, Transcript


class Answering:
    """An answer that is being made. What waits here to be read is bounded by the answer's own length."""

    def __init__(self, engine: Engine, ask: Ask, transcript: Transcript, meters: Meters) -> None:
        """Put the request in the engine's line.

        Raises:
            OverloadedError: Too many wait already.
            StoppingError: The engine is ending.
        """
        self.ask = ask
        self.transcript = transcript
        self.finish_reason: StopReason = "stop"
        self.num_reused_tokens = 0
        self._meters = meters
        self._outcome: str | None = None
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Event] = deque()
        self._news: asyncio.Future[None] | None = None
        try:
            self._ticket = engine.submit(ask, self._put, loop=self._loop)
        except QueueFullError as error:
            meters.requests.labels("refused").inc()
            raise OverloadedError(str(error)) from error
        except EngineStoppedError as error:
            raise StoppingError(str(error)) from error
        meters.prompt_tokens.inc(len(ask.prompt_ids))

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer, as it is made; afterwards `finish_reason` says why it ended.

        Raises:
            ServerError: The engine failed on it.
        """
        if self.ask.scores_from is None:
            yield self.transcript.opening()
        stopwatch = Stopwatch(self._meters)
        while self._outcome is None:
            match await self._next():
                case PromptReused(num_tokens=num_tokens):
                    self.num_reused_tokens = num_tokens
                    self._meters.reused_tokens.inc(num_tokens)
                case PromptScored() as event:
                    # A long prompt with many alternatives has tens of thousands of tokens to name.
                    yield await asyncio.to_thread(self.transcript.prompt, event)
                case TokenMade() as event:
                    stopwatch.token()
                    yield self.transcript.token(event)
                    if self.transcript.is_stopped:
                        self._end("stop")
                case Finished() as event:
                    yield self.transcript.ending(event)
                    self._end(self.transcript.reason(event.reason))
                case Failed(because=because):
                    self._outcome = "failed"
                    raise ServerError(because)

    def close(self) -> None:
        """The answer is complete, or nobody waits for it any more. Safe to call twice."""
        self._ticket.cancel()
        if self._outcome != "counted":
            self._meters.requests.labels(self._outcome or "cancelled").inc()
            self._outcome = "counted"

    def _end(self, reason: StopReason) -> None:
        self.finish_reason = self._outcome = reason

    async def _next(self) -> Event:
        while not self._inbox:
            self._news = self._loop.create_future()
            await self._news
        return self._inbox.popleft()

    def _put(self, step: Sequence[Event]) -> None:
        self._inbox.extend(step)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
