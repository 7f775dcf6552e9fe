"""A request that was there when two engines died is not given a third."""

from __future__ import annotations

from server.gateway.suspects import KEPT_S, MAX_KEPT, Suspects


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_two_engines_make_a_request_guilty_and_one_does_not() -> None:
    suspects = Suspects()
    suspects.saw_die(b"x", 1)
    suspects.saw_die(b"x", 1)
    after_one = suspects.is_guilty(b"x")
    suspects.saw_die(b"x", 2)

    assert (after_one, suspects.is_guilty(b"x"), suspects.is_guilty(b"y")) == (False, True, False)


def test_a_request_that_was_answered_whole_begins_anew() -> None:
    suspects = Suspects()
    suspects.saw_die(b"x", 1)
    suspects.acquit(b"x")
    suspects.saw_die(b"x", 2)

    assert not suspects.is_guilty(b"x")


def test_a_guilty_request_is_tried_again_after_ten_minutes() -> None:
    clock = Clock()
    suspects = Suspects(clock=clock)
    suspects.saw_die(b"x", 1)
    clock.now = 100.0
    suspects.saw_die(b"x", 2)
    clock.now = 99.0 + KEPT_S
    before = suspects.is_guilty(b"x")
    clock.now = 101.0 + KEPT_S

    assert (before, suspects.is_guilty(b"x")) == (True, False)


def test_no_more_than_a_thousand_are_kept_and_the_oldest_go_first() -> None:
    suspects = Suspects()
    for number in range(MAX_KEPT + 1):
        for engine in (1, 2):
            suspects.saw_die(b"%d" % number, engine)

    assert not suspects.is_guilty(b"0")
    assert suspects.is_guilty(b"%d" % MAX_KEPT)
