"""Decoding rows of like length, read together: a call of attention reads the places of its longest row for every row.

Pure. Rows are cut where they lie, none is moved for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """The rows `first`..`end`, read together; tokens of the shortest and of the longest of them."""

    first: int
    end: int
    shortest: int
    longest: int


def grouped(lengths: Sequence[int], *, call_places: int) -> tuple[RowGroup, ...]:
    """Cut the rows where it costs least: the places read for nothing and the calls, in all.

    Args:
        lengths: Tokens of each row, in the order of the rows.
        call_places: How many places could be read in the time that one more call takes.
    """
    starts, end = _last_starts(lengths, call_places), len(lengths)
    groups: list[RowGroup] = []
    while end:
        first = starts[end]
        own = lengths[first:end]
        groups.append(RowGroup(first=first, end=end, shortest=min(own), longest=max(own)))
        end = first
    return tuple(reversed(groups))


def _last_starts(lengths: Sequence[int], call_places: int) -> list[int]:
    """For the first 0, 1, 2, … rows: where the last group begins when they are cut at the least cost."""
    num_rows = len(lengths)
    starts, costs = [0] * (num_rows + 1), [0] * (num_rows + 1)
    if not lengths or num_rows * max(lengths) - sum(lengths) <= call_places:
        return starts  # one group: a second would cost more than it saves
    for end in range(1, num_rows + 1):
        least, longest, total = None, 0, 0
        for first in range(end - 1, -1, -1):
            longest, total = max(longest, lengths[first]), total + lengths[first]
            wasted = (end - first) * longest - total
            if least is not None and wasted + call_places > least:
                break  # a longer group wastes no less
            cost = costs[first] + wasted + call_places
            if least is None or cost < least:
                least, starts[end] = cost, first
        costs[end] = least or 0
    return starts
