"""Who holds which row of keys and values, and what lies in the free ones. Engine thread only.

The requests that decode hold the rows at the front without a hole: whoever leaves changes places with the last of them,
so that what it leaves stays for those whose prompt begins alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.reuse import MIN_REUSED_TOKENS, Leftovers, num_common
from server.engine.sequence import Running
from server.engine.slots import Removal, Slots


class Rows:
    """The rows of `slots`, by their number."""

    def __init__(self, slots: Slots, *, device: str) -> None:
        self.slots = slots
        self.owners: list[Running | None] = [None] * slots.num_rows
        self._leftovers = Leftovers(slots.num_rows)
        self._least_reused = MIN_REUSED_TOKENS[device]

    def have_room(self, num_wanted: int) -> bool:
        """Whether a free row, as long as rows are now, holds so many tokens."""
        return num_wanted <= self.slots.row_len_tokens and None in self.owners

    def take(self, prompt_ids: Sequence[int]) -> int:
        """The free row that a request with this prompt had best have; it must be owned at once."""
        free = [row for row, owner in enumerate(self.owners) if owner is None]
        return self._leftovers.place_for(prompt_ids, free, least=self._least_reused)

    def arrange(self, row_len_tokens: int, decoding: Sequence[Running], reading: Sequence[Running]) -> None:
        """Make rows of another length: those that decode in front, those that read at the end, leftovers between."""
        num_rows = self.slots.shape.num_rows(row_len_tokens)
        owners: list[Running | None] = [None] * num_rows
        owners[: len(decoding)] = decoding
        for place, running in enumerate(reading, start=1):
            owners[-place] = running
        removals = [
            Removal(source=owner.row, target=row, num_tokens=owner.num_stored)
            for row, owner in enumerate(owners)
            if owner is not None
        ]
        free = [row for row, owner in enumerate(owners) if owner is None]
        kept = [row for row in self._leftovers.newest_first() if self.owners[row] is None][: len(free)]
        leftovers = Leftovers(num_rows)
        for row in reversed(kept):
            tokens = self._leftovers[row][:row_len_tokens]
            leftovers.put(free[-1], tokens)
            removals.append(Removal(source=row, target=free.pop(), num_tokens=len(tokens)))
        self.slots.arrange(row_len_tokens, removals)
        for row, owner in enumerate(owners):
            if owner is not None:
                owner.row = row
        self.owners, self._leftovers = owners, leftovers

    def give_back(self, running: Running) -> None:
        """Its request has ended; what it stored may be copied from now on."""
        self.owners[running.row] = None
        self._leftovers.put(running.row, running.stored_tokens())

    def clear(self, running: Running) -> None:
        """Zero what it stored, which may not be finite."""
        self.slots.clear(running.row, running.num_stored)
        running.num_stored = 0

    def forget(self) -> None:
        """Zero the owned rows, and be as new: nobody knows what lies there."""
        for row, owner in enumerate(self.owners):
            if owner is not None:
                self.slots.clear(row)
        self.owners, self._leftovers = [None] * len(self.owners), Leftovers(len(self.owners))

    def move(self, running: Running, row: int) -> None:
        """Give it another row; who or what is there changes places with it."""
        other, old = self.owners[row], running.row
        if row == old:
            return
        num_there = max(len(self._leftovers[row]), other.num_stored if other is not None else 0)
        if num_there:
            self.slots.swap(old, row, max(running.num_stored, num_there))
        else:
            self.slots.move(old, row, running.num_stored)
        if other is not None:
            other.row = old
        self._leftovers.swap(old, row)
        self.owners[old], self.owners[row], running.row = other, running, row

    def begin(self, running: Running, begun: Sequence[Running]) -> bool:
        """Copy what another row has of its prompt's beginning, before any of it is read.

        Returns:
            False: it had better wait, since those who have `begun` in this pass read more of it now.
        """
        prompt_ids, least = running.ask.prompt_ids[: running.num_reusable], self._least_reused
        num_shared, row = self._most_alike(prompt_ids)
        coming = max((num_common(prompt_ids, one.ask.prompt_ids, least=least) for one in begun), default=0)
        if coming >= num_shared + least:
            return False
        if num_shared and row != running.row:
            self.slots.move(row, running.row, num_shared)
        running.num_stored = running.num_reused = num_shared
        self._leftovers.put(running.row, ())
        return True

    def _most_alike(self, prompt_ids: Sequence[int]) -> tuple[int, int]:
        """How much of the beginning of this prompt one row holds at the most, and which; 0 and any where none does."""
        num_shared, best = 0, 0
        wanted = prompt_ids[: self._least_reused]
        for row, owner in enumerate(self.owners):
            # Most rows begin otherwise, and all of them are looked at for every request: a look must be short.
            is_begun = owner is not None and owner.num_stored > 0
            held = owner.ask.prompt_ids if owner is not None and is_begun else self._leftovers[row]
            if held[: len(wanted)] == wanted:
                tokens = owner.stored_tokens() if owner is not None and is_begun else held
                num_common_tokens = num_common(prompt_ids, tokens, least=self._least_reused)
                if num_common_tokens > num_shared:
                    num_shared, best, wanted = num_common_tokens, row, prompt_ids[: num_common_tokens + 1]
        return num_shared, best
