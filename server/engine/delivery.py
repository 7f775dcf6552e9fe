"""From the engine's thread to those who wait: one call into an event loop per step, however many requests it serves."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence

from server.engine.asks import Ask, Event

Sink = Callable[[Sequence[Event]], None]
"""Gets the events of one step; must return at once."""


class Ticket:
    """One request in the engine.

    Attributes:
        loop: Where `sink` is called; None for the engine's own thread.
    """

    def __init__(self, ask: Ask, sink: Sink, loop: AbstractEventLoop | None = None) -> None:
        self.ask = ask
        self.sink = sink
        self.loop = loop
        self.is_cancelled = False

    def cancel(self) -> None:
        """Nobody wants the answer any more: it ends after the step that runs now. Safe to call twice, from anywhere."""
        self.is_cancelled = True


Letter = tuple[Ticket, Sequence[Event]]


def deliver(letters: Sequence[Letter]) -> None:
    """Hand over what a step made; a listener that is gone or raises cancels its own request only."""
    by_loop: dict[AbstractEventLoop | None, list[Letter]] = {}
    for ticket, step in letters:
        if step and not ticket.is_cancelled:
            by_loop.setdefault(ticket.loop, []).append((ticket, step))
    for loop, own in by_loop.items():
        if loop is None:
            _hand_over(own)
            continue
        try:
            loop.call_soon_threadsafe(_hand_over, own)
        except RuntimeError:  # it has ended
            for ticket, _ in own:
                ticket.cancel()


def _hand_over(letters: Sequence[Letter]) -> None:
    for ticket, step in letters:
        try:
            ticket.sink(step)
        except Exception:  # noqa: BLE001 - one broken listener must not keep the others from their events
            ticket.cancel()
