"""What rows still hold of requests that have gone, so that a prompt that begins alike is not read a second time.

A chat sends its whole history with every turn, and the choices of a question share it. Keys and values depend on the
tokens before them only, so whoever has the same beginning may have a copy. Pure: this counts, the batch copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# On CPU a copy takes about as long as reading one token, and all of 8 seldom agree by chance. CUDA's is a guess.
MIN_REUSED_TOKENS = {"cpu": 8, "cuda": 64}


class Leftovers:
    """The tokens whose keys and values lie in rows that nobody owns, by row."""

    def __init__(self, num_rows: int) -> None:
        self._tokens: list[tuple[int, ...]] = [()] * num_rows
        self._left_at = [0] * num_rows
        self._clock = 0

    def __getitem__(self, row: int) -> tuple[int, ...]:
        return self._tokens[row]

    def put(self, row: int, tokens: tuple[int, ...]) -> None:
        """`row` holds `tokens` from now on; none, if that is so."""
        self._clock += bool(tokens)
        self._tokens[row], self._left_at[row] = tokens, self._clock if tokens else 0

    def swap(self, one: int, other: int) -> None:
        """Two rows have changed places."""
        tokens, left_at = self._tokens, self._left_at
        tokens[one], tokens[other] = tokens[other], tokens[one]
        left_at[one], left_at[other] = left_at[other], left_at[one]

    def newest_first(self) -> Iterator[int]:
        """Rows that hold something."""
        held = [row for row, tokens in enumerate(self._tokens) if tokens]
        yield from sorted(held, key=lambda row: -self._left_at[row])

    def place_for(self, prompt_ids: Sequence[int], rows: Sequence[int], *, least: int) -> int:
        """Which of some free rows a new request takes: one that it mostly continues, else the one longest unused."""
        most, best = 0, None
        for row in rows:
            tokens = self._tokens[row]
            if tokens[:least] == prompt_ids[:least]:
                num_shared = num_common(prompt_ids, tokens, least=least)
                if num_shared > most and 2 * num_shared >= len(tokens):
                    most, best = num_shared, row
        if best is not None:
            return best
        return min(rows, key=lambda row: (self._left_at[row], -row))


def num_common(one: Sequence[int], other: Sequence[int], *, least: int) -> int:
    """Tokens of their common beginning; 0 where it is shorter than `least`. By halving: slices compare fast."""
    if one[:least] != other[:least]:
        return 0
    same, end = 0, min(len(one), len(other))
    while same < end:
        middle = (same + end + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same if same >= least else 0
