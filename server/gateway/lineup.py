"""Which engines are alive, and which one answers: one pointer that flips.

The control loop changes the line-up, the event loop takes and gives back places in it. A request keeps the place that
it took until it ends, so it ends on the version it began on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from registry_hooks.records import ModelVersion
from server.launcher import Engine

Leaving = Literal["", "replaced", "shutdown"]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What an engine serves, and what is known about it.

    Attributes:
        directory: Folder that the engine loads.
        attested: Whether its bytes were checked against a manifest that the registry vouches for.
        score: The configured metric's value on this version's run; None when it has none.
    """

    version: ModelVersion
    digest: str
    directory: str
    attested: bool
    size_bytes: int
    score: float | None = None

    @property
    def key(self) -> tuple[int, str]:
        return identity(self.version)

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of its answers: `mv<version>-<first 8 of the digest>`."""
        return f"mv{self.version.version}-{self.digest[:8]}"


def identity(version: ModelVersion) -> tuple[int, str]:
    """What must be equal for two sightings of a version to be one: a number is used again after a model is deleted."""
    return version.version, version.digest or version.artifact_uri


@dataclass(slots=True)
class Ear:
    """What is heard of an engine.

    Attributes:
        num_heard: How often it has said anything in its answers to requests.
        num_open: Answers that have begun and not ended.
    """

    num_heard: int = 0
    num_open: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """A live engine and the requests that it is answering.

    Attributes:
        num_ended: Requests that it is no longer answering.
        is_answering: Whether it has said anything in the last seconds; one that is alive may hang.
        leaving: Why it is to go, for those whose streams outlast that.
        degraded: What is worse than somebody who set this machine up would think; empty for nothing.
    """

    checkpoint: Checkpoint
    engine: Engine
    loaded_at: datetime
    in_flight: int = 0
    num_ended: int = 0
    is_answering: bool = True
    ear: Ear = field(default_factory=Ear)
    leaving: Leaving = ""
    degraded: str = ""
    number: int = field(default_factory=lambda: next(_numbers))

    def is_alive(self) -> bool:
        return self.engine.is_alive()


class LineUp:
    """The engines of one gateway: the current one, the previous one warm beside it, and those that are retiring.

    A dead engine counts for nothing: it is never kept warm, it has no name, and nothing waits for it. Only the current
    one keeps its place when it dies, until it is restarted.
    """

    def __init__(self, name: str, alias: str) -> None:
        self._name = name
        self._alias = alias
        self._changed = threading.Condition()
        self._current: Slot | None = None
        self._previous: Slot | None = None
        self._retiring: tuple[Slot, ...] = ()

    @property
    def label(self) -> tuple[str, str]:
        """The registered model and the alias that are followed."""
        return self._name, self._alias

    @property
    def current(self) -> Slot | None:
        return self._current

    @property
    def previous(self) -> Slot | None:
        return self._previous

    def slots(self) -> tuple[Slot, ...]:
        """Every engine that may still have a request, alive or not."""
        with self._changed:
            return tuple(slot for slot in (self._current, self._previous, *self._retiring) if slot is not None)

    def flip(self, slot: Slot) -> tuple[Slot, ...]:
        """Send new requests to `slot`; what answered so far stays warm; those that must be retired now."""
        with self._changed:
            others = [one for one in (self._current, self._previous) if one is not None and one is not slot]
            self._current, self._previous = slot, next((one for one in others if one.is_alive()), None)
            return self._let_go(*(one for one in others if one is not self._previous))

    def replace_dead(self, slot: Slot) -> tuple[Slot, ...]:
        """Put a restarted engine of the same checkpoint in the place of the one that died, which must be retired."""
        with self._changed:
            dead, self._current = self._current, slot
            return self._let_go(dead)

    def drop_previous(self, *, only_dead: bool = False) -> Slot | None:
        """Take the warm engine out of the line-up, to be retired; None when there is none.

        Args:
            only_dead: Let it stay if it lives.
        """
        with self._changed:
            leaving = self._previous
            if leaving is None or (only_dead and leaving.is_alive()):
                return None
            self._previous = None
            self._let_go(leaving)
            return leaving

    def retired(self, slot: Slot) -> None:
        """An engine that had to be retired has been stopped."""
        with self._changed:
            self._retiring = tuple(one for one in self._retiring if one is not slot)

    def take(self, model: str | None) -> Slot | None:
        """A place at the engine that `model` names, to be given back; None when none of that name is alive.

        Args:
            model: `NAME`, `NAME@Alias` or `NAME/VERSION`; None means the current one.
        """
        with self._changed:
            slot = self._named(model)
            if slot is None or not slot.is_alive():
                return None
            slot.in_flight += 1
            return slot

    def give_back(self, slot: Slot) -> None:
        """End a request's stay."""
        with self._changed:
            slot.in_flight -= 1
            slot.num_ended += 1
            self._changed.notify_all()

    def wait_drained(self, slot: Slot, timeout_s: float) -> bool:
        """Wait until a slot that left the line-up has no request any more."""
        with self._changed:
            return self._changed.wait_for(lambda: slot.in_flight == 0 or not slot.is_alive(), timeout_s)

    def knows(self, model: str | None) -> bool:
        """Whether `model` names something this gateway serves, alive at the moment or not."""
        with self._changed:
            return (
                model is None or model in (self._name, f"{self._name}@{self._alias}") or self._named(model) is not None
            )

    def names(self) -> Mapping[str, Slot]:
        """Every name that a client may use now, with its engine."""
        with self._changed:
            slots = {f"{s.checkpoint.version.label}": s for s in (self._current, self._previous) if s is not None}
            if self._current is not None:
                slots = {self._name: self._current, f"{self._name}@{self._alias}": self._current, **slots}
            return {name: slot for name, slot in slots.items() if slot.is_alive()}

    def _named(self, model: str | None) -> Slot | None:
        if model in (None, self._name, f"{self._name}@{self._alias}"):
            return self._current
        for slot in (self._current, self._previous):
            if slot is not None and slot.checkpoint.version.label == model:
                return slot if slot is self._current or slot.is_alive() else None
        return None

    def _let_go(self, *slots: Slot | None) -> tuple[Slot, ...]:
        leaving = tuple(slot for slot in slots if slot is not None)
        for slot in leaving:
            if slot.is_alive():  # of a dead one, requests must hear that it died
                slot.leaving = slot.leaving or "replaced"
        self._retiring += leaving
        return leaving
