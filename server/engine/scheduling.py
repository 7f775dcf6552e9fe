"""Who is answered when: one thread owns the model, loads it and steps it; requests wait in a bounded line.

No other thread of the process may run a torch operation: with a second OpenMP team alive every step of a small model
becomes several times slower.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from registry_hooks import events
from registry_hooks.errors import RelayError
from server.engine.asks import Ask, Event, Failed, Finished
from server.engine.delivery import Sink, Ticket, deliver
from server.engine.loading import LoadedModel

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
        """How many requests may run at once, as things are now."""

    @property
    def num_places(self) -> int:
        """Tokens whose keys and values fit; 0 where nobody counts."""

    @property
    def num_stored_tokens(self) -> int:
        """Tokens whose keys and values are kept now."""

    def has_room(self, ask: Ask) -> bool:
        """Whether `join` may be called now."""

    def join(self, ask: Ask) -> Progress:
        """Begin a request; there must be room."""

    def leave(self, running: Any) -> None:
        """End a request that `join` gave, whatever its state. Safe to call twice."""

    def step(self) -> Sequence[Progress]:
        """Advance; those that it concerned, each with its new events."""

    def drop_all(self) -> Sequence[Progress]:
        """End every request, after a step that failed."""


class Engine:
    """One model in one thread of its own. Requests begin in the order they came."""

    def __init__(self, *, max_queue: int) -> None:
        self._max_queue = max_queue
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, tuple[Ticket, Progress]] = {}
        self._num_failed_steps = 0
        self._num_rows = 1
        self._num_places = self._num_stored_tokens = 0
        self._alone_because: str | None = None
        self._stopping = False
        self._on_broken: Callable[[], None] | None = None
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
        """How many requests may run at once, as things are now."""
        return self._num_rows

    @property
    def num_places(self) -> int:
        """Tokens whose keys and values fit; 0 where nobody counts."""
        return self._num_places

    @property
    def num_stored_tokens(self) -> int:
        """Tokens whose keys and values were kept after the last step."""
        return self._num_stored_tokens

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(not ticket.is_cancelled for ticket in tuple(self._waiting))

    @property
    def one_at_a_time_because(self) -> str | None:
        """Why requests do not share passes; None where they do."""
        return self._alone_because

    @property
    def is_broken(self) -> bool:
        """Whether the model failed several steps in a row, whatever was asked of it."""
        return self._num_failed_steps >= MAX_FAILED_STEPS

    def when_broken(self, call: Callable[[], None]) -> None:
        """Have `call` called, from the engine's thread, when the model has failed several steps in a row."""
        self._on_broken = call

    def submit(self, ask: Ask, sink: Sink, *, loop: AbstractEventLoop | None = None) -> Ticket:
        """Put a request in the line. The last event that `sink` gets is `Finished` or `Failed`, unless it is cancelled.

        Args:
            loop: Where `sink` is to be called; None for the engine's thread.

        Raises:
            QueueFullError: `max_queue` requests wait already.
            EngineStoppedError: `stop` was called.
        """
        ticket = Ticket(ask, sink, loop)
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
        self._num_rows, self._num_places = runner.num_rows, runner.num_places
        self._alone_because = getattr(runner, "because", None)
        self._loaded.set_result(loaded)
        because = "the engine was stopped"
        try:
            while self._admit(runner):
                self._step(runner)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for a thread that has ended
            self._num_failed_steps = MAX_FAILED_STEPS
            because = f"the engine broke ({type(error).__name__}: {error})"
            events.logger().error("engine.broke", error=f"{type(error).__name__}: {error}")
            self._tell_if_broken()
        self._end_all(because)

    def _end_all(self, because: str) -> None:
        """Take nothing more; whoever runs or waits is told."""
        with self._changed:
            self._stopping = True
            waiting = list(self._waiting)
            self._waiting.clear()
        running = [ticket for ticket, _ in self._running.values()]
        self._running.clear()
        deliver([(ticket, [Failed(because=f"{because} while it answered")]) for ticket in running])
        deliver([(ticket, [Failed(because=f"{because} before this request began")]) for ticket in waiting])

    def _admit(self, runner: Runner) -> bool:
        """Let those go that nobody waits for, let waiting ones in; sleeps while there is nothing to do.

        Returns:
            Whether to go on.
        """
        for progress in [progress for ticket, progress in self._running.values() if ticket.is_cancelled]:
            self._end(runner, progress)
        with self._changed:
            while not self._stopping:
                self._let_in(runner)
                if self._running:
                    break
                self._num_stored_tokens = 0
                self._changed.wait()
        return not self._stopping

    def _let_in(self, runner: Runner) -> None:
        """Those that wait, in the order they came, while the first has room."""
        while self._waiting:
            ticket = self._waiting[0]
            if not ticket.is_cancelled and not runner.has_room(ticket.ask):
                break
            self._waiting.popleft()
            if not ticket.is_cancelled:
                self._begin(runner, ticket)
        self._num_rows = runner.num_rows

    def _begin(self, runner: Runner, ticket: Ticket) -> None:
        try:
            progress = runner.join(ticket.ask)
        except Exception as error:  # noqa: BLE001 - one failing request must not end the engine
            deliver([(ticket, [Failed(because=f"it could not begin ({type(error).__name__}: {error})")])])
            return
        self._running[id(progress)] = (ticket, progress)

    def _end(self, runner: Runner, progress: Progress) -> None:
        self._running.pop(id(progress), None)
        runner.leave(progress)

    def _step(self, runner: Runner) -> None:
        try:
            concerned = runner.step()
        except Exception as error:  # noqa: BLE001 - a failing pass must not end the engine
            self._fail_all(runner, error)
            return
        self._num_failed_steps = 0
        self._num_stored_tokens = runner.num_stored_tokens
        letters = []
        for progress in concerned:
            ticket, _ = self._running[id(progress)]
            letters.append((ticket, progress.events))
            if progress.events and isinstance(progress.events[-1], Finished | Failed):
                self._end(runner, progress)
        deliver(letters)

    def _fail_all(self, runner: Runner, error: Exception) -> None:
        self._num_failed_steps += 1
        events.logger().error("step.failed", error=f"{type(error).__name__}: {error}", num_requests=len(self._running))
        because = f"the model failed on the requests that ran ({type(error).__name__}: {error})"
        running = [ticket for ticket, _ in self._running.values()]
        self._running.clear()
        deliver([(ticket, [Failed(because=because)]) for ticket in running])
        runner.drop_all()
        self._tell_if_broken()

    def _tell_if_broken(self) -> None:
        if self.is_broken and self._on_broken is not None:
            self._on_broken()
