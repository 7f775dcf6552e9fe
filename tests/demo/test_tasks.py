"""The demo's examples: the same for the same seed, right, and never shared between training and test."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from pipeline.demo import tasks


def test_a_seed_names_the_same_examples_every_time() -> None:
    first, again, other = (list(islice(tasks.stream(seed), 50)) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_the_fixed_set_has_every_slice_equally_often_and_no_question_twice() -> None:
    examples = tasks.held_out(16)

    assert [one.slice for one in examples] == [name for name in tasks.SLICES for _ in range(16)]
    assert len({one.prompt for one in examples}) == len(examples)
    assert examples == tasks.held_out(16)


def test_training_never_sees_the_fixed_set() -> None:
    hidden = tasks.held_out()
    seen = {one.prompt for one in islice(tasks.stream(0, without=hidden), 5_000)}

    assert not seen & {one.prompt for one in hidden}


@pytest.mark.parametrize("task", tasks.SLICES)
def test_every_answer_is_right(task: str) -> None:
    for _, one in zip(range(100), iter(lambda: tasks.example(task, random.Random()), None), strict=False):
        name, *words = one.prompt.split()
        right = {
            "copy": lambda words: words[0],
            "reverse": lambda words: "".join(reversed(words[0])),
            "max": lambda words: str(max(map(int, words))),
            "add": lambda words: str(sum(map(int, words))),
        }[name](words)

        assert (name, one.answer) == (task, right)


def test_the_demo_asks_one_held_out_question_of_each_task() -> None:
    questions = tasks.questions()

    assert [one.slice for one in questions] == list(tasks.SLICES)
    assert set(questions) <= set(tasks.held_out())


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="no task 'divide'"):
        tasks.example("divide", random.Random(0))
