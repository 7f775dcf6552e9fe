"""Four text tasks that a very small model learns one after another: copy, reverse, max and add. Pure.

Everything is drawn from `random.Random(seed)`, so a seed names the same examples everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from string import ascii_lowercase

COPY, REVERSE, MAX, ADD = "copy", "reverse", "max", "add"
SLICES = (COPY, REVERSE, MAX, ADD)
WEIGHTS = (2, 2, 2, 3)  # how often each is trained: addition is the hardest
MIN_LETTERS, MAX_LETTERS = 3, 5
HELD_OUT_SEED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question and its only right answer.

    Attributes:
        slice: Which task it belongs to, one of `SLICES`.
    """

    slice: str
    prompt: str
    answer: str


def example(task: str, rng: random.Random) -> Example:
    """Draw one example of `task`.

    Raises:
        ValueError: There is no such task.
    """
    if task in (COPY, REVERSE):
        word = "".join(rng.choices(ascii_lowercase, k=rng.randint(MIN_LETTERS, MAX_LETTERS)))
        return Example(slice=task, prompt=f"{task} {word}", answer=word if task == COPY else word[::-1])
    if task not in (MAX, ADD):
        raise ValueError(f"no task {task!r}: the tasks are {', '.join(SLICES)}")
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return Example(slice=task, prompt=f"{task} {a} {b}", answer=str(max(a, b) if task == MAX else a + b))


def held_out(num_per_slice: int = 64) -> tuple[Example, ...]:
    """The fixed test set: the same distinct examples for everybody, slice by slice; training never sees them."""
    rng = random.Random(HELD_OUT_SEED)
    chosen: dict[str, Example] = {}
    for task in SLICES:
        wanted = len(chosen) + num_per_slice
        while len(chosen) < wanted:
            drawn = example(task, rng)
            chosen.setdefault(drawn.prompt, drawn)
    return tuple(chosen.values())


def stream(seed: int, *, without: Collection[Example] = ()) -> Iterator[Example]:
    """Training examples without end, each task as often as `WEIGHTS` says, none of them in `without`."""
    rng = random.Random(seed)
    hidden = {one.prompt for one in without}
    while True:
        drawn = example(rng.choices(SLICES, WEIGHTS)[0], rng)
        if drawn.prompt not in hidden:
            yield drawn


def questions() -> tuple[Example, ...]:
    """The four questions that the demo asks of its first and its last version: one of each task, never trained on."""
    by_slice = {one.slice: one for one in held_out()}
    return tuple(by_slice[task] for task in SLICES)
