"""What served before what serves now, as the ledger tells it: the way back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.promotion.ledger import Entry


def way_back(moves: Sequence[Entry]) -> list[int]:
    """The versions that the alias named, what it names now first; each step further is one step back.

    To go to a version that it named before is to go back: what was between the two is no longer on the way. So who
    goes back twice is two steps back, and not where the first step came from.

    Args:
        moves: Committed moves, newest first.
    """
    named: list[int] = []
    for move in reversed(moves):
        if not named and move.previous is not None:
            named.append(move.previous)  # where the ledger begins, or as far as it is read
        if move.target is None:
            continue  # the alias was deleted: what it named is still the last that served
        if move.target in named:
            del named[named.index(move.target) + 1 :]
        else:
            named.append(move.target)
    return named[::-1]
