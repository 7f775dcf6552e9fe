"""`relay up` starts again what ended by itself, with longer and longer waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.stack.keeping_up import KeepingUp


@dataclass
class Program:
    """A program that ends when a test says so."""

    name: str
    log: Path = Path("promoter.log")
    alive: bool = True
    exit_code: int | None = None
    starts: int = 0

    def start(self) -> None:
        self.starts += 1
        self.alive = True

    def end(self) -> None:
        self.alive, self.exit_code = False, 70

    def log_tail(self) -> str:
        return "promoter.stuck"


@dataclass
class House:
    programs: list[Program]
    now_s: float = 0.0
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        children: Any = self.programs
        self.keeping = KeepingUp(children, self.said.append, lambda: self.now_s)

    def seconds_until_started_again(self, program: Program) -> float:
        program.end()
        began, before = self.now_s, program.starts
        while program.starts == before:
            self.keeping.look()
            self.now_s += 0.5
        return self.now_s - began


def test_what_ended_is_started_again_after_longer_and_longer_waits_and_nothing_else_is_touched() -> None:
    promoter, server = Program("promoter"), Program("server")
    house = House([promoter, server])
    house.keeping.look()
    waits = [house.seconds_until_started_again(promoter) for _ in range(9)]

    assert waits == sorted(waits)
    assert (waits[0] < 3, 60 <= waits[-1] < 63) == (True, True)
    assert (server.starts, server.alive, len(house.said)) == (0, True, 9)
    assert house.said[0].startswith("promoter ended by itself with code 70, and is started again in 1 s")


def test_who_ran_well_for_a_while_is_started_again_at_once() -> None:
    promoter = Program("promoter")
    house = House([promoter])
    for _ in range(6):
        house.seconds_until_started_again(promoter)
    house.now_s += 600

    assert house.seconds_until_started_again(promoter) < 3
