"""Waits between tries grow, and never end in an error of arithmetic."""

from __future__ import annotations

from registry_hooks.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=1.0, longest_s=30.0)

    assert [backoff.delay_s(n) for n in (0, 1, 2, 3, 5, 6, 7)] == [0.0, 1.0, 2.0, 4.0, 16.0, 30.0, 30.0]


def test_any_number_of_failures_has_a_wait() -> None:
    assert Backoff(first_s=5.0, longest_s=300.0).delay_s(10**6) == 300.0
