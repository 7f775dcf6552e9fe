from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.engine.asks import Ask, Event, Failed, Finished, TokenMade
from server.engine.delivery import Ticket
from server.engine.generation import OneAtATime
from server.engine.loading import LoadedModel
from server.engine.scheduling import Engine, EngineStoppedError, QueueFullError

MODEL = cast("LoadedModel", SimpleNamespace())
WAIT_S = 20


class Gate:
    """A model that makes one token each time the test says so; a prompt of 13 breaks it."""

    def __init__(self) -> None:
        self.go: queue.Queue[None] = queue.Queue()
        self.began: queue.Queue[int] = queue.Queue()
        self.num_steps = 0

    def __call__(self, _: LoadedModel, ask: Ask) -> Iterator[list[Event]]:
        self.began.put(ask.prompt_ids[0])
        for _number in range(ask.max_new_tokens):
            self.go.get(timeout=WAIT_S)
            if ask.prompt_ids[0] == 13:
                raise RuntimeError("unlucky")
            self.num_steps += 1
            yield [TokenMade(token_id=ask.prompt_ids[0])]
        yield [Finished(reason="length")]


class House:
    """An engine with its gate, and what it delivered."""

    def __init__(self, max_queue: int) -> None:
        self.gate = Gate()
        self.engine = Engine(max_queue=max_queue)
        self.engine.start(lambda: (MODEL, OneAtATime(MODEL, generate=self.gate)))
        self.events: queue.Queue[tuple[int, Event]] = queue.Queue()

    def ask(self, name: int, num_tokens: int = 1) -> Ticket:
        def sink(step: Sequence[Event]) -> None:
            for event in step:
                self.events.put((name, event))

        return self.engine.submit(Ask(prompt_ids=(name,), max_new_tokens=num_tokens), sink)

    def next_event(self) -> tuple[int, Event]:
        return self.events.get(timeout=WAIT_S)

    def next_began(self) -> int:
        return self.gate.began.get(timeout=WAIT_S)


@pytest.fixture
def house() -> Iterator[House]:
    built = House(max_queue=2)
    yield built
    built.engine.stop()
    for _ in range(20):
        built.gate.go.put(None)


def test_requests_are_answered_in_the_order_they_came(house: House) -> None:
    for name in (1, 2, 3):
        house.ask(name)
    for _ in range(3):
        house.gate.go.put(None)

    assert [house.next_event()[0] for _ in range(6)] == [1, 1, 2, 2, 3, 3]


def test_a_full_line_refuses_at_once_and_has_room_again_later(house: House) -> None:
    house.ask(1)
    house.next_began()
    house.ask(2)
    waiting = house.ask(3)

    with pytest.raises(QueueFullError, match="2 requests wait"):
        house.ask(4)

    waiting.cancel()
    house.ask(5)

    assert (house.engine.num_running, house.engine.num_waiting) == (1, 2)


def test_a_line_of_no_places_still_takes_one_request() -> None:
    house = House(max_queue=0)
    house.ask(1)
    with pytest.raises(QueueFullError):
        house.ask(2)
    house.gate.go.put(None)

    assert house.next_event() == (1, TokenMade(token_id=1))

    house.engine.stop()


def test_a_cancelled_request_ends_within_one_step(house: House) -> None:
    ticket = house.ask(1, num_tokens=100)
    house.next_began()
    house.gate.go.put(None)
    house.next_event()
    ticket.cancel()
    house.ask(2)
    house.gate.go.put(None)

    assert house.next_began() == 2
    assert house.gate.num_steps <= 2


def test_a_request_cancelled_in_the_line_never_begins(house: House) -> None:
    house.ask(1)
    house.next_began()
    house.ask(2).cancel()
    house.ask(3)
    house.gate.go.put(None)

    assert house.next_began() == 3


def test_a_failing_request_fails_alone(house: House) -> None:
    house.ask(13)
    house.ask(2)
    house.gate.go.put(None)
    house.gate.go.put(None)
    name, failed = house.next_event()

    assert name == 13
    assert isinstance(failed, Failed)
    assert "unlucky" in failed.because
    assert house.next_event() == (2, TokenMade(token_id=2))


def test_a_sink_that_fails_ends_its_request_only(house: House) -> None:
    def broken(_: Sequence[Event]) -> None:
        raise RuntimeError("the event loop is closed")

    house.engine.submit(Ask(prompt_ids=(1,), max_new_tokens=50), broken)
    house.ask(2)
    for _ in range(3):
        house.gate.go.put(None)

    assert house.next_event()[0] == 2


def test_stopping_fails_what_runs_and_what_waits_and_takes_nothing_more(house: House) -> None:
    house.ask(1, num_tokens=50)
    house.next_began()
    house.ask(2)
    house.engine.stop()
    with pytest.raises(EngineStoppedError):
        house.ask(3)
    house.gate.go.put(None)
    seen = [house.next_event() for _ in range(3)]

    assert seen[0] == (1, TokenMade(token_id=1))  # of the step that ran
    assert [name for name, _ in seen] == [1, 1, 2]
    assert all(isinstance(event, Failed) for _, event in seen[1:])


def test_a_load_that_fails_fails_the_start() -> None:
    def load() -> Any:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        Engine(max_queue=1).start(load)


def test_load_and_steps_share_one_thread() -> None:
    threads: list[int] = []

    def generate(_: LoadedModel, __: Ask) -> Iterator[list[Event]]:
        threads.append(threading.get_ident())
        yield [Finished(reason="stop")]

    def load() -> tuple[LoadedModel, OneAtATime]:
        threads.append(threading.get_ident())
        return MODEL, OneAtATime(MODEL, generate=generate)

    engine, done = Engine(max_queue=1), threading.Event()
    engine.start(load)
    engine.submit(Ask(prompt_ids=(1,), max_new_tokens=1), lambda _: done.set())

    assert done.wait(WAIT_S)
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads

    engine.stop()
