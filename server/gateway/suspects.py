"""Requests that may kill engines: what was being answered when two of them died is not tried a third time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

KEPT_S = 600.0
MAX_KEPT = 1000
_NUM_VICTIMS = 2


class Suspects:
    """Bodies by their digests, with the engines that died while they held them. Bounded in number and in time."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._victims: dict[bytes, tuple[float, frozenset[int]]] = {}

    def saw_die(self, body: bytes, engine: int) -> None:
        """`engine` died while it was answering `body`."""
        key = hashlib.sha256(body).digest()
        _, victims = self._victims.pop(key, (0.0, frozenset()))
        self._victims[key] = (self._clock(), victims | {engine})
        while len(self._victims) > MAX_KEPT:
            del self._victims[next(iter(self._victims))]

    def is_guilty(self, body: bytes) -> bool:
        """Whether two engines died of it, or beside it, within ten minutes."""
        self._forget_the_old()
        if not self._victims:  # as it nearly always is: nothing is hashed
            return False
        _, victims = self._victims.get(hashlib.sha256(body).digest(), (0.0, frozenset()))
        return len(victims) >= _NUM_VICTIMS

    def acquit(self, body: bytes) -> None:
        """It was answered whole, so it was only beside the one that kills."""
        if self._victims:
            self._victims.pop(hashlib.sha256(body).digest(), None)

    def _forget_the_old(self) -> None:
        while self._victims:
            key, (at, _) = next(iter(self._victims.items()))
            if self._clock() - at < KEPT_S:
                return
            del self._victims[key]
