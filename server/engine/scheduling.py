"""Who is answered when: one thread owns the model, loads it and steps it; requests wait in a bounded line.

No other thread of the process may run a torch operation: with a second OpenMP team alive every step of a small model
becomes several times slower.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from registry_hooks import events
from registry_hooks.errors import RelayError
from server.engine.asks import Ask, Event, Failed, Finished
from server.engine.loading import LoadedModel

Sink = Callable[[Sequence[Event]], None]
"""Gets the events of one step, in the engine's thread; must return at once."""

# A model that fails this many passes in a row will not heal by itself.
MAX_FAILED_STEPS = 2


class QueueFullError(RelayError):
    """As many requests wait as may; this one was not taken."""

    transient = True


class EngineStoppedError(RelayError):
    """The engine is ending and takes no more requests."""

    transient = True


class Progress(Protocol):
    """One request that runs: what came of the last step."""

    events: list[Event]


class Runner(Protocol):
    """What computes: several requests at once, or one."""

    @property
    def num_rows(self) -> int:
        """How many requests may run at once."""

    def join(self, ask: Ask) -> Progress:
        """Begin a request; there must be room."""

    def leave(self, running: Any) -> None:
        """End a request that `join` gave, whatever its state. Safe to call twice."""

    def step(self) -> Sequence[Progress]:
        """Advance; those that it concerned, each with its new events."""

    def drop_all(self) -> Sequence[Progress]:
        """End every request, after a step that failed."""


class Ticket:
    """One request in the engine."""

    def __init__(self, ask: Ask, sink: Sink) -> None:
        self.ask = ask
        self.sink = sink
        self.is_cancelled = False

    def cancel(self) -> None:
        """Nobody wants the answer any more: it ends after the step that runs now. Safe to call twice, from anywhere."""
        self.is_cancelled = True

    def deliver(self, step: Sequence[Event]) -> None:
        """Hand over what is new; a listener that is gone cancels the request."""
        if not step or self.is_cancelled:
            return
        try:
            self.sink(step)
        except Exception:  # noqa: BLE001 - nobody listens any more
            self.cancel()


class Engine:
    """One model in one thread of its own. Requests begin in the order they came."""

    def __init__(self, *, max_queue: int) -> None:
        self._max_queue = max_queue
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, tuple[Ticket, Progress]] = {}
        self._num_failed_steps = 0
        self._num_rows = 1
        self._stopping = False
        self._changed = threading.Condition()
        self._loaded: Future[LoadedModel] = Future()

    def start(self, load: Callable[[], tuple[LoadedModel, Runner]]) -> LoadedModel:
        """Load the model in the engine's thread; blocks until it is in memory.

        Raises:
            Exception: Whatever `load` raises; the thread has ended then.
        """
        threading.Thread(target=self._run, args=(load,), name="engine", daemon=True).start()
        return self._loaded.result()

    @property
    def num_rows(self) -> int:
        """How many requests may run at once."""
        return self._num_rows

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(not ticket.is_cancelled for ticket in tuple(self._waiting))

    @property
    def is_broken(self) -> bool:
        """Whether the model failed several steps in a row, whatever was asked of it."""
        return self._num_failed_steps >= MAX_FAILED_STEPS

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
            if len(self._running) + len(self._waiting) >= self._num_rows + self._max_queue:
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

    def _run(self, load: Callable[[], tuple[LoadedModel, Runner]]) -> None:
        try:
            loaded, runner = load()
        except BaseException as error:  # noqa: BLE001 - handed to whoever called `start`
            self._loaded.set_exception(error)
            return
        self._num_rows = runner.num_rows
        self._loaded.set_result(loaded)
        try:
            while self._admit(runner):
                self._step(runner)
        except Exception as error:  # noqa: BLE001 - a defect of ours: nobody may wait for a thread that has ended
            events.logger().exception("engine.thread_died", error=f"{type(error).__name__}: {error}")
            self._num_failed_steps, self._stopping = MAX_FAILED_STEPS, True
        for ticket, _ in self._running.values():
            ticket.deliver([Failed(because="the engine was stopped while it answered")])
        with self._changed:
            for ticket in self._waiting:
                ticket.deliver([Failed(because="the engine was stopped before this request began")])
            self._waiting.clear()

    def _admit(self, runner: Runner) -> bool:
        """Let those go that nobody waits for, let waiting ones in; sleeps while there is nothing to do.

        Returns:
            Whether to go on.
        """
        for ticket, progress in [pair for pair in self._running.values() if pair[0].is_cancelled]:
            self._end(runner, ticket, progress)
        with self._changed:
            while not self._stopping:
                while self._waiting and len(self._running) < self._num_rows:
                    ticket = self._waiting.popleft()
                    if not ticket.is_cancelled:
                        self._begin(runner, ticket)
                if self._running:
                    break
                self._changed.wait()
        return not self._stopping

    def _begin(self, runner: Runner, ticket: Ticket) -> None:
        try:
            progress = runner.join(ticket.ask)
        except Exception:
            ticket.deliver([Failed(because="the engine failed before this request began")])
            raise
        self._running[id(progress)] = (ticket, progress)

    def _end(self, runner: Runner, ticket: Ticket, progress: Progress) -> None:
        self._running.pop(id(progress), None)
        runner.leave(progress)

    def _step(self, runner: Runner) -> None:
        try:
            concerned = runner.step()
        except Exception as error:  # noqa: BLE001 - a failing pass must not end the engine
            self._fail_all(runner, error)
            return
        self._num_failed_steps = 0
        for progress in concerned:
            ticket, _ = self._running[id(progress)]
            ticket.deliver(progress.events)
            if progress.events and isinstance(progress.events[-1], Finished | Failed):
                self._end(runner, ticket, progress)

    def _fail_all(self, runner: Runner, error: Exception) -> None:
        self._num_failed_steps += 1
        events.logger().error("step.failed", error=f"{type(error).__name__}: {error}", num_requests=len(self._running))
        because = f"the model failed on the requests that ran ({type(error).__name__}: {error})"
        runner.drop_all()
        for ticket, _ in self._running.values():
            ticket.deliver([Failed(because=because)])
        self._running.clear()
