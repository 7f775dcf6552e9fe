"""Who is answered when: one thread owns the model, loads it and steps it; requests wait in a bounded line.

No other thread of the process may run a torch operation: with a second OpenMP team alive every step of a small model
becomes several times slower.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from registry_hooks import events
from registry_hooks.errors import RelayError
from server.engine.asks import Ask, Event, Failed
from server.engine.generation import generate
from server.engine.loading import LoadedModel

Sink = Callable[[Sequence[Event]], None]
"""Gets the events of one step, in the engine's thread; must return at once."""

Generate = Callable[[LoadedModel, Ask], Iterator[list[Event]]]
"""Answers one request, the events of each step at a time."""


class QueueFullError(RelayError):
    """As many requests wait as may; this one was not taken."""

    transient = True


class EngineStoppedError(RelayError):
    """The engine is ending and takes no more requests."""

    transient = True


class Ticket:
    """One request in the engine."""

    def __init__(self, ask: Ask, sink: Sink) -> None:
        self.ask = ask
        self.sink = sink
        self.is_cancelled = False

    def cancel(self) -> None:
        """Nobody wants the answer any more: it ends after the step that runs now. Safe to call twice, from anywhere."""
        self.is_cancelled = True


class Engine:
    """One model in one thread of its own; requests are answered one at a time, in the order they came."""

    def __init__(self, *, max_queue: int, generate: Generate = generate) -> None:
        self._generate = generate
        self._max_queue = max_queue
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._loaded: Future[LoadedModel] = Future()

    def start(self, load: Callable[[], LoadedModel]) -> LoadedModel:
        """Load the model in the engine's thread; blocks until it is in memory.

        Raises:
            Exception: Whatever `load` raises; the thread has ended then.
        """
        threading.Thread(target=self._run, args=(load,), name="engine", daemon=True).start()
        return self._loaded.result()

    @property
    def num_running(self) -> int:
        return int(self._running is not None)

    @property
    def num_waiting(self) -> int:
        return sum(not ticket.is_cancelled for ticket in tuple(self._waiting))

    def submit(self, ask: Ask, sink: Sink) -> Ticket:
        """Put a request in the line. The last event that `sink` gets is `Finished` or `Failed`, unless it is cancelled.

        Raises:
            QueueFullError: `max_queue` requests wait already.
            EngineStoppedError: `stop` was called.
        """
        ticket = Ticket(ask, sink)
        with self._changed:
            if self._stopping:
                raise EngineStoppedError("the engine is stopping: the request was not taken; send it again")
            for gone in [waiting for waiting in self._waiting if waiting.is_cancelled]:
                self._waiting.remove(gone)
            if self.num_running + len(self._waiting) > self._max_queue:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait already: this one was not taken; send it again in a while"
                )
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def stop(self) -> None:
        """Fail what runs and what waits, take nothing more, end the thread after the step that runs now."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _run(self, load: Callable[[], LoadedModel]) -> None:
        try:
            loaded = load()
        except BaseException as error:  # noqa: BLE001 - handed to whoever called `start`
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(loaded)
        while (ticket := self._next()) is not None:
            self._answer(loaded, ticket)
        with self._changed:
            for ticket in self._waiting:
                _deliver(ticket, [Failed(because="the engine was stopped before this request began")])
            self._waiting.clear()

    def _next(self) -> Ticket | None:
        with self._changed:
            self._running = None
            while not self._stopping:
                while self._waiting:
                    ticket = self._waiting.popleft()
                    if not ticket.is_cancelled:
                        self._running = ticket
                        return ticket
                self._changed.wait()
        return None

    def _answer(self, loaded: LoadedModel, ticket: Ticket) -> None:
        try:
            for step in self._until_told_otherwise(ticket, self._generate(loaded, ticket.ask)):
                _deliver(ticket, step)
        except Exception as error:  # noqa: BLE001 - one failing request must not end the engine
            events.logger().error("request.failed", error=f"{type(error).__name__}: {error}")
            _deliver(ticket, [Failed(because=f"the model failed on this request ({type(error).__name__}: {error})")])

    def _until_told_otherwise(self, ticket: Ticket, steps: Iterator[list[Event]]) -> Iterator[list[Event]]:
        for step in steps:
            if ticket.is_cancelled:
                return
            if self._stopping:
                yield [Failed(because="the engine was stopped while it answered")]
                return
            yield step


def _deliver(ticket: Ticket, step: Sequence[Event]) -> None:
    if not step or ticket.is_cancelled:
        return
    try:
        ticket.sink(step)
    except Exception:  # noqa: BLE001 - nobody listens any more
        ticket.cancel()
