"""What a step made reaches every event loop in one call, and no listener harms another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from server.engine.asks import Ask, Event, Finished, TokenMade
from server.engine.delivery import Ticket, deliver
from server.engine.scheduling import Engine, EngineStoppedError

ASK = Ask(prompt_ids=(1,), max_new_tokens=1)
STEP = [TokenMade(token_id=7)]


class Ears:
    """A listener."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.heard: list[Event] = []
        self.is_broken = is_broken

    def __call__(self, step: Sequence[Event]) -> None:
        if self.is_broken:
            raise RuntimeError("no ears")
        self.heard += step


class CountingLoop:
    """An event loop that only counts and calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def call_soon_threadsafe(self, callback: Any, *args: Any) -> None:
        self.num_calls += 1
        callback(*args)


def test_one_call_into_a_loop_serves_all_its_listeners() -> None:
    loop: Any = CountingLoop()
    ears = [Ears() for _ in range(20)]
    deliver([(Ticket(ASK, one, loop), STEP) for one in ears])

    assert loop.num_calls == 1
    assert all(one.heard == STEP for one in ears)


def test_a_listener_that_raises_is_cancelled_and_the_others_hear() -> None:
    broken, good = Ears(is_broken=True), Ears()
    tickets = [Ticket(ASK, broken), Ticket(ASK, good)]
    deliver([(ticket, STEP) for ticket in tickets])

    assert [ticket.is_cancelled for ticket in tickets] == [True, False]
    assert good.heard == STEP


def test_a_loop_that_has_ended_cancels_its_own_listeners_only() -> None:
    ended, ears = asyncio.new_event_loop(), Ears()
    ended.close()
    gone, here = Ticket(ASK, Ears(), ended), Ticket(ASK, ears)
    deliver([(gone, STEP), (here, STEP)])

    assert gone.is_cancelled
    assert not here.is_cancelled
    assert ears.heard == STEP


class Runner:
    """One that breaks where the test says."""

    num_rows = 1
    num_places = num_stored_tokens = 0

    def __init__(self, *, breaks_at: str) -> None:
        self.breaks_at = breaks_at
        self.running: Any = None

    def has_room(self, _: Ask) -> bool:
        return True

    def join(self, ask: Ask) -> Any:
        if self.breaks_at == "join" and ask.prompt_ids == (13,):
            raise ValueError("unlucky")
        self.running = type("Progress", (), {"events": [Finished(reason="stop")]})()
        return self.running

    def leave(self, running: Any) -> None:
        return

    def step(self) -> list[Any]:
        if self.breaks_at == "drop_all":
            raise RuntimeError("out of order")
        return [self.running]

    def drop_all(self) -> list[Any]:
        if self.breaks_at == "drop_all":
            raise RuntimeError("beyond repair")
        return []


async def last_event_of(engine: Engine, prompt: int) -> Event:
    heard: asyncio.Queue[Event] = asyncio.Queue()
    ask = Ask(prompt_ids=(prompt,), max_new_tokens=1)
    engine.submit(ask, lambda step: heard.put_nowait(step[-1]), loop=asyncio.get_running_loop())
    return await asyncio.wait_for(heard.get(), 20)


async def ask_often(engine: Engine) -> None:
    for prompt in range(50):  # one may still be taken while the thread ends
        await last_event_of(engine, prompt)


def test_a_request_that_cannot_begin_fails_alone() -> None:
    engine, model = Engine(max_queue=2), Any
    engine.start(lambda: (model, Runner(breaks_at="join")))  # type: ignore[return-value,arg-type]
    bad, good = (asyncio.run(last_event_of(engine, prompt)) for prompt in (13, 1))
    engine.stop()

    assert "unlucky" in str(bad)
    assert good == Finished(reason="stop")


def test_an_engine_whose_thread_cannot_go_on_says_so_to_everybody() -> None:
    engine, model = Engine(max_queue=2), Any
    engine.start(lambda: (model, Runner(breaks_at="drop_all")))  # type: ignore[return-value,arg-type]
    failed = asyncio.run(last_event_of(engine, 1))

    assert "out of order" in str(failed)
    with pytest.raises(EngineStoppedError):
        asyncio.run(ask_often(engine))
    assert engine.is_broken
